"""From which epoch on each parameter is trained: decided once, before training, as a function of names alone.

    full            everything from epoch 0
    linear_probe    the head alone
    lp_ft           the head alone, then everything: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and
                    Underperform Out-of-Distribution"
    gradual         the head, then one more block from the top each epoch: Howard & Ruder 2018, "Universal Language
                    Model Fine-tuning for Text Classification", section 3.3. With more blocks than epochs several at
                    once, evenly, so that the lowest are trained in the last epoch
    lora            what has been added, and the head

`freeze` holds back what the strategy would train; `unfreeze` gives an epoch to what is held back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from lightning_autoarch.errors import TransferError

Strategy: TypeAlias = Literal["full", "linear_probe", "lp_ft", "gradual", "lora"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
Thaw: TypeAlias = dict[str, int | None]  # name -> the first epoch in which it is trained; None: never


def is_frozen(thaw: int | None, epoch: int) -> bool:
    """Whether something is not trained in an epoch."""
    return thaw is None or epoch < thaw


def block_epochs(
    strategy: str, blocks: int, epochs: int | None, probe_epochs: int | None = None
) -> list[int | None]:  # for each block, the head last
    """When the blocks of a module thaw.

    Args:
        strategy: one of STRATEGIES.
        blocks: how many there are that may thaw, the head among them.
        epochs: of the fit, None where it has no known end.
        probe_epochs: of "lp_ft", in which only the head is trained; by default half of the epochs.

    >>> block_epochs("gradual", 4, 10), block_epochs("gradual", 9, 5), block_epochs("lp_ft", 3, 10)
    ([3, 2, 1, 0], [4, 3, 3, 2, 2, 1, 1, 0, 0], [5, 5, 0])
    """
    if strategy == "linear_probe":
        return [*[None] * (blocks - 1), 0]
    if strategy == "lp_ft":
        return [*[_probe(epochs, probe_epochs)] * (blocks - 1), 0]
    if strategy == "gradual":
        each = 1.0 if epochs is None or blocks == 1 or epochs >= blocks else (epochs - 1) / (blocks - 1)
        return [int(depth * each + 1e-9) for depth in reversed(range(blocks))]
    return [0] * blocks


def thaw_epochs(
    base: Mapping[str, int | None],
    freeze: Collection[str],
    unfreeze: Mapping[int, Collection[str]],
    epochs: int | None,
) -> Thaw:
    """When everything thaws.

    Args:
        base: as the strategy has it.
        freeze: names that are held back.
        unfreeze: epoch -> names that are trained from then on.
        epochs: of the fit, None where it has no known end.

    Raises:
        TransferError: an epoch that is none of the fit's, one in which nothing is left to thaw, or nothing is trained
            in epoch 0.

    >>> thaw_epochs({"body": 0, "head": 0}, {"body"}, {2: {"body"}}, epochs=4)
    {'body': 2, 'head': 0}
    """
    thaw = {name: None if name in freeze else epoch for name, epoch in base.items()}
    for epoch in sorted(unfreeze):
        _check_epoch(epoch, epochs)
        held = [name for name in unfreeze[epoch] if thaw[name] is None]
        if not held:
            raise TransferError(
                f"Expected `unfreeze[{epoch}]` to name what is frozen until then, got what is trained before: "
                f"{_few(unfreeze[epoch])}. Name it in `freeze`, or leave it out."
            )
        thaw |= dict.fromkeys(held, epoch)
    if 0 not in thaw.values():
        raise TransferError(
            "Expected something to train in epoch 0, but everything is frozen: name less in `freeze`, or check that "
            "the module's parameters require a gradient."
        )
    return thaw


def follow_order(order: Sequence[str], thaw: Mapping[str, int | None]) -> Thaw:
    """Thaw epochs also of names that have none: those of what stands before them, or of the first.

    >>> follow_order(["0.weight", "1", "2.weight"], {"0.weight": None, "2.weight": 0})
    {'0.weight': None, '1': None, '2.weight': 0}
    """
    found: Thaw = {}
    before = next((thaw[name] for name in order if name in thaw), 0)
    for name in order:
        before = found[name] = thaw.get(name, before)
    return found


def check_unfreeze(unfreeze: object) -> None:
    """Raises TransferError unless it is a mapping of epochs from 1 on."""
    if not isinstance(unfreeze, Mapping):
        raise TransferError(f"Expected `unfreeze` as {{epoch: patterns}}, got {unfreeze!r:.80}.")
    for epoch in unfreeze:
        _check_epoch(epoch, None)


def _check_epoch(epoch: object, epochs: int | None) -> None:
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
        raise TransferError(f"Expected the epochs of `unfreeze` to be whole numbers from 1 on, got {epoch!r}.")
    if epochs is not None and epoch >= epochs:
        raise TransferError(
            f"Expected the epochs of `unfreeze` below {epochs}, got {epoch}: they count from 0 and this fit has "
            f"{epochs}, so nothing would thaw then. Thaw earlier, or raise `max_epochs`."
        )


def _probe(epochs: int | None, probe_epochs: int | None) -> int:
    if probe_epochs is None:
        if epochs is None:
            raise TransferError('`strategy="lp_ft"` in a fit without `max_epochs` needs `probe_epochs`.')
        probe_epochs = max(1, epochs // 2)
    if epochs is not None and probe_epochs >= epochs:
        raise TransferError(
            f"Expected `probe_epochs` below the {epochs} epochs of this fit, got {probe_epochs}: nothing would be "
            'fine-tuned. Use `strategy="linear_probe"`, or raise `max_epochs`.'
        )
    return probe_epochs


def _few(names: Collection[str]) -> str:
    some = sorted(names)[:3]
    return ", ".join(f"`{name}`" for name in some) + (", ..." if len(names) > len(some) else "")
