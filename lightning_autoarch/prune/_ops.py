"""The only module that imports the compiled extension: checks tensors here, hands over pointers.

The extension knows no tensors (it does not link against libtorch). It takes a data pointer, a number of
contiguous elements and a dtype, and for CUDA a device and a stream; `csrc/prune.h` is its contract. Memory is
torch's, scratch included, so it follows torch's allocator and streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

# A search needs no extension, so a missing or broken one is an error where it is called for, not here.
try:
    from lightning_autoarch import _C
except ImportError as error:
    LOAD_ERROR: ImportError | None = error
else:
    LOAD_ERROR = None

if TYPE_CHECKING:
    from lightning_autoarch._C import BuildInfo, CudaState

DTYPE_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


def count_nonzero(tensor: Tensor) -> int:
    """Count the elements of `tensor` that are not zero, exactly.

    Negative zero is zero. NaN, the infinities and every denormal are not, also where the processor is set to
    flush denormals. The answer does not depend on device, memory format or number of threads.

    The memory is read once; a tensor with gaps or repeats in memory (a strided slice, an expanded view) is
    copied first. On CUDA the kernel runs on the current stream of the tensor's device, and the call waits for
    its answer: it synchronises that stream.

    Args:
        tensor: any shape, also empty; float32, float64, bfloat16 or float16; on the CPU or a CUDA device.

    Raises:
        TypeError: `tensor` is not a plain dense tensor, or not of one of these dtypes.
        ValueError: `tensor` is on another kind of device.
        ImportError: the compiled extension is missing or broken.
        RuntimeError: the extension was built without CUDA, or CUDA reports an error.

    Example:
        >>> import torch
        >>> from lightning_autoarch.prune import count_nonzero
        >>> count_nonzero(torch.tensor([[0.0, -0.0, 1e-45], [float("nan"), 2.0, 0.0]]))
        3
    """
    _check(tensor)
    _require_extension()
    flat = _contiguous(tensor.detach())
    dtype = getattr(_C.Dtype, DTYPE_NAMES[tensor.dtype])
    if flat.device.type == "cpu":
        return _C.count_nonzero(flat.data_ptr(), flat.numel(), dtype)
    _require_cuda(flat.device)
    stream = torch.cuda.current_stream(flat.device)
    count = torch.empty(1, dtype=torch.int64, device=flat.device)
    _C.count_nonzero_cuda(
        flat.data_ptr(), flat.numel(), dtype, count.data_ptr(), stream.device_index, stream.cuda_stream
    )
    return int(count.item())


def build_info() -> BuildInfo:
    """What the extension was built from and with."""
    _require_extension()
    return _C.build_info()


def cpu_features() -> list[str]:
    """Instruction sets that the processor offers and the kernels can use."""
    _require_extension()
    return _C.cpu_features()


def cuda_state() -> CudaState:
    """What the extension's own CUDA runtime says now. Initialises the driver, creates no context."""
    _require_extension()
    return _C.cuda_state()


def _require_extension() -> None:
    if LOAD_ERROR is not None:
        raise ImportError(
            f"The compiled extension lightning_autoarch._C cannot be used: {LOAD_ERROR}. Install the package "
            "with a C++ compiler at hand (`pip install .`), and do not run Python in its checkout, which "
            "shadows what is installed."
        ) from LOAD_ERROR


def _require_cuda(device: torch.device) -> None:
    if not (info := build_info())["cuda"]:
        raise RuntimeError(
            f"Expected an extension built with CUDA for `tensor` on {device}, got one without: "
            f"{info['cuda_note']}. Reinstall with LIGHTNING_AUTOARCH_CUDA=1, or pass `tensor.cpu()`."
        )


def _check(tensor: Tensor) -> None:
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise TypeError(
            f"Expected `tensor` to be a torch.Tensor or Parameter, got {type(tensor).__qualname__}; "
            "the memory of a subclass cannot be read through a pointer."
        )
    if tensor.layout is not torch.strided:
        raise TypeError(f"Expected `tensor` to be dense, got {tensor.layout}; pass `tensor.to_dense()`.")
    if tensor.dtype not in DTYPE_NAMES:
        raise TypeError(f"Expected `tensor` of dtype {', '.join(DTYPE_NAMES.values())}, got {tensor.dtype}.")
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(f"Expected `tensor` on a cpu or cuda device, got {tensor.device}.")


def _contiguous(
    tensor: Tensor,  # any strides
) -> Tensor:  # the same elements in one gapless run of memory, in whatever order they lie there
    by_stride = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(by_stride).contiguous()  # a copy only where there are gaps or repeats
