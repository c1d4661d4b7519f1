"""What a trial must not leave behind in the process, and the random numbers that it must not share.

Every trial draws from a seed of its own, made of the search's seed and the trial's number, so a trial gives the same
result whenever and wherever it runs. RNG states in a checkpoint are tensors and plain Python: they load with
`weights_only=True` where this package is not installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from lightning_utilities.core import rank_zero

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

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


def trial_seed(seed: int, number: int) -> int:
    """A seed in [0, 2^31) for trial `number` of the search seeded with `seed`."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


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
    """Put back what `rng_state` returned.

    Raises:
        CheckpointError: it is of the form `RNG`, but no state that a generator can have.
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
    """Run a block from `seed`; the generators outside are as if it had not run."""
    outside = rng_state()
    try:
        seed_generators(seed)
        yield
    finally:
        set_rng_state(outside)


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run a trial from `seed`; RNG, environment, signal handlers, log levels, filters and backend flags return."""
    environment = dict(os.environ)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {s: signal.getsignal(s) for s in _SIGNALS} if in_main_thread else {}
    flags = _backend_flags()
    with contextlib.ExitStack() as stack:
        stack.enter_context(seeded(seed))
        stack.enter_context(_quiet_lightning())
        try:
            yield
        finally:
            _restore_environment(environment)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            _set_backend_flags(flags)


def _restore_environment(before: dict[str, str]) -> None:
    """Lightning sets PL_GLOBAL_SEED, CUBLAS_WORKSPACE_CONFIG and more; a candidate may set anything."""
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Children are silent: the search prints one line for all of them.

    `rank_zero.log` is another's where `pytorch_lightning` has been imported too: the last one imported sets it.
    """
    names = ("lightning", "lightning.pytorch", "lightning.fabric", rank_zero.log.name)
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.(pytorch|fabric)")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _backend_flags() -> tuple[Any, ...]:
    return (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )


def _set_backend_flags(flags: tuple[Any, ...]) -> None:
    benchmark, deterministic, algorithms, warn_only, grad, dtype = flags
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic
    torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
    torch.set_grad_enabled(grad)
    torch.set_default_dtype(dtype)
