"""The only module that imports the compiled extension: it passes on pointers of tensors that were checked before.

The extension knows no tensors (it does not link against libtorch). It takes an address, a number of elements, sizes and
strides where a tensor is not contiguous, and a dtype; for CUDA a device and a stream; `csrc/prune.h` is its contract.
All memory, including masks and CUDA scratch, is allocated by torch, and follows its allocator and streams.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.memory import merged_layout
from lightning_autoarch.prune.operation import operation
from lightning_autoarch.prune.tensors import check

# A search needs no extension, so a missing or broken one is an error when it is used, not here.
try:
    from lightning_autoarch import _C
except ImportError as error:
    LOAD_ERROR: ImportError | None = error
else:
    LOAD_ERROR = None

if TYPE_CHECKING:
    from lightning_autoarch._C import Array, BuildInfo, CudaState, Dtype, Kernels

Shape: TypeAlias = tuple[int, int, int]
DTYPE_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


class Threshold(NamedTuple):
    """Where a selection was cut, see `csrc/prune.h`."""

    key: int
    kept_equal: int
    numbers: int
    nan_array: int


def compiled(device: torch.device) -> bool:
    """Whether the extension is used for the device; others use `reference.py`.

    Raises:
        ImportError: the extension is missing or broken.
        RuntimeError: it was built without CUDA.
        PruneValueError: LIGHTNING_AUTOARCH_INSTRUCTION_SET names an instruction set that this processor does not have.
    """
    if device.type not in ("cpu", "cuda"):
        return False
    _require_extension()
    if device.type == "cpu":
        if os.environ.get("LIGHTNING_AUTOARCH_INSTRUCTION_SET"):
            instruction_set()  # raises where it cannot be had
    elif not (info := build_info())["cuda"]:
        raise RuntimeError(
            f"Expected an extension built with CUDA for tensors on {device}, got one without: {info['cuda_note']}. "
            "Reinstall with LIGHTNING_AUTOARCH_CUDA=1, or pass `tensor.cpu()`."
        )
    return True


def select(
    tensors: Sequence[Tensor],  # distinct, of one dtype and device
    given: Sequence[Tensor] | None,  # words of the masks
    out: Sequence[Tensor] | None,  # words to be written
    *,
    remove: int,
    regrow: bool = False,
    keep_nan: bool = False,
    zero: bool = False,
) -> Threshold:
    """`autoarch::select`. On CUDA it waits for the device."""
    if not tensors:
        return Threshold(0, 0, 0, -1)
    arrays, dtype, device = _arrays(tensors), _dtype(tensors[0]), tensors[0].device
    masks = [_address(words) for words in given or ()]
    written = [_address(words) for words in out or ()]
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return Threshold(*_C.select(arrays, masks, written, remove, regrow, keep_nan, zero, dtype, threads))
    scratch = torch.empty(_C.cuda.select_scratch(arrays, dtype), dtype=torch.uint8, device=device)
    room = (_address(scratch), scratch.numel(), _stream(device))
    return Threshold(*_C.cuda.select(arrays, masks, written, remove, regrow, keep_nan, zero, dtype, *room))


def apply_masks(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """`autoarch::apply_masks`, masks as words."""
    if tensors:
        arguments = (_arrays(tensors), [_address(words) for words in masks], _dtype(tensors[0]))
        _namespace(tensors[0]).apply_masks(*arguments, _where(tensors[0]))


def nm_mask(tensor: Tensor, shape: Shape, n: int, m: int, out: Tensor) -> None:
    """`autoarch::nm_mask`."""
    arguments = (_array(tensor), shape, n, m, _address(out), _dtype(tensor))
    _namespace(tensor).nm_mask(*arguments, _where(tensor))


def transposable_mask(tensor: Tensor, shape: Shape, out: Tensor) -> None:
    """`autoarch::transposable_mask`."""
    arguments = (_array(tensor), shape, _address(out), _dtype(tensor))
    _namespace(tensor).transposable_mask(*arguments, _where(tensor))


def soft_threshold(tensors: Sequence[Tensor], amounts: Sequence[float]) -> None:
    """`autoarch::soft_threshold`."""
    if tensors:
        arguments = (_arrays(tensors), list(amounts), _dtype(tensors[0]))
        _namespace(tensors[0]).soft_threshold(*arguments, _where(tensors[0]))


def group_norms(tensor: Tensor, shape: Shape, p: int) -> Tensor:  # (shape[1],) float64
    """`autoarch::group_norms`."""
    norms = torch.zeros(shape[1], dtype=torch.float64, device=tensor.device)
    arguments = (_array(tensor), shape, p, _address(norms), _dtype(tensor))
    _namespace(tensor).group_norms(*arguments, _where(tensor))
    return norms


def group_soft_threshold(tensor: Tensor, shape: Shape, norms: Tensor, amount: float) -> None:
    """`autoarch::group_soft_threshold`."""
    arguments = (_array(tensor), shape, _address(norms), amount, _dtype(tensor))
    _namespace(tensor).group_soft_threshold(*arguments, _where(tensor))


def count_bits(words: Tensor) -> int:
    """Ones in the words of a mask on the CPU."""
    _require_extension()
    return _C.count_bits(_address(words), words.numel() // 8)


@operation
def count_nonzero(tensor: Tensor) -> int:
    """Count the elements of `tensor` that are not zero, exactly.

    Negative zero is zero. NaN, the infinities and every denormal are not, also where the processor is set to
    flush denormals. The answer does not depend on device, memory format or number of threads.

    The memory is read once; a tensor with gaps or repeats in memory (a strided slice, an expanded view) is
    copied first. On CUDA the kernel runs on the current stream of the tensor's device, and the call waits for
    its answer: it synchronises that stream. Devices other than CPU and CUDA are counted by torch.

    Args:
        tensor: any shape, also empty; float32, float64, bfloat16 or float16.

    Raises:
        TypeError: `tensor` is not a plain dense tensor, or not of one of these dtypes.
        ValueError: `tensor` is on the meta device.
        ImportError: the compiled extension is missing or broken.
        RuntimeError: the extension was built without CUDA, or CUDA reports an error.

    Example:
        >>> import torch
        >>> from lightning_autoarch.prune import count_nonzero
        >>> count_nonzero(torch.tensor([[0.0, -0.0, 1e-45], [float("nan"), 2.0, 0.0]]))
        3
    """
    check(tensor, "tensor")
    return count(tensor)


def count(tensor: Tensor) -> int:
    """`count_nonzero` of a tensor that was checked before."""
    if not compiled(tensor.device):
        return int(torch.count_nonzero(tensor))
    flat = _gapless(tensor.detach())
    if flat.device.type == "cpu":
        return _C.count_nonzero(_address(flat), flat.numel(), _dtype(flat))
    result = torch.empty(1, dtype=torch.int64, device=flat.device)
    _C.cuda.count_nonzero(_address(flat), flat.numel(), _dtype(flat), _address(result), _stream(flat.device))
    return int(result.item())


def build_info() -> BuildInfo:
    """What the extension was built from, and with what."""
    _require_extension()
    return _C.build_info()


def cpu_features() -> list[str]:
    """The instruction sets that the processor offers and the kernels can use."""
    _require_extension()
    return _C.cpu_features()


def instruction_sets() -> list[str]:
    """Those of "avx512", "avx2" and "plain" that kernels are compiled for and the processor has, the best first."""
    _require_extension()
    return _C.instruction_sets()


@functools.cache
def instruction_set() -> str:
    """The one that the kernels run in: the best, or what LIGHTNING_AUTOARCH_INSTRUCTION_SET names.

    Raises:
        PruneValueError: the processor has not got that one; those that it has are listed.
    """
    try:
        return _C.instruction_set()
    except ValueError as error:
        raise PruneValueError(str(error)) from None


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


def _namespace(tensor: Tensor) -> Kernels:
    return _C.cuda if tensor.device.type == "cuda" else _C


def _where(tensor: Tensor) -> int | tuple[int, int]:
    return _stream(tensor.device) if tensor.device.type == "cuda" else torch.get_num_threads()


def _stream(device: torch.device) -> tuple[int, int]:
    stream = torch.cuda.current_stream(device)
    return stream.device_index, stream.cuda_stream


def _dtype(tensor: Tensor) -> Dtype:
    dtype: Dtype = getattr(_C.Dtype, DTYPE_NAMES[tensor.dtype])
    return dtype


def _address(tensor: Tensor) -> int:
    """Raises PruneTypeError if a tensor allocated for a call has no memory, as under FakeTensorMode or vmap."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise PruneTypeError(
            f"Expected real memory, got {type(tensor).__qualname__}: call this outside of the mode that creates it."
        )
    return tensor.data_ptr()


def _arrays(tensors: Sequence[Tensor]) -> list[Array]:
    return [_array(tensor) for tensor in tensors]


def _array(tensor: Tensor) -> Array:
    sizes, strides = merged_layout(tensor)
    return _address(tensor), tensor.numel(), sizes, strides


def _gapless(
    tensor: Tensor,  # any strides
) -> Tensor:  # the same elements without gaps in memory, in any order
    by_stride = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(by_stride).contiguous()  # a copy only where there are gaps or repeats
