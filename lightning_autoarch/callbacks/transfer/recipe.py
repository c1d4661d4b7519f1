"""How to fine-tune, as it is written down, and what that means for one module."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from lightning_autoarch.errors import TransferError
from lightning_autoarch.transfer.blocks import blocks_of
from lightning_autoarch.transfer.finetune import check_number, layer_decay_factors, scale_factors
from lightning_autoarch.transfer.newness import head_of_new
from lightning_autoarch.transfer.patterns import Names, Patterns, listed
from lightning_autoarch.transfer.thawing import (
    STRATEGIES,
    Thaw,
    block_epochs,
    check_unfreeze,
    follow_order,
    thaw_epochs,
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

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise TransferError(f"Expected `strategy` to be one of {', '.join(STRATEGIES)}, got {self.strategy!r}.")
        for name in ("freeze", "head", "reinit"):
            listed(getattr(self, name), name)
        check_unfreeze(self.unfreeze)
        self._check_numbers()
        self._check_together()

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
        }

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
        if probe is not None and (isinstance(probe, bool) or not isinstance(probe, int) or probe < 1):
            raise TransferError(f"Expected `probe_epochs` to be a whole number from 1 on, got {probe!r}.")

    def _check_together(self) -> None:
        if self.probe_epochs is not None and self.strategy != "lp_ft":
            raise TransferError(f'`probe_epochs` is of `strategy="lp_ft"`, not of {self.strategy!r}.')
        if self.lora and self.strategy != "lora":
            raise TransferError(f'`lora` are options of `strategy="lora"`, not of {self.strategy!r}.')
        if self.l2_sp is not None and self.strategy == "lora":
            raise TransferError('`l2_sp` holds weights where they began, but with `strategy="lora"` they do not move.')


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

    def thaw(self, epochs: int | None) -> Thaw:
        """When what is trained, in a fit of so many epochs.

        Raises:
            TransferError: epochs that are none of the fit's, or nothing to train.
        """
        depth = self.recipe.freeze_depth
        when = block_epochs(self.recipe.strategy, len(self.blocks) - depth, epochs, self.recipe.probe_epochs)
        when = [*[None] * depth, *when]
        base = {name: epoch for block, epoch in zip(self.blocks, when, strict=True) for name in block}
        base |= dict.fromkeys(self.new, 0)
        base |= dict.fromkeys(self.held, None)
        return thaw_epochs(follow_order(self.names.order, base), self.freeze, self.unfreeze, epochs)

    def never_known(self, thaw: Thaw) -> list[str]:
        """What was not taken over and is never trained, though the module would have trained it."""
        return [name for name in self.names.order if name in self.new - self.held and thaw[name] is None]
