"""Rules of products with weights: matrices and convolutions, where channels are summed and new ones made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning_autoarch.structure.flow import ALONG, CONSUMER, PRODUCER, SUMMED, Call, Rule
from lightning_autoarch.structure.labels import Labels, rigid, varying
from lightning_autoarch.structure.layout import ChannelLayout, Factors, join, live, reduced, reshaped, settled

KERNEL = "the size of a kernel"  # the reason of dimensions that are never channels


def contract(call: Call, a: ChannelLayout, b: ChannelLayout, over: Sequence[int]) -> Factors:
    """sum_k a[..., k] b[..., k], both placed in one space of dimensions: those of `over` have size 1 afterwards."""
    rank = len(a.shape)
    for weight, other in ((a, b), (b, a)):
        inside = [f for f in weight.factors if any(f.shape[d] > 1 for d in over)]
        call.flow.use(weight, inside, CONSUMER if other.source is None else ALONG)
        call.flow.use(weight, [f for f in weight.factors if all(f is not g for g in inside)], PRODUCER)
    left, ended = reduced(call.sets, join(call.sets, [a, b], rank, call.place), over, call.place)
    if (a.source is None) == (b.source is None):  # no parameter, or two, that could be scaled
        for factor in ended:
            call.flow.mark(factor, SUMMED)
    return left


def matmul(call: Call) -> Sequence[Factors]:
    """mm, bmm: (..., m, k) @ (..., k, n)."""
    names = (
        ("self", "mat2") if "mat2" in call.args else ("batch1", "batch2") if "batch1" in call.args else ("mat1", "mat2")
    )
    return [_product(call, call.layout(names[0]), call.layout(names[1]))]


def _product(call: Call, a: ChannelLayout, b: ChannelLayout) -> Factors:
    batch, (m, k), n = a.shape[:-2], a.shape[-2:], b.shape[-1]
    space, r = (*batch, m, k, n), len(batch)
    lead = list(range(r))
    left = contract(call, a.placed(space, [*lead, r, r + 1]), b.placed(space, [*lead, r + 1, r + 2]), [r + 1])
    return live(f.squeeze(r + 1) for f in left)


def matvec(call: Call) -> Sequence[Factors]:
    """mv: (m, k) @ (k,)."""
    a, v = call.layout("self"), call.layout("vec")
    left = contract(call, a, v.placed(a.shape, [1]), [1])
    return [live(f.squeeze(1) for f in left)]


def add_product(call: Call) -> Sequence[Factors]:
    """addmm, baddbmm: a bias is added to the product."""
    names = ("batch1", "batch2") if "batch1" in call.args else ("mat1", "mat2")
    product = _product(call, call.layout(names[0]), call.layout(names[1]))
    bias, out = call.layout("self"), tuple(call.outputs[0].shape)
    call.flow.use(bias, bias.factors, PRODUCER)
    return [join(call.sets, [ChannelLayout(out, product), bias], len(out), call.place)]


def convolution(call: Call) -> Sequence[Factors]:
    """Both directions. A group of a grouped convolution goes as a whole, with its inputs and its outputs.

    Over (N, G, O / G, C / G): out[n, g, o] = sum_c in[n, g, c] weight[g, o, c], pixels left aside.
    """
    x, weight, groups = call.layout("input"), call.layout("weight"), int(call.args["groups"])
    rank, out = len(weight.shape), tuple(call.outputs[0].shape)
    batched = len(x.shape) == rank
    x = call.whole_over(x, range(2 if batched else 1, len(x.shape)), "pixels of a kernel")
    weight = _without_kernel(call, weight)
    first, second = weight.shape[:2]
    o, c = (second, first // groups) if call.args["transposed"] else (first // groups, second)
    n = x.shape[0] if batched else 1
    space = (n, groups, o, c)
    inputs = _regrouped(call, ChannelLayout((n, groups * c), _flat(x, batched)), (n, groups, 1, c))
    rows = (groups, c, o) if call.args["transposed"] else (groups, o, c)
    kernel = ChannelLayout((first, second), live(f.reshape(f.shape[:2]) for f in weight.factors), weight.source)
    split = ChannelLayout(rows, reshaped(call.sets, kernel, rows, call.place), weight.source)
    placed = split.placed(space, [1, 3, 2] if call.args["transposed"] else [1, 2, 3])
    if groups > 1:
        inputs, placed = _whole_groups(call, inputs, "groups go as a whole"), _whole_groups(call, placed, KERNEL)
    left = ChannelLayout((n, groups, o), live(f.squeeze(3) for f in contract(call, inputs, placed, [3])))
    channels = reshaped(call.sets, left, (n, groups * o), call.place)
    shaped = ChannelLayout(out, live(_pixels(f, len(out), batched) for f in channels))
    return [_with_bias(call, shaped, 1 if batched else 0)]


def _without_kernel(call: Call, weight: ChannelLayout) -> ChannelLayout:
    kernel = [f for f in weight.factors if any(d > 1 for d in varying(f))]
    for factor in kernel:
        call.sets.fix(factor, KERNEL)
    return replace(weight, factors=tuple(f for f in weight.factors if all(f is not g for g in kernel)))


def _flat(x: ChannelLayout, batched: bool) -> Factors:
    """Factors over (N, C)."""
    return live(f.reshape(f.shape[:2] if batched else (1, f.shape[0])) for f in x.factors)


def _pixels(factor: Labels, rank: int, batched: bool) -> Labels:
    n, c = factor.shape
    return factor.reshape((n, c) + (1,) * (rank - 2)) if batched else factor.reshape((c,) + (1,) * (rank - 1))


def _regrouped(call: Call, x: ChannelLayout, shape: tuple[int, ...]) -> ChannelLayout:
    return ChannelLayout(shape, reshaped(call.sets, x, shape, call.place))


def _whole_groups(call: Call, layout: ChannelLayout, why: str) -> ChannelLayout:
    """Channels of a group merge; what does not vary over the groups but inside them is fixed."""
    factors = [rigid(call.sets, f, [2, 3], why) for f in layout.factors]
    return replace(layout, factors=settled(call.sets, factors))


def _with_bias(call: Call, out: ChannelLayout, dim: int) -> Factors:
    bias = call.optional("bias")
    if bias is None:
        return out.factors
    call.flow.use(bias, bias.factors, PRODUCER)
    return join(call.sets, [out, bias.placed(out.shape, [dim])], len(out.shape), call.place)


PRODUCTS: dict[str, Rule] = {
    **dict.fromkeys(("mm", "bmm"), matmul),
    "mv": matvec,
    **dict.fromkeys(("addmm", "baddbmm"), add_product),
    "convolution": convolution,
}
