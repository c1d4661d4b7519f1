"""What a callback asks about the fit that is running: whether a search is part of it, and what it resumes from."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.core.schema import is_empty
from lightning_autoarch.seam.lightning import callbacks_of, load
from lightning_autoarch.training.callback_protocols import is_trial
from lightning_autoarch.training.trial_files import checked_lightning, read_lightning


@runtime_checkable
class Rebuilding(Protocol):
    """A callback that rebuilds each module once, in its `setup`."""

    def has_searched(self, module: LightningModule) -> bool: ...


def is_rebuilt_later(callback: Callback, trainer: Trainer, module: LightningModule) -> bool:
    """Whether a search that follows `callback` is about to rebuild the module and then call `setup` again."""
    callbacks = callbacks_of(trainer)
    if callback not in callbacks or is_trial(trainer):
        return False
    following = callbacks[callbacks.index(callback) :]
    return any(isinstance(other, Rebuilding) and not other.has_searched(module) for other in following)


def callback_state(path: str | Path, state_key: str, *, trusted: bool = False) -> dict[str, Any] | None:
    """The state of one callback in a Lightning checkpoint, None if it has none; otherwise as `callback_states`."""
    state: dict[str, Any] | None = callback_states(path, trusted=trusted).get(state_key)
    return None if is_empty(state) else state


def callback_states(path: str | Path, *, trusted: bool = False) -> Mapping[str, Any]:
    """The states of callbacks in a Lightning checkpoint, by their keys.

    Args:
        path: of the file, or its URL.
        trusted: whether the user passed `weights_only=False` for this file, so that its content may run code.

    Raises:
        CheckpointError: it is damaged, no Lightning checkpoint, or holds more than plain data and is not trusted.
    """
    if trusted:  # as Lightning is about to read it
        content = load(path, weights_only=False)
    else:
        content = _fetched(str(path)) if "://" in str(path) else read_lightning(Path(path))
    states: Mapping[str, Any] = content.get("callbacks", {})
    return states


def _fetched(address: str) -> dict[str, Any]:
    """A checkpoint at a URL, read by fsspec as Lightning does, but as plain data only."""
    try:
        content = load(address, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"Expected a Lightning checkpoint of data alone at {address}: {reason:.200}") from error
    return checked_lightning(content, address)
