"""A plain weight for a parametrised one: what its parametrisation is made of, by `right_inverse`.

`torch.nn.utils.parametrizations.weight_norm(conv)` has `conv.parametrizations.weight.original0` and `original1` in the
place of `conv.weight`. Where a source has `conv.weight`, a copy of the parametrisation takes it, and its tensors are
what is written; where it refuses (it has no `right_inverse`), the weight is skipped.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList


@dataclass(frozen=True)
class Parametrized:
    """A tensor of a module that is computed from others."""

    name: str  # "conv.weight"
    path: str  # "conv.parametrizations.weight": of all the tensors that it is made of
    parametrization: ParametrizationList

    def values(self, weight: Tensor) -> tuple[dict[str, Tensor], str]:
        """For each name of the module its value, none where the parametrisation refuses; and what to say of it."""
        own = self.parametrization.state_dict()
        made = copy.deepcopy(self.parametrization).eval()
        first = next(tensor for name, tensor in own.items() if name.startswith("original"))
        weight = weight.to(first.device, first.dtype)
        try:
            with torch.no_grad():
                made.right_inverse(weight)
                kept = torch.allclose(made(), weight, rtol=1e-3, atol=1e-5)
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
            return {}, f"its parametrisation refuses it: {str(error).strip().splitlines()[0][:100]}"
        found = made.state_dict()
        if any(found[name].shape != tensor.shape for name, tensor in own.items()):
            return {}, f"{tuple(weight.shape)} in the source, another shape here"
        reason = f"of `{self.name}`, through its parametrisation" + (
            "" if kept else ", which makes another weight of it"
        )
        return {f"{self.path}.{name}": tensor for name, tensor in found.items()}, reason


def parametrized(module: nn.Module) -> Iterator[Parametrized]:
    """The parametrised tensors of a module."""
    for path, inner in module.named_modules():
        if isinstance(inner, ParametrizationList):
            owner, _, leaf = path.rpartition(".")
            place = owner.removesuffix("parametrizations")
            yield Parametrized(f"{place}{leaf}", path, inner)
