"""Penalties in real fits: held against plain loops of torch, under each way to optimize, and what is refused."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import nets
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from plain import Net, Shown, Watch, batches, fit, net, same
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_autoarch import ArchitectureSearch, Step
from lightning_autoarch.callbacks.prune.regularization import GroupLasso, L1Regularization, L2Regularization
from lightning_autoarch.core.errors import PruneTypeError, PruneValueError

KINDS = [L1Regularization, L2Regularization, GroupLasso]
STEPS = 6  # of `plain.fit`: 2 epochs of 3 batches


def matrices(module: nn.Module) -> list[Tensor]:
    return [child.weight for child in module.modules() if isinstance(child, nn.Linear)]


def hooks_of(trainer: L.Trainer) -> int:
    return sum(len(optimizer._optimizer_step_post_hooks) for optimizer in trainer.optimizers)


def shrink(kind: type, w: Tensor, amount: float) -> None:
    """The proximal step in its textbook form."""
    with torch.no_grad():
        if kind is L1Regularization:
            w.copy_(w.sign() * (w.abs() - amount).clamp(min=0))
        elif kind is L2Regularization:
            w.mul_(1 / (1 + 2 * amount))
        else:
            w.mul_((1 - amount / w.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(min=0))


def penalty(kind: type, w: Tensor) -> Tensor:
    if kind is L1Regularization:
        return w.abs().sum()
    return w.square().sum() if kind is L2Regularization else w.norm(dim=1).sum()


# What is computed.


@pytest.mark.parametrize("kind", KINDS)
def test_proximal_fit_is_the_plain_loop_of_torch(tmp_path: Path, kind: type) -> None:
    module = net()
    fit(tmp_path, module, kind(0.05))
    expected = net()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        for batch in batches():
            optimizer.zero_grad()
            expected._loss(batch).backward()
            optimizer.step()
            for w in matrices(expected):
                shrink(kind, w, 0.1 * 0.05)
    same(module, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_fit_is_the_plain_loop_of_torch_clipped_after(tmp_path: Path, kind: type) -> None:
    module = net()
    fit(tmp_path, module, kind(0.5, proximal=False), gradient_clip_val=0.5)
    expected = net()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        for batch in batches():
            optimizer.zero_grad()
            (expected._loss(batch) + 0.5 * sum(penalty(kind, w) for w in matrices(expected))).backward()
            torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
            optimizer.step()
    same(module, expected)


def test_zeros_are_real_and_their_share_is_logged(tmp_path: Path) -> None:
    module = net(lambda m: torch.optim.Adam(m.parameters(), lr=0.05))
    trainer = fit(tmp_path, module, L1Regularization(1.0), log_every_n_steps=1)
    zeros = [int((w == 0).sum()) for w in matrices(module)]
    numbers = [w.numel() for w in matrices(module)]
    assert sum(zeros) > 0
    density = trainer.callback_metrics["l1_density"]
    torch.testing.assert_close(density, torch.tensor(1 - sum(zeros) / sum(numbers)))


def test_group_lasso_removes_whole_neurons(tmp_path: Path) -> None:
    module = net()
    trainer = fit(tmp_path, module, GroupLasso(1.5, targets="net.0"), log_every_n_steps=1)
    zeros = module.net[0].weight == 0
    assert zeros.all(1).any() and torch.equal(zeros.all(1), zeros.any(1))
    assert trainer.callback_metrics["group_lasso_density"] == 1 - zeros.float().mean()


def test_group_lasso_along_another_dimension(tmp_path: Path) -> None:
    module = net()
    fit(tmp_path, module, GroupLasso(1.5, dim=1, targets="net.0"))
    zeros = module.net[0].weight == 0
    assert zeros.all(0).any() and not zeros.all()


def test_l2_is_the_decay_of_adamw_to_first_order(tmp_path: Path) -> None:
    lr, weight = 1e-4, 0.5
    module = net(lambda m: torch.optim.Adam(m.parameters(), lr=lr))
    fit(tmp_path, module, L2Regularization(weight))
    decayed = net(
        lambda m: torch.optim.AdamW(
            [
                {"params": matrices(m), "weight_decay": 2 * weight},
                {"params": [p for p in m.parameters() if p.dim() == 1], "weight_decay": 0.0},
            ],
            lr=lr,
        )
    )
    fit(tmp_path, decayed)
    for x, y in zip(module.parameters(), decayed.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5)


# Which weights, how strongly, and when.


def test_each_group_has_its_own_learning_rate(tmp_path: Path) -> None:
    def configure(m: Net) -> Any:
        groups = [{"params": m.net[0].parameters(), "lr": 0.5}, {"params": m.net[2].parameters()}]
        return torch.optim.SGD(groups, lr=0.0)

    module = net(configure)
    last = module.net[2].weight.clone()
    fit(tmp_path, module, L1Regularization(10.0))
    assert not module.net[0].weight.any()
    assert torch.equal(module.net[2].weight, last)  # a learning rate of 0


def test_scheduled_and_tensor_learning_rates(tmp_path: Path) -> None:
    def configure(m: Net) -> Any:
        optimizer = torch.optim.Adam(m.parameters(), lr=torch.tensor(0.1))
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0 - epoch)]

    module, seen = net(configure), []
    fit(tmp_path, module, L1Regularization(3.0), Watch(lambda t, m: seen.append(matrices(m)[0].clone())))
    assert not seen[1].any()
    assert torch.equal(seen[3], seen[5])  # of the second epoch, whose learning rate is 0


def test_weights_by_pattern(tmp_path: Path) -> None:
    module = net()
    fit(tmp_path, module, L1Regularization({"net.0": 100.0, "net.2": 0.0}))
    assert not module.net[0].weight.any() and module.net[2].weight.all()


def test_what_no_pattern_of_the_weight_matches_is_left(tmp_path: Path) -> None:
    module, plain = net(), net()
    fit(tmp_path, module, L1Regularization({"net.0": 100.0}, targets=["net.0.*", "net.2"], exclude="net.0.bias"))
    fit(tmp_path, plain, L1Regularization({"net.0.weight": 100.0}))
    same(module, plain)


def test_a_named_bias_is_penalised(tmp_path: Path) -> None:
    module = net()
    fit(tmp_path, module, L1Regularization(100.0, targets="net.0.bias"))
    assert not module.net[0].bias.any() and module.net[0].weight.all()


def ramped(tmp_path: Path, ramp: Any, **options: Any) -> list[float]:
    """The penalty's factor at each step: with lr 1 and no gradient |w| falls by it."""

    class Still(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return 0 * self._loss(batch)

    module = Still(lambda m: torch.optim.SGD(m.parameters(), lr=1.0))
    with torch.no_grad():
        module.net[0].weight.fill_(100.0)
    seen = [100.0]
    look = Watch(lambda t, m: seen.append(float(m.net[0].weight.detach().mean())))
    fit(tmp_path, module, L1Regularization(1.0, targets="net.0", ramp=ramp), look, **options)
    return [round(a - b, 4) for a, b in itertools.pairwise(seen)]


def test_ramps(tmp_path: Path) -> None:
    assert ramped(tmp_path, None) == [1.0] * STEPS
    assert ramped(tmp_path, (Step(1), Step(5))) == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0]
    assert ramped(tmp_path, (0.0, 0.5)) == [0.0, 0.3333, 0.6667, 1.0, 1.0, 1.0]
    assert ramped(tmp_path, (0.5, 0.5)) == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert ramped(tmp_path, (0.0, 1.0), max_epochs=-1, max_steps=4) == [0.0, 0.25, 0.5, 0.75]


def test_ramp_counts_steps_when_gradients_accumulate(tmp_path: Path) -> None:
    falls = ramped(tmp_path, (0, Step(2)), max_epochs=2, accumulate_grad_batches=3)
    assert falls == [0.0, 0.0, 0.0, 0.0, 0.0, 0.5]


@pytest.mark.parametrize("kind", KINDS)
def test_tied_weights_are_penalised_once(tmp_path: Path, kind: type) -> None:
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__(lambda m: torch.optim.SGD(m.parameters(), lr=1.0))
            self.net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 1))
            self.net[1].weight = self.net[0].weight

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return 0 * self._loss(batch)

    module = Tied()
    expected = module.net[0].weight.detach().clone()
    shrink(kind, expected, 0.01)
    fit(tmp_path, module, kind(0.01), max_epochs=1, limit_train_batches=1)
    torch.testing.assert_close(module.net[1].weight.detach(), expected)


# Every way to optimize.


def test_accumulated_gradients_shrink_once_a_step(tmp_path: Path) -> None:
    module = net(lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    fit(tmp_path, module, L1Regularization(0.5), accumulate_grad_batches=3)
    expected = net()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        for batch in batches():
            (expected._loss(batch) / 3).backward()
        optimizer.step()
        for w in matrices(expected):
            shrink(L1Regularization, w, 0.1 * 0.5)
    same(module, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_closures(tmp_path: Path, kind: type) -> None:
    """In double precision: LBFGS divides by differences of gradients, which makes much of a sum's last bit."""
    module = net(lambda m: torch.optim.LBFGS(m.parameters(), lr=0.1, max_iter=3))
    fit(tmp_path, module, kind(0.5), precision="64-true")
    expected = net().double()
    optimizer = torch.optim.LBFGS(expected.parameters(), lr=0.1, max_iter=3)
    for _ in range(2):
        for batch in ([part.double() for part in batch] for batch in batches()):

            def closure(batch: Any = batch) -> Tensor:
                optimizer.zero_grad()
                loss = expected._loss(batch)
                loss.backward()
                return loss

            optimizer.step(closure)
            for w in matrices(expected):
                shrink(kind, w, 0.1 * 0.5)
    same(module, expected)


class Manual(Net):
    """Two optimizers, of which each trains one layer, every other batch."""

    automatic_optimization = False

    def __init__(self, wrapped: bool = True) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[i].parameters(), lr=lr) for i, lr in ((0, 0.1), (2, 0.2))]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=self.wrapped)[batch_idx % 2]
        optimizer.zero_grad()
        self.manual_backward(self._loss(batch))
        optimizer.step()


@pytest.mark.parametrize("wrapped", [True, False])
def test_manual_optimization_shrinks_what_stepped(tmp_path: Path, wrapped: bool) -> None:
    torch.manual_seed(0)
    module = Manual(wrapped)
    fit(tmp_path, module, L1Regularization(0.5))
    expected = net()
    optimizers = [torch.optim.SGD(expected.net[i].parameters(), lr=lr) for i, lr in ((0, 0.1), (2, 0.2))]
    for _ in range(2):
        for i, batch in enumerate(batches()):
            optimizers[i % 2].zero_grad()
            expected._loss(batch).backward()
            optimizers[i % 2].step()
            shrink(L1Regularization, matrices(expected)[i % 2], (0.1, 0.2)[i % 2] * 0.5)
    same(module, expected)


def test_manual_optimization_with_gradients(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Manual()
    fit(tmp_path, module, L1Regularization(0.5, proximal=False))
    expected = net()
    optimizers = [torch.optim.SGD(expected.net[i].parameters(), lr=lr) for i, lr in ((0, 0.1), (2, 0.2))]
    for _ in range(2):
        for i, batch in enumerate(batches()):
            optimizers[i % 2].zero_grad()
            (expected._loss(batch) + 0.5 * sum(w.abs().sum() for w in matrices(expected))).backward()
            optimizers[i % 2].step()
    same(module, expected)


class Skips(Net):
    """Returns no loss."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("proximal", [True, False])
def test_a_step_without_gradients_changes_nothing(tmp_path: Path, proximal: bool) -> None:
    module = Skips()
    before = copy.deepcopy(module.net)
    fit(tmp_path, module, L1Regularization(1.0, proximal=proximal))
    same(module.net, before)


def mixed(scale: float) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10_000))


SCALED = [
    lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
    lambda m: torch.optim.SGD(m.parameters(), lr=0.1, fused=True),
    lambda m: torch.optim.Adam(m.parameters(), lr=0.1, fused=True),
    lambda m: torch.optim.AdamW(m.parameters(), lr=0.1, fused=True, weight_decay=0.0),
]


@pytest.mark.parametrize("proximal", [True, False])
@pytest.mark.parametrize("configure", SCALED)
def test_a_step_that_the_scaler_skips_changes_nothing(tmp_path: Path, configure: Any, proximal: bool) -> None:
    module = net(configure)
    before = copy.deepcopy(module.net)
    trainer = fit(tmp_path, module, L1Regularization(1.0, proximal=proximal), plugins=mixed(2.0**120))
    same(module.net, before)
    assert trainer.global_step == STEPS and trainer.precision_plugin.scaler.get_scale() < 2.0**120


@pytest.mark.parametrize("configure", SCALED)
def test_steps_that_the_scaler_lets_through_shrink(tmp_path: Path, configure: Any) -> None:
    module = net(configure)
    fit(tmp_path, module, L1Regularization(100.0), plugins=mixed(4.0))
    assert not any(w.any() for w in matrices(module))


@pytest.mark.parametrize("fused", [False, True])
def test_gradient_of_the_penalty_has_the_scale_of_the_others(tmp_path: Path, fused: bool) -> None:
    """A fused optimizer divides by the scale in its step, when the penalty's gradient is in already."""
    modules = []
    for scale in (1.0, 256.0):
        modules.append(net(lambda m: torch.optim.SGD(m.parameters(), lr=0.1, fused=fused)))
        fit(tmp_path, modules[-1], L1Regularization(0.5, proximal=False), plugins=mixed(scale))
    for a, b in zip(*[m.parameters() for m in modules], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("kind", KINDS)
def test_precisions(tmp_path: Path, precision: Any, kind: type) -> None:
    module = net(lambda m: torch.optim.SGD(m.parameters(), lr=1.0))
    fit(tmp_path, module, kind(1e4), precision=precision)
    assert all(w.abs().max() < 0.01 for w in matrices(module))


def test_parameters_of_several_dtypes(tmp_path: Path) -> None:
    class Mixed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1).double())

        def forward(self, x: Tensor) -> Tensor:
            return self.net[1](self.net[0](x).double()).float()

    module = Mixed()
    trainer = fit(tmp_path, module, L1Regularization(100.0), log_every_n_steps=1)
    assert not any(w.any() for w in matrices(module))
    assert trainer.callback_metrics["l1_density"] == 0


def test_sparse_gradients(tmp_path: Path) -> None:
    class Lookup(Net):
        def __init__(self) -> None:
            super().__init__(lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
            self.net = nn.Embedding(8, 1, sparse=True)

        def _loss(self, batch: Any) -> Tensor:
            return self.net(batch[0].long().clamp(0, 7)).mean(1).square().mean()

    module = Lookup()
    fit(tmp_path, module, L1Regularization(100.0))
    assert not module.net.weight.any()
    with pytest.raises(PruneValueError, match=r"`net\.weight` is sparse.*proximal=True"):
        fit(tmp_path, Lookup(), L1Regularization(100.0, proximal=False))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_submodules(tmp_path: Path) -> None:
    module, plain = net(), net()
    module.net = torch.compile(module.net, backend="eager")
    fit(tmp_path, module, L1Regularization({"net.0": 0.5}))
    fit(tmp_path, plain, L1Regularization({"net.0": 0.5}))
    for a, b in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


# What is logged.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("proximal", [True, False])
def test_penalty_is_logged_beside_the_loss(tmp_path: Path, kind: type, proximal: bool) -> None:
    key = {L1Regularization: "l1", L2Regularization: "l2", GroupLasso: "group_lasso"}[kind]
    shown, expected = Shown(), {}

    def look(trainer: L.Trainer, module: Any) -> None:
        expected[trainer.global_step - 1] = 0.5 * sum(penalty(kind, w).item() for w in matrices(module))

    fit(tmp_path, net(), kind(0.5, proximal=proximal), Watch(look), logger=shown, log_every_n_steps=2)
    seen = shown.of(f"{key}_penalty")
    assert seen == pytest.approx({step: expected[step] for step in (1, 3, 5)})
    assert bool(shown.of(f"{key}_density")) == (proximal and kind is not L2Regularization)


def test_the_users_loss_stays_theirs(tmp_path: Path) -> None:
    class Loss(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = self._loss(batch)
            self.log("loss", loss)
            return loss

    seen: list[Any] = []
    for callbacks in ([], [L1Regularization(0.5)], [L1Regularization(0.5, proximal=False)]):
        torch.manual_seed(0)
        shown = Shown()
        fit(tmp_path, Loss(), *callbacks, logger=shown, log_every_n_steps=1)
        seen.append(shown.of("loss")[0])
    assert seen[0] == seen[1] == seen[2]


def test_a_second_callback_of_a_kind_logs_under_its_own_name(tmp_path: Path) -> None:
    callbacks = [L1Regularization(0.5, targets="net.0"), L1Regularization(0.0, targets="net.2")]
    trainer = fit(tmp_path, net(), *callbacks, log_every_n_steps=1)
    assert trainer.callback_metrics["l1_penalty"] > 0
    assert trainer.callback_metrics["l1_penalty_2"] == 0


def test_ramp_is_in_the_logged_value(tmp_path: Path) -> None:
    shown = Shown()
    fit(tmp_path, net(), L1Regularization(0.5, ramp=(Step(100), Step(200))), logger=shown, log_every_n_steps=1)
    assert set(shown.of("l1_penalty").values()) == {0.0}


# A fit begins, ends, breaks off, goes on.


def test_hooks_are_there_while_it_trains_only(tmp_path: Path) -> None:
    counts: list[int] = []
    look = Watch(lambda trainer, module: counts.append(hooks_of(trainer)))
    trainer = fit(
        tmp_path, net(), L1Regularization(0.5), L2Regularization(0.5), L1Regularization(1, proximal=False), look
    )
    assert counts == [2] * STEPS
    assert hooks_of(trainer) == 0


def test_hooks_are_gone_after_an_exception(tmp_path: Path) -> None:
    def fail(trainer: L.Trainer, module: Any) -> None:
        raise ZeroDivisionError

    trainer = nets.trainer(tmp_path, L1Regularization(0.5), Watch(fail))
    with pytest.raises(ZeroDivisionError):
        trainer.fit(net(), batches())
    assert trainer.optimizers and hooks_of(trainer) == 0


def test_second_fit_with_new_optimizers_and_another_module(tmp_path: Path) -> None:
    callback, trainer = L1Regularization(0.5), None
    for module, expected in ((net(), net()), (Net(width=7), None)):
        expected = expected or copy.deepcopy(module)
        trainer = nets.trainer(tmp_path, callback)
        trainer.fit(module, batches())
        fit(tmp_path, expected, L1Regularization(0.5))
        same(module, expected)
    assert trainer is not None and hooks_of(trainer) == 0


def test_same_trainer_goes_on(tmp_path: Path) -> None:
    module, expected = net(), net()
    trainer = fit(tmp_path, module, L1Regularization(0.5), max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, batches())
    fit(tmp_path, expected, L1Regularization(0.5), max_epochs=2)
    same(module, expected)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("ramp", [(Step(1), Step(6)), (0.1, 1), None])
def test_resumed_in_the_middle_of_a_ramp(tmp_path: Path, ramp: Any) -> None:
    whole, resumed = net(), net()

    def trainer_of() -> L.Trainer:
        every = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        return nets.trainer(tmp_path, L1Regularization(0.5, ramp=ramp), every, enable_checkpointing=True)

    trainer_of().fit(whole, batches())
    trainer = trainer_of()
    trainer.fit(resumed, batches(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert trainer.global_step == STEPS
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_nothing_of_it_is_in_the_checkpoint(tmp_path: Path) -> None:
    trainer = fit(tmp_path, net(), L1Regularization(0.5))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert torch.load(tmp_path / "x.ckpt", weights_only=True)["callbacks"] == {}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_a_running_callback_know_no_fit(tmp_path: Path, copied: Any) -> None:
    callback, copies = L1Regularization(0.5, ramp=(0, Step(3))), []
    fit(tmp_path, net(), callback, Watch(lambda t, m: copies.append(copied(callback))))
    module, expected = net(), net()
    fit(tmp_path, module, copies[0])
    fit(tmp_path, expected, L1Regularization(0.5, ramp=(0, Step(3))))
    same(module, expected)


def test_a_copied_module_has_no_trace(tmp_path: Path) -> None:
    module = net()
    fit(tmp_path, module, L1Regularization(0.5))
    fit(tmp_path, other := net())
    assert set(module.__dict__) == set(other.__dict__) and set(module.state_dict()) == set(other.state_dict())
    pickle.dumps(copy.deepcopy(module))


def test_module_that_a_search_rebuilds(tmp_path: Path) -> None:
    search = ArchitectureSearch(
        {"width": [3, 5]}, monitor="val_loss", n_trials=2, sampler="random", trial={"trainer": {"max_epochs": 1}}
    )
    module = nets.Net(width=9, dropout=0.0, lr=0.1)
    trainer = nets.trainer(tmp_path, search, L1Regularization(100.0))
    trainer.fit(module, *nets.loaders())
    assert module.net[0].out_features in (3, 5)
    assert not any(w.any() for w in matrices(module))


@pytest.mark.parametrize("first", [True, False])
def test_beside_a_learning_rate_finder(tmp_path: Path, first: bool) -> None:
    class Rate(Net):
        lr = 0.1

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    torch.manual_seed(0)
    module = Rate()
    callbacks = [L1Regularization(1e6), LearningRateFinder(num_training_steps=5, early_stop_threshold=None)]
    fit(tmp_path, module, *callbacks[:: 1 if first else -1])
    assert not any(w.any() for w in matrices(module))


def test_an_optimizer_that_is_made_between_epochs(tmp_path: Path) -> None:
    class Anew(L.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.strategy.setup_optimizers(trainer)

    module, expected = net(), net()
    fit(tmp_path, module, Anew(), L1Regularization(0.5))
    fit(tmp_path, expected, L1Regularization(0.5))
    same(module, expected)


def test_other_stages_do_nothing(tmp_path: Path) -> None:
    module = net()
    before = copy.deepcopy(module.net)
    trainer = nets.trainer(tmp_path, L1Regularization(0.5))
    trainer.predict(module, DataLoader(torch.zeros(2, 4)))
    same(module.net, before)


# What is refused, before a weight has changed.


def refused(tmp_path: Path, callback: L.Callback, message: str, module: Net | None = None, **options: Any) -> None:
    module = module or net()
    before = copy.deepcopy(module.net)
    with pytest.raises(PruneValueError, match=message):
        fit(tmp_path, module, callback, **options)
    same(module.net, before)


def test_refuses_patterns_without_a_match(tmp_path: Path) -> None:
    refused(tmp_path, L1Regularization(0.5, targets="nett"), "`nett` of `targets`.*Did you mean")
    refused(tmp_path, L1Regularization(0.5, exclude="head"), "`head` of `exclude`")
    refused(tmp_path, L1Regularization({"head": 1.0}), "`head` of `weight`")


def test_frozen_weights(tmp_path: Path) -> None:
    module = net()
    module.net[0].requires_grad_(False)
    first = module.net[0].weight.clone()
    refused(tmp_path, L1Regularization(0.5, targets="net.0"), "does not require a gradient", module)
    fit(tmp_path, module, L1Regularization(100.0))
    assert torch.equal(module.net[0].weight, first) and not module.net[2].weight.any()


def test_refuses_a_parameter_in_no_optimizer(tmp_path: Path) -> None:
    def configure(m: Net) -> Any:
        return torch.optim.SGD(m.net[0].parameters(), lr=0.1)

    for proximal in (True, False):
        refused(
            tmp_path, L1Regularization(0.5, proximal=proximal), r"`net\.2\.weight` is in no.*exclude", net(configure)
        )
    fit(tmp_path, net(configure), L1Regularization(0.5, exclude="net.2"))


def test_refuses_an_optimizer_without_a_learning_rate(tmp_path: Path) -> None:
    class Rateless(torch.optim.Optimizer):
        def __init__(self, params: Iterator[Any]) -> None:
            super().__init__(params, {})

        def step(self, closure: Any = None) -> Any:
            return closure() if closure else None

    module = net(lambda m: Rateless(m.parameters()))
    refused(tmp_path, L1Regularization(0.5), "no `lr`.*proximal=False", module)
    fit(tmp_path, module, L1Regularization(0.5, proximal=False))


def test_refuses_a_line_search_that_cannot_see_the_penalty(tmp_path: Path) -> None:
    def configure(m: Net) -> Any:
        return torch.optim.LBFGS(m.parameters(), line_search_fn="strong_wolfe")

    refused(tmp_path, L1Regularization(0.5, proximal=False), "line search.*proximal=True", net(configure))


def test_refuses_a_dimension_that_a_target_has_not(tmp_path: Path) -> None:
    refused(tmp_path, GroupLasso(0.5, dim=2), r"`dim`.*got 2 for `net\.0\.weight`")


def test_refuses_fractions_of_an_endless_fit(tmp_path: Path) -> None:
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.should_stop = True

    refused(tmp_path, L1Regularization(0.5, ramp=(0.0, 0.5)), "neither `max_epochs`.*as Step\\(n\\)", max_epochs=-1)
    trainer = nets.trainer(tmp_path, L1Regularization(0.5, ramp=(0, Step(5))), Stop(), max_epochs=-1)
    trainer.fit(net(), batches())


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy])
@pytest.mark.parametrize("kind", KINDS)
def test_refuses_strategies_that_shard(strategy: type, kind: type) -> None:
    trainer: Any = SimpleNamespace(strategy=object.__new__(strategy))
    with pytest.raises(PruneValueError, match=rf"{kind.__name__} needs whole parameters.*{strategy.__name__}.*ddp"):
        kind(0.5).setup(trainer, net(), "fit")
    kind(0.5).setup(trainer, net(), "validate")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), {"net": -1.0}, {}])
def test_refuses_weights(kind: type, weight: Any) -> None:
    with pytest.raises(PruneValueError, match="weight"):
        kind(weight)


@pytest.mark.parametrize(
    "options",
    [
        {"weight": "1"},
        {"weight": {"a": None}},
        {"weight": True},
        {"weight": 1.0, "proximal": 1},
        {"weight": 1.0, "ramp": 0.5},
        {"weight": 1.0, "ramp": (0, 1, 2)},
        {"weight": 1.0, "ramp": (0.5, Step(1))},
    ],
)
def test_refuses_kinds_of_arguments(options: Any) -> None:
    with pytest.raises(PruneTypeError):
        L1Regularization(**options)


def test_refuses_dimensions_that_are_none() -> None:
    with pytest.raises(PruneTypeError, match="dim"):
        GroupLasso(1.0, dim=0.5)  # type: ignore[arg-type]
