"""The mathematics of fine-tuning: learning rates by layer, warm-up, and the penalty of L2-SP.

Layer-wise decay. With depth d counted from the top (the head has d = 0, see `blocks`), a decay c in (0, 1], and the
user's learning rate lr:

    lr_d = lr * c^d                     Clark et al. 2020 (ELECTRA), appendix;  Bao et al. 2022 (BEiT), appendix;
                                        Howard & Ruder 2018 (ULMFiT), section 3.1, with c = 1 / 2.6

Warm-up of what thaws at epoch e, over k epochs, at epoch t (both with fractions):

    lr'(t) = lr(t) * min(1, (t - e) / k)

L2-SP. With w_0 the weights at the start; `weight` is alpha / 2 in the paper's notation:

    Omega(w) = weight * ||w - w_0||^2   Li, Grandvalet & Davoine 2018, "Explicit Inductive Bias for Transfer Learning
    dOmega/dw = 2 weight (w - w_0)      with Convolutional Networks"; a new head has no w_0 and no penalty
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lightning_autoarch.transfer.tune.trainable import TrainableNames


def layer_decay_factors(blocks: Sequence[Sequence[str]], decay: float | None) -> dict[str, float]:
    """Name -> factor c^d of the learning rate.

    >>> layer_decay_factors([["stem"], ["body"], ["head"]], 0.5)
    {'stem': 0.25, 'body': 0.5, 'head': 1.0}
    """
    top, c = len(blocks) - 1, 1.0 if decay is None else decay
    return {name: c ** (top - i) for i, block in enumerate(blocks) for name in block}


def scale_factors(names: TrainableNames, lr_scale: Mapping[str, float]) -> dict[str, float]:
    """Name -> factor of the learning rate; the first pattern that matches a name counts.

    Raises:
        TransferError: A pattern matches nothing.
    """
    found: dict[str, float] = {}
    for pattern, scale in lr_scale.items():
        for name in names.named(pattern, "lr_scale"):
            found.setdefault(name, float(scale))
    return found


def warm_up_factor(position: float, thaw: float, epochs: float) -> float:
    """The factor of the learning rate at a position in epochs.

    >>> warm_up_factor(3.25, thaw=3, epochs=0.5), warm_up_factor(9.0, thaw=3, epochs=0.5)
    (0.5, 1.0)
    """
    return min(1.0, max(0.0, (position - thaw) / epochs)) if epochs > 0 else 1.0


def l2_sp_value(pairs: Iterable[tuple[Tensor, Tensor]], weight: float) -> Tensor:  # ()
    """The penalty of pairs (w, w_0), in at least single precision. Does not synchronise with the device."""
    with torch.no_grad():
        squares = [(w - w_0).to(torch.promote_types(w.dtype, torch.float32)).square().sum() for w, w_0 in pairs]
    return weight * torch.stack(squares).sum() if squares else torch.zeros(())


def l2_sp_gradient_(
    gradient: Tensor,
    w: Tensor,
    w_0: Tensor,
    weight: float,
) -> None:
    """Add the gradient of the penalty to the gradient of w, in place."""
    with torch.no_grad():
        gradient.add_((w - w_0).to(gradient.dtype), alpha=2.0 * weight)
