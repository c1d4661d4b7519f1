"""Penalties on weights while a module trains: L1, squared L2, and group lasso, which removes whole neurons.

With P the penalty (prune/penalty.py), c its weight and lr the learning rate of the parameter's own group:

    proximal:       w <- prox_{lr c P}(step of the optimizer)          after each step; zeros are real ones
    otherwise:      grad <- grad + c dP(w)                             before clipping; zeros are only approached

Neither touches the loss that `training_step` returns and logs: the penalty is logged beside it. Under an adaptive
optimizer the proximal form is decoupled, as AdamW's weight decay is (Loshchilov & Hutter 2019): lr is the group's, not
the one that each weight gets.
"""

from __future__ import annotations

from lightning_autoarch.callbacks.base import Tunable
from lightning_autoarch.callbacks.prune.penalized import Regularization, Weight
from lightning_autoarch.core.patterns import Patterns
from lightning_autoarch.prune.counts import as_int
from lightning_autoarch.prune.penalty import L1, Groups, SquaredL2
from lightning_autoarch.prune.schedule import Moment


class L1Regularization(Regularization):
    """Adds weight * |w|_1 to what is minimised (Tibshirani 1996): many weights become 0.

    Args:
        weight: of the penalty; or {pattern: weight}: the first pattern's that matches a target or a module around it,
            and targets that none matches have no penalty.
        proximal: a soft threshold of learning rate * weight after every optimizer step, whose zeros are real; False:
            the subgradient is added to the gradients, before they are clipped.
        targets: patterns of what is penalised, as `find_targets` takes them; None: the weights of the layers that
            multiply by a matrix.
        exclude: patterns of what is not.
        ramp: (start, end): the weight grows linearly from 0 between these moments. Both are fractions of the fit, or
            both `Step(n)`, with n of `trainer.global_step`. None: it is constant.

    Logs `l1_penalty`, the weighted value, and when proximal `l1_density`, the share of weights that are not 0, every
    `log_every_n_steps`.

    A parameter that an optimizer step leaves, for it has no gradient or GradScaler skips the step, is left here too. In
    manual optimization `proximal=False` needs the optimizers of `self.optimizers()`, not their unwrapped ones.

    Raises:
        PruneTypeError, PruneValueError: here, or before training starts: a pattern without a match, a named target that
            is frozen, a target in no optimizer, a strategy that shards parameters.

    >>> L1Regularization(1e-3, exclude="head", ramp=(0.0, 0.5)).ramp
    Ramp(start=0.0, end=0.5)
    >>> trainer = Trainer(callbacks=[L1Regularization({"encoder": 1e-3, "*": 1e-4})])  # doctest: +SKIP
    """

    _key = "l1"

    def __init__(
        self,
        weight: Weight,
        *,
        proximal: bool = True,
        targets: Patterns | None = None,
        exclude: Patterns = (),
        ramp: tuple[Moment, Moment] | None = None,
    ) -> None:
        super().__init__(L1(), weight, proximal, targets, exclude, ramp)


class L2Regularization(Regularization):
    """Adds weight * |w|_2^2, the sum of squares, to what is minimised (ridge): weights become small, none 0.

    Its proximal step divides by 1 + 2 * learning rate * weight. Unlike an optimizer's `weight_decay`, which would be
    2 * weight, it has patterns and a ramp, and leaves biases and normalisation alone.

    Args:
        weight, targets, exclude, ramp: as in `L1Regularization`.
        proximal: False: 2 * weight * w is added to the gradients, before they are clipped.

    Logs `l2_penalty`.

    Raises:
        PruneTypeError, PruneValueError: as in `L1Regularization`.

    >>> trainer = Trainer(callbacks=[L2Regularization(1e-4, targets="backbone")])  # doctest: +SKIP
    """

    _key = "l2"

    def __init__(
        self,
        weight: Weight,
        *,
        proximal: bool = True,
        targets: Patterns | None = None,
        exclude: Patterns = (),
        ramp: tuple[Moment, Moment] | None = None,
    ) -> None:
        super().__init__(SquaredL2(), weight, proximal, targets, exclude, ramp)


class GroupLasso(Regularization):
    """Adds weight * sum_g |w_g|_2 over slices to what is minimised (Yuan & Lin 2006): whole slices become 0.

    Along dim 0 a slice is what one neuron of a Linear or one output channel of a Conv is computed by, the row of one
    token in an Embedding, and of a transposed convolution an input channel: for its output channels take `dim=1` there,
    with another GroupLasso. Biases are no part of a slice. Norms are not multiplied by the root of the slice's size.

    Args:
        weight, proximal, targets, exclude, ramp: as in `L1Regularization`.
        dim: the slices are `w.select(dim, 0)`, ...

    Logs `group_lasso_penalty`, and when proximal `group_lasso_density`, the share of weights that are not 0.

    Raises:
        PruneTypeError, PruneValueError: as in `L1Regularization`; a target without dimension `dim`.

    >>> trainer = Trainer(callbacks=[GroupLasso(1e-2, targets="features", ramp=(0, Step(1000)))])  # doctest: +SKIP
    """

    _key = "group_lasso"

    def __init__(
        self,
        weight: Weight,
        dim: int = 0,
        *,
        proximal: bool = True,
        targets: Patterns | None = None,
        exclude: Patterns = (),
        ramp: tuple[Moment, Moment] | None = None,
    ) -> None:
        super().__init__(Groups(as_int(dim, "dim")), weight, proximal, targets, exclude, ramp)
        self.dim = dim

    def tunables(self) -> list[Tunable]:
        return [*super().tunables(), Tunable("dim", int)]
