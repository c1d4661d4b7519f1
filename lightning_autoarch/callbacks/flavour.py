"""Checks that a Trainer and a module are of `lightning.pytorch`, not of `pytorch_lightning`.

The two packages have classes of the same names that are unrelated to each other.
"""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_autoarch.core.errors import AutoArchError


def check_flavour(
    callback: Callback, trainer: object, module: object, error: type[AutoArchError] = AutoArchError
) -> None:
    """Raise an error unless Trainer and module are of `lightning.pytorch`, as the callback is.

    Args:
        callback: the callback that runs.
        trainer: the Trainer that runs it.
        module: the module that is trained.
        error: the class of the error.

    Raises:
        AutoArchError: one of them is not, as after `import pytorch_lightning`; of the class `error`.
    """
    for name, given, expected in (("Trainer", trainer, Trainer), ("module", module, LightningModule)):
        if not isinstance(given, expected):
            raise error(
                f"{type(callback).__name__} expected a {name} of `lightning.pytorch`, got "
                f"{type(given).__module__}.{type(given).__name__}. Write `import lightning as L` everywhere instead of "
                "`import pytorch_lightning`."
            )
