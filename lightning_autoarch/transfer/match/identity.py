"""Blocks that a module has but its source does not: they become the identity where that is exact.

Net2DeeperNet (Chen, Goodfellow, Shlens 2016, section 2.3), for a `Sequential` or `ModuleList` that is longer than that
of the source. The following are tried in turn, and *run* before they are accepted:

    one square layer (and a ReLU)      W = I, b = 0; a convolution as a Dirac kernel. Only in a Sequential
    a residual block                   zero in its last norm, or its last layer, or the ends of all its branches

A block counts as the identity if a copy of it in eval mode returns random inputs unchanged; after a block that ends in
a ReLU, random non-negative inputs.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ENDS = re.compile(r"(^|\.)(out_proj|proj|o_proj|c_proj|proj_out|linear2|fc2|down_proj|wo|w2|output\.dense)$")
SIDE = 6  # of an image to try a block with

Values = dict[str, Tensor]


@dataclass(frozen=True)
class ExtraBlock:
    """A block that the source does not have, behind blocks of the same class that it has.

    Attributes:
        path: Path of the block.
        block: The block.
        before: The block before it.
        in_sequence: Whether its container is a Sequential, so that nothing happens between blocks.
    """

    path: str
    block: nn.Module
    before: nn.Module
    in_sequence: bool


def extra_blocks(
    module: nn.Module, names_of_module: Set[str], missing: Set[str], found: Set[str]
) -> Iterator[ExtraBlock]:
    """The blocks at the ends of repetitions, from first to last.

    Args:
        module: The module.
        names_of_module: Names of all its tensors.
        missing: Names of its tensors that the source does not have.
        found: Names of those that come from the source.
    """
    for path, container in module.named_modules() if missing else ():
        if not isinstance(container, nn.Sequential | nn.ModuleList):
            continue
        known: set[type] = set()
        before: nn.Module | None = None
        for name, block in container.named_children():
            prefix = f"{path}.{name}" if path else name
            names = {f"{prefix}.{rest}" for rest in _tensor_names(block)} & names_of_module
            if names & found:
                known.add(type(block))
            if names and names <= missing and type(block) in known and before is not None:
                yield ExtraBlock(prefix, block, before, isinstance(container, nn.Sequential))
            before = block


def _tensor_names(block: nn.Module) -> list[str]:
    return [name for name, _ in (*block.named_parameters(), *block.named_buffers())]


def identity_values(extra: ExtraBlock) -> Values | None:
    """Name in the block -> value, of tensors that make a block the identity; None if it cannot be."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about a fast path that a layer takes or does not take
        for values in _candidates(extra):
            try:
                if _is_identity(extra, values):
                    return values
            except Exception:  # it takes other inputs, or cannot be copied
                continue
    return None


def _candidates(extra: ExtraBlock) -> Iterator[Values]:
    layers = {name: layer for name, layer in extra.block.named_modules() if _has_matrix(layer)}
    norms = {name: norm for name, norm in extra.block.named_modules() if isinstance(norm, NORMS)}
    affine = {name: norm for name, norm in norms.items() if isinstance(norm.weight, Tensor)}
    if len(layers) == 1 and not norms and extra.in_sequence:
        yield from _unit(*next(iter(layers.items())))
    if len(layers) + len(norms) < 2:
        return
    if affine:
        yield _zeros(dict([list(affine.items())[-1]]))
    if layers:
        yield _zeros(dict([list(layers.items())[-1]]))
    ends = {name: layer for name, layer in layers.items() if ENDS.search(name)}
    if len(ends) > 1:
        yield _zeros(ends)


def _has_matrix(layer: nn.Module) -> bool:
    """Whether it is a linear layer or a convolution, also of other libraries (`Conv1D` of transformers)."""
    weight = layer._parameters.get("weight")
    return weight is not None and weight.dim() > 1 and not isinstance(layer, (nn.Embedding, *NORMS))


def _unit(name: str, layer: nn.Module) -> Iterator[Values]:
    weight, bias = layer.weight, layer.bias
    if not isinstance(weight, Tensor) or weight.shape[0] != weight.shape[1]:
        return
    unit = torch.zeros_like(weight)
    if isinstance(layer, CONVOLUTIONS):
        nn.init.dirac_(unit)
    else:
        nn.init.eye_(unit)
    dot = f"{name}." if name else ""
    yield {f"{dot}weight": unit} | ({f"{dot}bias": torch.zeros_like(bias)} if isinstance(bias, Tensor) else {})


def _zeros(layers: Mapping[str, nn.Module]) -> Values:
    found = {}
    for name, layer in layers.items():
        for leaf, tensor in layer.named_parameters(prefix=name, recurse=False):
            found[leaf] = torch.zeros_like(tensor)
    return found


def _is_identity(extra: ExtraBlock, values: Values) -> bool:
    block = copy.deepcopy(extra.block).eval()
    parameters = dict(block.named_parameters())
    for name, value in values.items():
        parameters[name].copy_(value)
    for x in _inputs(block):
        if _returns(block, x):
            return True
        if _returns(block, x.relu()) and _is_positive(extra.before, x):
            return True
    return False


def _returns(block: nn.Module, x: Tensor) -> bool:
    try:
        out = block(x)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return False  # wrong shape
    return isinstance(out, Tensor) and torch.equal(out, x)


def _is_positive(before: nn.Module, x: Tensor) -> bool:
    """Whether the outputs of a block are never negative, as after a ReLU, for a copy and random inputs."""
    last = copy.deepcopy(before).eval()
    for each in _inputs(last):
        try:
            return bool((last(each) >= 0).all())
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            continue
    return False


def _inputs(block: nn.Module) -> Iterator[Tensor]:
    """Random inputs of the shapes that a block may take, according to its first layer with a width."""
    for layer in block.modules():
        shapes = _shapes(layer)
        if shapes:
            like = next(block.parameters())
            generator = torch.Generator().manual_seed(0)
            for shape in shapes:
                yield torch.randn(shape, generator=generator).to(like.device, like.dtype)
            return


def _shapes(layer: nn.Module) -> list[tuple[int, ...]]:
    if isinstance(layer, nn.Linear):
        return [(2, 3, layer.in_features), (2, layer.in_features)]
    if isinstance(layer, nn.MultiheadAttention):
        return [(2, 3, layer.embed_dim)]
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return [(2, 3, *layer.normalized_shape), (2, *layer.normalized_shape)]
    if isinstance(layer, CONVOLUTIONS):
        return [(2, layer.in_channels, *[SIDE] * (layer.weight.dim() - 2))]
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return [(4, layer.num_features), *((4, layer.num_features, *[SIDE] * n) for n in (1, 2, 3))]
    if isinstance(layer, nn.GroupNorm):
        return [(4, layer.num_channels, *[SIDE] * n) for n in (2, 1, 3)]
    return []
