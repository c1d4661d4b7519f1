"""Random number generators of the user's objects: the `generator` of a loader or sampler, of a dataset or a module.

They are part of a trial's random state, like the global ones (`isolation`): a trial starts from their states before the
search, whatever ran in between, and a resumed trial from those in its checkpoint. They are found by following
attributes, lists and dicts, and named by that path, by which a later process finds them again. States are tensors and
plain Python.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer

from lightning_autoarch.core.errors import CheckpointError

MOST_OBJECTS = 10_000  # looked at below one root: some 10 ms
LONGEST = 64  # items of a list or dict that are looked at: longer ones are data

_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_LEAVES = (torch.Tensor, np.ndarray, str, bytes, int, float, type(None), type, ModuleType)
_ELSEWHERE = (Trainer, LightningDataModule, random.SystemRandom)  # not of the object that refers to them


def held(roots: Mapping[str, Any]) -> dict[str, Any]:
    """Path -> generator, for all that are reachable from the roots; one that has several paths is under the first.

    >>> list(held({"data": {"rngs": [random.Random(0)]}}))
    ['data.rngs.0']
    """
    seen: set[int] = set()
    return {path: found for name, root in roots.items() for path, found in _below(name, root, seen)}


def states(generators: Mapping[str, Any]) -> dict[str, Any]:
    """The state of each, as tensors, numbers, strings, lists and dicts."""
    return {path: _state(generator) for path, generator in generators.items()}


def restore(generators: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Restore what `states` returned, for the generators that exist here.

    Raises:
        CheckpointError: a state is not valid for its generator.
    """
    for path in generators.keys() & saved.keys():
        try:
            _set_state(generators[path], saved[path])
        except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"Expected a state of the generator `{path}`, got another: {error}") from error


@contextlib.contextmanager
def kept(roots: Mapping[str, Any]) -> Iterator[None]:
    """Restore the generators that are reachable from the roots after the block."""
    generators = held(roots)
    before = states(generators)
    try:
        yield
    finally:
        restore(generators, before)


def _below(name: str, root: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Breadth first, so that the limit leaves out the deepest objects."""
    waiting = deque(_parts(name, root))
    for _ in range(MOST_OBJECTS):
        if not waiting:
            return
        path, value = waiting.popleft()
        if id(value) in seen or isinstance(value, _LEAVES + _ELSEWHERE):
            continue
        seen.add(id(value))
        if isinstance(value, _KINDS):
            yield path, value
        else:
            waiting.extend(_parts(path, value))


def _parts(path: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, list | tuple):
        items: Any = enumerate(value) if len(value) <= LONGEST else ()
    elif isinstance(value, dict):
        items = value.items() if len(value) <= LONGEST else ()
    else:
        items = getattr(value, "__dict__", {}).items()
    return [(f"{path}.{name}", part) for name, part in items]


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _plain(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    version, internal, gauss = generator.getstate()
    return [version, list(internal), gauss]


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        version, internal, gauss = state
        generator.setstate((version, tuple(internal), gauss))


def _plain(state: Any) -> Any:
    """NumPy's arrays as lists, its scalars as numbers."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state
