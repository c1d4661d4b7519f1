"""Rules of operations that compute channel by channel or over channels: norms, reductions, pooling, elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_autoarch.structure.flow import PRODUCER, RESCALED, SUMMED, Call, Rule, wildcard
from lightning_autoarch.structure.labels import Labels, rigid
from lightning_autoarch.structure.layout import Factors, live, reduced, reshaped, settled


def pointwise(call: Call) -> Sequence[Factors]:
    """Equal positions of everything that is broadcast are equal channels."""
    layouts = [call.flow.of(x) for x in call.tensors()]
    out = call.outputs[0]
    factors = call.meet(layouts, out.dim())
    return [factors if x.shape == out.shape else () for x in call.outputs]


def glu(call: Call) -> Sequence[Factors]:
    """The first half times the sigmoid of the second: one channel of each."""
    x = call.layout("self")
    dim = call.args["dim"] % len(x.shape)
    halves = [np.split(f, 2, dim) if f.shape[dim] > 1 else [f, f] for f in x.factors]
    for first, second in halves:
        call.sets.merge(first, second)
    return [settled(call.sets, [first for first, _ in halves])]


def like(call: Call) -> Sequence[Factors]:
    """Random or constant, shaped like its input, or an input that is overwritten by such."""
    return [call.flow.of(call.tensors()[0]).factors] * len(call.outputs)


def create(call: Call) -> Sequence[Factors]:
    """Zeros and the like: any kind of channels."""
    return [wildcard(call.sets, tuple(x.shape)) for x in call.outputs]


def batch_norm(call: Call) -> Sequence[Factors]:
    """Per channel: weight, bias and statistics run along."""
    x = call.layout("input")
    names = ("weight", "bias", "running_mean", "running_var")
    rows = [row for name in names if (row := call.optional(name)) is not None]
    factors = call.meet([x, *(row.placed(x.shape, [1]) for row in rows)], len(x.shape))
    per_channel = live(f.swapaxes(0, 1).reshape(f.shape[1], -1)[:, 0] for f in factors)  # of the statistics
    return [factors, *(per_channel if out.numel() else () for out in call.outputs[1:])]


def layer_norm(call: Call) -> Sequence[Factors]:
    """Statistics over the last dimensions."""
    x, over = call.layout("input"), len(call.args["normalized_shape"])
    rows = [row for name in ("weight", "bias") if (row := call.optional(name)) is not None]
    rank = len(x.shape)
    factors = call.meet([x, *rows], rank)
    _mark_over(call, factors, range(rank - over, rank), RESCALED)
    return [factors] + [()] * (len(call.outputs) - 1)


def group_norm(call: Call) -> Sequence[Factors]:
    """Either whole groups go, which changes nothing for the others, or equally many of each: what is finer.

    Equally many of each group: those at the same place in their groups. What has been decided before stays so.
    """
    x, groups = call.layout("input"), int(call.args["group"])
    rows = [row.placed(x.shape, [1]) for name in ("weight", "bias") if (row := call.optional(name)) is not None]
    factors = call.meet([x, *rows], len(x.shape))
    inside = x.shape[1] // groups
    for factor in factors:
        if factor.shape[1] > 1:
            parts = factor.reshape((*factor.shape[:1], groups, inside, *factor.shape[2:]))
            whole, places = (_constant(call, parts, axis) for axis in (2, 1))
            if whole or (groups >= inside and not places):
                call.sets.merge(parts, parts[:, :, :1])
            else:
                call.sets.merge(parts, parts[:, :1])
                call.flow.mark(parts, RESCALED)
    factors = settled(call.sets, factors)
    per_group = live(f.swapaxes(0, 1).reshape(f.shape[1], -1)[::inside, :1].T for f in factors if f.shape[1] > 1)
    return [factors] + [settled(call.sets, per_group)] * (len(call.outputs) - 1)


def _constant(call: Call, labels: Labels, axis: int) -> bool:
    roots = call.sets.roots(labels)
    return bool((roots == roots.take([0], axis)).all())


def weight_norm(call: Call) -> Sequence[Factors]:
    """g v / |v|, the norm over all dimensions but one. Fewer channels are made up for by g; see `normed`."""
    v, g = call.layout("v"), call.layout("g")
    rank, dim = len(v.shape), int(call.args["dim"])
    factors = call.meet([v, g], rank)
    _mark_over(call, factors, [d for d in range(rank) if d != dim], SUMMED)
    return [factors] + [tuple(f for f in factors if f.shape[dim] > 1)] * (len(call.outputs) - 1)


def _mark_over(call: Call, factors: Factors, dims: Sequence[int], *marks: str) -> None:
    for factor in factors:
        if any(factor.shape[d] > 1 for d in dims):
            for mark in marks:
                call.flow.mark(factor, mark)


def softmax(call: Call) -> Sequence[Factors]:
    """Over channels it depends on how many there are."""
    x = call.layout("self")
    _mark_over(call, x.factors, [call.args["dim"] % max(len(x.shape), 1)], RESCALED, SUMMED)
    return [x.factors] * len(call.outputs)


def reduction(call: Call, *marks: str) -> Sequence[Factors]:
    """Over some dimensions or all."""
    x = call.flow.of(call.tensors()[0])
    rank = len(x.shape)
    given = call.args.get("dim")
    dims = list(range(rank)) if given is None or given == [] else [given] if isinstance(given, int) else list(given)
    dims = [d % max(rank, 1) for d in dims]
    left, ended = reduced(call.sets, x.factors, dims, call.place)
    for factor in ended:
        for mark in marks:
            call.flow.mark(factor, mark)
    kept = call.outputs[0].dim() == rank
    return [left if kept else live(f.squeeze(tuple(dims)) for f in left)] * len(call.outputs)


def total(call: Call) -> Sequence[Factors]:
    """sum: a channel that is 0 adds nothing."""
    return reduction(call, SUMMED)


def average(call: Call) -> Sequence[Factors]:
    """mean, var, max: they depend on how many channels there are, but not on how often each."""
    return reduction(call, RESCALED)


def length(call: Call) -> Sequence[Factors]:
    """A norm of vectors: as of a sum, and it depends on how often each channel is there.

    Of the weight of a weight norm fewer channels are made up for.
    """
    normed = call.flow.of(call.tensors()[0]).source in call.flow.normed
    return reduction(call, SUMMED) if normed else reduction(call, RESCALED, SUMMED)


def along(call: Call) -> Sequence[Factors]:
    """Sorting, cumulative sums, extremes: along one dimension, in which the order or the number counts."""
    x = call.flow.of(call.tensors()[0])
    rank, dim = len(x.shape), call.args.get("dim")
    dims = range(rank) if not isinstance(dim, int) else [dim % max(rank, 1)]
    left = call.fixed_over(x, dims, "the order of channels counts")
    dropped = live(f.squeeze(tuple(dims)) for f in left.factors)
    return [left.factors if out.dim() == rank else dropped for out in call.outputs]


def spatial(call: Call) -> Sequence[Factors]:
    """Pooling, resizing, reflection: (N, C, pixels), each channel for itself."""
    name = next(x for x in ("self", "input") if x in call.args)
    count = int(next(c for c in call.op if c in "123"))
    x = call.layout(name)
    left = call.whole_over(x, range(len(x.shape) - count, len(x.shape)), "pixels are pooled")
    return [left.factors] * len(call.outputs)


def pixel_shuffle(call: Call) -> Sequence[Factors]:
    """(N, C r^2, H, W) -> (N, C, r H, r W)."""
    x, r = call.layout("self"), int(call.args["upscale_factor"])
    *batch, channels, h, w = x.shape
    x = call.whole_over(x, range(len(batch) + 1, len(x.shape)), "pixels are moved")
    shape = (*batch, channels // r**2, r**2, h, w)
    factors = reshaped(call.sets, x, shape, call.place)
    at = len(batch) + 1
    rows = (rigid(call.sets, f, [at], f"channels become pixels at {call.place}") for f in factors)
    return [live(f.squeeze(at) for f in rows)]


def embedding(call: Call) -> Sequence[Factors]:
    """Rows chosen by an index: (*, E)."""
    weight, chosen = call.layout("weight"), call.args["indices"]
    call.fix(call.flow.of(chosen).factors, "channels choose rows")
    left = call.fixed_over(weight, [0], "rows are chosen by an index")
    call.flow.use(left, left.factors, PRODUCER)
    return [left.mapped(lambda f: f.reshape((1,) * chosen.dim() + f.shape[1:]))]


def grid_sample(call: Call) -> Sequence[Factors]:
    """(N, C, pixels) read at places (N, pixels', 2): each channel for itself."""
    grid = call.layout("grid")
    call.fix(grid.factors, "channels are places of pixels")
    x = call.layout("input")
    return [call.whole_over(x, range(2, len(x.shape)), "pixels are chosen").factors]


def copy(call: Call) -> Sequence[Factors]:
    """Written into a tensor: its channels are those of what is written."""
    return [call.meet([call.layout("self"), call.layout("src")], call.outputs[0].dim())]


POOLS = (
    *(f"{kind}_pool{n}d" for n in "123" for kind in ("avg", "max", "_adaptive_avg", "adaptive_avg", "adaptive_max")),
    *(f"max_pool{n}d_with_indices" for n in "23"),
    *(f"{kind}_pad{n}d" for n in "123" for kind in ("reflection", "replication")),
    *(f"upsample_nearest{n}d" for n in "123"),
    *(f"_upsample_nearest_exact{n}d" for n in "123"),
    *("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
)
UNTAGGED = ("hardswish", "hardswish_", "log_sigmoid_forward", "_prelu_kernel", "rrelu_with_noise", "rrelu_with_noise_")
MIXING: dict[str, Rule] = {
    **dict.fromkeys(UNTAGGED, pointwise),
    "glu": glu,
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm"), batch_norm),
    "native_layer_norm": layer_norm,
    "_weight_norm_interface": weight_norm,
    "native_group_norm": group_norm,
    **dict.fromkeys(("_softmax", "_log_softmax", "softmax", "_safe_softmax"), softmax),
    "sum": total,
    "linalg_vector_norm": length,
    **dict.fromkeys(("mean", "var", "std", "amax", "amin", "var_mean", "std_mean"), average),
    **dict.fromkeys(POOLS, spatial),
    **dict.fromkeys(("sort", "topk", "argsort", "argmax", "argmin", "max", "min", "median", "kthvalue", "mode"), along),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "prod", "any", "all"), along),
    "logsumexp": length,
    "pixel_shuffle": pixel_shuffle,
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d"), grid_sample),
    "embedding": embedding,
    "copy_": copy,
    **dict.fromkeys(("zeros", "ones", "full", "empty", "rand", "randn", "empty_strided"), create),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"), create),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"), like),
    **dict.fromkeys(("bernoulli", "bernoulli_", "uniform_", "normal_", "fill_", "zero_", "random_"), like),
    "native_dropout": like,
}
