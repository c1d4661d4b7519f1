"""Masks under mixed precision, whose scaler skips steps, and over compiled modules."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from nets import Net, loaders, same_batches
from torch import nn

from lightning_autoarch.callbacks.prune.dynamic import SET, RigL
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.callbacks.prune.semi_structured import SemiStructuredPruning
from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.prune.schedule import CubicSparsity, Step

QUIET: dict[str, Any] = {
    "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    "accelerator": "cpu", "devices": 1,
}  # fmt: skip
STEPS = 12  # 4 epochs of 3 batches
OVERFLOWS, AT_FIRST = 2.0**120, 2.0**20  # scales of the loss with which every step is skipped, and the first ones

OPTIMIZERS = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
    "fused sgd": lambda m: torch.optim.SGD(
        m.parameters(), lr=0.1, fused=True
    ),  # its momentum is NaN if step 1 is skipped
    "fused adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.1, fused=True),
}
KINDS = {
    "magnitude": lambda: MagnitudePruning(CubicSparsity(0.5, end=0.5), every_n_steps=2),
    "gradient": lambda: MagnitudePruning(CubicSparsity(0.5, end=0.5), criterion="gradient", every_n_steps=2),
    "rigl": lambda: RigL(0.5, every_n_steps=2),
    "set": lambda: SET(0.5, every_n_steps=2),
    "2:4": lambda: SemiStructuredPruning(2, 4, at=Step(3)),
}


class Own(Net):
    def __init__(self, optimizer: str = "sgd") -> None:
        super().__init__(width=16, layers=[{"width": 16}], dropout=0.0)
        self.optimizer = optimizer

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.optimizer](self)


def own(optimizer: str = "sgd") -> Own:
    torch.manual_seed(0)
    return Own(optimizer)


def scaled(scale: float) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10_000))


def fit(module: L.LightningModule, *callbacks: L.Callback, ckpt_path: Any = None, **options: Any) -> L.Trainer:
    trainer = L.Trainer(**{**QUIET, "max_epochs": 4, "callbacks": list(callbacks), **options})
    trainer.fit(module, same_batches(), loaders()[1], ckpt_path=ckpt_path)
    return trainer


def check_zeros(module: nn.Module, pruning: MaskedTraining, sparsity: float) -> None:
    assert pruning.sparsity == pytest.approx(sparsity, abs=0.01)
    parameters = dict(module.named_parameters())
    for name, mask in pruning.masks.items():
        assert not parameters[name][~mask.unpack()].any(), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_skipped_step_counts_for_the_schedule_and_changes_no_weight(optimizer: str) -> None:
    module = own(optimizer)
    before = copy.deepcopy(module.net)
    pruning = MagnitudePruning(CubicSparsity(0.5, end=0.5), every_n_steps=2)
    trainer = fit(module, pruning, plugins=scaled(OVERFLOWS))
    assert trainer.global_step == STEPS
    check_zeros(module, pruning, 0.5)
    for name, weight in module.net.named_parameters():
        mask = pruning.masks.get(f"net.{name}")
        old = before.get_parameter(name)
        assert torch.equal(weight, old if mask is None else torch.where(mask.unpack(), old, 0.0)), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masks_hold_where_some_steps_are_skipped(kind: str, optimizer: str) -> None:
    module, pruning = own(optimizer), KINDS[kind]()
    trainer = fit(module, pruning, plugins=scaled(AT_FIRST))  # each that is skipped halves the scale
    assert AT_FIRST / 2 ** (STEPS - 1) < trainer.precision_plugin.scaler.get_scale() < AT_FIRST
    assert all(p.isfinite().all() for p in module.parameters())
    check_zeros(module, pruning, 0.5)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize("kind", ["gradient", "rigl"])
def test_a_change_by_gradients_that_overflowed_waits_for_the_next_that_do_not(kind: str, tmp_path: Path) -> None:
    """And so it does where a checkpoint lies between them."""
    whole, pruning = own(), KINDS[kind]()
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(whole, pruning, saver, plugins=scaled(AT_FIRST), enable_checkpointing=True)
    waiting = [path for path in tmp_path.glob("*.ckpt") if callback_state(path, pruning)["postponed"]]
    assert waiting
    for path in waiting:
        resumed, again = own(), KINDS[kind]()
        fit(resumed, again, ckpt_path=path, plugins=scaled(1.0))
        assert again.masks == pruning.masks
        for name, weight in resumed.named_parameters():
            assert torch.equal(weight, whole.get_parameter(name)), (path, name)


@pytest.mark.parametrize("kind", ["gradient", "rigl"])
def test_it_waits_for_a_step_where_gradients_accumulate(kind: str) -> None:
    pruning = KINDS[kind]()
    fit(module := own(), pruning, plugins=scaled(AT_FIRST), accumulate_grad_batches=3, max_epochs=STEPS)
    check_zeros(module, pruning, 0.5)


def test_it_says_where_it_waited_until_the_end() -> None:
    with pytest.warns(UserWarning, match="it was waiting for gradients, which were missing or overflowed"):
        fit(own(), KINDS["gradient"](), plugins=scaled(OVERFLOWS))


def callback_state(path: Path, callback: L.Callback) -> dict[str, Any]:
    return torch.load(path, weights_only=True)["callbacks"][callback.state_key]


def test_a_gradient_that_is_no_number_is_an_error_without_a_scaler() -> None:
    class Diverges(Own):
        def _loss(self, batch: Any) -> torch.Tensor:
            return super()._loss(batch) * float("nan")

    with pytest.raises(PruneValueError, match="NaN"):
        fit(Diverges(), KINDS["gradient"]())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true", "64-true"])
@pytest.mark.parametrize("kind", KINDS)
def test_precisions(precision: Any, kind: str) -> None:
    module, pruning = own(), KINDS[kind]()
    fit(module, pruning, precision=precision)
    check_zeros(module, pruning, 0.5)


class ByHand(Own):
    """Its optimizer's step is compiled."""

    def __init__(self, backend: str | None) -> None:
        super().__init__()
        self.automatic_optimization, self.backend = False, backend

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self._loss(batch))
        optimizer.step()

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        if self.backend is not None:
            optimizer.step = torch.compile(optimizer.step, backend=self.backend)
        return optimizer


@pytest.mark.parametrize("how", ["a submodule", "in place"])
@pytest.mark.parametrize("kind", ["magnitude", "rigl"])
def test_masks_change_no_compiled_graph(how: str, kind: str) -> None:
    torch._dynamo.reset()  # other tests have compiled other modules by the same code of torch's
    module, pruning = own(), KINDS[kind]()
    if how == "in place":
        module.compile(backend="eager")
    else:
        module.net = torch.compile(module.net, backend="eager")  # type: ignore[assignment]
    with torch._dynamo.config.patch(error_on_recompile=True):
        fit(module, pruning, limit_val_batches=0)
    check_same(module, pruning, own(), KINDS[kind]())


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", ["magnitude", "rigl"])
def test_a_compiled_step(kind: str) -> None:
    torch.manual_seed(0)
    module, pruning = ByHand("eager"), KINDS[kind]()
    fit(module, pruning)
    torch.manual_seed(0)
    check_same(module, pruning, ByHand(None), KINDS[kind]())


def check_same(
    compiled: nn.Module, pruning: MaskedTraining, plain: L.LightningModule, plain_pruning: MaskedTraining
) -> None:
    fit(plain, plain_pruning)
    assert pruning.masks == plain_pruning.masks  # under the names of the plain module
    check_zeros(plain, pruning, 0.5)
    for one, other in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)
