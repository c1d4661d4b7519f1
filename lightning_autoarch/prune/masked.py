"""Parameters and their masks of one bit a weight: applied, counted, compared, saved.

The parameters keep their names and identity, so that a `state_dict` is that of the plain module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.core.patterns import plain_name
from lightning_autoarch.prune.layer_weights import slices_of
from lightning_autoarch.prune.magnitude import MaskApplier, apply_masks_
from lightning_autoarch.prune.mask import BitMask


class MaskedWeights:
    """Parameters and their masks.

    Args:
        parameters: name -> parameter.
        masks: name -> mask; None: everything is kept.
        normed: name -> dimensions over which a norm is taken; a slice along them is never emptied.

    Raises:
        PruneValueError: the masks are those of other parameters or shapes.
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
        """How many slices of each target have to keep a weight, because a norm is taken of them."""
        return [slices_of(p, dims) for p, dims in zip(self.parameters, self.normed, strict=True)]

    @property
    def sizes(self) -> list[int]:
        return [parameter.numel() for parameter in self.parameters]

    @property
    def sparsity(self) -> float:
        """Share of the weights of all targets that is masked."""
        return sum(self.pruned) / max(1, sum(self.sizes))

    def sparsities(self) -> dict[str, float]:
        """The sparsity of each target."""
        return {name: k / max(1, n) for name, k, n in zip(self.names, self.pruned, self.sizes, strict=True)}

    def replace(self, masks: Sequence[BitMask]) -> None:
        self.masks = list(masks)
        self.pruned = [mask.numel - mask.count() for mask in self.masks]
        self._applier = MaskApplier(self.parameters, self.masks)

    def apply_(self) -> None:
        """Set the masked weights to 0."""
        if any(self.pruned):
            self._applier.apply_()

    def revived_(self) -> list[str]:
        """Set the masked weights to 0 and return the names of the targets where one was not. Waits for the device."""
        before = [int(parameter.detach().count_nonzero()) for parameter in self.parameters]
        self.apply_()
        after = [int(parameter.detach().count_nonzero()) for parameter in self.parameters]
        return [name for name, b, a in zip(self.names, before, after, strict=True) if b != a]

    def cut(self, recipe: Mapping[str, Any]) -> MaskedWeights:
        """The same parameters after they lost channels by a recipe of `structure`."""
        masks = cut_masks(dict(zip(self.names, self.masks, strict=True)), recipe)
        parameters = dict(zip(self.names, self.parameters, strict=True))
        return MaskedWeights(parameters, masks, dict(zip(self.names, self.normed, strict=True)))

    def scores(self, given: Sequence[Tensor] | None = None) -> Sequence[Tensor] | None:
        """The scores by which weights are compared, infinite for the largest of each slice of which a norm is taken."""
        return protecting_slices(self.parameters, self.masks, given, self.normed)

    def apply_to_gradients_(self) -> None:
        """Set the gradients of masked weights to 0, so that they do not count in a norm."""
        pairs = [(p.grad, mask) for p, mask in zip(self.parameters, self.masks, strict=True) if p.grad is not None]
        if pairs and any(self.pruned):
            apply_masks_([grad for grad, _ in pairs], [mask for _, mask in pairs])

    def apply_to_copy_(self, module: nn.Module) -> None:
        """Set the same weights of a copy of the module, such as an average, to 0, on any device."""
        there = {plain_name(name): parameter for name, parameter in module.named_parameters(remove_duplicate=False)}
        pairs = [(there[name], mask) for name, mask in zip(self.names, self.masks, strict=True) if name in there]
        for parameter, mask in pairs:
            apply_masks_([parameter], [mask.to(parameter.device)])

    def digest(self) -> bytes:
        """Of names and masks, 16 bytes: equal in two processes that prune the same weights."""
        state = hashlib.blake2b(digest_size=16)
        for name, mask in zip(self.names, self.masks, strict=True):
            state.update(f"{name}{mask.shape}".encode())
            state.update(mask.words.cpu().numpy().tobytes())
        return state.digest()

    def state(self) -> dict[str, Any]:
        """The masks as tensors and Python scalars."""
        return {name: mask.state() for name, mask in zip(self.names, self.masks, strict=True)}


def masks_of(state: Mapping[str, Any]) -> dict[str, BitMask]:
    """The masks that `MaskedWeights.state` saved."""
    return {name: BitMask.from_state(each) for name, each in state.items()}


def cut_masks(masks: Mapping[str, BitMask], recipe: Mapping[str, Any]) -> dict[str, BitMask]:
    """The masks of parameters after they lost channels by a recipe of `structure`."""
    cut = {}
    for name, mask in masks.items():
        keep = mask.unpack()
        for dim, places in recipe["tensors"].get(name, {"index": {}})["index"].items():
            chosen = torch.cat([torch.arange(*place) for place in places]).to(keep.device)
            keep = keep.index_select(int(dim), chosen)
        cut[name] = BitMask.pack(keep)
    return cut


def _fitting(parameters: Mapping[str, Tensor], masks: Mapping[str, BitMask]) -> list[BitMask]:
    missing, unknown = [n for n in parameters if n not in masks], [n for n in masks if n not in parameters]
    if missing or unknown:
        what = f"none for `{missing[0]}`" if missing else f"one for `{unknown[0]}`"
        raise PruneValueError(
            f"Expected masks of the {len(parameters)} targets, got {what}: they belong to another architecture or to "
            "other `targets`."
        )
    for name, parameter in parameters.items():
        if masks[name].shape != tuple(parameter.shape):
            raise PruneValueError(
                f"Expected a mask of shape {tuple(parameter.shape)} for `{name}`, got {masks[name].shape}: it "
                "belongs to another architecture."
            )
    return [masks[name].to(parameter.device) for name, parameter in parameters.items()]


def protecting_slices(
    tensors: Sequence[Tensor],
    masks: Sequence[BitMask],
    scores: Sequence[Tensor] | None,
    normed: Sequence[tuple[int, ...]],  # for each tensor the dimensions that a norm is taken over
) -> Sequence[Tensor] | None:
    """The scores, infinite at the largest kept weight of each slice; None, for magnitudes, where no norm is taken."""
    if not any(normed):
        return scores
    compared = [tensor.detach() for tensor in (tensors if scores is None else scores)]
    return [
        _protected(score, mask, dims) if dims else score
        for score, mask, dims in zip(compared, masks, normed, strict=True)
    ]


def _protected(score: Tensor, mask: BitMask, dims: tuple[int, ...]) -> Tensor:
    others = [d for d in range(score.dim()) if d not in dims]
    order = [*others, *dims]
    magnitudes = torch.where(mask.unpack(), score.abs(), torch.full_like(score, -1.0))
    rows = magnitudes.permute(order).reshape(-1, magnitudes.numel() // max(1, _slices(score, others)))
    best = rows.argmax(1, keepdim=True)
    there = rows.gather(1, best) >= 0  # an empty slice has nothing to protect
    chosen = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, best, there)
    shape = [score.shape[d] for d in order]
    places = chosen.view(shape).permute([order.index(d) for d in range(score.dim())])
    return score.masked_fill(places, torch.inf)


def _slices(score: Tensor, others: Sequence[int]) -> int:
    return torch.Size([score.shape[d] for d in others]).numel()
