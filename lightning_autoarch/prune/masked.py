"""Parameters with a mask of one bit a weight beside them: chosen, applied, counted, compared, saved.

The parameters stay what they are, by name and identity: a `state_dict` is the plain module's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune.allocation import counts, erdos_renyi_kernel, lamp_scores
from lightning_autoarch.prune.floors import floors, protecting_slices, smallest_above_floors
from lightning_autoarch.prune.magnitude import MaskApplier, apply_masks_, magnitude_masks
from lightning_autoarch.prune.mask import BitMask
from lightning_autoarch.prune.names import plain_name
from lightning_autoarch.prune.reparametrised import slices_of
from lightning_autoarch.prune.targets import match_values

FLOOR = 0.1  # by default
Scope = Literal["global", "layer", "erk", "lamp"] | Mapping[str, float]
SCOPES = ("global", "layer", "erk", "lamp")


class MaskedWeights:
    """Parameters and their masks.

    Args:
        parameters: name -> parameter.
        masks: name -> mask; None: everything is kept.
        normed: name -> dimensions over which a norm is taken: no slice along them is ever emptied.

    Raises:
        PruneValueError: masks of other parameters or shapes.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        masks: Mapping[str, BitMask] | None = None,
        normed: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    ) -> None:
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.masks = (
            _fitting(parameters, masks) if masks else [BitMask.ones(p.shape, p.device) for p in self.parameters]
        )
        self.normed = [normed.get(name, ()) for name in self.names]
        self.pruned = [mask.numel - mask.count() for mask in self.masks]
        self._applier = MaskApplier(self.parameters, self.masks)

    @property
    def slices(self) -> list[int]:
        """How many slices of each target have to keep a number, because a norm is taken of them."""
        return [slices_of(p, dims) for p, dims in zip(self.parameters, self.normed, strict=True)]

    @property
    def sizes(self) -> list[int]:
        return [parameter.numel() for parameter in self.parameters]

    @property
    def sparsity(self) -> float:
        """Share of the numbers of all targets that is masked."""
        return sum(self.pruned) / max(1, sum(self.sizes))

    def sparsities(self) -> dict[str, float]:
        """Of each target."""
        return {name: k / max(1, n) for name, k, n in zip(self.names, self.pruned, self.sizes, strict=True)}

    def replace(self, masks: Sequence[BitMask]) -> None:
        self.masks = list(masks)
        self.pruned = [mask.numel - mask.count() for mask in self.masks]
        self._applier = MaskApplier(self.parameters, self.masks)

    def apply_(self) -> None:
        """Set what is masked to 0."""
        if any(self.pruned):
            self._applier.apply_()

    def revived_(self) -> list[str]:
        """Names of the targets in which something masked was not 0; it is 0 afterwards. Waits for the device."""
        before = [int(parameter.detach().count_nonzero()) for parameter in self.parameters]
        self.apply_()
        after = [int(parameter.detach().count_nonzero()) for parameter in self.parameters]
        return [name for name, b, a in zip(self.names, before, after, strict=True) if b != a]

    def cut(self, recipe: Mapping[str, Any]) -> MaskedWeights:
        """The same parameters when they lost channels by a recipe of `structure`."""
        masks = cut_masks(dict(zip(self.names, self.masks, strict=True)), recipe)
        parameters = dict(zip(self.names, self.parameters, strict=True))
        return MaskedWeights(parameters, masks, dict(zip(self.names, self.normed, strict=True)))

    def scores(self, given: Sequence[Tensor] | None = None) -> Sequence[Tensor] | None:
        """By what weights are compared, with the largest of each slice that a norm is taken of above all others."""
        return protecting_slices(self.parameters, self.masks, given, self.normed)

    def apply_to_gradients_(self) -> None:
        """Set the gradients of what is masked to 0: it then counts in no norm."""
        pairs = [(p.grad, mask) for p, mask in zip(self.parameters, self.masks, strict=True) if p.grad is not None]
        if pairs and any(self.pruned):
            apply_masks_([grad for grad, _ in pairs], [mask for _, mask in pairs])

    def apply_to_copy_(self, module: nn.Module) -> None:
        """Set the same weights of a copy of the module (an average of it) to 0, wherever it lies."""
        there = {plain_name(name): parameter for name, parameter in module.named_parameters(remove_duplicate=False)}
        pairs = [(there[name], mask) for name, mask in zip(self.names, self.masks, strict=True) if name in there]
        for parameter, mask in pairs:
            apply_masks_([parameter], [mask.to(parameter.device)])

    def digest(self) -> bytes:
        """Of names and masks, 16 bytes: equal in two processes that prune the same."""
        state = hashlib.blake2b(digest_size=16)
        for name, mask in zip(self.names, self.masks, strict=True):
            state.update(f"{name}{mask.shape}".encode())
            state.update(mask.words.cpu().numpy().tobytes())
        return state.digest()

    def state(self) -> dict[str, Any]:
        """Tensors and Python scalars only."""
        return {name: mask.state() for name, mask in zip(self.names, self.masks, strict=True)}


def masks_of(state: Mapping[str, Any]) -> dict[str, BitMask]:
    """What `MaskedWeights.state` saved."""
    return {name: BitMask.from_state(each) for name, each in state.items()}


def cut_masks(masks: Mapping[str, BitMask], recipe: Mapping[str, Any]) -> dict[str, BitMask]:
    """Masks of parameters that lost channels by a recipe of `structure`."""
    cut = {}
    for name, mask in masks.items():
        keep = mask.unpack()
        for dim, places in recipe["tensors"].get(name, {"index": {}})["index"].items():
            chosen = torch.cat([torch.arange(*place) for place in places]).to(keep.device)
            keep = keep.index_select(int(dim), chosen)
        cut[name] = BitMask.pack(keep)
    return cut


def prune_further(
    weights: MaskedWeights,
    sparsity: float,
    scope: Scope,
    scores: Sequence[Tensor] | None = None,
    final: float = 1.0,
    floor: float = FLOOR,
) -> list[BitMask]:
    """Masks that prune a share of the dense weights, all that is pruned already among it.

    No target is emptied, unless fewer weights are left than there are targets; and no slice that a norm is taken of,
    although then fewer may be pruned than asked.

    Args:
        weights: targets.
        sparsity: of all of them, or where `scope` is values by pattern, on the way to `final`.
        scope: "global" compares all weights with one another; "layer": the same sparsity everywhere; "erk": see
            `erdos_renyi_kernel`; "lamp": by `lamp_scores`; or the final sparsity by pattern.
        scores: in place of the magnitudes.
        final: sparsity at which the values of `scope` are reached.
        floor: of scope "global", see `floors`: the share of what it would keep under scope "layer" that each target
            keeps at least. 0.0: a target may be emptied.

    Raises:
        PruneValueError: a NaN (the parameter is named).
    """
    if scope == "lamp":
        scores = [lamp_scores(parameter) for parameter in weights.parameters]
    try:
        compared = weights.scores(scores)
        if scope in ("global", "lamp"):
            total = sum(weights.sizes)
            least = floors(weights.sizes, weights.slices, sparsity, floor if scope == "global" else 0.0)
            k = max(min(round(sparsity * total), total - sum(least)), sum(weights.pruned))
            return smallest_above_floors(weights.parameters, k, weights.masks, compared, least)
        shares = _shares(weights, sparsity, scope, final)
        each = counts(weights.sizes, shares, weights.pruned, weights.slices)
        return magnitude_masks(weights.parameters, k=each, scope="tensor", masks=weights.masks, scores=compared)
    except PruneValueError as error:
        raise PruneValueError(with_names(str(error), weights.names)) from error


def _shares(weights: MaskedWeights, sparsity: float, scope: Scope, final: float) -> list[float]:
    if isinstance(scope, Mapping):
        values = match_values(dict(scope), weights.names, "scope")
        progress = sparsity / final if final else 1.0
        return [values.get(name, 0.0) * progress for name in weights.names]
    if scope == "erk":
        return erdos_renyi_kernel([parameter.shape for parameter in weights.parameters], sparsity)
    return [sparsity] * len(weights.names)


def _fitting(parameters: Mapping[str, Tensor], masks: Mapping[str, BitMask]) -> list[BitMask]:
    missing, unknown = [n for n in parameters if n not in masks], [n for n in masks if n not in parameters]
    if missing or unknown:
        what = f"none for `{missing[0]}`" if missing else f"one for `{unknown[0]}`"
        raise PruneValueError(
            f"Expected masks of the {len(parameters)} targets, got {what}: they are of another architecture or of "
            "other `targets`."
        )
    for name, parameter in parameters.items():
        if masks[name].shape != tuple(parameter.shape):
            raise PruneValueError(
                f"Expected a mask of shape {tuple(parameter.shape)} for `{name}`, got {masks[name].shape}: it is of "
                "another architecture."
            )
    return [masks[name].to(parameter.device) for name, parameter in parameters.items()]


def with_names(message: str, names: Iterable[str]) -> str:
    """An error of `magnitude_masks` as one of training, which has no `nan=`."""
    listed = list(names)
    named = re.sub(r"tensors\[(\d+)\]", lambda match: listed[int(match[1])], message)
    return re.sub(r", or pass nan=.*", ".", named)
