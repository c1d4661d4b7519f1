"""Masks over a fit: they hold, they are counted right, they come back, and the module stays a plain one."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy
from nets import Net, loaders, same_batches, samples
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.callbacks.prune.distillation import Distillation
from lightning_autoarch.callbacks.prune.dynamic import SET, RigL
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.prune.semi_structured import SemiStructuredPruning
from lightning_autoarch.callbacks.transfer.learning import TransferLearning
from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune import BitMask
from lightning_autoarch.prune.mask_updates import exchange
from lightning_autoarch.prune.masked import MaskedWeights
from lightning_autoarch.prune.schedule import ConstantSparsity, CubicSparsity, IterativeSparsity, OneShot, Step

QUIET: dict[str, Any] = {
    "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    "accelerator": "cpu", "devices": 1,
}  # fmt: skip
LAYERS = [{"width": 16}]


def net(**options: Any) -> Net:
    torch.manual_seed(0)
    return Net(**{"width": 16, "layers": LAYERS, "dropout": 0.0, **options})


def fit(module: L.LightningModule, *callbacks: L.Callback, ckpt_path: Any = None, **options: Any) -> L.Trainer:
    trainer = L.Trainer(**{**QUIET, "max_epochs": 4, "callbacks": list(callbacks), **options})
    trainer.fit(module, *loaders(shuffle=False), ckpt_path=ckpt_path)
    return trainer


def zeros(module: nn.Module, suffix: str = "weight") -> float:
    weights = [p for name, p in module.named_parameters() if name.endswith(suffix)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


class InTurn(Net):
    """Two optimizers step in each batch, each with the gradients of its own parameters alone."""

    def __init__(self) -> None:
        super().__init__(16, layers=LAYERS, dropout=0.0)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            self.zero_grad()
            self.toggle_optimizer(optimizer)
            self.manual_backward(self._loss(batch))
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[0], self.net[3:])]


class Spy(L.Callback):
    """The share of zeros after every batch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.seen.append(zeros(pl_module))


class TestMagnitude:
    def test_the_ten_lines_of_a_user(self) -> None:
        module, pruning = net(), MagnitudePruning(CubicSparsity(0.9), every_n_steps=2)
        trainer = fit(module, pruning)
        weights = [m.weight for m in module.modules() if isinstance(m, nn.Linear)]
        total = sum(w.numel() for w in weights)
        assert sum(int((w == 0).sum()) for w in weights) == round(0.9 * total)
        assert pruning.sparsity == zeros(module) == pytest.approx(trainer.callback_metrics["sparsity"].item())
        assert all((m.bias != 0).any() for m in module.modules() if isinstance(m, nn.Linear))

    def test_it_stays_a_plain_module(self) -> None:
        module = net()
        before = {name: id(p) for name, p in module.named_parameters()}
        keys = list(module.state_dict())
        fit(module, MagnitudePruning(ConstantSparsity(0.5)))
        assert {name: id(p) for name, p in module.named_parameters()} == before
        assert list(module.state_dict()) == keys
        assert not module._forward_pre_hooks and not module._buffers
        net().load_state_dict(module.state_dict())
        copy.deepcopy(module)
        pickle.dumps(module.state_dict())

    def test_sparsity_follows_the_schedule(self) -> None:
        schedule, spy = CubicSparsity(0.8, start=Step(2), end=Step(10)), Spy()
        fit(net(), MagnitudePruning(schedule, every_n_steps=2), spy)  # 3 batches an epoch
        expected = [schedule.sparsity_at(step - step % 2, 12) for step in range(1, 13)]
        assert spy.seen == pytest.approx(expected, abs=2e-3)

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lbfgs"])
    def test_neither_momentum_nor_weight_decay_bring_a_weight_back(self, optimizer: str) -> None:
        class Own(Net):
            def configure_optimizers(self) -> Any:
                if optimizer == "sgd":
                    return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
                if optimizer == "adamw":
                    return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.5)
                return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

        torch.manual_seed(0)
        module, spy = Own(16, layers=LAYERS), Spy()
        fit(module, MagnitudePruning(OneShot(0.5, at=Step(3)), every_n_steps=100), spy)
        assert spy.seen == pytest.approx([0.0] * 2 + [0.5] * 10, abs=2e-3)

    @pytest.mark.parametrize("scope", ["global", "layer", "erk", "lamp"])
    def test_scopes_reach_the_target(self, scope: Any) -> None:
        module, pruning = net(), MagnitudePruning(ConstantSparsity(0.7), scope)
        fit(module, pruning)
        assert zeros(module) == pytest.approx(0.7, abs=0.01)
        each = pruning.weights.sparsities()  # type: ignore[union-attr]
        if scope == "layer":
            assert all(value == pytest.approx(0.7, abs=0.04) for value in each.values())
        if scope == "erk":
            assert each["net.3.weight"] > each["net.6.weight"]

    def test_scope_by_pattern(self) -> None:
        pruning = MagnitudePruning(CubicSparsity(0.9, end=0.5), {"net.0": 0.5, "net.3": 0.75}, every_n_steps=1)
        fit(net(), pruning)
        each = pruning.weights.sparsities()  # type: ignore[union-attr]
        assert each == {"net.0.weight": 0.5, "net.3.weight": 0.75, "net.6.weight": 0.0}

    @pytest.mark.parametrize("criterion", ["gradient", "random"])
    def test_criteria(self, criterion: Any) -> None:
        module = net()
        fit(module, MagnitudePruning(CubicSparsity(0.6), criterion=criterion, every_n_steps=1))
        assert zeros(module) == pytest.approx(0.6, abs=2e-3)

    def test_the_gradient_criterion_prunes_what_does_not_matter(self) -> None:
        class Half(Net):
            def _loss(self, batch: Any) -> Tensor:
                x, y = batch
                return super()._loss((x * torch.tensor([1.0, 1.0, 0.0, 0.0]), y))

        torch.manual_seed(0)
        module = Half(16, act="tanh", layers=LAYERS, dropout=0.0)
        fit(module, MagnitudePruning(OneShot(0.5, at=Step(4)), criterion="gradient", targets="net.0"))
        assert (module.net[0].weight[:, 2:] == 0).all() and (module.net[0].weight[:, :2] != 0).all()

    def test_two_optimizers_by_hand(self) -> None:
        class Two(Net):
            def __init__(self) -> None:
                super().__init__(16, layers=LAYERS)
                self.automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
                for optimizer in self.optimizers():  # type: ignore[union-attr]
                    optimizer.zero_grad()
                    self.manual_backward(self._loss(batch))
                    optimizer.step()

            def configure_optimizers(self) -> Any:
                first, rest = self.net[0].parameters(), self.net[3:].parameters()
                return [torch.optim.SGD(part, lr=0.1, momentum=0.9) for part in (first, rest)]

        module, spy = Two(), Spy()
        fit(module, MagnitudePruning(CubicSparsity(0.5, start=Step(3), end=0.5), every_n_steps=5), spy)
        assert spy.seen[-6:] == pytest.approx([0.5] * 6, abs=2e-3)
        assert spy.seen[0] == pytest.approx(0.0, abs=2e-3)

    @pytest.mark.parametrize("kind", ["gradient", "rigl"])
    def test_gradients_of_two_optimizers(self, kind: str) -> None:
        pruning: Any = RigL(0.5, every_n_steps=3)
        if kind == "gradient":
            pruning = MagnitudePruning(CubicSparsity(0.5, end=0.5), criterion="gradient", every_n_steps=3)
        fit(InTurn(), pruning)
        assert pruning.sparsity == pytest.approx(0.5, abs=5e-3)

    @pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
    @pytest.mark.parametrize("kind", ["gradient", "rigl"])
    def test_a_change_waits_where_a_batch_was_skipped(self, kind: str) -> None:
        class Skips(Net):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return super().training_step(batch, batch_idx) if self.trainer.global_step % 2 == 0 else None

        torch.manual_seed(0)
        module, masks = Skips(16, layers=LAYERS, dropout=0.0), []

        class Watch(L.Callback):
            def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
                masks.append(pruning.masks)

        pruning: Any = RigL(0.5, every_n_steps=2)
        if kind == "gradient":
            pruning = MagnitudePruning(CubicSparsity(0.5, end=0.5), criterion="gradient", every_n_steps=2)
        fit(module, pruning, Watch())
        assert pruning.sparsity == pytest.approx(0.5, abs=5e-3)
        assert masks[1] == masks[0]  # the step that the change was due at had no gradients
        assert masks[2] != masks[1]

    def test_optimizers_that_take_turns(self) -> None:
        """Not together: there is no batch with the gradients of both. Each with a callback of its own."""

        class Turns(InTurn):
            def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
                optimizer: Any = self.optimizers()[self.trainer.global_step % 2]  # type: ignore[index]
                optimizer.zero_grad()
                self.manual_backward(self._loss(batch))
                optimizer.step()

        with pytest.raises(PruneValueError, match="its optimizer did not step"):
            fit(Turns(), RigL(0.5, every_n_steps=2))
        pair = [
            RigL(0.5, targets=target, end=Step(6), every_n_steps=2, name=name)
            for target, name in (("net.0", "a"), ("net.3", "b"))
        ]
        starts = []

        class Watch(L.Callback):
            def on_train_start(self, *args: Any) -> None:
                starts.extend(each.masks for each in pair)

        fit(Turns(), *pair, Watch())
        assert all(each.masks != start for each, start in zip(pair, starts, strict=True))

    @pytest.mark.parametrize("options", [{"max_steps": 20, "max_epochs": -1}, {"max_steps": 20, "max_epochs": 40}, {}])
    def test_the_end_of_a_fit_under_manual_optimization(self, options: Any) -> None:
        spy = Spy()
        trainer = fit(InTurn(), pruning := MagnitudePruning(OneShot(0.5, at=0.8), every_n_steps=99), spy, **options)
        assert pruning._total == trainer.global_step
        assert spy.seen.index(pytest.approx(0.5, abs=2e-3)) == round(0.8 * trainer.global_step / 2 + 0.01) - 1

    @pytest.mark.parametrize("schedule", [OneShot(0.5, at=Step(5)), IterativeSparsity(0.5, 3), CubicSparsity(0.5)])
    def test_a_trial_run_of_one_batch(self, schedule: Any) -> None:
        fit(net(), MagnitudePruning(schedule), fast_dev_run=True)
        with pytest.raises(PruneValueError, match="matches no weight"):
            fit(net(), MagnitudePruning(schedule, targets="nope"), fast_dev_run=True)

    def test_a_fit_of_no_batches(self) -> None:
        module = net()
        before = copy.deepcopy(module.state_dict())
        fit(module, MagnitudePruning(CubicSparsity(0.5)), limit_train_batches=0)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())

    def test_it_says_where_the_fit_ended_too_early(self) -> None:
        class Ends(L.Callback):
            def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
                trainer.should_stop = trainer.global_step == 4

        with pytest.warns(UserWarning, match=r"not finished .* ended at step 4, .* a fit of 12 optimizer steps"):
            fit(net(), MagnitudePruning(OneShot(0.5, at=0.8)), Ends())

    @pytest.mark.parametrize("kind", ["gradient", "rigl"])
    def test_what_thaws_later_has_no_gradients_to_go_by(self, kind: str) -> None:
        pruning: Any = RigL(0.5)
        if kind == "gradient":
            pruning = MagnitudePruning(ConstantSparsity(0.5), criterion="gradient")
        module = net()
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(PruneValueError, match=r"`net\.0\.weight` is frozen as the fit begins"):
            fit(module, TransferLearning(strategy="gradual"), pruning)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())

    def test_the_gradient_criterion_begins_with_the_first_gradients(self) -> None:
        spy = Spy()
        fit(net(), MagnitudePruning(ConstantSparsity(0.5), criterion="gradient"), spy)
        assert spy.seen == pytest.approx([0.5] * 12, abs=2e-3)

    @pytest.mark.parametrize("kind", ["gradient", "rigl"])
    def test_a_target_without_a_gradient(self, kind: str) -> None:
        module = net()
        module.other = nn.Linear(4, 4)
        pruning: Any = RigL(0.5, every_n_steps=2)
        if kind == "gradient":
            pruning = MagnitudePruning(ConstantSparsity(0.5), criterion="gradient")
        with pytest.raises(PruneValueError, match=r"a gradient of `other\.weight`"):
            fit(module, pruning)

    def test_rewinding_to_a_step_that_two_optimizers_pass_over(self) -> None:
        pruning = MagnitudePruning(IterativeSparsity(0.5, 2, rewind_to=Step(3)))
        fit(InTurn(), pruning)
        assert "snapshot" in pruning.state_dict()

    def test_accumulated_gradients(self) -> None:
        module, spy = net(), Spy()
        fit(module, MagnitudePruning(CubicSparsity(0.5, end=1.0), every_n_steps=1), spy, accumulate_grad_batches=3)
        assert spy.seen[-1] == pytest.approx(0.5, abs=2e-3)
        assert len(set(spy.seen)) == 5  # a change a step, and dense before the first

    def test_clipping_does_not_see_what_is_masked(self) -> None:
        norms = []

        class Norms(L.Callback):
            def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
                masked = pl_module.net[3].weight == 0
                norms.append(float(pl_module.net[3].weight.grad[masked].abs().sum()))

        fit(net(), MagnitudePruning(ConstantSparsity(0.9)), Norms(), gradient_clip_val=0.1)
        assert norms == [0.0] * 12

    def test_tied_weights_have_one_mask(self) -> None:
        class Tied(Net):
            def __init__(self) -> None:
                super().__init__(4, layers=[{"width": 4}])
                self.net[3].weight = self.net[0].weight

        module, pruning = Tied(), MagnitudePruning(ConstantSparsity(0.5))
        fit(module, pruning)
        assert set(pruning.masks) == {"net.0.weight", "net.6.weight"}
        assert module.net[3].weight is module.net[0].weight

    def test_a_second_fit(self) -> None:
        module, pruning = net(), MagnitudePruning(CubicSparsity(0.5), every_n_steps=1)
        fit(module, pruning)
        first = pruning.masks
        fit(module, pruning)
        assert pruning.masks == first
        assert zeros(module) == pytest.approx(0.5, abs=2e-3)
        fit(module, MagnitudePruning(ConstantSparsity(0.75)))  # of the dense module, never compounding
        assert zeros(module) == pytest.approx(0.75, abs=2e-3)

    @pytest.mark.parametrize("options", [{}, {"layers": [{"width": 8}]}])
    def test_a_second_fit_of_another_module_starts_dense(self, options: Any) -> None:
        pruning, spy = MagnitudePruning(OneShot(0.5, at=1.0)), Spy()
        fit(net(), pruning)
        fit(other := net(**options), pruning, spy)
        assert spy.seen[0] == 0.0
        assert zeros(other) == pytest.approx(0.5, abs=2e-3)

    def test_copies_of_the_callback(self) -> None:
        pruning = MagnitudePruning(ConstantSparsity(0.5))
        module = net()
        fit(module, pruning)
        for other in (copy.deepcopy(pruning), pickle.loads(pickle.dumps(pruning))):
            fit(net(), other)
            assert other.masks == pruning.masks

    def test_nothing_is_left_on_the_optimizer(self) -> None:
        trainer = fit(net(), MagnitudePruning(ConstantSparsity(0.5)))
        assert all(not optimizer._optimizer_step_post_hooks for optimizer in trainer.optimizers)


class TestAverages:
    @pytest.mark.parametrize("kind", ["ema", "mean", "swa"])
    @pytest.mark.parametrize("first", [True, False])
    def test_the_average_is_sparse(self, kind: str, first: bool, tmp_path: Path) -> None:
        average = {
            "ema": lambda: EMAWeightAveraging(decay=0.9),
            "mean": WeightAveraging,
            "swa": lambda: StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=2),
        }[kind]()
        pruning, spy = MagnitudePruning(CubicSparsity(0.8, end=0.5), every_n_steps=1), Spy()
        validated: list[float] = []

        class Validated(L.Callback):
            def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
                validated.append(zeros(pl_module))

        saved = ModelCheckpoint(tmp_path, save_last=True)
        pair = [pruning, average] if first else [average, pruning]
        module = net()
        fit(module, *pair, spy, Validated(), saved, enable_checkpointing=True, num_sanity_val_steps=0)
        assert zeros(module) == pytest.approx(0.8, abs=2e-3)
        assert validated[-1] == pytest.approx(0.8, abs=2e-3)
        state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
        weights = [state[name] for name in pruning.masks]
        assert sum(int((w == 0).sum()) for w in weights) == round(0.8 * sum(w.numel() for w in weights))


class Generators(L.Callback):
    """Saves torch's generator, as a user who wants exact resumes does."""

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["rng"] = torch.get_rng_state()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.state = checkpoint["rng"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if hasattr(self, "state"):
            torch.set_rng_state(self.state)


def callback(kind: str) -> Any:
    return {
        "magnitude": lambda: MagnitudePruning(CubicSparsity(0.8), every_n_steps=2),
        "gradient": lambda: MagnitudePruning(CubicSparsity(0.8), "layer", "gradient", every_n_steps=2),
        "random": lambda: MagnitudePruning(CubicSparsity(0.8), "erk", "random", every_n_steps=3),
        "lottery": lambda: MagnitudePruning(IterativeSparsity(0.8, 3, rewind_to=Step(2))),
        "rigl": lambda: RigL(0.5, every_n_steps=2),
        "set": lambda: SET(0.5, every_n_steps=2),
        "2:4": lambda: SemiStructuredPruning(2, 4, at=Step(5)),
    }[kind]()


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("kind", ["magnitude", "gradient", "random", "lottery", "rigl", "set", "2:4"])
@pytest.mark.parametrize("stop", [1, 4, 6, 7, 11])
def test_resume_at_any_step_is_bit_for_bit(kind: str, stop: int, tmp_path: Path) -> None:
    def train(module: Net, path: Any = None) -> Any:
        pruning = callback(kind)
        saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        options = {**QUIET, "enable_checkpointing": True, "callbacks": [Generators(), pruning, saved]}
        trainer = L.Trainer(max_epochs=4, **options)
        trainer.fit(module, same_batches(), loaders()[1], ckpt_path=path, weights_only=None if path is None else True)
        return pruning

    whole = net()
    expected = train(whole)
    resumed = net()
    again = train(resumed, tmp_path / f"step={stop}.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert again.masks == expected.masks


def test_a_checkpoint_loads_where_the_package_is_not_needed(tmp_path: Path) -> None:
    saved = ModelCheckpoint(tmp_path, save_last=True)
    module, pruning = net(), MagnitudePruning(IterativeSparsity(0.5, 2, rewind_to="init"))
    fit(module, pruning, saved, enable_checkpointing=True)
    loaded = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert "lightning_autoarch" not in repr(type(loaded["callbacks"]))
    assert zeros(Net.load_from_checkpoint(tmp_path / "last.ckpt")) == zeros(module)


class TestLottery:
    @pytest.mark.parametrize("rewind_to", ["init", Step(2)])
    def test_every_round_starts_from_the_same_weights(self, rewind_to: Any) -> None:
        starts: list[dict[str, Tensor]] = []
        wanted: dict[str, Tensor] = {}

        class Watch(L.Callback):
            def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
                if rewind_to == "init":
                    wanted.update(copy.deepcopy(dict(pl_module.named_parameters())))

            def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
                if rewind_to == Step(trainer.global_step):
                    wanted.update(copy.deepcopy(dict(pl_module.named_parameters())))
                if trainer.global_step in (3, 6, 9):
                    starts.append(copy.deepcopy(dict(pl_module.named_parameters())))

        module = net()
        fit(module, MagnitudePruning(IterativeSparsity(0.875, 3, rewind_to=rewind_to)), Watch())
        for start, sparsity in zip(starts, (0.5, 0.75, 0.875), strict=True):
            weights = {name: p for name, p in start.items() if name.endswith("weight")}
            kept = {name: p != 0 for name, p in weights.items()}
            left = sum(int(k.sum()) for k in kept.values()) / sum(k.numel() for k in kept.values())
            assert 1 - left == pytest.approx(sparsity, abs=5e-3)
            assert all(torch.equal(p[kept[name]], wanted[name][kept[name]]) for name, p in weights.items())
            assert all(torch.equal(p, wanted[name]) for name, p in start.items() if name.endswith("bias"))


class TestDynamic:
    @pytest.mark.parametrize("kind", [RigL, SET])
    def test_sparsity_is_constant_and_the_mask_moves(self, kind: Any) -> None:
        module, masks = net(), []

        class Watch(L.Callback):
            def on_train_batch_end(self, *args: Any) -> None:
                masks.append(pruning.masks)

        pruning = kind(0.5, every_n_steps=2)
        fit(module, pruning, Watch())
        assert len({sum(m.count() for m in each.values()) for each in masks}) == 1
        assert masks[0] != masks[2] != masks[4]
        assert masks[8] == masks[-1]  # from 0.75 of the fit on it stays
        assert pruning.sparsity == pytest.approx(0.5, abs=5e-3)
        assert zeros(module) >= pruning.sparsity  # what was grown last may still be 0

    def test_it_grows_where_the_gradient_is_largest(self) -> None:
        weight = nn.Parameter(torch.tensor([5.0, 4.0, 1.0, 0.0, 0.0, 0.0]))
        mask = BitMask.pack(weight != 0)
        growth = torch.tensor([9.0, 9.0, 9.0, 0.1, -0.5, 0.2])
        (after,) = exchange(MaskedWeights({"w": weight}, {"w": mask}), 0.34, [growth])
        assert after.unpack().tolist() == [True, True, False, False, True, False]


class TestSemiStructured:
    def test_every_group_of_four_has_two(self) -> None:
        module = net()
        with pytest.warns(UserWarning, match="left dense"):
            fit(odd := Odd(), SemiStructuredPruning(2, 4))
        assert (odd.net[0].weight != 0).all()
        fit(module, SemiStructuredPruning(2, 4))
        for layer in (module.net[0], module.net[3], module.net[6]):
            assert ((layer.weight != 0).view(-1, 4).sum(1) == 2).all()

    def test_a_named_target_must_fit(self) -> None:
        with pytest.raises(PruneValueError, match="multiple of 4"):
            fit(Odd(), SemiStructuredPruning(2, 4, targets="net.0"))


class Odd(Net):
    def __init__(self) -> None:
        super().__init__(16, layers=LAYERS)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, :2])


class TestTeacher:
    @pytest.mark.parametrize(
        "make",
        [
            lambda teacher: MagnitudePruning(ConstantSparsity(0.5), distill=teacher),
            lambda teacher: RigL(0.5, distill=teacher),
            lambda teacher: SemiStructuredPruning(2, 4, distill=teacher),
            lambda teacher: ChannelPruning(0.5, at=0.0, example_inputs=torch.zeros(2, 4), distill=teacher),
            lambda teacher: ChannelPruning(0.5, at=Step(4), distill=teacher),
        ],
    )
    def test_the_dense_module_helps(self, make: Any) -> None:
        module = net()
        trainer = fit(module, make(Distillation(weight=1.0)))
        assert trainer.callback_metrics["distillation_loss"] > 0  # of another function than the dense one
        assert "training_step" not in module.__dict__
        assert not any("teacher" in name for name in module.state_dict())


class TestBadInput:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: CubicSparsity(1.0), r"`final_sparsity` in \[0, 1\)"),
            (lambda: ConstantSparsity(-0.1), r"`sparsity` in \[0, 1\)"),
            (lambda: CubicSparsity(0.5, start=0.8, end=0.2), "`end` >= `start`"),
            (lambda: CubicSparsity(0.5, start=-1), "`start` to be a fraction"),
            (lambda: OneShot(0.5, at=1.5), "`at` to be a fraction"),
            (lambda: IterativeSparsity(0.5, rounds=0), "`rounds`"),
            (lambda: IterativeSparsity(0.5, rewind_to="start"), "`rewind_to`"),
            (lambda: MagnitudePruning(ConstantSparsity(0.5), "local"), "`scope`"),  # type: ignore[arg-type]
            (lambda: MagnitudePruning(ConstantSparsity(0.5), criterion="taylor"), "`criterion`"),  # type: ignore[arg-type]
            (lambda: MagnitudePruning(ConstantSparsity(0.5), "lamp", "random"), "lamp"),
            (lambda: MagnitudePruning(ConstantSparsity(0.5), every_n_steps=0), "`every_n_steps`"),
            (lambda: RigL(0.5, alpha=0), "`alpha`"),
            (lambda: SemiStructuredPruning(5, 4), "n"),
        ],
    )
    def test_arguments(self, make: Any, message: str) -> None:
        with pytest.raises(PruneValueError, match=message):
            make()

    def test_a_number_is_no_schedule(self) -> None:
        with pytest.raises(PruneTypeError, match="CubicSparsity"):
            MagnitudePruning(0.5)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("pruning", "message"),
        [
            (lambda: MagnitudePruning(ConstantSparsity(0.5), targets="head"), "matches no weight"),
            (lambda: MagnitudePruning(ConstantSparsity(0.5), exclude="head"), "matches no weight"),
            (lambda: MagnitudePruning(ConstantSparsity(0.5), {"head": 0.5}), "matches none"),
            (lambda: MagnitudePruning(ConstantSparsity(0.5), {"net.0": 1.0}), r"scope\['net.0'\]` in \[0, 1\)"),
            (lambda: MagnitudePruning(CubicSparsity(0.5, end=Step(1000))), "within the fit's 12 optimizer steps"),
            (lambda: MagnitudePruning(CubicSparsity(0.5, start=0.9, end=Step(3))), "`end` >= `start`"),
            (lambda: MagnitudePruning(IterativeSparsity(0.5, 20)), "more than 20 optimizer steps"),
        ],
    )
    def test_before_training(self, pruning: Any, message: str) -> None:
        module = net()
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(PruneValueError, match=message):
            fit(module, pruning())
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())

    def test_nan_and_frozen(self) -> None:
        module = net()
        with torch.no_grad():
            module.net[3].weight[0, 0] = torch.nan
        with pytest.raises(PruneValueError, match=r"net\.3\.weight"):
            fit(module, MagnitudePruning(ConstantSparsity(0.5)))
        module = net()
        module.net.requires_grad_(False)
        with pytest.raises(PruneValueError, match="frozen"):
            fit(module, MagnitudePruning(ConstantSparsity(0.5)))

    def test_a_checkpoint_of_another_architecture(self) -> None:
        pruning = MagnitudePruning(ConstantSparsity(0.5))
        fit(net(), pruning)
        other = MagnitudePruning(ConstantSparsity(0.5))
        other.load_state_dict(pruning.state_dict())
        with pytest.raises(PruneValueError, match="another architecture"):
            fit(net(width=8), other)
        other.load_state_dict(pruning.state_dict())
        with pytest.raises(PruneValueError, match="another architecture"):
            fit(net(layers=[*LAYERS, *LAYERS]), other)

    def test_an_endless_fit_needs_steps(self) -> None:
        with pytest.raises(PruneValueError, match="fraction of the fit"):
            fit(net(), MagnitudePruning(CubicSparsity(0.5)), max_epochs=-1, max_time={"seconds": 1})

    def test_sharded_parameters(self) -> None:
        class Trainer:
            strategy = FSDPStrategy()

        with pytest.raises(PruneValueError, match="shards them"):
            MagnitudePruning(ConstantSparsity(0.5)).setup(Trainer(), net(), "fit")  # type: ignore[arg-type]


def test_data_is_what_the_other_tests_take_it_for() -> None:
    assert len(DataLoader(samples(), batch_size=16)) == 3
