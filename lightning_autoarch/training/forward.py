"""How a forward is called: as an example says, or with what of a batch it takes."""

from __future__ import annotations

from typing import Any, TypeAlias

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


def call_of_example(example: Any) -> Arguments:
    """As Lightning calls `forward` with `example_input_array`."""
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, dict):
        return (), example
    return (example,), {}


def batch_first(batch: Any) -> Arguments:
    """With the first part of the batch: (inputs, targets)."""
    return (batch[0],), {}


def batch_as_keywords(batch: Any) -> Arguments:
    """With all of a mapping by name."""
    return (), dict(batch)


def batch_whole(batch: Any) -> Arguments:
    """With the batch."""
    return (batch,), {}


WAYS = (batch_first, batch_as_keywords, batch_whole)  # to be tried in this order
