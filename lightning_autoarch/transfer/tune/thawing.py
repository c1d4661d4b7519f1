"""When each parameter thaws: decided once, before training, as a function of names alone.

    full            everything is trained from the start
    linear_probe    only the head is trained
    lp_ft           the head alone, then everything: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and
                    Underperform Out-of-Distribution"
    gradual         the head, then one more block from the top each epoch: Howard & Ruder 2018, "Universal Language
                    Model Fine-tuning for Text Classification", section 3.3. If there are more blocks than epochs,
                    several thaw at once, evenly, so that the lowest ones are trained in the last epoch
    lora            the adapters and the head are trained

`freeze` keeps parameters from being trained, and `unfreeze` trains them from a given time on. Times are epochs or
optimizer steps. The distinct times are the phases of training, and a `Clock` counts them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from lightning_autoarch.core.checks import check_choice, check_mapping, check_number, check_text, check_whole
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.core.patterns import NamePattern, Patterns, compile_patterns
from lightning_autoarch.transfer.tune.clock import MODES, UNITS, Mode, Unit

Strategy: TypeAlias = Literal["full", "linear_probe", "lp_ft", "gradual", "lora"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
THAWING_STRATEGIES = ("lp_ft", "gradual")  # those that thaw blocks during training
Thaw: TypeAlias = dict[str, int | None]  # name -> the first time, or phase, in which it is trained; None for never


@dataclass(frozen=True, kw_only=True)
class Thawing:
    """When frozen blocks start to train.

    Args:
        every: Epochs or steps between two blocks of "gradual", and for how long "lp_ft" trains the head alone. With
            `monitor` the longest time. Default: one epoch, or as few as the fit has for each block.
        unit: Unit of `every` and `unfreeze`: "epoch", or "step" for optimizer steps as in `trainer.global_step`.
        monitor: A logged metric by which "gradual" and "lp_ft" thaw the next block: when validation has not improved it
            for `patience` checks in a row, in whatever epoch. A NaN is no improvement, and each block starts a new
            count.
        mode: Whether "min" or "max" of `monitor` is better.
        patience: Number of validations without an improvement.
        min_delta: By how much `monitor` has to be better than the best value of the fit so far.
        unfreeze: Epoch, or step, from 1 on -> patterns of what is trained from then on.
        probe_epochs: Number of epochs for which "lp_ft" trains the head alone. Default: half of the fit.

    Raises:
        TransferError: An argument is out of range, or two of them exclude each other.
    """

    every: int | None = None
    unit: Unit = "epoch"
    monitor: str | None = None
    mode: Mode = "min"
    patience: int = 3
    min_delta: float = 0.0
    unfreeze: Mapping[int, Patterns] | None = None
    probe_epochs: int | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.probe_epochs is not None and (self.every is not None or self.monitor is not None):
            raise TransferError(
                "`probe_epochs` says how long the head is trained alone, as `every` and `monitor` do: pass one of them."
            )
        if self.monitor is not None and self.unfreeze:
            raise TransferError(
                "`unfreeze` thaws at fixed times, but `monitor` when a metric says so: pass one of them."
            )
        defaults = {"mode": "min", "patience": 3, "min_delta": 0.0}
        changed = next((name for name, default in defaults.items() if getattr(self, name) != default), None)
        if self.monitor is None and changed is not None:
            raise TransferError(f"`{changed}` requires `monitor`: pass the logged metric that blocks thaw by.")
        if self.unit == "step" and self.probe_epochs is not None:
            raise TransferError('`probe_epochs` counts epochs. With `unit="step"` pass `every` instead.')

    def check_strategy(self, strategy: str) -> None:
        """Raise TransferError for arguments that have no effect with a strategy."""
        if self.probe_epochs is not None and strategy != "lp_ft":
            raise TransferError(f'`probe_epochs` requires `strategy="lp_ft"`, got {strategy!r}.')
        for name in ("every", "monitor"):
            if getattr(self, name) is not None and strategy not in THAWING_STRATEGIES:
                raise TransferError(
                    f"`{name}` says when blocks thaw, but `strategy={strategy!r}` thaws none. Use "
                    '`strategy="gradual"` or `"lp_ft"`, or name what thaws by `unfreeze`.'
                )
        if self.unit != "step" or self.every is not None:
            return
        if strategy in THAWING_STRATEGIES and self.monitor is None:
            raise TransferError(
                f'`unit="step"` with `strategy={strategy!r}` requires `every`: the number of optimizer steps between '
                "two blocks."
            )
        if not self.unfreeze:
            raise TransferError('`unit="step"` is the unit of `every` and `unfreeze`, but neither is given.')

    def patterns(self) -> dict[int, list[NamePattern]]:
        """The patterns of `unfreeze`, in the order of time."""
        given = self.unfreeze or {}
        return {time: compile_patterns(given[time], f"unfreeze[{time}]", TransferError) for time in sorted(given)}

    def timing(self) -> dict[str, object]:
        """What a clock of thawing counts, as plain data; only what is not the default."""
        found: dict[str, object] = {} if self.every is None else {"every": self.every}
        if self.unit != "epoch":
            found["unit"] = self.unit
        return found if self.monitor is None else {**found, "monitor": self.monitor, "mode": self.mode}

    def _check_types(self) -> None:
        check_choice(self.unit, "unit", UNITS, TransferError)
        check_choice(self.mode, "mode", MODES, TransferError)
        check_whole(self.patience, "patience", TransferError, at_least=1)
        for name in ("every", "probe_epochs"):
            if (value := getattr(self, name)) is not None:
                check_whole(value, name, TransferError, at_least=1, or_else="None")
        if self.monitor is not None:
            check_text(self.monitor, "monitor", TransferError, or_else="None")
        check_number(self.min_delta, "min_delta", TransferError, at_least=0)
        if self.unfreeze is not None:
            check_unfreeze(self.unfreeze, self.unit)
        self.patterns()


def is_frozen(thaw: int | None, phase: int) -> bool:
    """Whether something that thaws in one phase is still frozen in another."""
    return thaw is None or phase < thaw


def phases_of(times: Mapping[str, int | None]) -> tuple[Thaw, tuple[int, ...]]:
    """The phase of each name, and the times at which phases 1, 2, ... begin.

    >>> phases_of({"stem": None, "low": 500, "top": 200, "head": 0})
    ({'stem': None, 'low': 2, 'top': 1, 'head': 0}, (200, 500))
    """
    begins = sorted({time for time in times.values() if time})
    number = {time: phase for phase, time in enumerate([0, *begins])}
    return {name: None if time is None else number[time] for name, time in times.items()}, tuple(begins)


def block_times(
    strategy: str, blocks: int, length: int | None, every: int | None = None, unit: str = "epoch"
) -> list[int | None]:
    """When each block of a module thaws, the head last.

    Args:
        strategy: One of STRATEGIES.
        blocks: Number of blocks that may thaw, including the head.
        length: Length of the fit in epochs or steps; None if it has no known end.
        every: Time between two blocks of "gradual", and for how long "lp_ft" trains the head alone. Default: one epoch
            or less, so that every block thaws, and half of the fit's epochs.
        unit: "epoch" or "step".

    Raises:
        TransferError: The last block would thaw after the end of the fit.

    >>> block_times("gradual", 4, 10), block_times("gradual", 9, 5), block_times("lp_ft", 3, 10)
    ([3, 2, 1, 0], [4, 3, 3, 2, 2, 1, 1, 0, 0], [5, 5, 0])
    >>> block_times("gradual", 4, 2000, 500, "step")
    [1500, 1000, 500, 0]
    """
    if strategy == "linear_probe":
        return [*[None] * (blocks - 1), 0]
    if strategy == "lp_ft":
        return [*[_probe(length, every, unit)] * (blocks - 1), 0]
    if strategy == "gradual" and every is not None:
        check_room(blocks - 1, every, length, unit)
        return [depth * every for depth in reversed(range(blocks))]
    if strategy == "gradual":
        each = 1.0 if length is None or blocks == 1 or length >= blocks else (length - 1) / (blocks - 1)
        return [int(depth * each + 1e-9) for depth in reversed(range(blocks))]
    return [0] * blocks


def check_room(blocks: int, every: int, length: int | None, unit: str) -> None:
    """Raise TransferError if the last of several blocks that thaw one after another would do so after the end."""
    if length is None or blocks * every < length or blocks == 0:
        return
    most = (length - 1) // blocks
    remedy = f"Pass `every` of at most {most}, or train longer." if most else "Train longer."
    raise TransferError(
        f"Expected the last of {blocks} blocks to thaw before the end of the fit after {_many(length, unit)}, got "
        f"{unit} {blocks * every} with `every={every}`. {remedy}"
    )


def thaw_times(
    base: Mapping[str, int | None],
    freeze: Collection[str],
    unfreeze: Mapping[int, Collection[str]],
    length: int | None,
    unit: str = "epoch",
) -> Thaw:
    """When each parameter thaws.

    Args:
        base: Name -> time by the strategy alone.
        freeze: Names that are not trained.
        unfreeze: Epoch or step -> names that are trained from then on.
        length: Length of the fit in the same unit; None if it has no known end.
        unit: "epoch" or "step".

    Raises:
        TransferError: A time that is not in the fit, one at which nothing is left to thaw, or nothing is trained at the
            start.

    >>> thaw_times({"body": 0, "head": 0}, {"body"}, {2: {"body"}}, length=4)
    {'body': 2, 'head': 0}
    """
    thaw = {name: None if name in freeze else time for name, time in base.items()}
    for time in sorted(unfreeze):
        _check_time(time, length, unit)
        held = [name for name in unfreeze[time] if thaw[name] is None]
        if not held:
            raise TransferError(
                f"Expected `unfreeze[{time}]` to name something that is frozen until then, got what is trained "
                f"before: {_few(unfreeze[time])}. Name it in `freeze`, or remove it from `unfreeze`."
            )
        thaw |= dict.fromkeys(held, time)
    if 0 not in thaw.values():
        raise TransferError(
            f"Expected something to train in {unit} 0, but everything is frozen: freeze less, or check that the "
            "module's parameters require a gradient."
        )
    return thaw


def follow_order(order: Sequence[str], thaw: Mapping[str, int | None]) -> Thaw:
    """Thaw times also for names without one: that of the name before them, or of the first one.

    >>> follow_order(["0.weight", "1", "2.weight"], {"0.weight": None, "2.weight": 0})
    {'0.weight': None, '1': None, '2.weight': 0}
    """
    found: Thaw = {}
    before = next((thaw[name] for name in order if name in thaw), 0)
    for name in order:
        before = found[name] = thaw.get(name, before)
    return found


def check_unfreeze(unfreeze: object, unit: str = "epoch") -> None:
    """Raise TransferError unless it is a mapping of epochs, or steps, of at least 1."""
    for time in check_mapping(unfreeze, "unfreeze", f"{{{unit}: patterns}}", TransferError):
        _check_time(time, None, unit)


def _check_time(time: object, length: int | None, unit: str) -> None:
    whole = check_whole(time, "unfreeze", TransferError, at_least=1, hint=f"its keys are {unit}s")
    if length is not None and whole >= length:
        raise TransferError(
            f"Expected the {unit}s of `unfreeze` below {length}, got {time}: they count from 0 and this fit has "
            f"{length}, so nothing would thaw then. Thaw earlier, or train longer."
        )


def _probe(length: int | None, every: int | None, unit: str) -> int:
    if every is None:
        if length is None:
            raise TransferError('`strategy="lp_ft"` in a fit without `max_epochs` requires `probe_epochs`.')
        every = max(1, length // 2)
    if length is not None and every >= length:
        raise TransferError(
            "Expected the time for which the head is trained alone (`probe_epochs`, `every`) below the "
            f"{_many(length, unit)} of this fit, got {every}: nothing would be fine-tuned. Use "
            '`strategy="linear_probe"`, or train longer.'
        )
    return every


def _many(count: int, unit: str) -> str:
    """A number of epochs or steps.

    >>> _many(1, "step"), _many(4, "epoch")
    ('1 step', '4 epochs')
    """
    return f"{count} {unit}{'s' * (count != 1)}"


def _few(names: Collection[str]) -> str:
    some = sorted(names)[:3]
    return ", ".join(f"`{name}`" for name in some) + (", ..." if len(names) > len(some) else "")
