"""What a module tells about its position embeddings: whether they are of an image or of a sequence, and of which grid.

Names do not tell: `pos_embed` with 197 rows may be 14 x 14 patches with a class token, or 197 words. The layers beside
it do: a two- or three-dimensional convolution makes patches, an embedding looks up words, a one-dimensional convolution
reads a sound. The nearest one counts, searched from the tensor outwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from lightning_autoarch.transfer.read.state_dicts import Shape

Kind: TypeAlias = Literal["image", "sequence", "unknown"]

IMAGE = (nn.Conv2d, nn.Conv3d)
SEQUENCE = (nn.Embedding, nn.EmbeddingBag, nn.Conv1d)
NAME = re.compile(
    r"(^|[._])(pos(ition|itional)?_?(emb|enc)[a-z]*(_table)?|embed_positions|wpe|pe)(\.(weight|pe))?$", re.IGNORECASE
)
TOKENS = re.compile(r"^(cls|class|dist|distillation|reg|register)_?(token|embed|embedding)s?$", re.IGNORECASE)
SIZES = (("image_size", "patch_size"), ("img_size", "patch_size"))
REACH = 2  # depth of the search below each module of the path


@dataclass(frozen=True)
class Evidence:
    """What is known about one position embedding.

    Attributes:
        kind: What the positions belong to.
        tokens: Number of class, distillation and register tokens beside it; 0 if none are known.
        grids: Grids that modules beside it declare.
    """

    kind: Kind
    tokens: int
    grids: tuple[Shape, ...]


def is_position_embedding(name: str) -> bool:
    """Whether a name is that of a position embedding."""
    return NAME.search(name) is not None


def evidence_of(module: nn.Module, name: str, dims: int) -> Evidence:
    """The evidence beside a position embedding.

    Args:
        module: The outermost module.
        name: Name of the tensor in it.
        dims: Number of dimensions of the tensor.
    """
    tokens = 0
    grids: list[Shape] = []
    for path in _outwards(module, name):
        holder = module.get_submodule(path)
        beside = [tensor for leaf, tensor in holder.named_parameters(recurse=False) if TOKENS.match(leaf)]
        tokens = tokens or sum(_rows(tuple(tensor.shape)) for tensor in beside)
        grids += [grid for _, _, each in _near(holder, path) if (grid := _declared(each)) is not None]
        kind = _kind(holder, path, dims)
        if kind != "unknown":
            return Evidence(kind, tokens, tuple(grids))
    return Evidence("unknown", tokens, tuple(grids))


def window_of(module: nn.Module, name: str) -> Shape | None:
    """`window_size` of the layer that a table of relative positions belongs to."""
    return _pair(getattr(module.get_submodule(name.rpartition(".")[0]), "window_size", None))


def _outwards(module: nn.Module, name: str) -> Iterator[str]:
    """Paths of the modules around a tensor, the nearest first, without the embedding that it is the weight of."""
    path = name.rpartition(".")[0]
    if path and isinstance(module.get_submodule(path), nn.Embedding):
        path = path.rpartition(".")[0]
    yield path
    while path:
        path = path.rpartition(".")[0]
        yield path


def _near(holder: nn.Module, path: str) -> Iterator[tuple[int, str, nn.Module]]:
    """The module itself and those below it down to `REACH`, with their depths, the nearest first."""
    level = [(path, holder)]
    for depth in range(REACH + 1):
        yield from ((depth, name, each) for name, each in level)
        level = [(f"{name}.{leaf}".lstrip("."), child) for name, each in level for leaf, child in each.named_children()]


def _kind(holder: nn.Module, path: str, dims: int) -> Kind:
    depths: dict[Kind, int] = {}
    for depth, name, each in _near(holder, path):
        if isinstance(each, IMAGE):
            depths.setdefault("image", depth)
        elif isinstance(each, SEQUENCE) and not is_position_embedding(f"{name}.weight"):
            depths.setdefault("sequence", depth)
    if not depths:
        return "unknown"
    if len(set(depths.values())) < len(depths):  # both are equally near: a table of rows is of a sequence
        return "sequence" if dims == 2 else "image"
    return min(depths, key=lambda kind: depths[kind])


def _declared(module: nn.Module) -> Shape | None:
    grid = _pair(getattr(module, "grid_size", None))
    if grid is not None:
        return grid
    for whole, part in SIZES:
        size, patch = _pair(getattr(module, whole, None)), _pair(getattr(module, part, None))
        if size is not None and patch is not None and len(size) == len(patch) and all(patch):
            return tuple(a // b for a, b in zip(size, patch, strict=True))
    return None


def _pair(value: object) -> Shape | None:
    """A size as a tuple; one number stands for two dimensions."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return (value, value)
    several = isinstance(value, tuple | list) and len(value) in (2, 3)
    if several and all(isinstance(size, int) and size > 0 for size in value):  # type: ignore[attr-defined]
        return tuple(value)  # type: ignore[arg-type]
    return None


def _rows(shape: Shape) -> int:
    return shape[-2] if len(shape) > 1 else 1
