"""2:4 weights of Linear layers handed to torch's own sparse kernels, which NVIDIA's tensor cores run.

A layer is converted by `torch.sparse.to_sparse_semi_structured` (Mishra et al., 2021, "Accelerating sparse deep neural
networks", arXiv:2104.08378). torch asks for CUDA of compute capability 8.0, float16 or bfloat16, and sizes that are
multiples of 16 (cuSPARSELt) or of 32 and 64 (CUTLASS, by `SparseSemiStructuredTensor._FORCE_CUTLASS`). Its CUTLASS
kernels read float32 as 1:2, not as 2:4, and drop every other weight without a word: float32 is refused here.

What is converted is for inference: it has no gradient, and `state_dict` holds it in torch's packed form.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.core.patterns import Patterns, compile_patterns, match_values, plain_name
from lightning_autoarch.core.tolerance import allowed, difference

CAPABILITY = (8, 0)
DTYPES = (torch.float16, torch.bfloat16)
ROWS = 64  # of the random input that the results are compared on

_PROTOTYPE = "The PyTorch API of SparseSemiStructuredTensor is in prototype stage"


def to_semi_structured(module: nn.Module, *, targets: Patterns | None = None) -> list[str]:  # names of the weights
    """Convert 2:4 weights in place, when each layer's output has been compared with its dense one.

    Call it on the trained module, on its GPU and in its final dtype: `module.half().cuda().eval()`.

    Args:
        module: any module; only plain `nn.Linear` layers in it are looked at.
        targets: patterns of layers or weights, each of which must be convertible. None: every weight that is 2:4 and
            that torch supports; the others stay dense.

    Returns:
        The names of the converted weights.

    Raises:
        PruneValueError: a named weight is not 2:4 or not supported, none is, there is no GPU for it, or a converted
            layer gives another output. Nothing was changed.
    """
    layers = dict(_linears(module))
    named = targets is not None
    chosen = _matching(targets, layers) if targets is not None else list(layers)
    refusals = {name: _why_not(module, layers[name]) for name in chosen}
    if named or not any(reason == "" for reason in refusals.values()):
        _raise_first(refusals, module)
    fitting = [name for name in chosen if not refusals[name]]
    converted: dict[Tensor, Tensor] = {}  # a tied one once
    for name in fitting:
        weight = layers[name].weight
        if weight not in converted:
            converted[weight] = _converted(name, layers[name])
    for weight, sparse in converted.items():
        _assign(module, weight, nn.Parameter(sparse, requires_grad=False))
    _leave_fused_paths(module, {id(layers[name].weight) for name in fitting})
    return fitting


def is_two_of_four(weight: Tensor) -> bool:
    """Whether at most 2 of each 4 neighbours in a row are not zero.

    >>> is_two_of_four(torch.tensor([[1.0, 0.0, 0.0, 2.0], [0.0, 0.0, -0.0, 3.0]]))
    True
    """
    if weight.dim() != 2 or weight.shape[1] % 4:
        return False
    return bool(((weight.detach().reshape(-1, 4) != 0).sum(1) <= 2).all())


def _linears(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """By the name of the weight. A subclass may use its weight otherwise, as MultiheadAttention's `out_proj` does."""
    for name, child in module.named_modules():
        if type(child) is nn.Linear:
            yield plain_name(f"{name}.weight".lstrip(".")), child


def _matching(targets: Patterns, layers: dict[str, nn.Linear]) -> list[str]:
    patterns = compile_patterns(targets, "targets", PruneTypeError)
    values = {pattern.given: True for pattern in patterns}
    return list(match_values(values, list(layers), "targets", PruneValueError))


def _why_not(module: nn.Module, layer: nn.Linear) -> str:
    """Why a layer's weight cannot be converted, empty where it can."""
    weight = layer.weight
    if type(weight) is not nn.Parameter or weight.layout != torch.strided:
        return f"it is a {type(weight).__name__} of layout {weight.layout} already"
    if reason := why_no_chip(weight.device):
        return reason
    if weight.dtype not in DTYPES:
        return f"its dtype is {weight.dtype}, torch's 2:4 kernels need float16 or bfloat16: `module.half()`"
    constraints: Any = _backend()._DTYPE_SHAPE_CONSTRAINTS[weight.dtype]
    rows, columns = constraints.sparse_min_rows, constraints.sparse_min_cols
    if not weight.numel() or weight.shape[0] % rows or weight.shape[1] % columns:
        return f"its shape is {tuple(weight.shape)}, torch's 2:4 kernels need multiples of ({rows}, {columns})"
    if not is_two_of_four(weight):
        return "it is not 2:4: some 4 neighbours in a row have more than 2 numbers that are not zero"
    if _used_elsewhere(module, weight):
        return "it is tied to a layer that is no Linear and would be untied"
    return ""


def why_no_chip(device: torch.device) -> str:
    """Why weights on this device cannot be converted, empty where they can."""
    needs = "2:4 kernels need an NVIDIA GPU of compute capability 8.0 or higher (Ampere, Ada, Hopper, Blackwell)"
    if not torch.cuda.is_available():
        return f"{needs}, and torch {torch.__version__} sees no CUDA device"
    if device.type != "cuda":
        return f"{needs}, and it is on {device}: `module.cuda()`"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return f"{needs}, and {torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
    return ""


def _backend() -> Any:
    """The class of tensors that `to_sparse_semi_structured` makes."""
    sparse: Any = torch.sparse
    cutlass = sparse.SparseSemiStructuredTensor._FORCE_CUTLASS
    return sparse.SparseSemiStructuredTensorCUTLASS if cutlass else sparse.SparseSemiStructuredTensorCUSPARSELT


def _used_elsewhere(module: nn.Module, weight: Tensor) -> bool:
    return any(
        own is weight and type(child) is not nn.Linear
        for child in module.modules()
        for own in child._parameters.values()
    )


def _raise_first(refusals: dict[str, str], module: nn.Module) -> None:
    if not refusals:
        raise PruneValueError(f"Expected an nn.Linear in {type(module).__name__}, there is none.")
    for name, reason in refusals.items():
        if reason:
            raise PruneValueError(f"Expected `{name}` to be a 2:4 weight that can be converted, but {reason}.")


@torch.no_grad()
def _converted(name: str, layer: nn.Linear) -> Tensor:
    """The weight in torch's packed form, compared on a random input."""
    dense = layer.weight.detach().contiguous()
    random = torch.Generator(dense.device).manual_seed(0)
    x = torch.randn(ROWS, dense.shape[1], generator=random, dtype=dense.dtype, device=dense.device)
    expected = nn.functional.linear(x, dense, layer.bias)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_PROTOTYPE)
            sparse: Tensor = torch.sparse.to_sparse_semi_structured(dense)
            got = nn.functional.linear(x, sparse, layer.bias)
    except (RuntimeError, NotImplementedError) as error:  # a chip or build that torch has no kernel for
        first = str(error).strip().partition("\n")[0]
        raise PruneValueError(f"torch cannot convert `{name}` on {dense.device}: {first}") from error
    off, limit = difference(got, expected), allowed(expected)
    if not off <= limit:
        raise PruneValueError(f"The output of `{name}` differs by {off:.3g} once converted, allowed is {limit:.3g}.")
    return sparse


def _assign(module: nn.Module, old: Tensor, new: nn.Parameter) -> None:
    """The new parameter wherever the old one was."""
    for child in module.modules():
        if type(child) is nn.Linear and child.weight is old:
            child.weight = new


def _leave_fused_paths(module: nn.Module, converted: set[int]) -> None:
    """Transformer layers in evaluation hand the memory of their weights to one fused kernel, which needs it dense."""
    for child in module.modules():
        if not isinstance(child, nn.TransformerEncoderLayer | nn.TransformerEncoder):
            continue
        if converted.isdisjoint(map(id, child.parameters())):
            continue
        if isinstance(child, nn.TransformerEncoder):
            child.use_nested_tensor = False
        else:
            child.activation_relu_or_gelu = 0
