"""Two callbacks that a checkpoint could not tell apart.

Lightning compares `state_key` of all callbacks in `Trainer.__init__`, before any hook runs, and its error names neither
the callbacks nor the remedy. A callback therefore checks its own key when that is being asked for.
"""

from __future__ import annotations

from lightning.pytorch import Callback

from lightning_autoarch.core.errors import AutoArchError
from lightning_autoarch.seam.lightning import callbacks_being_compared


def check_unique(callback: Callback, key: str, remedy: str, error: type[AutoArchError] = AutoArchError) -> None:
    """To be called by a callback's `state_key`.

    Args:
        callback: that has the key.
        key: its key.
        remedy: a sentence for the error.
        error: its class.

    Raises:
        AutoArchError: Lightning is putting together a Trainer with another callback of the same key.
    """
    given = callbacks_being_compared()
    if given is None:
        return
    same = sum(other is callback or _key(other) == key for other in given)
    if same > 1:
        raise error(
            f"Expected one {type(callback).__name__} in a Trainer, or several that a checkpoint can tell apart, got "
            f"{same} with the key {key!r}. {remedy}"
        )


def _key(callback: Callback) -> str:
    return callback.state_key
