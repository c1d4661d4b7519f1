"""Names of what several callbacks of one kind log."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer


def number(callback: Callback, trainer: Trainer) -> str:
    """Nothing for the Trainer's first callback of a kind, `_2` for its second, ..."""
    kin = [cb for cb in trainer.callbacks if type(cb) is type(callback)]  # type: ignore[attr-defined]
    index = next((i for i, cb in enumerate(kin) if cb is callback), 0)
    return f"_{index + 1}" if index else ""
