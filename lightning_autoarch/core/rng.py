"""The global random number generators of torch, NumPy and Python: seeded, kept, and stored in a checkpoint.

A stored state consists of tensors and plain Python objects: it loads with `weights_only=True` where this package is not
installed.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import torch

from lightning_autoarch.core.errors import CheckpointError
from lightning_autoarch.core.schema import items, optional, real, record, sequence, tensor, text, whole

_TWISTER = 624  # words in the state of the Mersenne Twister
RNG = record(
    {
        "torch": tensor(torch.uint8, 1),
        "cuda": sequence(tensor(torch.uint8, 1)),
        "python": items(whole(), sequence(whole(0, 2**32 - 1), _TWISTER + 1), optional(real())),
        "numpy": items(text(), tensor(torch.int64, 1), whole(0, _TWISTER), whole(0, 1), real()),
    }
)  # of what `rng_state` returns


def seed_generators(seed: int) -> None:
    """Seed torch (every device), NumPy and Python, without the environment variables that `seed_everything` leaves."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def rng_state() -> dict[str, Any]:
    """The states of the global generators as tensors, ints and lists."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = cast("tuple[str, np.ndarray, int, int, float]", np.random.get_state())
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(keys.astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned.

    Raises:
        CheckpointError: it has the form `RNG`, but is no state that a generator can have.
    """
    before = rng_state()
    try:
        _set_rng_state(state)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        _set_rng_state(before)
        raise CheckpointError(f"Expected the states of random number generators, got others: {error}") from error


def _set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block from `seed`; afterwards the generators are as if it had not run."""
    outside = rng_state()
    try:
        seed_generators(seed)
        yield
    finally:
        set_rng_state(outside)


@contextlib.contextmanager
def generators_kept(devices: Iterable[torch.device]) -> Iterator[None]:
    """The global generators of Python, NumPy and torch, on the CPU and on these devices, are afterwards as before."""
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=cuda):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
