"""Rules of operations that only move elements: a view of the tensor is the same view of its labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lightning_autoarch.structure.flow import SUMMED, Call, Rule, wildcard
from lightning_autoarch.structure.labels import Labels, rigid, squeezed, varying
from lightning_autoarch.structure.layout import ChannelLayout, Factors, join, live, reshaped, segments, settled


def same(call: Call) -> Sequence[Factors]:
    """clone, detach, ...: the same elements in the same places."""
    return [call.layout("self").factors]


def view(call: Call) -> Sequence[Factors]:
    """Another shape."""
    layout, shape = call.layout("self"), tuple(call.outputs[0].shape)
    if 0 not in layout.shape:
        for factor in layout.factors:
            _couple_shuffled(call, factor, segments(layout.shape, shape))
    return [reshaped(call.sets, layout, shape, call.place)]


def _couple_shuffled(call: Call, factor: Labels, pieces: Sequence[tuple[list[int], list[int]]]) -> None:
    """Channels in an (n, groups) grid that becomes a row, other than in their order: a shuffle.

    They go with those at the same place in the other groups. Where the (groups, n) grid is cut first, there are as many
    units as groups instead, which are few, and the halves that are taken next join even these. None is replicated: the
    order depends on how many there are.
    """
    for left, right in pieces:
        dims = [d for d in left if factor.shape[d] > 1]
        if len(dims) < 2 or len(right) > 1 or len(dims) < len(varying(factor)):
            continue
        if (np.diff(call.sets.roots(factor).reshape(-1)) < 0).any():
            first = tuple(slice(None) if d == dims[0] else slice(0, 1) for d in range(factor.ndim))
            call.sets.merge(factor, factor[first])
            call.flow.mark(factor, SUMMED)


def permute(call: Call) -> Sequence[Factors]:
    """Dimensions in another order."""
    return [call.layout("self").mapped(lambda f: f.transpose(call.args["dims"]))]


def transpose(call: Call) -> Sequence[Factors]:
    """Two dimensions change places; `t` is the same of a matrix."""
    first, second = call.args.get("dim0", 0), call.args.get("dim1", 1)
    layout = call.layout("self")
    if len(layout.shape) < 2:
        return [layout.factors]
    return [layout.mapped(lambda f: f.swapaxes(first, second))]


def unsqueeze(call: Call) -> Sequence[Factors]:
    """A new dimension of size 1."""
    return [call.layout("self").mapped(lambda f: np.expand_dims(f, call.args["dim"]))]


def squeeze(call: Call) -> Sequence[Factors]:
    """Dimensions of size 1 left out."""
    layout = call.layout("self")
    given = call.args.get("dim", range(len(layout.shape)))
    dims = {d % max(len(layout.shape), 1) for d in (given if not isinstance(given, int) else [given])}
    gone = tuple(d for d in dims if layout.shape and layout.shape[d] == 1)
    return [layout.mapped(lambda f: f.squeeze(gone))]


def expand(call: Call) -> Sequence[Factors]:
    """Repeated without a copy: what is repeated is alike, and may be any kind of channel."""
    before, after = call.layout("self").aligned(call.outputs[0].dim()), call.outputs[0].shape
    repeated = [n if m == 1 else 1 for m, n in zip(before.shape, after, strict=True)]
    return [before.factors + wildcard(call.sets, repeated)]


def repeat(call: Call) -> Sequence[Factors]:
    """Tiles."""
    layout = call.layout("self").aligned(call.outputs[0].dim())
    repeats = call.args["repeats"]
    return [layout.mapped(lambda f: np.tile(f, [r if n > 1 else 1 for r, n in zip(repeats, f.shape, strict=True)]))]


def flip(call: Call) -> Sequence[Factors]:
    """Backwards."""
    return [call.layout("self").mapped(lambda f: np.flip(f, axis=tuple(call.args["dims"])))]


def roll(call: Call) -> Sequence[Factors]:
    """Places move on by a number, those at the end to the beginning."""
    layout = call.layout("self")
    dims = call.args.get("dims") or range(len(layout.shape))
    return [call.whole_over(layout, [d % len(layout.shape) for d in dims], "places move").factors]


def _rigid_along(call: Call, layout: ChannelLayout, dim: int) -> Factors:
    """Places along `dim` are numbers in the code: no channel there may move."""
    why = f"positions are numbers in the code at {call.place}"
    return live(rigid(call.sets, f, [dim], why) for f in layout.factors)


def select(call: Call) -> Sequence[Factors]:
    """One index of a dimension, which is dropped."""
    layout = call.layout("self")
    dim = call.args["dim"] % len(layout.shape)
    return [live(f.squeeze(dim) for f in _rigid_along(call, layout, dim))]


def unbind(call: Call) -> Sequence[Factors]:
    """Every index of a dimension."""
    layout = call.layout("self")
    dim = call.args["dim"] % len(layout.shape)
    return [live(f.squeeze(dim) for f in _rigid_along(call, layout, dim))] * len(call.outputs)


def slice_(call: Call) -> Sequence[Factors]:
    """From here to there; over channels only the whole."""
    layout = call.layout("self")
    dim = call.args["dim"] % len(layout.shape)
    if tuple(call.outputs[0].shape) == layout.shape and call.args.get("step", 1) == 1:
        return [layout.factors]
    return [_rigid_along(call, layout, dim)]


def split(call: Call) -> Sequence[Factors]:
    """Parts: of equal size the channels at equal places go together (then halves stay halves), otherwise none may."""
    layout = call.layout("self")
    dim = call.args["dim"] % len(layout.shape)
    sizes = [int(out.shape[dim]) for out in call.outputs]
    if len(set(sizes)) != 1:
        return [_rigid_along(call, layout, dim)] * len(sizes)
    factors = [_halves(call, f, dim, len(sizes)) for f in layout.factors]
    return [tuple(parts[i] for parts in factors) for i in range(len(sizes))]


def _halves(call: Call, factor: Labels, dim: int, count: int) -> list[Labels]:
    if factor.shape[dim] == 1:
        return [factor] * count
    parts = np.split(factor, count, axis=dim)
    for part in parts[1:]:
        call.sets.merge(parts[0], part)
    return parts


def cat(call: Call) -> Sequence[Factors]:
    """One behind the other: channels keep their labels, at an offset."""
    inputs: list[Tensor] = [x for x in call.args["tensors"] if x.dim() > 1 or x.numel()]
    layouts = [_as_merged(call, call.flow.of(x)) for x in inputs]
    rank = call.outputs[0].dim()
    dim = call.args.get("dim", 0) % rank
    rows = [_row_over(call, layout, dim) for layout in layouts]
    rest = [
        ChannelLayout(_but(layout.shape, dim), tuple(f for f in layout.factors if f.shape[dim] == 1))
        for layout in layouts
    ]
    sizes = [max(row.shape[d] for row in rows) if d != dim else 0 for d in range(rank)]
    wide = [np.broadcast_to(row, [row.shape[d] if d == dim else sizes[d] for d in range(rank)]) for row in rows]
    joined = join(call.sets, rest, rank, call.place)
    return [settled(call.sets, [np.concatenate(wide, axis=dim), *joined])]


def _as_merged(call: Call, layout: ChannelLayout) -> ChannelLayout:
    """Without the dimensions along which channels have become one since: in one part as in the others."""
    return ChannelLayout(layout.shape, settled(call.sets, layout.factors), layout.source)


def _row_over(call: Call, layout: ChannelLayout, dim: int) -> Labels:
    """The labels along `dim`; those of a neutral part are new and fixed."""
    factor = layout.factor_over(dim)
    if factor is not None:
        return squeezed_but(call, factor, dim)
    row = call.sets.fresh(layout.shape[dim])
    call.sets.fix(row, f"a part that is given from outside is concatenated at {call.place}")
    return row.reshape([-1 if d == dim else 1 for d in range(len(layout.shape))])


def squeezed_but(call: Call, factor: Labels, dim: int) -> Labels:
    """As `squeezed`, but whole along `dim`."""
    n = factor.shape[dim]
    small = squeezed(call.sets, factor)
    return np.broadcast_to(small, [n if d == dim else s for d, s in enumerate(small.shape)])


def _but(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    return tuple(1 if d == dim else n for d, n in enumerate(shape))


def stack(call: Call) -> Sequence[Factors]:
    """Along a new dimension, which is neutral."""
    rank = call.outputs[0].dim()
    dim = call.args.get("dim", 0) % rank
    layouts = [call.flow.of(x) for x in call.args["tensors"]]
    joined = call.meet(layouts, rank - 1)
    return [live(np.expand_dims(f, dim) for f in joined)]


def pad(call: Call) -> Sequence[Factors]:
    """Constants around: over padded dimensions nothing may go."""
    layout = call.layout("self")
    dims = {d for d, out in enumerate(call.outputs[0].shape) if out != layout.shape[d]}
    over = [f for f in layout.factors if set(varying(f)) & dims]
    call.fix(over, "channels are padded")
    return [tuple(f for f in layout.factors if all(f is not g for g in over))]


def index(call: Call) -> Sequence[Factors]:
    """Rows chosen by a tensor of indices: neutral where chosen. Only one index tensor, the others whole."""
    layout, given = call.layout("self"), list(call.args["indices"])
    for chosen in given:
        if chosen is not None:
            call.fix(call.flow.of(chosen).factors, "channels choose rows")
    at = [d for d, chosen in enumerate(given) if chosen is not None]
    left = call.fixed_over(layout, at, "rows are chosen by an index")
    if len(at) != 1 or given[at[0]].dtype.is_floating_point or str(given[at[0]].dtype) == "torch.bool":
        call.fix(left.factors, "rows are chosen by a mask or several indices")
        return [()]
    dim, extra = at[0], given[at[0]].dim()
    return [left.mapped(lambda f: f.reshape(f.shape[:dim] + (1,) * extra + f.shape[dim + 1 :]))]


def index_select(call: Call) -> Sequence[Factors]:
    """Rows chosen by one index."""
    call.fix(call.layout("index").factors, "channels choose rows")
    layout = call.layout("self")
    return [call.fixed_over(layout, [call.args["dim"] % len(layout.shape)], "rows are chosen by an index").factors]


# Of these the output is a view of the one input, or a copy: what is a parameter stays one.
MOVES: dict[str, Rule] = {
    **dict.fromkeys(
        ("clone", "detach", "alias", "_to_copy", "lift_fresh", "lift_fresh_copy", "contiguous", "detach_", "to"), same
    ),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy"), view),
    "permute": permute,
    **dict.fromkeys(("transpose", "t", "transpose_", "t_"), transpose),
    **dict.fromkeys(("unsqueeze", "unsqueeze_"), unsqueeze),
    **dict.fromkeys(("squeeze", "squeeze_"), squeeze),
    "expand": expand,
    "repeat": repeat,
    "flip": flip,
    "roll": roll,
    "select": select,
    "unbind": unbind,
    "slice": slice_,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk"), split),
}

VIEWS: dict[str, Rule] = {
    **MOVES,
    "cat": cat,
    "stack": stack,
    "constant_pad_nd": pad,
    "index": index,
    "index_select": index_select,
}
