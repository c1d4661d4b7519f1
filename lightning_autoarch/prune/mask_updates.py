"""The next masks of a training: what is pruned further, and what is exchanged in dynamic sparse training.

    criteria         magnitudes (no scores, which needs no memory), |w g| or random numbers: the smallest are pruned
    prune_further    masks of a higher sparsity: what is pruned stays pruned
    exchange         masks of the same sparsity: some weights are dropped, and as many are grown elsewhere

Exchange: Evci et al. 2020, *Rigging the Lottery* (growth by gradient); Mocanu et al. 2018, *SET* (growth at random).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.core.patterns import match_values
from lightning_autoarch.prune.allocation import counts, erdos_renyi_kernel, floors, lamp_scores
from lightning_autoarch.prune.magnitude import named_masks
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.masked import MaskedWeights
from lightning_autoarch.prune.selection import SelectionRequest

Criterion = Literal["magnitude", "gradient", "random"]
CRITERIA = ("magnitude", "gradient", "random")
FLOOR = 0.1  # the default
SparsityScope = Literal["global", "layer", "erk", "lamp"] | Mapping[str, float]
SCOPES = ("global", "layer", "erk", "lamp")


def gradient_score(parameter: Tensor, gradient: Tensor) -> Tensor:
    """|w g|: what the loss changes by, to first order, when w becomes 0 (Molchanov et al. 2017, equation 6)."""
    return (parameter.detach() * gradient.detach()).abs()


def scores_of(names: Sequence[str], found: Mapping[str, Tensor]) -> list[Tensor]:
    """The scores of all parameters, in the order of their names.

    Raises:
        PruneValueError: one has none, because it had no gradient; it is named.
    """
    for name in names:
        if name not in found:
            raise PruneValueError(
                f"Expected a gradient of `{name}` at the optimizer step, by which weights are compared, got none: it "
                "does not contribute to the loss, or its optimizer did not step together with the others. Leave it out "
                "with `exclude`, or use one callback for the weights of each optimizer, with `targets` and `name`."
            )
    return [found[name] for name in names]


def random_scores(parameters: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Uniform numbers, the same for one seed on every device and in every process; no generator of torch advances."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(p.shape, generator=generator).to(p.device) for p in parameters]


def prune_further(
    weights: MaskedWeights,
    sparsity: float,
    scope: SparsityScope,
    scores: Sequence[Tensor] | None = None,
    final: float = 1.0,
    floor: float = FLOOR,
) -> list[BitMask]:
    """Masks that prune a share of the dense weights, including everything that is pruned already.

    No target is emptied, unless fewer weights are kept than there are targets. Nor is a slice of which a norm is taken;
    fewer weights may then be pruned than requested.

    Args:
        weights: the targets.
        sparsity: of all targets. If `scope` gives a sparsity for each pattern, the progress is `sparsity / final`.
        scope: "global" compares all weights with one another; "layer" prunes the same share of each target; "erk", see
            `erdos_renyi_kernel`; "lamp", by `lamp_scores`; or the final sparsity for each pattern.
        scores: compared in place of the magnitudes.
        final: the sparsity at which the values of `scope` are reached.
        floor: for scope "global", see `floors`: each target keeps at least this share of what it would keep under scope
            "layer". With 0.0 a target may be emptied.

    Raises:
        PruneValueError: a NaN; the parameter is named.
    """
    if scope == "lamp":
        scores = [lamp_scores(parameter) for parameter in weights.parameters]
    compared = weights.scores(scores)
    if scope in ("global", "lamp"):
        total = sum(weights.sizes)
        least = floors(weights.sizes, weights.slices, sparsity, floor if scope == "global" else 0.0)
        k = max(min(round(sparsity * total), total - sum(least)), sum(weights.pruned))
        return smallest_above_floors(weights, k, compared, least)
    shares = _shares(weights, sparsity, scope, final)
    each = counts(weights.sizes, shares, weights.pruned, weights.slices)
    return named_masks(
        weights.parameters, weights.names, SelectionRequest(None, each, "tensor", weights.masks, compared)
    )


def _shares(weights: MaskedWeights, sparsity: float, scope: SparsityScope, final: float) -> list[float]:
    if isinstance(scope, Mapping):
        values = match_values(scope, weights.names, "scope", PruneValueError)
        progress = sparsity / final if final else 1.0
        return [values.get(name, 0.0) * progress for name in weights.names]
    if scope == "erk":
        return erdos_renyi_kernel([parameter.shape for parameter in weights.parameters], sparsity)
    return [sparsity] * len(weights.names)


def smallest_above_floors(
    weights: MaskedWeights,
    k: int,  # how many are pruned of all
    scores: Sequence[Tensor] | None,
    least: Sequence[int],  # how many of each target are kept at least
) -> list[BitMask]:
    """Masks of scope "global" that prune k weights and keep at least `least` of each target.

    What is pruned already stays pruned, also where fewer than `least` are kept. Expects that k leaves enough weights
    for all floors. The selections are exact: at most one more than there are targets, and one if no floor is reached.

    Raises:
        PruneValueError: a NaN; the parameter is named.
    """
    least = [min(low, mask.count()) for low, mask in zip(least, weights.masks, strict=True)]
    held: dict[int, int] = {}  # target at its floor -> how many of its weights are pruned

    def choose(which: Sequence[int], count: int) -> dict[int, BitMask]:
        parameters, names = [weights.parameters[i] for i in which], [weights.names[i] for i in which]
        compared = None if scores is None else [scores[i] for i in which]
        given = [weights.masks[i] for i in which]
        chosen = named_masks(parameters, names, SelectionRequest(None, count, "global", given, compared))
        return dict(zip(which, chosen, strict=True))

    while True:
        free = [i for i in range(len(least)) if i not in held]
        found = choose(free, k - sum(held.values()))
        short = [i for i in free if found[i].count() < least[i]]
        if not short:
            break
        held.update({i: weights.sizes[i] - least[i] for i in short})
    for i, count in held.items():
        found.update(choose([i], count))
    return [found[i] for i in range(len(least))]


def drop_fraction(step: int, end: int, alpha: float) -> float:
    """alpha / 2 (1 + cos(pi step / end)), and 0 from `end` on: the share of the kept weights that is exchanged.

    >>> [round(drop_fraction(step, 100, 0.3), 3) for step in (0, 50, 100)]
    [0.3, 0.15, 0.0]
    """
    return alpha / 2 * (1 + math.cos(math.pi * step / end)) if step < end else 0.0


def exchange(weights: MaskedWeights, fraction: float, growth: Sequence[Tensor]) -> list[BitMask]:
    """Masks with a share of the kept weights of each tensor dropped, and as many others grown.

    Args:
        weights: the targets. Of the kept weights, the smallest |w| are dropped.
        fraction: the share of the kept weights that is exchanged, in [0, 1].
        growth: for each target, numbers of its shape: of the pruned weights, those with the largest magnitudes are
            grown. A weight that is dropped now is not grown.

    Each tensor, and each slice of which a norm is taken, keeps at least one weight.
    """
    kept = [n - k for n, k in zip(weights.sizes, weights.pruned, strict=True)]
    spare = [n - max(1, c) for n, c in zip(kept, weights.slices, strict=True)]
    moved = [max(0, min(round(fraction * n), k, s)) for n, k, s in zip(kept, weights.pruned, spare, strict=True)]
    k = [k + n for k, n in zip(weights.pruned, moved, strict=True)]
    drop = SelectionRequest(None, k, "tensor", weights.masks, weights.scores())
    dropped = named_masks(weights.parameters, weights.names, drop)
    grown = named_masks(growth, weights.names, SelectionRequest(None, moved, "tensor", weights.masks, regrow=True))
    return [g & ~(m & ~d) for g, m, d in zip(grown, weights.masks, dropped, strict=True)]


def check_finite(weights: MaskedWeights) -> None:
    """Raises PruneValueError naming a parameter with a NaN, or one that the kernels cannot take."""
    with torch.no_grad():
        for name, parameter in zip(weights.names, weights.parameters, strict=True):
            named_masks([parameter], [name], SelectionRequest(k=0))
