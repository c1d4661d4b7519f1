"""Distillation in real fits: held against a plain loop, every kind of teacher and step, and that no trace is left."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import nets
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy
from plain import Net, Shown, Watch, batches, fit, net, same
from torch import Tensor, nn

from lightning_autoarch import ArchitectureSearch
from lightning_autoarch.callbacks.prune.distillation import Distillation
from lightning_autoarch.callbacks.prune.regularization import L1Regularization
from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.distillation import kl_loss, mse_loss


class Classes(Net):
    """Three classes, and dropout."""

    def __init__(self, *args: Any, dropout: float = 0.0) -> None:
        super().__init__(*args)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))

    def _loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), labels(batch))


def labels(batch: Any) -> Tensor:
    return batch[1].squeeze(1).sign().long() + 1


def classes(*args: Any, **options: Any) -> Classes:
    torch.manual_seed(0)
    return Classes(*args, **options)


def other(seed: int = 1) -> Classes:
    torch.manual_seed(seed)
    return Classes()


class Until(L.Callback):
    """Spoils the module as the fit begins, as pruning would."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            next(pl_module.parameters()).zero_()


def loop(student: Net, teacher: nn.Module, weight: float = 0.5, temperature: float = 4.0) -> None:
    """The fit that distillation is to be."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(2):
        for batch in batches():
            optimizer.zero_grad()
            with torch.no_grad():
                expected = teacher(batch[0])
            output = student(batch[0])
            distance = kl_loss(output, expected, temperature) if output.shape[1] > 1 else mse_loss(output, expected)
            (student._loss(batch) + weight * distance).backward()
            optimizer.step()


# What is computed.


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 4.0), (2.0, 1.0), (0.0, 4.0)])
def test_fit_is_the_plain_loop_of_torch(tmp_path: Path, weight: float, temperature: float) -> None:
    student, expected, teacher = classes(), classes(), other()
    fit(tmp_path, student, Distillation(temperature, weight, teacher))
    loop(expected, teacher, weight, temperature)
    same(student, expected)


def test_regression(tmp_path: Path) -> None:
    student, expected, teacher = net(), net(), Net(width=9)
    fit(tmp_path, student, Distillation(teacher=teacher))
    loop(expected, teacher)
    same(student, expected)


def test_teacher_is_the_module_as_the_fit_began(tmp_path: Path) -> None:
    student, expected, teacher = classes(), classes(), classes()
    with torch.no_grad():
        expected.net[0].weight.zero_()
    fit(tmp_path, student, Distillation(), Until())
    loop(expected, teacher)
    same(student, expected)


def test_it_comes_before_what_prunes(tmp_path: Path) -> None:
    class Early(L1Regularization):
        __module__ = "lightning_autoarch.callbacks.prune.made_up"

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            Until().on_fit_start(trainer, pl_module)

    student, expected = classes(), classes()
    trainer = fit(tmp_path, student, Watch(lambda t, m: None), Early(0.5), Distillation())
    assert [type(cb).__name__ for cb in trainer.callbacks] == ["Watch", "Distillation", "Early"]
    fit(tmp_path, expected, Distillation(teacher=classes()), Until())
    same(student, expected)


def test_another_callback_can_call_through(tmp_path: Path) -> None:
    class Through(L.Callback):
        def __init__(self, distill: Distillation) -> None:
            self.distill = distill

        def setup(self, *args: Any, **kwargs: Any) -> None:
            self.distill.setup(*args, **kwargs)

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.distill.on_fit_start(trainer, pl_module)
            Until().on_fit_start(trainer, pl_module)

        def teardown(self, *args: Any, **kwargs: Any) -> None:
            self.distill.teardown(*args, **kwargs)

    student, expected = classes(), classes()
    trainer = fit(tmp_path, student, Through(Distillation()), log_every_n_steps=1)
    fit(tmp_path, expected, Distillation(), Until())
    same(student, expected)
    assert "distillation_loss" in trainer.callback_metrics
    assert "training_step" not in student.__dict__


def test_loss_by_name_and_by_function(tmp_path: Path) -> None:
    students = [classes() for _ in range(3)]
    losses: list[Any] = ["mse", mse_loss, lambda a, b: kl_loss(a, b, 4.0)]
    for student, loss in zip(students, losses, strict=True):
        fit(tmp_path, student, Distillation(teacher=other(), loss=loss))
    same(students[0], students[1])
    expected = classes()
    fit(tmp_path, expected, Distillation(teacher=other()))
    same(students[2], expected)


def test_the_users_loss_stays_theirs_and_the_distance_is_logged_beside_it(tmp_path: Path) -> None:
    class Logs(Classes):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = self._loss(batch)
            self.log("loss", loss)
            return loss

    torch.manual_seed(0)
    student, shown, plain = Logs(), Shown(), Shown()
    batch = next(iter(batches()))
    with torch.no_grad():
        expected = kl_loss(student(batch[0]), other()(batch[0]), 4.0).item()
    fit(tmp_path, student, Distillation(teacher=other(), weight=7.0), logger=shown, log_every_n_steps=1)
    torch.manual_seed(0)
    fit(tmp_path, Logs(), logger=plain, log_every_n_steps=1)
    assert shown.of("loss")[0] == plain.of("loss")[0]
    assert shown.of("distillation_loss")[0] == pytest.approx(expected)
    assert len(shown.of("distillation_loss")) == 6


# Every kind of step.


def test_a_decorated_step_is_seen_through(tmp_path: Path) -> None:
    def decorated(step: Any) -> Any:
        @functools.wraps(step)
        def around(*args: Any, **kwargs: Any) -> Any:
            return step(*args, **kwargs)

        return around

    class Decorated(Classes):
        @decorated
        def training_step(self, batch: Any) -> Tensor:  # without `batch_idx`
            return self._loss(batch)

    torch.manual_seed(0)
    student, expected = Decorated(), classes()
    fit(tmp_path, student, Distillation(teacher=other()))
    loop(expected, other())
    same(student, expected)


def test_dict_with_a_loss(tmp_path: Path) -> None:
    class Dict(Classes):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.returned = {"loss": self._loss(batch), "more": 3}
            return self.returned

    torch.manual_seed(0)
    student, expected, seen = Dict(), classes(), []

    class Outputs(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
            seen.append((outputs["loss"].item(), pl_module.returned["loss"].item(), outputs["more"]))

    fit(tmp_path, student, Distillation(teacher=other()), Outputs())
    loop(expected, other())
    same(student, expected)
    assert all(total > own and more == 3 for total, own, more in seen)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_no_loss_is_passed_through(tmp_path: Path) -> None:
    class Some(Classes):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 1 else self._loss(batch)

    student = Some()
    fit(tmp_path, student, Distillation(teacher=other()))


def test_every_call_counts(tmp_path: Path) -> None:
    class Twice(Classes):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.no_grad():
                self(batch[0] * 100)  # trains nothing
            return (self._loss(batch) + self._loss([-batch[0], batch[1]])) / 2

    torch.manual_seed(0)
    student, expected, teacher = Twice(), classes(), other()
    fit(tmp_path, student, Distillation(teacher=teacher))
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        for batch in batches():
            optimizer.zero_grad()
            distances = [kl_loss(expected(x), teacher(x).detach(), 4.0) for x in (batch[0], -batch[0])]
            own = expected._loss(batch) + expected._loss([-batch[0], batch[1]])
            (own / 2 + 0.5 * sum(distances) / 2).backward()
            optimizer.step()
    same(student, expected)


def test_named_arguments(tmp_path: Path) -> None:
    class Named(Classes):
        def forward(self, x: Tensor, *, scale: float = 1.0) -> Any:
            return {"out": (self.net(x * scale), None)}

        def _loss(self, batch: Any) -> Tensor:
            return nn.functional.cross_entropy(self(x=batch[0], scale=2.0)["out"][0], labels(batch))

    torch.manual_seed(0)
    student, expected = Named(), classes()
    fit(tmp_path, student, Distillation())
    teacher = classes()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in batches():
            optimizer.zero_grad()
            distance = kl_loss(expected(2 * x), teacher(2 * x).detach(), 4.0)
            (expected._loss([2 * x, y]) + 0.5 * distance).backward()
            optimizer.step()
    same(student, expected)


@pytest.mark.parametrize("teacher", [None, "module", "part"])
def test_layer(tmp_path: Path, teacher: Any) -> None:
    class Bypass(Classes):
        def _loss(self, batch: Any) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), labels(batch))

    torch.manual_seed(0)
    student, expected = Bypass(), classes()
    given = {None: None, "module": other(), "part": other().net}[teacher]
    fit(tmp_path, student, Distillation(teacher=given, layer="net"))
    loop(expected, other() if teacher else classes())
    same(student, expected)


def test_layer_in_the_middle(tmp_path: Path) -> None:
    student, expected, start = classes(), classes(), classes()
    fit(tmp_path, student, Distillation(loss="mse", layer="net.0"))
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        for batch in batches():
            optimizer.zero_grad()
            distance = mse_loss(expected.net[0](batch[0]), start.net[0](batch[0]).detach())
            (expected._loss(batch) + 0.5 * distance).backward()
            optimizer.step()
    same(student, expected)


def test_two_layers_at_once(tmp_path: Path) -> None:
    student, expected, start = classes(), classes(), classes()
    callbacks = Distillation(loss="mse", layer="net.0"), Distillation(loss="mse", layer="net.3")
    trainer = fit(tmp_path, student, *callbacks, log_every_n_steps=1)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        for batch in batches():
            optimizer.zero_grad()
            hidden = expected.net[:3](batch[0])
            first = mse_loss(expected.net[0](batch[0]), start.net[0](batch[0]).detach())
            second = mse_loss(expected.net[3](hidden), start.net[3](hidden).detach())
            (expected._loss(batch) + 0.5 * first + 0.5 * second).backward()
            optimizer.step()
    same(student, expected)
    assert {"distillation_loss", "distillation_loss_2"} <= set(trainer.callback_metrics)
    assert "training_step" not in student.__dict__


@pytest.mark.parametrize("how", ["submodule", "in place", "whole"])
def test_compiled(tmp_path: Path, how: str) -> None:
    student, expected = classes(), classes()
    if how == "submodule":
        student.net = torch.compile(student.net, backend="eager")
    else:
        (student.net if how == "in place" else student).compile(backend="eager")
    for _ in range(2):  # a second fit has another teacher, and compiled code from the first
        start = copy.deepcopy(expected)
        fit(tmp_path, student, Distillation(layer="" if how == "whole" else "net"), Until())
        with torch.no_grad():
            expected.net[0].weight.zero_()
        loop(expected, start)
        for a, b in zip(student.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_lbfgs(tmp_path: Path) -> None:
    student = classes(lambda m: torch.optim.LBFGS(m.parameters(), max_iter=2))
    fit(tmp_path, student, Distillation(teacher=other(), weight=1e3, temperature=1.0))
    x = next(iter(batches()))[0]
    after = kl_loss(student(x), other()(x), 1.0)
    assert after < 0.2 * kl_loss(classes()(x), other()(x), 1.0)


def test_accumulated(tmp_path: Path) -> None:
    student, expected, teacher = classes(), classes(), other()
    fit(tmp_path, student, Distillation(teacher=teacher), accumulate_grad_batches=3)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        for batch in batches():
            distance = kl_loss(expected(batch[0]), teacher(batch[0]).detach(), 4.0)
            ((expected._loss(batch) + 0.5 * distance) / 3).backward()
        optimizer.step()
    same(student, expected)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("given", [True, False])
def test_precisions(tmp_path: Path, precision: Any, given: bool) -> None:
    from lightning.pytorch.plugins.precision import MixedPrecision

    options: dict[str, Any] = {"precision": precision}
    if precision == "16-mixed":  # Lightning's own is for GPUs
        options = {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=16.0))}
    student, teacher = classes(), other()
    trainer = fit(tmp_path, student, Distillation(teacher=teacher if given else None), log_every_n_steps=1, **options)
    assert trainer.callback_metrics["distillation_loss"].isfinite()
    assert all(p.dtype == torch.float32 for p in teacher.parameters())


DDP = """
import sys, warnings
sys.path[:0] = sys.argv[1:3]
import torch
from plain import Net, batches, fit, net, same
from lightning_autoarch.callbacks.prune.distillation import Distillation
plain, wrapped, teacher = net(), net(), Net(width=9)
fit(sys.argv[3], plain, Distillation(teacher=teacher))
trainer = fit(sys.argv[3], wrapped, Distillation(teacher=teacher), strategy="ddp", use_distributed_sampler=False)
same(plain, wrapped)
assert type(trainer.strategy.model).__name__ != "DistributedDataParallel", "torn down"
assert "training_step" not in wrapped.__dict__ and "forward" not in plain.__dict__
print("done")
"""


@pytest.mark.slow
def test_ddp(tmp_path: Path) -> None:
    """In a process of its own, for its process group. Lightning calls `training_step` through the wrapper's forward."""
    tests = Path(nets.__file__).parent
    import lightning_autoarch

    root = Path(lightning_autoarch.__file__).parents[1]
    command = [sys.executable, "-c", DDP, str(tests), str(root), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip().endswith("done"), done.stderr


# The teacher.


def test_teacher_is_frozen_in_eval_mode_and_sees_no_dropout(tmp_path: Path) -> None:
    teacher = classes(dropout=0.9)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teachers: list[nn.Module] = []
    callback = Distillation(teacher=teacher)
    student = classes(dropout=0.0)
    fit(tmp_path, student, callback, Watch(lambda t, m: teachers.append(callback._step.teacher)))
    assert not any(p.requires_grad for t in teachers for p in t.parameters())
    assert not any(part.training for t in teachers for part in t.modules())
    expected = classes()
    loop(expected, classes())
    same(student, expected)
    assert teacher.training and all(p.requires_grad for p in teacher.parameters())  # what was given is untouched
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("whole", [True, False])
def test_teacher_from_a_checkpoint(tmp_path: Path, whole: bool) -> None:
    teacher = other()
    if whole:
        trainer = fit(tmp_path, teacher)
        trainer.save_checkpoint(tmp_path / "t.ckpt")
    else:
        torch.save(teacher.state_dict(), tmp_path / "t.ckpt")
    for layer in ("", "net"):
        student, expected = classes(), classes()
        fit(tmp_path, student, Distillation(teacher=str(tmp_path / "t.ckpt"), layer=layer))
        loop(expected, teacher)
        same(student, expected)


def test_teacher_shares_nothing_and_logs_nothing(tmp_path: Path) -> None:
    class Logs(Classes):
        def forward(self, x: Tensor) -> Tensor:
            self.log("mean", x.mean())
            self.log_dict({"std": x.std()})
            self.calls = getattr(self, "calls", 0) + 1
            return self.net(x)

    torch.manual_seed(0)
    student, callback = Logs(), Distillation()
    storages: list[set[int]] = []

    def look(trainer: Any, module: Any) -> None:
        teacher = callback._step.teacher
        assert teacher._trainer is None
        storages.append({p.data_ptr() for p in teacher.parameters()} & {p.data_ptr() for p in module.parameters()})

    trainer = fit(tmp_path, student, callback, Watch(look), log_every_n_steps=1)
    assert storages == [set()] * 6
    assert student.calls == 6 and {"mean", "std"} <= set(trainer.callback_metrics)


def test_random_numbers_of_the_module_are_as_without(tmp_path: Path) -> None:
    students = [classes(dropout=0.5), classes(dropout=0.5)]
    for student, callbacks in zip(students, ([], [Distillation(weight=0.0)]), strict=True):
        torch.manual_seed(3)
        fit(tmp_path, student, *callbacks)
    same(*students)


# No trace.


def test_nothing_is_registered_while_it_trains(tmp_path: Path) -> None:
    student = classes()
    parameters, state, modules = list(student.parameters()), set(student.state_dict()), list(student.modules())
    counts: list[int] = []

    def look(trainer: Any, module: Any) -> None:
        assert [id(p) for p in module.parameters()] == [id(p) for p in parameters]
        assert set(module.state_dict()) == state and list(module.modules()) == modules
        counts.append(sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()))
        trainer.save_checkpoint(tmp_path / "x.ckpt")

    fit(tmp_path, student, Distillation(teacher=other(), layer="net"), Watch(look))
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == state and counts == [0] * 6
    assert len(checkpoint["optimizer_states"][0]["param_groups"][0]["params"]) == len(parameters)
    numbers = sum(p.numel() for p in parameters)
    assert (tmp_path / "x.ckpt").stat().st_size < 4 * numbers + 20_000


def test_module_is_as_after_a_fit_without(tmp_path: Path) -> None:
    student, plain, callback = classes(), classes(), Distillation()
    fit(tmp_path, student, callback)
    fit(tmp_path, plain)
    assert set(student.__dict__) == set(plain.__dict__) and callback._step is None
    assert student.training_step.__func__ is Classes.training_step
    again = pickle.loads(pickle.dumps(copy.deepcopy(student)))
    same(again, student)


def test_a_step_that_was_on_the_instance_is_put_back(tmp_path: Path) -> None:
    student = classes()

    def own(batch: Any, batch_idx: int) -> Tensor:
        return student._loss(batch)

    student.training_step = own  # type: ignore[method-assign]
    fit(tmp_path, student, Distillation())
    assert student.__dict__["training_step"] is own


def test_step_is_put_back_after_an_exception(tmp_path: Path) -> None:
    def fail(trainer: Any, module: Any) -> None:
        assert "training_step" in module.__dict__
        raise ZeroDivisionError

    student, callback = classes(), Distillation()
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, student, callback, Watch(fail))
    assert "training_step" not in student.__dict__ and callback._step is None
    fit(tmp_path, student, callback)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_made_meanwhile_are_plain(tmp_path: Path, copied: Any) -> None:
    student, callback, copies = classes(), Distillation(), []
    fit(tmp_path, student, callback, Watch(lambda t, m: copies.append((copied(m), copied(callback)))))
    twin, its = copies[0]
    assert twin.training_step.__self__ is twin and twin.training_step.__func__ is Classes.training_step
    assert its._step is None
    expected = copy.deepcopy(twin)
    fit(tmp_path, twin)
    fit(tmp_path, expected)
    same(twin, expected)
    fit(tmp_path, twin, its)


def test_second_fit_has_the_module_of_then_as_its_teacher(tmp_path: Path) -> None:
    student, expected, callback = classes(), classes(), Distillation()
    fit(tmp_path, student, callback, Until())
    middle = copy.deepcopy(student)
    fit(tmp_path, student, callback, Until())
    expected.load_state_dict(middle.state_dict())
    with torch.no_grad():
        expected.net[0].weight.zero_()
    loop(expected, middle)
    same(student, expected)


# Beside others.


@pytest.mark.parametrize("first", [True, False])
def test_beside_a_learning_rate_finder(tmp_path: Path, first: bool) -> None:
    class Rate(Classes):
        lr = 0.1

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    callbacks = [Distillation(), LearningRateFinder(num_training_steps=5, early_stop_threshold=None)]
    student = Rate()
    trainer = fit(tmp_path, student, *callbacks[:: 1 if first else -1], log_every_n_steps=1)
    assert "distillation_loss" in trainer.callback_metrics and "training_step" not in student.__dict__


def test_beside_weight_averaging(tmp_path: Path) -> None:
    student = classes()
    fit(tmp_path, student, Distillation(), WeightAveraging())
    assert "training_step" not in student.__dict__
    pickle.dumps(student)


def test_module_that_a_search_rebuilds(tmp_path: Path) -> None:
    search = ArchitectureSearch(
        {"width": [3, 5]}, monitor="val_loss", n_trials=2, sampler="random", trial={"trainer": {"max_epochs": 1}}
    )
    module, callback, widths = nets.Net(width=9, dropout=0.0), Distillation(), []
    look = Watch(lambda t, m: widths.append(callback._step.teacher.net[0].out_features))
    trainer = nets.trainer(tmp_path, search, callback, look, log_every_n_steps=1)
    trainer.fit(module, *nets.loaders())
    assert set(widths) == {module.net[0].out_features}
    assert "distillation_loss" in trainer.callback_metrics


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_resuming_needs_the_teacher(tmp_path: Path) -> None:
    def trainer_of(callback: L.Callback) -> L.Trainer:
        every = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        return nets.trainer(tmp_path, callback, every, enable_checkpointing=True)

    whole, resumed = classes(), other()
    trainer_of(Distillation()).fit(whole, batches())
    path = tmp_path / "epoch=0.ckpt"
    with pytest.raises(PruneValueError, match=r"goes on from a checkpoint.*Distillation\(teacher=\.\.\.\)"):
        trainer_of(Distillation()).fit(resumed, batches(), ckpt_path=path, weights_only=True)
    trainer_of(Distillation(teacher=classes())).fit(resumed, batches(), ckpt_path=path, weights_only=True)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_a_fit_without_is_where_to_begin(tmp_path: Path) -> None:
    dense, student = other(), classes()
    fit(tmp_path, dense, max_epochs=1).save_checkpoint(tmp_path / "x.ckpt")
    callback, teachers = Distillation(), []
    look = Watch(lambda t, m: teachers.append(callback._step.teacher))
    trainer = nets.trainer(tmp_path, callback, look)
    trainer.fit(student, batches(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    same(teachers[0], dense)


# What is refused.


def refused(tmp_path: Path, module: Net, callback: L.Callback, message: str) -> None:
    before = copy.deepcopy(module.net)
    with pytest.raises((PruneValueError, PruneTypeError), match=message):
        fit(tmp_path, module, callback)
    same(module.net, before)
    assert "training_step" not in module.__dict__


def test_refuses_manual_optimization(tmp_path: Path) -> None:
    module = classes()
    module.automatic_optimization = False
    refused(tmp_path, module, Distillation(), "optimizes by itself.*output_loss")


def test_refuses_a_step_that_calls_nothing(tmp_path: Path) -> None:
    class Direct(Classes):
        def _loss(self, batch: Any) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), labels(batch))

    refused(tmp_path, Direct(), Distillation(), r"Direct never called the module itself.*`layer='net'`")
    module = Direct()
    module.spare = nn.Linear(2, 2)
    refused(tmp_path, module, Distillation(layer="spare"), "never called `spare`")


def test_refuses_layers_that_are_not_there(tmp_path: Path) -> None:
    refused(tmp_path, classes(), Distillation(layer="net.9"), "`layer`.*Classes, got `net.9`.*Did you mean `net")
    refused(tmp_path, classes(), Distillation(teacher=net(), layer="net.3"), "teacher Net has no `net.3`")


@pytest.mark.parametrize(
    ("inner", "message"),
    [("net.0", "inside of a compiled module.*layer='net'"), ("net._orig_mod.0", "`layer` to be in Classes")],
)
def test_refuses_layers_inside_of_compiled_modules(tmp_path: Path, inner: str, message: str) -> None:
    module = classes()
    module.net = torch.compile(module.net, backend="eager")
    with pytest.raises(PruneValueError, match=message):
        fit(tmp_path, module, Distillation(layer=inner))


def test_refuses_a_compiled_step(tmp_path: Path) -> None:
    module = classes()
    module.training_step = torch.compile(module.training_step, backend="eager")  # type: ignore[method-assign]
    with pytest.raises(PruneValueError, match="compiled as a whole"):
        fit(tmp_path, module, Distillation())


def test_refuses_inputs_that_are_changed_in_place(tmp_path: Path) -> None:
    class Inplace(Classes):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.sub_(x.mean()))

    refused(tmp_path, Inplace(), Distillation(), "Inplace changes its inputs in place.*`layer`")


def test_refuses_teachers_of_another_output(tmp_path: Path) -> None:
    refused(tmp_path, classes(), Distillation(teacher=net()), r"one shape, got \(16, 1\) and \(16, 3\).*`loss`")


def test_refuses_a_module_that_cannot_be_copied(tmp_path: Path) -> None:
    module = classes()
    module.kept = (i for i in range(3))
    refused(tmp_path, module, Distillation(), "Classes cannot be copied as a teacher.*`layer`")
    fit(tmp_path, module, Distillation(layer="net"))


def test_a_module_that_holds_the_result_of_an_operation_is_copied(tmp_path: Path) -> None:
    module = classes()
    module.kept = module.net[0].weight * 2  # which copy.deepcopy refuses
    fit(tmp_path, module, Distillation())


def test_refuses_checkpoints(tmp_path: Path) -> None:
    refused(tmp_path, classes(), Distillation(teacher=tmp_path / "none.ckpt"), "cannot be read.*none.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    refused(tmp_path, classes(), Distillation(teacher=tmp_path / "text.ckpt"), "cannot be read.*load_from_checkpoint")
    torch.save({"state_dict": {}, "code": SimpleNamespace()}, tmp_path / "code.ckpt")
    refused(tmp_path, classes(), Distillation(teacher=tmp_path / "code.ckpt"), "cannot be read.*load_from_checkpoint")
    for i, weights in enumerate((net().state_dict(), torch.zeros(3), {"state_dict": 3})):
        torch.save(weights, tmp_path / f"{i}.ckpt")
        refused(
            tmp_path,
            classes(),
            Distillation(teacher=tmp_path / f"{i}.ckpt"),
            "weights of another module|a dict of tensors",
        )


def test_refuses_a_loss_that_is_none(tmp_path: Path) -> None:
    refused(tmp_path, classes(), Distillation(loss=lambda a, b: (a - b).square()), "`loss` to return")


def test_refuses_strategies_that_shard() -> None:
    trainer: Any = SimpleNamespace(strategy=object.__new__(FSDPStrategy), callbacks=[])
    with pytest.raises(PruneValueError, match="Distillation needs whole parameters"):
        Distillation().setup(trainer, classes(), "fit")


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": "1"},
        {"weight": -1},
        {"teacher": 3},
        {"loss": "ce"},
        {"loss": 3},
        {"layer": 1},
    ],
)
def test_refuses_arguments(options: Any) -> None:
    with pytest.raises((PruneValueError, PruneTypeError), match=next(iter(options))):
        Distillation(**options)
