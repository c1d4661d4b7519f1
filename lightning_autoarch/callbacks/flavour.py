"""`lightning.pytorch` and `pytorch_lightning` are two packages whose classes do not know each other."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_autoarch.core.errors import AutoArchError


def check_flavour(
    callback: Callback, trainer: object, module: object, error: type[AutoArchError] = AutoArchError
) -> None:
    """A callback's Trainer and module must be of the package that the callback is of.

    Args:
        callback: of `lightning.pytorch`.
        trainer: that runs it.
        module: that is trained.
        error: the class of the error.

    Raises:
        AutoArchError: one of them is not, as with `import pytorch_lightning`.
    """
    for name, given, expected in (("Trainer", trainer, Trainer), ("module", module, LightningModule)):
        if not isinstance(given, expected):
            raise error(
                f"{type(callback).__name__} expected a {name} of `lightning.pytorch`, got "
                f"{type(given).__module__}.{type(given).__name__}. Write `import lightning as L` everywhere instead of "
                "`import pytorch_lightning`."
            )
