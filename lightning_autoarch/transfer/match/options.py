"""The arguments of `transfer_weights`, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, TypeAlias, get_args

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.match.coupled import Axis
from lightning_autoarch.transfer.match.grids import Grid, checked_grid
from lightning_autoarch.transfer.match.names import Rule, Shape

OnMismatch: TypeAlias = Literal["skip", "slice", "widen", "error"]


@dataclass(frozen=True)
class Options:
    """The arguments of `transfer_weights`, checked."""

    rules: tuple[Rule, ...] = ()
    on_mismatch: str = "skip"
    classes: Mapping[int, int] = field(default_factory=dict)
    reinit: tuple[str, ...] = ()
    head: str | None = None
    groups: tuple[tuple[Axis, ...], ...] = ()
    example_inputs: Any = None
    approximate: bool = False
    lora_alpha: float | None = None
    grid: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)


def checked_options(
    rules: Sequence[Rule],
    on_mismatch: OnMismatch,
    classes: Mapping[int, int] | None,
    reinit: Sequence[str],
    head: str | None,
    *,
    groups: Iterable[Sequence[Axis]] | None,
    example_inputs: Any,
    approximate: bool,
    lora_alpha: float | None,
    grid: Grid | None,
) -> Options:
    """See `transfer_weights`.

    Raises:
        TransferError: one of them is not what it has to be, or does not go with another.
    """
    options = Options(
        tuple(_listed(rules, "rules")), check_on_mismatch(on_mismatch), _classes(classes),
        tuple(_listed(reinit, "reinit")), head, tuple(map(tuple, groups or ())), example_inputs, approximate,
        check_lora_alpha(lora_alpha), checked_grid(grid),
    )  # fmt: skip
    if not all(isinstance(axis, Axis) for group in options.groups for axis in group):
        raise TransferError(f"Expected `groups` as lists of `Axis(name, dim)`, got {options.groups!r:.80}.")
    _check_inputs(options)
    return options


def _listed(given: Any, name: str) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TransferError(f"Expected `{name}` as a list, got {given!r}.")
    return list(given)


def check_on_mismatch(on_mismatch: str) -> str:
    """Raises TransferError for one that is not known."""
    if on_mismatch not in get_args(OnMismatch):
        words = ", ".join(map(repr, get_args(OnMismatch)))
        raise TransferError(f"Expected `on_mismatch` to be one of {words}, got {on_mismatch!r}.")
    return on_mismatch


def check_min_share(share: float | None) -> float | None:
    """Raises TransferError for what is no number from 0 to 1, or None."""
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1):
        raise TransferError(f"Expected `min_share` to be a number from 0 to 1, or None, got {share!r}.")
    return share


def check_lora_alpha(alpha: float | None) -> float | None:
    """Raises TransferError for what is no number from 0 on, or None."""
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < inf):
        raise TransferError(f"Expected `lora_alpha` to be a number from 0 on, or None, got {alpha!r}.")
    return alpha


def _check_inputs(options: Options) -> None:
    given = options.example_inputs is not None
    if options.on_mismatch == "widen" and not given:
        raise TransferError(
            'Expected `example_inputs` for `on_mismatch="widen"`: a forward that runs tells which layers read the '
            "channels of which; names and shapes do not."
        )
    if options.groups and given:
        raise TransferError("Expected `groups` or `example_inputs`, which find the groups, got both.")
    if options.approximate and options.on_mismatch != "widen":
        raise TransferError(f'`approximate` is for `on_mismatch="widen"`, got {options.on_mismatch!r}.')


def _classes(classes: Mapping[int, int] | None) -> dict[int, int]:
    if classes is None:
        return {}
    if not isinstance(classes, Mapping):
        raise TransferError(f"Expected `classes` as {{row of the source: row here}}, got {classes!r:.80}.")
    pairs = dict(classes)
    numbers = [*pairs, *pairs.values()]
    if not pairs or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        raise TransferError(f"Expected `classes` as {{row of the source: row here}}, got {classes!r}.")
    if len(set(pairs.values())) < len(pairs):
        raise TransferError(f"Expected a row of its own for each of `classes`, got {classes!r}.")
    return pairs
