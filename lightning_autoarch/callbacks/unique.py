"""Checks that no two callbacks of a Trainer have the same key in a checkpoint.

Lightning compares the `state_key` of all callbacks in `Trainer.__init__`, before any hook runs, and its error names
neither the callbacks nor a remedy. A callback therefore checks its own key whenever it is read.
"""

from __future__ import annotations

from lightning.pytorch import Callback

from lightning_autoarch.core.errors import AutoArchError
from lightning_autoarch.seam.lightning import callbacks_being_compared


def check_unique(callback: Callback, key: str, remedy: str, error: type[AutoArchError] = AutoArchError) -> None:
    """Check a key against those of the other callbacks; to be called by `state_key`.

    Args:
        callback: the callback that has the key.
        key: its key.
        remedy: what to do about it, one sentence.
        error: the class of the error.

    Raises:
        AutoArchError: a Trainer is being made with another callback of the same key; of the class `error`.
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
