"""When each parameter thaws: decided once, before training, as a function of names alone.

    full            everything is trained from the start
    linear_probe    the head alone
    lp_ft           the head alone, then everything: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and
                    Underperform Out-of-Distribution"
    gradual         the head, then one more block from the top each epoch: Howard & Ruder 2018, "Universal Language
                    Model Fine-tuning for Text Classification", section 3.3. With more blocks than epochs several at
                    once, evenly, so that the lowest are trained in the last epoch
    lora            what has been added, and the head

`freeze` holds back what the strategy would train; `unfreeze` gives a time to what is held back. Times are epochs or
optimizer steps. The distinct times are the phases of training, and a `Clock` says which phase it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from lightning_autoarch.core.errors import TransferError

Strategy: TypeAlias = Literal["full", "linear_probe", "lp_ft", "gradual", "lora"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
THAWING = ("lp_ft", "gradual")  # strategies that thaw blocks while training
Thaw: TypeAlias = dict[str, int | None]  # name -> the first time, or phase, in which it is trained; None: never


def is_frozen(thaw: int | None, phase: int) -> bool:
    """Whether what thaws in one phase is not trained in another."""
    return thaw is None or phase < thaw


def phases_of(times: Mapping[str, int | None]) -> tuple[Thaw, tuple[int, ...]]:
    """The phase of each name, and when phases 1, 2, ... begin.

    >>> phases_of({"stem": None, "low": 500, "top": 200, "head": 0})
    ({'stem': None, 'low': 2, 'top': 1, 'head': 0}, (200, 500))
    """
    begins = sorted({time for time in times.values() if time})
    number = {time: phase for phase, time in enumerate([0, *begins])}
    return {name: None if time is None else number[time] for name, time in times.items()}, tuple(begins)


def block_times(
    strategy: str, blocks: int, length: int | None, every: int | None = None, unit: str = "epoch"
) -> list[int | None]:  # for each block, the head last
    """When the blocks of a module thaw.

    Args:
        strategy: one of STRATEGIES.
        blocks: how many there are that may thaw, the head among them.
        length: of the fit in epochs or steps, None where it has no known end.
        every: from one block to the next of "gradual", and how long "lp_ft" trains the head alone. By default one
            epoch, or as many as the fit has room for, and half of the fit's epochs.
        unit: "epoch" or "step".

    Raises:
        TransferError: the last block would thaw after the end of the fit.

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
    """Raises TransferError where the last of some blocks that thaw one after another would do so after the end."""
    if length is None or blocks * every < length or blocks == 0:
        return
    most = (length - 1) // blocks
    remedy = f"Pass `thaw_every` of at most {most}, or train longer." if most else "Train longer."
    raise TransferError(
        f"Expected the last of {blocks} blocks to thaw before the end of the fit after {_many(length, unit)}, got "
        f"{unit} {blocks * every} with `thaw_every={every}`. {remedy}"
    )


def thaw_times(
    base: Mapping[str, int | None],
    freeze: Collection[str],
    unfreeze: Mapping[int, Collection[str]],
    length: int | None,
    unit: str = "epoch",
) -> Thaw:
    """When everything thaws.

    Args:
        base: as the strategy has it.
        freeze: names that are held back.
        unfreeze: epoch or step -> names that are trained from then on.
        length: of the fit in the same unit, None where it has no known end.
        unit: "epoch" or "step".

    Raises:
        TransferError: a time that is none of the fit's, one at which nothing is left to thaw, or nothing is trained at
            the start.

    >>> thaw_times({"body": 0, "head": 0}, {"body"}, {2: {"body"}}, length=4)
    {'body': 2, 'head': 0}
    """
    thaw = {name: None if name in freeze else time for name, time in base.items()}
    for time in sorted(unfreeze):
        _check_time(time, length, unit)
        held = [name for name in unfreeze[time] if thaw[name] is None]
        if not held:
            raise TransferError(
                f"Expected `unfreeze[{time}]` to name what is frozen until then, got what is trained before: "
                f"{_few(unfreeze[time])}. Name it in `freeze`, or leave it out."
            )
        thaw |= dict.fromkeys(held, time)
    if 0 not in thaw.values():
        raise TransferError(
            f"Expected something to train in {unit} 0, but everything is frozen: name less in `freeze`, or check that "
            "the module's parameters require a gradient."
        )
    return thaw


def follow_order(order: Sequence[str], thaw: Mapping[str, int | None]) -> Thaw:
    """Thaw times also of names that have none: those of what stands before them, or of the first.

    >>> follow_order(["0.weight", "1", "2.weight"], {"0.weight": None, "2.weight": 0})
    {'0.weight': None, '1': None, '2.weight': 0}
    """
    found: Thaw = {}
    before = next((thaw[name] for name in order if name in thaw), 0)
    for name in order:
        before = found[name] = thaw.get(name, before)
    return found


def check_unfreeze(unfreeze: object, unit: str = "epoch") -> None:
    """Raises TransferError unless it is a mapping of epochs, or steps, from 1 on."""
    if not isinstance(unfreeze, Mapping):
        raise TransferError(f"Expected `unfreeze` as {{{unit}: patterns}}, got {unfreeze!r:.80}.")
    for time in unfreeze:
        _check_time(time, None, unit)


def _check_time(time: object, length: int | None, unit: str) -> None:
    if isinstance(time, bool) or not isinstance(time, int) or time < 1:
        raise TransferError(f"Expected the {unit}s of `unfreeze` to be whole numbers from 1 on, got {time!r}.")
    if length is not None and time >= length:
        raise TransferError(
            f"Expected the {unit}s of `unfreeze` below {length}, got {time}: they count from 0 and this fit has "
            f"{length}, so nothing would thaw then. Thaw earlier, or train longer."
        )


def _probe(length: int | None, every: int | None, unit: str) -> int:
    if every is None:
        if length is None:
            raise TransferError('`strategy="lp_ft"` in a fit without `max_epochs` needs `probe_epochs`.')
        every = max(1, length // 2)
    if length is not None and every >= length:
        raise TransferError(
            "Expected the time for which the head is trained alone (`probe_epochs`, `thaw_every`) below the "
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
