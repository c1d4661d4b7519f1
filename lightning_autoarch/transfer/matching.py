"""The options of a transfer, checked when they are given: `Matching`, and all of them together in `TransferOptions`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from lightning_autoarch.core.checks import check_choice, check_number
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.core.patterns import Patterns, compile_patterns
from lightning_autoarch.transfer.match.axes import Axis
from lightning_autoarch.transfer.match.name_matching import Rule, checked_rules
from lightning_autoarch.transfer.match.positions import Grid, checked_grid
from lightning_autoarch.transfer.read.state_dicts import Shape
from lightning_autoarch.transfer.transfer_report import TransferReport

OnMismatch: TypeAlias = Literal["skip", "slice", "widen", "error"]


@dataclass(frozen=True, kw_only=True)
class Matching:
    """The less common options of `transfer_weights` and `TransferLearning`.

    Args:
        classes: Row of the source's output layer -> row of the module's. Other rows keep their values.
        example_inputs: Inputs of the module's forward, as for `structure.channel_groups`. Required by "widen"; with
            "slice" they are used to find the `groups`. A source that is a module is run with them too.
        approximate: Let "widen" approximate where the function cannot be kept exactly; the report says where. If the
            source is a state_dict, what tensors do not tell is assumed: the same head size, the same number of
            groups in norms, and the same constants.
        groups: For "slice", lists of axes that count the same channels: the most important channels are kept instead
            of the leading ones.
        grid: Grids of position embeddings that cannot be inferred from the module: `((14, 14), (16, 12))`, rows and
            columns in the source and in the module, or a mapping of patterns to such pairs. Rows in front of the grid
            (class, distillation and register tokens) are copied, not resampled. For a table of relative positions
            it is the window size. In one dimension, `((512,), (1024,))`, the positions of a sequence are stretched.
        lora_alpha: Scale of the low-rank adapters that the source holds beside its weights, which are then merged into
            the weights; 0 ignores the adapters. The scale is not part of such a file.
        min_share: The smallest share of the module's parameters that has to come from the source, from 0 to 1.
        accept: Called with the report before anything is written. If it raises, the module is left unchanged.

    Raises:
        TransferError: An option has the wrong type or is out of range.
    """

    classes: Mapping[int, int] | None = None
    example_inputs: object = None
    approximate: bool = False
    groups: Sequence[Sequence[Axis]] = ()
    grid: Grid | None = None
    lora_alpha: float | None = None
    min_share: float | None = None
    accept: Callable[[TransferReport], None] | None = None

    def __post_init__(self) -> None:
        _check_classes(self.classes)
        if self.lora_alpha is not None:
            check_number(self.lora_alpha, "lora_alpha", TransferError, at_least=0, or_else="None")
        if self.min_share is not None:
            check_number(self.min_share, "min_share", TransferError, at_least=0, at_most=1, or_else="None")
        checked_grid(self.grid)
        if not isinstance(self.groups, Iterable) or not all(
            isinstance(a, Axis) for group in self.groups for a in group
        ):
            raise TransferError(f"Expected `groups` as lists of `Axis(name, dim)`, got {self.groups!r:.80}.")

    @property
    def grids(self) -> dict[str, tuple[Shape, Shape]]:
        """`grid` as a mapping of patterns to pairs; the pattern "" stands for any position embedding that fits."""
        return checked_grid(self.grid)


@dataclass(frozen=True)
class TransferOptions:
    """Every option of a transfer. See `transfer_weights` for the meaning of the arguments.

    Raises:
        TransferError: An option has the wrong type, or two of them exclude each other.
    """

    rules: Sequence[Rule] = ()
    on_mismatch: OnMismatch = "skip"
    reinit: Patterns = ()
    head: Patterns = ()
    matching: Matching = field(default_factory=Matching)

    def __post_init__(self) -> None:
        checked_rules(self.rules)
        check_on_mismatch(self.on_mismatch)
        compile_patterns(self.reinit, "reinit", TransferError)
        compile_patterns(self.head, "head", TransferError)
        matching, given = self.matching, self.matching.example_inputs is not None
        if self.on_mismatch == "widen" and not given:
            raise TransferError(
                'Expected `example_inputs` for `on_mismatch="widen"`: names and shapes do not tell which layers share '
                "channels, so the forward has to be run. Pass `matching=Matching(example_inputs=...)`."
            )
        if matching.groups and given:
            raise TransferError("Expected either `groups` or `example_inputs`, which find the groups, got both.")
        if matching.approximate and self.on_mismatch != "widen":
            raise TransferError(f'`approximate` requires `on_mismatch="widen"`, got {self.on_mismatch!r}.')

    @property
    def widens(self) -> bool:
        """Whether channels are replicated where the module has more of them."""
        return self.on_mismatch == "widen"


def matching_from(given: Matching | Mapping[str, Any] | None) -> Matching:
    """A `Matching`, also from a mapping of its arguments; None stands for the defaults.

    Raises:
        TransferError: The mapping has an unknown key.
    """
    made: Matching = from_mapping(Matching, given, "matching")
    return made


def from_mapping(kind: type[Any], given: object, argument: str) -> Any:
    """An instance of a dataclass, also from a mapping of its fields; None stands for the defaults.

    Raises:
        TransferError: Neither of them, or the mapping has an unknown key.
    """
    if isinstance(given, kind):
        return given
    fields = kind.__dataclass_fields__
    if given is not None and not (isinstance(given, Mapping) and given.keys() <= fields.keys()):
        names = ", ".join(f"`{name}`" for name in fields)
        raise TransferError(f"Expected `{argument}` as a {kind.__name__} or a mapping of {names}, got {given!r:.80}.")
    return kind(**(given or {}))


def check_on_mismatch(on_mismatch: str) -> None:
    """Raise TransferError unless it is one of `OnMismatch`."""
    check_choice(on_mismatch, "on_mismatch", get_args(OnMismatch), TransferError)


def _check_classes(classes: object) -> None:
    if classes is None:
        return
    expected = "Expected `classes` as {row of the source: row of the module}"
    if not isinstance(classes, Mapping):
        raise TransferError(f"{expected}, got {classes!r:.80}.")
    numbers = [*classes, *classes.values()]
    if not classes or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        raise TransferError(f"{expected}, got {classes!r}.")
    if len(set(classes.values())) < len(classes):
        raise TransferError(f"Expected a different row of the module for each of `classes`, got {classes!r}.")
