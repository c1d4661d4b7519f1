"""Masks hold under optimizers that wrap another, are stepped by hand, or write to weights by themselves."""

from __future__ import annotations

import copy
import logging
from typing import Any

import lightning as L
import pytest
import torch
from nets import Net, loaders
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import Optimizer

from lightning_autoarch.callbacks.optimizer_steps import StepHooks
from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.callbacks.prune.dynamic import RigL
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.prune.mask_holding import clear_state_, with_inner, writes_in_step_only
from lightning_autoarch.callbacks.prune.regularization import L1Regularization
from lightning_autoarch.callbacks.prune.semi_structured import SemiStructuredPruning
from lightning_autoarch.core.errors import AutoArchError, PruneValueError
from lightning_autoarch.prune import BitMask
from lightning_autoarch.prune.masked import MaskedWeights
from lightning_autoarch.prune.schedule import ConstantSparsity, CubicSparsity, OneShot, Step

QUIET: dict[str, Any] = {
    "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    "accelerator": "cpu", "devices": 1, "max_epochs": 2,
}  # fmt: skip
TARGETS = 4 * 16 + 16 * 16 + 16 * 1


def fit(module: L.LightningModule, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    trainer = L.Trainer(**{**QUIET, "callbacks": list(callbacks), **options})
    trainer.fit(module, *loaders(shuffle=False))
    return trainer


def zeros(module: nn.Module) -> int:
    return sum(int((m.weight == 0).sum()) for m in module.modules() if isinstance(m, nn.Linear))


class Counting(Net):
    """Counts zeros in every forward pass and at the end of every step, where masks must hold as well."""

    make: Any
    by_hand: Any
    seen: list[int]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.by_hand is None:
            self.seen.append(zeros(self))
            return self._loss(batch)

        def backward() -> None:
            self.seen.append(zeros(self))
            self.optimizers().zero_grad()  # type: ignore[union-attr]
            self.manual_backward(self._loss(batch))

        self.by_hand(self.optimizers(), backward)
        self.seen.append(zeros(self))
        return None

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


def counting(make: Any, by_hand: Any = None, kind: type[Counting] = Counting) -> Counting:
    torch.manual_seed(0)
    module = kind(16, layers=[{"width": 16}], dropout=0.0)
    module.make, module.by_hand, module.seen = make, by_hand, []
    module.automatic_optimization = by_hand is None
    return module


class Lookahead(Optimizer):
    """Without `Optimizer.__init__`, as many are written; it writes to the weights after the inner step."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner, self.param_groups, self.defaults, self.state = inner, inner.param_groups, {}, {}
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    def step(self, closure: Any = None) -> Any:
        loss = self.inner.step(closure)
        with torch.no_grad():
            for slow, p in zip(self.slow, (p for g in self.param_groups for p in g["params"]), strict=True):
                p.copy_(slow.lerp_(p, 0.5))
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)


class Sharpness(Optimizer):
    """Sharpness-aware minimisation; it steps another optimizer, or has a momentum of its own."""

    def __init__(self, params: Any, wraps: bool) -> None:
        super().__init__(params, {"lr": 0.05})
        self.base = torch.optim.SGD(self.param_groups, momentum=0.9) if wraps else None

    def each(self) -> Any:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def first_step(self) -> None:
        for p in self.each():
            self.state[p]["before"] = p.detach().clone()
            p.data.add_(p.grad, alpha=0.05)

    @torch.no_grad()
    def second_step(self) -> None:
        for p in self.each():
            p.data.copy_(self.state[p]["before"])
            if self.base is None:
                p.data.add_(
                    self.state[p].setdefault("momentum", torch.zeros_like(p)).mul_(0.9).add_(p.grad), alpha=-0.1
                )
        if self.base is not None:
            self.base.step()

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()
        return loss


def twice(optimizer: Any, backward: Any) -> None:
    for step in (optimizer.first_step, optimizer.second_step):
        backward()
        step()


def adam(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, lr=0.1)


class TestSharpness:
    @pytest.mark.parametrize("wraps", [True, False])
    @pytest.mark.parametrize("by_hand", [twice, None])
    def test_zeros_stay_in_both_passes(self, wraps: bool, by_hand: Any) -> None:
        module = counting(lambda parameters: Sharpness(parameters, wraps), by_hand)
        fit(module, MagnitudePruning(ConstantSparsity(0.8)))
        assert set(module.seen) == {round(0.8 * TARGETS)}

    def test_what_it_remembers_of_before_does_not_come_back(self) -> None:
        module = counting(lambda parameters: Sharpness(parameters, wraps=False))
        fit(module, MagnitudePruning(OneShot(0.8, at=Step(2))))
        assert module.seen[-8:] == [round(0.8 * TARGETS)] * 8

    def test_a_growing_mask_still_sees_dense_gradients(self) -> None:
        module, pruning = counting(lambda parameters: Sharpness(parameters, True)), RigL(0.8, every_n_steps=2)
        start: list[Any] = []

        class Watch(L.Callback):
            def on_train_start(self, *args: Any) -> None:
                start.append(pruning.masks)

        fit(module, pruning, Watch())
        assert pruning.masks != start[0]

    @pytest.mark.parametrize("pruning", [lambda: MagnitudePruning(CubicSparsity(0.8)), lambda: RigL(0.8)])
    def test_a_schedule_that_cannot_count_the_steps(self, pruning: Any) -> None:
        module = counting(lambda parameters: Sharpness(parameters, wraps=True), twice)
        with pytest.raises(PruneValueError, match=r"`trainer\.global_step` stayed at 0: the schedule"):
            fit(module, pruning())
        assert len(module.seen) == 3  # in the first batch


def test_weights_that_come_back_by_other_means_are_an_error() -> None:
    def by_hand(optimizer: Any, backward: Any) -> None:
        backward()
        for p in optimizer.param_groups[0]["params"]:
            p.data.add_(0.1)

    module = counting(adam, by_hand)
    with pytest.raises(
        PruneValueError, match=r"`net\.0\.weight`, .* no longer 0 .* `step\(\)` of AdamW was not called"
    ):
        fit(module, MagnitudePruning(ConstantSparsity(0.8)))


def test_gradients_that_are_accumulated_by_hand() -> None:
    def by_hand(optimizer: Any, backward: Any) -> None:
        backward()
        if module.trainer.global_step < 2:
            optimizer.step()

    module = counting(adam, by_hand)
    fit(module, MagnitudePruning(ConstantSparsity(0.8)))
    assert set(module.seen) == {round(0.8 * TARGETS)}


class TestWrappers:
    def test_one_without_hooks(self) -> None:
        module = counting(lambda parameters: Lookahead(torch.optim.SGD(parameters, lr=0.1, momentum=0.9)))
        trainer = fit(module, MagnitudePruning(OneShot(0.8, at=Step(2))))
        assert module.seen == [0, 0, *[round(0.8 * TARGETS)] * 4]
        optimizer: Any = trainer.optimizers[0]
        assert "step" not in vars(optimizer) and not optimizer.inner._optimizer_step_post_hooks

    def test_penalties_follow_its_steps(self) -> None:
        module = counting(lambda parameters: Lookahead(torch.optim.SGD(parameters, lr=0.1)))
        fit(module, L1Regularization(1.0), max_epochs=1)
        assert module.seen[-1] > 0

    def test_a_scheduler_that_comes_later(self) -> None:
        optimizer, calls = Lookahead(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)), []
        hooks = StepHooks(calls.append)
        hooks.attach([optimizer])
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        optimizer.step()
        assert calls == [optimizer]
        hooks.remove()
        optimizer.step()
        assert calls == [optimizer]

    def test_what_is_found_inside(self) -> None:
        weight = nn.Parameter(torch.ones(2))
        first, second = torch.optim.SGD([weight], lr=0.1), torch.optim.AdamW([weight])
        outer = Lookahead(first)
        outer.more = {"a": [second], "b": outer}  # type: ignore[attr-defined]
        assert with_inner([outer, first]) == [outer, first]  # deeper containers are not looked into
        outer.more = [second, outer]  # type: ignore[attr-defined]
        assert set(map(id, with_inner([outer]))) == set(map(id, (outer, first, second)))
        assert [writes_in_step_only(each) for each in (outer, first, second)] == [False, True, True]
        assert not writes_in_step_only(torch.optim.LBFGS([weight]))

    def test_state_is_cleared_where_it_has_the_shape(self) -> None:
        weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        optimizer.state[weight] = {
            "z": torch.tensor([3.0, 4.0]), "step": torch.tensor(5.0), "codes": torch.ones(2, dtype=torch.uint8),
        }  # fmt: skip
        clear_state_([optimizer], MaskedWeights({"w": weight}, {"w": BitMask.pack(torch.tensor([False, True]))}))
        state = optimizer.state[weight]
        assert state["z"].tolist() == [0, 4] and state["step"] == 5 and state["codes"].tolist() == [1, 1]


class Averaging(torch.optim.SGD):
    """As schedule-free optimizers do: evaluation takes other weights, which follow the gradients alone."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        before = {p: p.detach().clone() for p in self.param_groups[0]["params"]}
        loss = super().step(closure)
        for p, was in before.items():
            self.state[p].setdefault("z", was).add_(p.detach() - was, alpha=2.0)
        return loss

    def swap(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.data, self.state[p]["z"] = self.state[p]["z"], p.data


def test_weights_that_are_swapped_for_validation_are_sparse() -> None:
    class Swapping(Counting):
        def on_validation_epoch_start(self) -> None:
            self.trainer.optimizers[0].swap()  # type: ignore[attr-defined]
            validated.append(zeros(self))

        def on_validation_epoch_end(self) -> None:
            self.trainer.optimizers[0].swap()  # type: ignore[attr-defined]

    validated: list[int] = []
    module = counting(lambda parameters: Averaging(parameters, lr=0.1), kind=Swapping)
    fit(module, MagnitudePruning(OneShot(0.8, at=Step(2))), num_sanity_val_steps=0)
    assert validated == [round(0.8 * TARGETS)] * 2


class TestReparametrised:
    def test_the_fit_of_a_net_with_norms(self) -> None:
        module = counting(adam)
        parametrizations.weight_norm(module.net[0])
        parametrizations.spectral_norm(module.net[3])
        pruning = MagnitudePruning(ConstantSparsity(0.7))
        trainer = fit(module, pruning)
        assert list(pruning.masks) == [
            "net.0.parametrizations.weight.original1", "net.3.parametrizations.weight.original", "net.6.weight",
        ]  # fmt: skip
        module.eval()
        assert module.net[0].weight.isfinite().all()
        assert zeros(module) == round(0.7 * TARGETS) == round(pruning.sparsity * TARGETS)
        everything = sum(p.numel() for p in module.parameters())
        assert pruning.model_sparsity == round(0.7 * TARGETS) / everything
        assert trainer.callback_metrics["model_sparsity"] == pytest.approx(pruning.model_sparsity)

    def test_the_exchange_of_weights_under_a_norm(self) -> None:
        module = counting(adam)
        parametrizations.weight_norm(module.net[3])
        fit(module, RigL(0.8, every_n_steps=1))
        assert module.net[3].weight.isfinite().all()

    def test_what_is_left_dense_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        module = counting(adam)
        parametrizations.orthogonal(module.net[3])
        module.table = nn.Parameter(torch.ones(3, 4))
        with (
            caplog.at_level(logging.INFO, "lightning.pytorch"),
            pytest.warns(UserWarning, match=r"`net\.3\.weight` is left dense, .*: the parametrisation Orthogonal"),
        ):
            fit(module, pruning := MagnitudePruning(ConstantSparsity(0.5)))
        assert list(pruning.masks) == ["net.0.weight", "net.6.weight"]
        assert sum("no targets by default: `table`" in message for message in caplog.messages) == 1

    def test_a_sparsity_that_a_norm_does_not_allow_is_said(self) -> None:
        module = counting(adam)
        parametrizations.weight_norm(module.net[0])  # rows of 4
        with pytest.warns(UserWarning, match="each slice of which a weight norm is taken keeps its largest weight"):
            fit(module, pruning := MagnitudePruning(ConstantSparsity(0.9), targets="net.0"))
        assert pruning.sparsity == 0.75

    def test_penalties_leave_out_what_is_normalised(self) -> None:
        module = counting(adam)
        parametrizations.weight_norm(module.net[0])
        with pytest.warns(UserWarning, match=r"No penalty on `net\.0\.parametrizations\.weight\.original1`"):
            fit(module, L1Regularization(0.1))
        with pytest.raises(PruneValueError, match="of which the size has no effect"):
            fit(module, L1Regularization(0.1, targets="net.0"))


class TestFloor:
    @pytest.mark.parametrize(("floor", "kept"), [(0.1, round(0.1 * 0.2 * 256)), (0.0, 0)])
    def test_a_layer_of_small_weights(self, floor: float, kept: int) -> None:
        module = counting(lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        with torch.no_grad():
            module.net[3].weight.mul_(1e-3)
        pruning = MagnitudePruning(ConstantSparsity(0.8), floor=floor)
        if kept:
            fit(module, pruning)
        else:
            with pytest.warns(UserWarning, match=r"pruned every weight of `net\.3\.weight`: their output no longer"):
                fit(module, pruning)
        assert pruning.masks["net.3.weight"].count() == kept
        assert sum(mask.count() for mask in pruning.masks.values()) == TARGETS - round(0.8 * TARGETS)

    @pytest.mark.parametrize("floor", [-0.1, 1.5])
    def test_its_range(self, floor: float) -> None:
        with pytest.raises(PruneValueError, match=r"`floor` in \[0, 1\]"):
            MagnitudePruning(ConstantSparsity(0.8), floor=floor)


class TestTwoCallbacks:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: MagnitudePruning(ConstantSparsity(0.5)),
            lambda: RigL(0.5),
            SemiStructuredPruning,
            lambda: ChannelPruning(0.5, name="twice"),
        ],
    )
    def test_that_a_checkpoint_cannot_tell_apart(self, make: Any) -> None:
        with pytest.raises(AutoArchError, match=r"Expected one \w+ in a Trainer, .* got 2 with the key 'lightning"):
            L.Trainer(**{**QUIET, "callbacks": [make(), make()]})

    def test_that_mask_the_same_weights(self) -> None:
        module = counting(adam)
        before = copy.deepcopy(module.state_dict())
        pair = MagnitudePruning(ConstantSparsity(0.5), targets="net.3"), RigL(0.5)
        with pytest.raises(
            PruneValueError, match=r"MagnitudePruning and RigL of one Trainer both mask `net\.3\.weight`"
        ):
            fit(module, *pair)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())

    def test_with_names_and_targets_of_their_own(self) -> None:
        module = counting(adam)
        pair = [
            MagnitudePruning(ConstantSparsity(0.5), targets=f"net.{i}", name=name) for i, name in ((0, "a"), (3, "b"))
        ]
        metrics = fit(module, *pair).callback_metrics
        assert pair[0].sparsity == pair[1].sparsity == metrics["a/sparsity"] == 0.5
        assert metrics["b/model_sparsity"] == pytest.approx(pair[1].model_sparsity)
