"""How to fine-tune: `Tuning` is what the user asks for, `TuningPlan` what that means for one module."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from lightning_autoarch.core.checks import check_choice, check_flag, check_mapping, check_number, check_whole
from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.core.patterns import Patterns, compile_patterns
from lightning_autoarch.transfer.tune.blocks import blocks_of, head_of_new
from lightning_autoarch.transfer.tune.clock import Length, Plateau, Timetable
from lightning_autoarch.transfer.tune.rates import layer_decay_factors, scale_factors
from lightning_autoarch.transfer.tune.thawing import (
    STRATEGIES,
    Thaw,
    Thawing,
    block_times,
    check_room,
    follow_order,
    phases_of,
    thaw_times,
)
from lightning_autoarch.transfer.tune.trainable import TrainableNames


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The arguments of `TransferLearning` that say what is trained when and how fast.

    Raises:
        TransferError: One is out of range, or two of them exclude each other.
    """

    strategy: str = "full"
    freeze: Patterns = ()
    freeze_depth: int = 0
    layer_decay: float | None = None
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    warmup_epochs: float = 0.0
    l2_sp: float | None = None
    reinit: Patterns = ()
    head: Patterns = ()
    lora: Mapping[str, Any] = field(default_factory=dict)
    frozen_dropout: bool = True
    thawing: Thawing = field(default_factory=Thawing)

    def __post_init__(self) -> None:
        check_choice(self.strategy, "strategy", STRATEGIES, TransferError)
        for name in ("freeze", "head", "reinit"):
            compile_patterns(getattr(self, name), name, TransferError)
        self._check_rates()
        self._check_values()
        self.thawing.check_strategy(self.strategy)
        if self.lora and self.strategy != "lora":
            raise TransferError(f'`lora` requires `strategy="lora"`, got {self.strategy!r}.')
        if self.l2_sp is not None and self.strategy == "lora":
            raise TransferError('`l2_sp` pulls weights to where they began, but `strategy="lora"` does not move them.')

    def groups(self) -> dict[str, Any]:
        """What the parameter groups depend on, as plain data: a resumed fit must have the same."""
        return {
            "strategy": self.strategy,
            "freeze": _written(self.freeze, "freeze"),
            "freeze_depth": self.freeze_depth,
            "unfreeze": {time: list(map(str, found)) for time, found in self.thawing.patterns().items()},
            "layer_decay": self.layer_decay,
            "lr_scale": {pattern: float(scale) for pattern, scale in self.lr_scale.items()},
            "warmup_epochs": float(self.warmup_epochs),
            "probe_epochs": self.thawing.probe_epochs,
            "head": _written(self.head, "head"),
            **self.thawing.timing(),
        }

    def _check_rates(self) -> None:
        if self.layer_decay is not None:
            check_number(self.layer_decay, "layer_decay", TransferError, above=0, at_most=1, or_else="None")
        for pattern, scale in check_mapping(self.lr_scale, "lr_scale", "{pattern: factor}", TransferError).items():
            hint = "to stop training, use `freeze`"
            check_number(scale, f"lr_scale[{pattern!r}]", TransferError, above=0, hint=hint)
        if self.l2_sp is not None:
            check_number(self.l2_sp, "l2_sp", TransferError, above=0, or_else="None")
        check_number(self.warmup_epochs, "warmup_epochs", TransferError, at_least=0)

    def _check_values(self) -> None:
        check_flag(self.frozen_dropout, "frozen_dropout", TransferError)
        check_mapping(self.lora, "lora", "options of `peft.LoraConfig`", TransferError)
        check_whole(self.freeze_depth, "freeze_depth", TransferError, at_least=0)


@dataclass(frozen=True)
class TuningPlan:
    """What a `Tuning` means for one module.

    Attributes:
        tuning: What the user asks for.
        names: The names of what can be trained.
        blocks: Names of parameters by block, from the input to the output; the last block is the head.
        held: Names of what required no gradient before.
        freeze: Names that `freeze` matches.
        unfreeze: Epoch or step -> names that `unfreeze` matches.
        reinit: Names that `reinit` matches.
        head: Names that `head` matches.
        new: Names of what was not taken over.
        factors: Name -> factor of the learning rate.
    """

    tuning: Tuning
    names: TrainableNames
    blocks: list[list[str]]
    held: frozenset[str]
    freeze: frozenset[str]
    unfreeze: Mapping[int, frozenset[str]]
    reinit: frozenset[str]
    head: frozenset[str]
    new: frozenset[str] = frozenset()
    factors: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, tuning: Tuning, module: nn.Module, new: Collection[str] = ()) -> TuningPlan:
        """Find everything that a `Tuning` names.

        Args:
            tuning: What the user asks for.
            module: The module to train.
            new: Names of what was not taken over. It is trained from the start and tells which layer is the head.

        Raises:
            TransferError: A pattern matches nothing, or the module has no layers for the strategy.
        """
        names = TrainableNames(module)
        if not names.parameters:
            raise TransferError(f"Expected parameters to fine-tune, got none in {type(module).__name__}.")
        lazy = next((name for name, p in names.parameters.items() if is_lazy(p)), None)
        if lazy is not None:
            raise TransferError(f"Expected `{lazy}` with a shape: run a batch through the module first.")
        head = frozenset(names.named(tuning.head, "head"))
        blocks = blocks_of(module, names, head)
        if not head and (found := head_of_new(module, names, new, blocks[-1])):
            blocks = blocks_of(module, names, found)
        if tuning.strategy in ("linear_probe", "lp_ft", "gradual") and len(blocks) < 2:
            raise TransferError(
                f"Expected a head and something below it in {type(module).__name__} for `strategy={tuning.strategy!r}`"
                ", got one block of layers. Name the output layer by `head`."
            )
        if tuning.freeze_depth > len(blocks) - 1:
            raise TransferError(
                f"Expected `freeze_depth` to be at most {len(blocks) - 1}, the blocks of {type(module).__name__} below "
                f"its head, got {tuning.freeze_depth}."
            )
        decay, scale = layer_decay_factors(blocks, tuning.layer_decay), scale_factors(names, tuning.lr_scale)
        decay |= dict.fromkeys(new, 1.0)  # a small rate would preserve nothing there
        return cls(
            tuning=tuning,
            names=names,
            blocks=blocks,
            held=frozenset(name for name, p in names.parameters.items() if not p.requires_grad),
            freeze=frozenset(names.named(tuning.freeze, "freeze")),
            unfreeze={
                t: frozenset(names.matching(p, f"unfreeze[{t}]", TransferError))
                for t, p in tuning.thawing.patterns().items()
            },
            reinit=frozenset(names.named(tuning.reinit, "reinit")),
            head=head,
            new=frozenset(new) & frozenset(names.order),
            factors={name: decay.get(name, 1.0) * scale.get(name, 1.0) for name in names.parameters},
        )

    def check_same(self, module: nn.Module) -> None:
        """Raise TransferError if the module no longer has the parameters that the plan was made for."""
        known = {id(p) for p in self.names.parameters.values()}
        new = next((name for name, p in module.named_parameters() if id(p) not in known), None)
        if new is not None:
            raise TransferError(
                f"Expected the module to still have the parameters of `setup`, got a new one for `{new}`. Lightning "
                "calls `configure_model` more than once: let it make only what is not there yet."
            )

    def schedule(self, length: Length) -> tuple[Thaw, Timetable | Plateau]:
        """The phase in which each name is trained, and when phases begin.

        Args:
            length: Length of the fit.

        Raises:
            TransferError: A time that is not in the fit, or nothing to train.
        """
        tuning, thawing = self.tuning, self.tuning.thawing
        end, by_metric, depth = length.of(thawing.unit), thawing.monitor is not None, tuning.freeze_depth
        every = thawing.probe_epochs if thawing.every is None else thawing.every
        available, gap = (None, 1) if by_metric else (end, every)
        when = block_times(tuning.strategy, len(self.blocks) - depth, available, gap, thawing.unit)
        when = [*[None] * depth, *when]
        base = {name: time for block, time in zip(self.blocks, when, strict=True) for name in block}
        base |= dict.fromkeys(self.new, 0)
        base |= dict.fromkeys(self.held, None)
        times = thaw_times(follow_order(self.names.order, base), self.freeze, self.unfreeze, end, thawing.unit)
        phases, begins = phases_of(times)
        if not by_metric:
            return phases, Timetable(begins, thawing.unit)
        if thawing.every is not None:
            check_room(len(begins), thawing.every, end, thawing.unit)
        delta = float(thawing.min_delta)
        return phases, Plateau(len(begins), thawing.mode, thawing.patience, delta, thawing.every, thawing.unit)

    def never_trained(self, thaw: Thaw) -> list[str]:
        """Names of what was not taken over and is never trained, although the module would train it."""
        return [name for name in self.names.order if name in self.new - self.held and thaw[name] is None]


def _written(patterns: Patterns, argument: str) -> list[str]:
    return [str(pattern) for pattern in compile_patterns(patterns, argument, TransferError)]
