"""Which tensors of what a file holds are the weights.

    a flat dict of tensors                                                          itself
    "state_dict"                     Lightning; what `load_from_checkpoint` loads
    "model_state_dict" "model" "module"                                             usual names of training scripts

With Lightning's `WeightAveraging` the averaged weights are in "state_dict", and "current_model_state" holds those of
the optimizer; `StochasticWeightAveraging` keeps the average in its callback's state.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_autoarch.core.errors import CANDIDATES, CheckpointError, did_you_mean, shown
from lightning_autoarch.reading.plain_tensors import check_sizes, plain_tensor
from lightning_autoarch.transfer.read.state_dicts import MappedStateDict, StateDict, VersionedStateDict, versions_of

Weights: TypeAlias = Literal["state_dict", "average", "current"]

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
AVERAGES = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema")
DEPTH = 8  # of nested wrappers
SHOWN = 8  # keys in an error


def pick(
    held: object,
    origin: str,
    weights: Weights = "state_dict",
    key: str | None = None,
    *,
    size: int | None = None,
) -> StateDict:
    """The weights in the contents of a checkpoint.

    Args:
        held: The contents.
        origin: Where they come from, for errors.
        weights: "state_dict" as Lightning would load it; "average" or "current" if both are kept.
        key: Key of the dict to take instead of the usual ones, with dots if it is nested.
        size: Size of the file in bytes, which limits the size of its tensors; None for contents that are in memory.

    Raises:
        CheckpointError: There are no tensors, no average, or tensors that cannot be loaded.
    """
    check_weights(weights)
    chosen = _chosen(held, origin, weights, key)
    if isinstance(chosen, MappedStateDict) and chosen:
        return chosen  # plain tensors and nothing else
    return _tensors(chosen, origin, size)


def _chosen(held: object, origin: str, weights: Weights, key: str | None) -> Mapping[Any, Any]:
    if not isinstance(held, Mapping):
        raise CheckpointError(f"Expected a dict of tensors in {origin}, got {type(held).__name__}; save a state_dict.")
    if key is not None:
        return _nested(held, key, origin)
    if weights == "average":
        return _unwrapped(_average(held, origin))
    if weights == "current" and isinstance(held.get("current_model_state"), Mapping):
        current: Mapping[Any, Any] = held["current_model_state"]
        return current
    return _unwrapped(held)


def check_weights(weights: Weights) -> Weights:
    """Return the word, or raise CheckpointError if it is not one of `Weights`."""
    if weights not in get_args(Weights):
        words = ", ".join(map(repr, get_args(Weights)))
        raise CheckpointError(f"Expected `weights` to be one of {words}, got {weights!r}.")
    return weights


def _unwrapped(held: Mapping[Any, Any]) -> Mapping[Any, Any]:
    for _ in range(DEPTH):  # a dict of a file may contain itself
        inner = next((held[name] for name in WRAPPERS if isinstance(held.get(name), Mapping) and held[name]), None)
        if inner is None:
            break
        held = inner
        if _has_tensors(held):
            break
    return held


def _has_tensors(held: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in held.values())


def _nested(held: Mapping[Any, Any], key: str, origin: str) -> Mapping[Any, Any]:
    inner: Any = held
    for part in key.split("."):
        if not isinstance(inner, Mapping) or part not in inner:
            hint = did_you_mean(part, _names(inner))
            raise CheckpointError(f"Expected `{shown(key)}` in {origin}, got {_shown(inner)}.{hint}")
        inner = inner[part]
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"Expected a dict of tensors as `{key}` in {origin}, got {type(inner).__name__}.")
    return inner


def _average(held: Mapping[Any, Any], origin: str) -> Mapping[Any, Any]:
    if "averaging_state" in held and isinstance(held.get("state_dict"), Mapping):
        return held  # WeightAveraging has put the averages into "state_dict"
    found = next(_averages(held), None)
    if found is None:
        raise CheckpointError(
            f"Expected averaged weights in {origin}, got {_shown(held)}; "
            'read it without `weights="average"`, or pass their `key`.'
        )
    return found


def _averages(held: Mapping[Any, Any]) -> Iterator[Mapping[Any, Any]]:
    callbacks = held.get("callbacks")
    states = list(callbacks.values()) if isinstance(callbacks, Mapping) else []
    for state in [held, *states]:
        for name in ("average_model_state", *AVERAGES):
            inner = state.get(name) if isinstance(state, Mapping) else None
            if isinstance(inner, Mapping) and inner:
                yield inner


def _tensors(held: Mapping[Any, Any], origin: str, size: int | None) -> dict[str, Tensor]:
    """Only the tensors, as plain ones, without the extra state of modules or counters of scripts."""
    if not _has_tensors(held):
        raise CheckpointError(
            f"Expected tensors in {origin}, got {_shown(held)}; pass the key of the dict that holds them: `key=...`."
        )
    found = {}
    for name, value in held.items():
        if not isinstance(name, str):
            raise CheckpointError(f"Expected names of tensors in {origin}, got the key {shown(name)}.")
        if name.endswith("_packed_params") and isinstance(value, tuple):
            raise CheckpointError(
                f"Expected weights in {origin}, got `{shown(name)}`, packed by torch.ao: save them dequantised."
            )
        if is_lazy(value):
            raise CheckpointError(
                f"Expected `{shown(name)}` with values in {origin}, got a lazy parameter without any."
            )
        if isinstance(value, Tensor):
            found[name] = plain_tensor(name, value, origin, from_file=size is not None)
    if size is not None:
        check_sizes(found, origin, size)
    return VersionedStateDict(found, versions_of(held))


def _names(held: object) -> list[str]:
    return [shown(key) for key in itertools.islice(held, CANDIDATES)] if isinstance(held, Mapping) else []


def _shown(held: object) -> str:
    if not isinstance(held, Mapping) or not held:
        return "nothing"
    more = f" and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
    return "the keys " + ", ".join(f"`{shown(key)}`" for key in itertools.islice(held, SHOWN)) + more
