"""Isolate a trial from the process: restore what it changes, and give it random numbers of its own.

Every trial draws from a seed of its own, made of the search's seed and the trial's number, so a trial gives the same
result whenever and wherever it runs. RNG states in a checkpoint are tensors and plain Python: they load with
`weights_only=True` where this package is not installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning_utilities.core import rank_zero

from lightning_autoarch.core.rng import seeded

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


def trial_seed(seed: int, number: int) -> int:
    """A seed in [0, 2^31) for trial `number` of the search seeded with `seed`."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run a trial from `seed`, then restore RNG, environment, signal handlers, log levels, filters, backend flags."""
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
    """Silence Lightning in trials, for each of which the search prints one line.

    `rank_zero.log` is the logger of `lightning` or of `pytorch_lightning`, whichever was imported last.
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
