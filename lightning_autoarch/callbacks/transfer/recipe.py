"""How to fine-tune, as it is written down, and what that means for one module."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.patterns import Names, Patterns, listed
from lightning_autoarch.transfer.tune.blocks import blocks_of
from lightning_autoarch.transfer.tune.clock import MODES, UNITS, Length, Plateau, Timetable
from lightning_autoarch.transfer.tune.newness import head_of_new
from lightning_autoarch.transfer.tune.rates import check_number, layer_decay_factors, scale_factors
from lightning_autoarch.transfer.tune.thawing import (
    STRATEGIES,
    THAWING,
    Thaw,
    block_times,
    check_room,
    check_unfreeze,
    follow_order,
    phases_of,
    thaw_times,
)


@dataclass(frozen=True)
class Recipe:
    """The arguments of `TransferLearning` that do not depend on a checkpoint.

    Raises:
        TransferError: one is out of its range, or two do not go together.
    """

    strategy: str
    freeze: Patterns
    freeze_depth: int
    unfreeze: Mapping[int, Patterns]
    layer_decay: float | None
    lr_scale: Mapping[str, float]
    warmup_epochs: float
    probe_epochs: int | None
    head: Patterns
    reinit: Patterns
    l2_sp: float | None
    lora: Mapping[str, Any]
    frozen_dropout: bool = True
    thaw_every: int | None = None
    unit: str = "epoch"
    monitor: str | None = None
    mode: str = "min"
    patience: int = 3
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise TransferError(f"Expected `strategy` to be one of {', '.join(STRATEGIES)}, got {self.strategy!r}.")
        for name in ("freeze", "head", "reinit"):
            listed(getattr(self, name), name)
        self._check_timing()
        check_unfreeze(self.unfreeze, self.unit)
        self._check_numbers()
        self._check_together()
        self._check_times_together()

    def groups(self) -> dict[str, Any]:
        """What decides about parameter groups, as plain data: a resumed fit must have the same."""
        return {
            "strategy": self.strategy,
            "freeze": listed(self.freeze, "freeze"),
            "freeze_depth": self.freeze_depth,
            "unfreeze": {epoch: listed(self.unfreeze[epoch], "unfreeze") for epoch in sorted(self.unfreeze)},
            "layer_decay": self.layer_decay,
            "lr_scale": {pattern: float(scale) for pattern, scale in self.lr_scale.items()},
            "warmup_epochs": float(self.warmup_epochs),
            "probe_epochs": self.probe_epochs,
            "head": listed(self.head, "head"),
            **self.timing(),
        }

    def timing(self) -> dict[str, Any]:
        """What a clock of thawing counts, as plain data; only what is not the default."""
        found: dict[str, Any] = {} if self.thaw_every is None else {"thaw_every": self.thaw_every}
        if self.unit != "epoch":
            found["unit"] = self.unit
        return found if self.monitor is None else {**found, "monitor": self.monitor, "mode": self.mode}

    def _check_timing(self) -> None:
        for name, known in (("unit", UNITS), ("mode", MODES)):
            if getattr(self, name) not in known:
                raise TransferError(f"Expected `{name}` to be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        for name, least in (("thaw_every", "from 1 on, or None"), ("patience", "of checks from 1 on")):
            value = getattr(self, name)
            if (value is None and name == "thaw_every") or _is_whole(value):
                continue
            raise TransferError(f"Expected `{name}` to be a whole number {least}, got {value!r}.")
        if self.monitor is not None and not (isinstance(self.monitor, str) and self.monitor):
            raise TransferError(f"Expected `monitor` to be the name of a logged value, or None, got {self.monitor!r}.")
        if self.min_delta != 0 or isinstance(self.min_delta, bool):
            check_number(self.min_delta, "min_delta", "to be a number from 0 on", 0.0)

    def _check_numbers(self) -> None:
        if self.layer_decay is not None:
            check_number(self.layer_decay, "layer_decay", "in (0, 1], or None", 0.0, 1.0)
        if not isinstance(self.lr_scale, Mapping):
            raise TransferError(f"Expected `lr_scale` as {{pattern: factor}}, got {self.lr_scale!r:.80}.")
        for pattern, scale in self.lr_scale.items():
            check_number(scale, f"lr_scale[{pattern!r}]", "to be a number above 0 (to stop training, `freeze`)", 0.0)
        if self.l2_sp is not None:
            check_number(self.l2_sp, "l2_sp", "to be a number above 0, or None", 0.0)
        if self.warmup_epochs != 0 or isinstance(self.warmup_epochs, bool):
            check_number(self.warmup_epochs, "warmup_epochs", "to be a number of epochs from 0 on", 0.0)
        if not isinstance(self.frozen_dropout, bool):
            raise TransferError(f"Expected `frozen_dropout` to be True or False, got {self.frozen_dropout!r}.")
        if not isinstance(self.lora, Mapping):
            raise TransferError(f"Expected `lora` as options of `peft.LoraConfig`, got {self.lora!r:.80}.")
        depth = self.freeze_depth
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
            raise TransferError(f"Expected `freeze_depth` to be a number of blocks from 0 on, got {depth!r}.")
        probe = self.probe_epochs
        if probe is not None and not _is_whole(probe):
            raise TransferError(f"Expected `probe_epochs` to be a whole number from 1 on, got {probe!r}.")

    def _check_together(self) -> None:
        if self.probe_epochs is not None and self.strategy != "lp_ft":
            raise TransferError(f'`probe_epochs` is of `strategy="lp_ft"`, not of {self.strategy!r}.')
        if self.lora and self.strategy != "lora":
            raise TransferError(f'`lora` are options of `strategy="lora"`, not of {self.strategy!r}.')
        if self.l2_sp is not None and self.strategy == "lora":
            raise TransferError('`l2_sp` holds weights where they began, but with `strategy="lora"` they do not move.')

    def _check_times_together(self) -> None:
        for name in ("thaw_every", "monitor"):
            if getattr(self, name) is not None and self.strategy not in THAWING:
                raise TransferError(
                    f"`{name}` says when blocks thaw, but `strategy={self.strategy!r}` thaws none. Use "
                    '`strategy="gradual"` or `"lp_ft"`, or name what thaws by `unfreeze`.'
                )
        if self.probe_epochs is not None and (self.thaw_every is not None or self.monitor is not None):
            raise TransferError(
                "`probe_epochs` says how long the head is trained alone, as `thaw_every` and `monitor` do: give one."
            )
        if self.monitor is not None and self.unfreeze:
            raise TransferError(
                "`unfreeze` thaws at fixed times, but `monitor` when a metric says so: give one of them."
            )
        varied = {"mode": "min", "patience": 3, "min_delta": 0.0}
        alone = next((name for name, usual in varied.items() if getattr(self, name) != usual), None)
        if self.monitor is None and alone is not None:
            raise TransferError(f"`{alone}` is of `monitor`: name the logged value that blocks thaw by.")
        if self.unit == "step":
            self._check_steps()

    def _check_steps(self) -> None:
        if self.probe_epochs is not None:
            raise TransferError('`probe_epochs` counts epochs. With `unit="step"` pass `thaw_every` instead.')
        if self.thaw_every is None and self.strategy in THAWING and self.monitor is None:
            raise TransferError(
                f'`unit="step"` with `strategy={self.strategy!r}` needs `thaw_every`: how many optimizer steps there '
                "are between two blocks."
            )
        if self.thaw_every is None and not self.unfreeze:
            raise TransferError('`unit="step"` counts the steps of `thaw_every` and `unfreeze`, but neither is given.')


@dataclass(frozen=True)
class Plan:
    """A recipe in a module."""

    recipe: Recipe
    names: Names
    blocks: list[list[str]]
    held: frozenset[str]  # what required no gradient before
    freeze: frozenset[str]
    unfreeze: Mapping[int, frozenset[str]]
    reinit: frozenset[str]
    head: frozenset[str]  # as the user named it
    new: frozenset[str] = frozenset()  # what was not taken over
    factors: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, module: nn.Module, new: Collection[str] = ()) -> Plan:
        """Find everything that the recipe names.

        Args:
            recipe: the arguments.
            module: to be trained.
            new: names of what was not taken over, which is trained from the start and says which layer is the head.

        Raises:
            TransferError: a pattern matches nothing, or the module has no layers for the strategy.
        """
        names = Names(module)
        if not names.parameters:
            raise TransferError(f"Expected parameters to fine-tune, got none in {type(module).__name__}.")
        lazy = next((name for name, p in names.parameters.items() if is_lazy(p)), None)
        if lazy is not None:
            raise TransferError(f"Expected `{lazy}` with a shape: run a batch through the module first.")
        head = frozenset(names.matching(recipe.head, "head"))
        blocks = blocks_of(module, names, head)
        if not head and (found := head_of_new(module, names, new, blocks[-1])):
            blocks = blocks_of(module, names, found)
        if recipe.strategy in ("linear_probe", "lp_ft", "gradual") and len(blocks) < 2:
            raise TransferError(
                f"Expected a head and something below it in {type(module).__name__} for `strategy={recipe.strategy!r}`"
                ", got one block of layers. Name the output layer by `head`."
            )
        if recipe.freeze_depth > len(blocks) - 1:
            raise TransferError(
                f"Expected `freeze_depth` to be at most {len(blocks) - 1}, the blocks of {type(module).__name__} below "
                f"its head, got {recipe.freeze_depth}."
            )
        decay, scale = layer_decay_factors(blocks, recipe.layer_decay), scale_factors(names, recipe.lr_scale)
        decay |= dict.fromkeys(new, 1.0)  # nothing is known there that a small rate would keep
        return cls(
            recipe=recipe,
            names=names,
            blocks=blocks,
            held=frozenset(name for name, p in names.parameters.items() if not p.requires_grad),
            freeze=frozenset(names.matching(recipe.freeze, "freeze")),
            unfreeze={e: frozenset(names.matching(p, f"unfreeze[{e}]")) for e, p in recipe.unfreeze.items()},
            reinit=frozenset(names.matching(recipe.reinit, "reinit")),
            head=head,
            new=frozenset(new) & frozenset(names.order),
            factors={name: decay.get(name, 1.0) * scale.get(name, 1.0) for name in names.parameters},
        )

    def check_same(self, module: nn.Module) -> None:
        """Raises TransferError where the parameters of the module are not those that the plan was made for."""
        known = {id(p) for p in self.names.parameters.values()}
        new = next((name for name, p in module.named_parameters() if id(p) not in known), None)
        if new is not None:
            raise TransferError(
                f"Expected the parameters of `setup` still to be the module's, got a new one for `{new}`. Lightning "
                "calls `configure_model` more than once: let it make only what is not there yet."
            )

    def schedule(self, length: Length) -> tuple[Thaw, Timetable | Plateau]:
        """The phase in which what is trained, and when phases begin.

        Args:
            length: of the fit.

        Raises:
            TransferError: times that are none of the fit's, or nothing to train.
        """
        recipe, end = self.recipe, length.of(self.recipe.unit)
        by_metric = recipe.monitor is not None
        every = recipe.probe_epochs if recipe.thaw_every is None else recipe.thaw_every
        depth = recipe.freeze_depth
        available, gap = (None, 1) if by_metric else (end, every)
        when = block_times(recipe.strategy, len(self.blocks) - depth, available, gap, recipe.unit)
        when = [*[None] * depth, *when]
        base = {name: time for block, time in zip(self.blocks, when, strict=True) for name in block}
        base |= dict.fromkeys(self.new, 0)
        base |= dict.fromkeys(self.held, None)
        times = thaw_times(follow_order(self.names.order, base), self.freeze, self.unfreeze, end, recipe.unit)
        phases, begins = phases_of(times)
        if not by_metric:
            return phases, Timetable(begins, recipe.unit)
        if recipe.thaw_every is not None:
            check_room(len(begins), recipe.thaw_every, end, recipe.unit)
        rule = Plateau(
            len(begins), recipe.mode, recipe.patience, float(recipe.min_delta), recipe.thaw_every, recipe.unit
        )
        return phases, rule

    def never_known(self, thaw: Thaw) -> list[str]:
        """What was not taken over and is never trained, though the module would have trained it."""
        return [name for name in self.names.order if name in self.new - self.held and thaw[name] is None]


def _is_whole(value: object) -> bool:
    """Whether it is a whole number from 1 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
