"""Architecture and sparsity searched together: what a name sets, what is scored, what the outer fit then prunes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import lightning as L
import nets
import optuna
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from search_options import merged
from torch import nn

from lightning_autoarch import (
    ArchitectureSearch,
    Categorical,
    Float,
    Int,
    Repeat,
    SearchError,
    SpaceError,
    cross_validate,
)
from lightning_autoarch.callbacks.base import Tunable
from lightning_autoarch.callbacks.joint.tuning import with_parameters as remade
from lightning_autoarch.callbacks.prune.distillation import Distillation
from lightning_autoarch.callbacks.prune.dynamic import SET, RigL
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.prune.semi_structured import SemiStructuredPruning
from lightning_autoarch.prune.schedule import ConstantSparsity, CubicSparsity, IterativeSparsity, OneShot, Step
from lightning_autoarch.report import write_report

SPACE: dict[str, Any] = {"width": Int(8, 24), "prune.sparsity": Float(0.5, 0.9)}


def pruning(**options: Any) -> MagnitudePruning:
    return MagnitudePruning(CubicSparsity(0.9, end=0.5), every_n_steps=1, **options)


def search(space: Any = None, **options: Any) -> ArchitectureSearch:
    given = {"monitor": "val_loss", "n_trials": 3, "sampler": "random", "trial": {"trainer": {"max_epochs": 4}}}
    return ArchitectureSearch(space or SPACE, **merged(given, options))


def fit(root: Path, *callbacks: L.Callback, module: L.LightningModule | None = None, **options: Any) -> nets.Net:
    module = nets.Net(dropout=0.0) if module is None else module
    nets.trainer(root, *callbacks, **{"max_epochs": 4, **options}).fit(module, *nets.loaders())
    return module


def zeros(weights: Any) -> float:
    """Share of zeros in the matrices of a module or a state_dict."""
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    matrices = [tensor for tensor in state.values() if tensor.dim() == 2]
    return sum(int((tensor == 0).sum()) for tensor in matrices) / sum(tensor.numel() for tensor in matrices)


def checkpoint(study: optuna.Study) -> dict[str, Any]:
    return torch.load(study.best_trial.user_attrs["checkpoint"], weights_only=True)


class TestNames:
    @pytest.mark.parametrize(
        ("callback", "parameters", "expected"),
        [
            (pruning(), {"sparsity": 0.6, "end": 0.7, "start": 0.1}, {"schedule": CubicSparsity(0.6, 0.1, 0.7)}),
            (pruning(), {"initial": 0.2}, {"schedule": CubicSparsity(0.9, end=0.5, initial=0.2)}),
            (pruning(), {"scope": "erk", "criterion": "random"}, {"scope": "erk", "criterion": "random"}),
            (pruning(), {"every_n_steps": 7, "seed": 3}, {"every_n_steps": 7, "seed": 3}),
            (MagnitudePruning(ConstantSparsity(0.5)), {"sparsity": 0.6}, {"schedule": ConstantSparsity(0.6)}),
            (MagnitudePruning(OneShot(0.5)), {"sparsity": 0.6, "at": 0.25}, {"schedule": OneShot(0.6, 0.25)}),
            (
                MagnitudePruning(IterativeSparsity(0.5, rewind_to="init")),
                {"sparsity": 0.6, "rounds": 2},
                {"schedule": IterativeSparsity(0.6, 2, "init")},
            ),
            (pruning(), {"sparsity.net.0": 0.6, "sparsity.*": 0.7}, {"scope": {"net.0": 0.6, "*": 0.7}}),
            (pruning(scope={"*": 0.5, "net.0": 0.4}), {"sparsity.net.0": 0.6}, {"scope": {"net.0": 0.6, "*": 0.5}}),
            (RigL(0.8), {"sparsity": 0.6, "end": 0.5}, {"target_sparsity": 0.6, "end": 0.5, "alpha": 0.3}),
            (SET(0.8, every_n_steps=9), {"alpha": 0.1}, {"alpha": 0.1, "every_n_steps": 9, "target_sparsity": 0.8}),
            (SemiStructuredPruning(), {"n": 1, "at": 0.25}, {"n": 1, "m": 4, "at": 0.25}),
        ]
    )  # fmt: skip
    def test_what_they_set(self, callback: Any, parameters: dict[str, Any], expected: dict[str, Any]) -> None:
        before = dict(vars(callback))
        made = remade(callback, parameters)
        assert type(made) is type(callback)
        assert {name: getattr(made, name) for name in expected} == expected
        if "scope" in expected and not isinstance(expected["scope"], str):
            assert list(made.scope) == list(expected["scope"])  # the first that matches counts
        untouched = {name for name in before if name not in expected and not name.startswith("_")}
        assert {name: getattr(made, name) for name in untouched} == {name: before[name] for name in untouched}
        assert vars(callback) == before

    @pytest.mark.parametrize(
        ("callback", "space", "message"),
        [
            (pruning(), {"prune.sparsty": Float(0.5, 0.9)}, r"`prune.sparsty`.*MagnitudePruning.*`prune.sparsity`"),
            (pruning(), {"prune.final_sparsity": Float(0.5, 0.9)}, r"Did you mean `prune.sparsity`"),
            (
                pruning(),
                {"prune.rounds": Int(1, 3)},
                r"`prune.rounds`.*no tunable of MagnitudePruning",
            ),
            (pruning(), {"prune.alpha": Float(0.1, 0.3)}, r"`prune.alpha`"),
            (RigL(), {"prune.criterion": ["random"]}, r"`prune.criterion`.*RigL"),
            (RigL(), {"prune.sparsity.net": Float(0.5, 0.6)}, r"`prune.sparsity.net`.*RigL"),
            (SemiStructuredPruning(), {"prune.sparsity": Float(0.5, 0.6)}, r"`prune.sparsity`"),
            (pruning(), {"prune.name": ["a", "b"]}, r"`prune.name`"),
            (pruning(), {"prune.schedule": ["a", "b"]}, r"`prune.schedule`"),
            (pruning(), {"prune.sparsity": Float(0.5, 1.0)}, r"`prune.sparsity` cannot be 1.0: .*\[0, 1\)"),
            (pruning(), {"prune.scope": ["global", "earth"]}, r"`prune.scope` cannot be 'earth'.*erk"),
            (pruning(), {"prune.sparsity.net.0": Float(0.5, 1.5)}, r"`prune.sparsity.net.0` cannot be 1.5"),
            (pruning(), {"prune.end": Int(-1, 3)}, r"`prune.end` cannot be -1"),
            (pruning(scope={"*": 0.5}), {"prune.sparsity": Float(0.5, 0.9)}, r"`prune.sparsity`.*`scope`"),
            (
                pruning(),
                {"prune.sparsity.net.0": Float(0.5, 0.9), "prune.sparsity": Float(0.1, 0.2)},
                r"`prune.sparsity`.*no effect",
            ),
            (pruning(), {"prune.sparsity.net.0": Float(0.5, 0.9), "prune.scope": ["erk"]}, r"`prune.scope`"),
            (pruning(), {"prune.end": Repeat(1, 2, {"x": Int(1, 2)})}, r"`prune.end`.*Repeat"),
            (pruning(), {"prune.sparsity.": Float(0.5, 0.9)}, r"`prune.sparsity.`"),
        ],
    )
    def test_what_is_refused_before_training(self, tmp_path: Path, callback: Any, space: Any, message: str) -> None:
        with pytest.raises(SpaceError, match=message):
            fit(tmp_path, search(space), callback)
        assert not list(tmp_path.rglob("study.db"))

    def test_without_a_pruning_callback(self, tmp_path: Path) -> None:
        with pytest.raises(SearchError, match=r"`prune.sparsity`.*MagnitudePruning"):
            fit(tmp_path, search())

    def test_with_two(self, tmp_path: Path) -> None:
        with pytest.raises(SearchError, match=r"tunables of one callback, got MagnitudePruning, RigL in"):
            fit(tmp_path, search(), pruning(targets="net.0"), RigL(targets="net.3"))

    def test_one_that_the_module_brings_along(self, tmp_path: Path) -> None:
        class Own(nets.Net):
            def configure_callbacks(self) -> Any:
                return pruning()

        with pytest.raises(SearchError, match="configure_callbacks"):
            fit(tmp_path, search(), module=Own())

    def test_a_callback_that_cannot_be_made_again(self, tmp_path: Path) -> None:
        class Mine(MagnitudePruning):
            def __init__(self, **options: Any) -> None:
                super().__init__(CubicSparsity(0.9), **options)

        with pytest.raises(SearchError, match=r"Mine.*attribute"):
            fit(tmp_path, search(), Mine(every_n_steps=2))

    def test_one_of_ones_own(self, tmp_path: Path) -> None:
        class Mine(MagnitudePruning):
            def __init__(self, amount: float = 0.5, every_n_steps: int = 1) -> None:
                super().__init__(CubicSparsity(amount, end=0.5), every_n_steps=every_n_steps)
                self.amount = amount

            def tunables(self) -> list[Tunable]:
                return [*super().tunables(), Tunable("amount", float)]

        mine = Mine()
        found = search({"prune.amount": Float(0.6, 0.8)})
        module = fit(tmp_path, found, mine)
        assert found.best_architecture == {"prune.amount": mine.amount}
        assert zeros(module) == pytest.approx(mine.amount, abs=0.03)  # of 20 weights

    def test_a_combination_that_cannot_be_is_not_tried(self, tmp_path: Path) -> None:
        space = {"prune.start": Float(0.0, 0.9), "prune.end": Float(0.05, 0.95)}
        for strategy in ("random", "bayesian", optuna.samplers.RandomSampler(seed=0)):
            found = search(space, n_trials=4, sampler=strategy, trial={"trainer": {"max_epochs": 5}})
            fit(tmp_path / str(strategy)[:8], found, pruning(), max_epochs=1)
            tried = [t.user_attrs["architecture"] for t in found.optuna_study.trials if "architecture" in t.user_attrs]
            assert len(tried) == 4
            assert all(a["prune.start"] <= a["prune.end"] for a in tried)
        refused = [t.user_attrs["refused"] for t in found.optuna_study.trials if "refused" in t.user_attrs]
        assert refused and all("`end` >= `start`" in reason for reason in refused)


class TestTheWinner:
    def test_module_and_sparsity_come_out_together(self, tmp_path: Path) -> None:
        outer = pruning()
        found = search({**SPACE, "prune.scope": Categorical(["global", "erk"]), "prune.end": Float(0.3, 0.6)})
        module = fit(tmp_path, found, outer)
        best = found.best_architecture
        assert module.hparams["width"] == module.net[0].out_features == best["width"]
        assert outer.schedule == CubicSparsity(best["prune.sparsity"], end=best["prune.end"])
        assert outer.scope == best["prune.scope"]
        assert zeros(module) == pytest.approx(best["prune.sparsity"], abs=0.01)
        assert outer.sparsity == zeros(module)
        assert set(module.hparams) == set(nets.Net().hparams)

    def test_by_layer(self, tmp_path: Path) -> None:
        outer = pruning()
        found = search({"width": Int(16, 24), "prune.sparsity.net.0": Float(0.2, 0.4)})
        module = fit(tmp_path, found, outer)
        wanted = found.best_architecture["prune.sparsity.net.0"]
        assert (module.net[0].weight == 0).float().mean() == pytest.approx(wanted, abs=0.01)
        assert (module.net[3].weight != 0).all()

    @pytest.mark.parametrize("callback", [RigL(every_n_steps=2), SET(every_n_steps=2)], ids=lambda c: type(c).__name__)
    def test_dynamic(self, tmp_path: Path, callback: Any) -> None:
        found = search({**SPACE, "prune.alpha": Float(0.1, 0.5), "prune.scope": ["erk", "layer"]})
        module = fit(tmp_path, found, callback)
        assert zeros(module) == pytest.approx(found.best_architecture["prune.sparsity"], abs=0.02)
        assert callback.alpha == found.best_architecture["prune.alpha"]

    def test_semi_structured(self, tmp_path: Path) -> None:
        outer = SemiStructuredPruning(2, 4, targets="net.0")
        found = search({"prune.n": Int(1, 3)}, n_trials=9)
        module = fit(tmp_path, found, outer)
        assert (
            len([t for t in found.optuna_study.trials if t.value is not None and "duplicate_of" not in t.user_attrs])
            == 3
        )
        assert zeros({"0": module.net[0].weight}) == 1 - found.best_architecture["prune.n"] / 4

    @pytest.mark.parametrize("after", ["keep", "stop"])
    def test_its_weights_come_masked(self, tmp_path: Path, after: Any) -> None:
        outer, found = pruning(), search(after=after, trial={"trainer": {"max_epochs": 4}})
        started: dict[str, torch.Tensor] = {}

        class Look(L.Callback):
            def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
                started.update({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})

        module = fit(tmp_path, found, outer, Look())
        saved = checkpoint(found.optuna_study)["state_dict"]
        assert all(torch.equal(started[name], saved[name]) for name in saved)
        sparsity = found.best_architecture["prune.sparsity"]
        assert zeros(saved) == outer.sparsity == pytest.approx(sparsity, abs=0.01)
        assert all(((saved[n] == 0) == (p == 0)).all() for n, p in module.named_parameters() if p.dim() == 2)
        changed = any(not torch.equal(p, saved[n]) for n, p in module.named_parameters())
        assert changed == (after == "keep")

    @pytest.mark.parametrize(
        "outer",
        [
            RigL(every_n_steps=2),
            MagnitudePruning(IterativeSparsity(0.7, rounds=2, rewind_to="init"), every_n_steps=5),
            MagnitudePruning(CubicSparsity(0.7, end=0.5), distill=Distillation(), every_n_steps=5),
        ],
        ids=["RigL", "rewind", "distill"],
    )
    def test_kept_masks_of_every_kind(self, tmp_path: Path, outer: Any) -> None:
        found = search(after="keep")
        module = fit(tmp_path, found, outer)
        assert zeros(module) == pytest.approx(found.best_architecture["prune.sparsity"], abs=0.02)

    def test_a_parameter_that_exists_only_sometimes(self, tmp_path: Path) -> None:
        outer = pruning(seed=7)
        space = {
            "prune.criterion": ["magnitude", "random"],
            "prune.seed": Int(8, 9, when={"prune.criterion": ["random"]}),
        }
        found = search(space, enqueue=[{"prune.criterion": "magnitude"}], n_trials=1)
        fit(tmp_path, found, outer)
        assert found.best_architecture == {"prune.criterion": "magnitude"} and outer.seed == 7

    def test_the_report_takes_its_study(self, tmp_path: Path) -> None:
        pytest.importorskip("plotly")
        outer = pruning()
        fit(tmp_path, search({**SPACE, "prune.scope": ["global", "erk"]}, n_trials=4), outer)
        page = write_report(tmp_path / "autoarch/Net/study.db", tmp_path / "report.html")
        assert "prune.sparsity" in Path(page).read_text()

    def test_fast_dev_run(self, tmp_path: Path) -> None:
        found, outer = search(trial={"trainer": {}}), pruning()
        module = fit(tmp_path, found, outer, fast_dev_run=True)
        assert zeros(module) == pytest.approx(found.best_architecture["prune.sparsity"], abs=0.01)

    def test_trial_callbacks_alone(self, tmp_path: Path) -> None:
        found = search(after="stop", trial={"callbacks": [pruning()]})
        module = fit(tmp_path, found)
        assert zeros(module) == pytest.approx(found.best_architecture["prune.sparsity"], abs=0.01)

    def test_trial_callbacks_and_a_dense_outer_fit(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match=r"without MagnitudePruning"):
            module = fit(tmp_path, search(trial={"callbacks": [pruning()]}))
        assert zeros(module) == 0

    def test_trial_callbacks_and_an_outer_one(self, tmp_path: Path) -> None:
        inner, outer = MagnitudePruning(OneShot(0.9, at=0), every_n_steps=1), pruning()
        found = search(trial={"callbacks": [inner]})
        fit(tmp_path, found, outer)
        assert outer.schedule == CubicSparsity(found.best_architecture["prune.sparsity"], end=0.5)
        assert inner.schedule == OneShot(0.9, at=0)
        with pytest.raises(SpaceError, match=r"`prune.at`"):
            fit(tmp_path / "2", search({"prune.at": Float(0.0, 0.5)}, trial={"callbacks": [inner]}), outer)

    def test_a_checkpoint_of_the_outer_fit_carries_it(self, tmp_path: Path) -> None:
        outer, found = pruning(), search()
        module = nets.Net(dropout=0.0)
        trainer = nets.trainer(tmp_path, found, outer, max_epochs=3)
        trainer.fit(module, *nets.loaders())
        trainer.save_checkpoint(tmp_path / "outer.ckpt")
        again, fresh = search(n_trials=99), pruning()
        other = nets.Net(dropout=0.0)
        later = nets.trainer(tmp_path / "later", again, fresh, max_epochs=4)
        later.fit(other, *nets.loaders(), ckpt_path=str(tmp_path / "outer.ckpt"), weights_only=False)
        assert again.best_architecture == found.best_architecture
        assert fresh.schedule == outer.schedule
        assert zeros(other) == zeros(module)
        assert not (tmp_path / "later" / "autoarch").exists()

    def test_the_search_put_second(self, tmp_path: Path) -> None:
        outer, found = pruning(), search()
        module = fit(tmp_path, outer, found)
        assert outer.sparsity == zeros(module) == pytest.approx(found.best_architecture["prune.sparsity"], abs=0.01)

    def test_a_second_search_with_the_same_callbacks(self, tmp_path: Path) -> None:
        outer, found = pruning(), search({**SPACE, "width": Int(8, 24)}, n_trials=2)
        fit(tmp_path, found, outer)
        again = search(n_trials=2, seed=1, study={"name": "again"})
        module = fit(tmp_path, again, outer)
        assert zeros(module) == pytest.approx(again.best_architecture["prune.sparsity"], abs=0.01)

    def test_callbacks_can_be_copied_afterwards(self, tmp_path: Path) -> None:
        outer, found = pruning(), search()
        module = fit(tmp_path, found, outer)
        assert copy.deepcopy(outer).schedule == pickle.loads(pickle.dumps(outer)).schedule == outer.schedule
        assert len(pickle.dumps(outer)) < 10_000  # neither module nor Trainer are in it
        assert pickle.loads(pickle.dumps(found)).best_architecture == found.best_architecture
        assert zeros(module) > 0


class TestTheScore:
    class Telling(nets.Net):
        """Its score says how dense it is: the denser, the better."""

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", torch.tensor(zeros(self)))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("train_sparsity", torch.tensor(zeros(self)), on_step=False, on_epoch=True)
            return super()._loss(batch)

    def test_is_of_the_pruned_net(self, tmp_path: Path) -> None:
        found = search(trial={"trainer": {"max_epochs": 6}})
        fit(tmp_path, found, pruning(), module=self.Telling(dropout=0.0), max_epochs=1)
        for trial in found.optuna_study.trials:
            assert trial.value == pytest.approx(trial.params["prune.sparsity"], abs=0.01)
            assert list(trial.intermediate_values) == [2, 3, 4, 5]  # the schedule ends with the third of six epochs
        saved = checkpoint(found.optuna_study)
        assert zeros(saved["state_dict"]) == pytest.approx(found.best_score)

    def test_a_training_metric_is_of_epochs_that_began_pruned(self, tmp_path: Path) -> None:
        found = search(monitor="train_sparsity", trial={"trainer": {"max_epochs": 6}})
        fit(tmp_path, found, pruning(), module=self.Telling(dropout=0.0), max_epochs=1)
        for trial in found.optuna_study.trials:
            assert list(trial.intermediate_values) == [3, 4, 5]
            assert trial.value == pytest.approx(trial.params["prune.sparsity"], abs=0.01)

    @pytest.mark.parametrize(
        "callback",
        [
            MagnitudePruning(ConstantSparsity(0.7), criterion="gradient", every_n_steps=4),
            MagnitudePruning(IterativeSparsity(0.7, rounds=2, rewind_to="init"), every_n_steps=5),
            MagnitudePruning(OneShot(0.7, at=Step(7)), every_n_steps=5),
            MagnitudePruning(CubicSparsity(0.7, end=0.5), {"net.0": 0.0}, every_n_steps=5),
            RigL(0.7, every_n_steps=2),
            SemiStructuredPruning(targets="net.0", at=0.5),
        ],
        ids=lambda callback: type(callback).__name__,
    )
    def test_whatever_prunes(self, tmp_path: Path, callback: Any) -> None:
        found = search({"width": Int(8, 24)}, trial={"callbacks": [callback]}, n_trials=1)
        fit(tmp_path, found, module=self.Telling(dropout=0.0), max_epochs=1)
        [trial] = found.optuna_study.trials
        last = max(trial.intermediate_values)
        assert trial.value == trial.intermediate_values[last]

    def test_a_trial_that_ends_before_its_schedule_is_a_failure_with_a_reason(self, tmp_path: Path) -> None:
        stopping = EarlyStopping("val_loss", patience=1, min_delta=1e9)
        found = search(trial={"callbacks": [stopping], "trainer": {"max_epochs": 8}})
        with pytest.raises(SearchError, match=r"3 x none of the 2 values of `val_loss` counts: MagnitudePruning"):
            fit(tmp_path, found, pruning())
        assert [len(t.intermediate_values) for t in found.optuna_study.trials] == [0] * 3

    def test_a_moment_after_the_trial_is_a_failure_with_a_reason(self, tmp_path: Path) -> None:
        with pytest.raises(SearchError, match=r"Expected `at` within the fit's 12 optimizer steps, got Step\(60\)"):
            fit(tmp_path, search(), MagnitudePruning(OneShot(0.9, at=Step(60))))

    def test_an_optuna_pruner_sees_only_pruned_nets(self, tmp_path: Path) -> None:
        stop = optuna.pruners.ThresholdPruner(lower=0.4)  # a dense net would be stopped
        found = search(pruner=stop)
        fit(tmp_path, found, pruning(), module=self.Telling(dropout=0.0), max_epochs=1)
        assert [t.state.name for t in found.optuna_study.trials] == ["COMPLETE"] * 3

    def test_folds(self, tmp_path: Path) -> None:
        found = search(folds=2)
        fit(tmp_path, found, pruning(), module=self.Telling(dropout=0.0), max_epochs=1)
        for trial in found.optuna_study.trials:
            assert trial.user_attrs["fold_scores"] == pytest.approx([trial.params["prune.sparsity"]] * 2, abs=0.01)

    def test_size_is_of_the_dense_module_and_measured_once_a_width(self, tmp_path: Path) -> None:
        found = search({"width": [8, 16], "prune.sparsity": Float(0.5, 0.9)}, n_trials=4)
        fit(tmp_path, found, pruning(), max_epochs=1)
        assert {t.user_attrs["params"] for t in found.optuna_study.trials} <= {6 * 8 + 1, 6 * 16 + 1}


class TestResume:
    def test_a_trial_that_was_interrupted_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        class Interrupt(L.Callback):
            armed = True

            def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
                if Interrupt.armed and trainer.current_epoch == 3 and trainer.max_epochs == 6:
                    Interrupt.armed = False
                    raise KeyboardInterrupt

        space = {**SPACE, "prune.criterion": ["magnitude", "gradient", "random"]}
        options = {"n_trials": 2, "trial": {"trainer": {"max_epochs": 6}}, "after": "stop"}
        whole = search(space, **options)
        expected = fit(tmp_path / "whole", whole, pruning())
        with pytest.raises(SystemExit):
            fit(tmp_path / "cut", search(space, **merged(options, {"trial": {"callbacks": [Interrupt()]}})), pruning())
        assert list((tmp_path / "cut").rglob("last.ckpt"))
        again = search(space, **merged(options, {"trial": {"callbacks": [Interrupt()]}}))
        module = fit(tmp_path / "cut", again, pruning())
        assert [t.value for t in again.optuna_study.trials] == [t.value for t in whole.optuna_study.trials]
        assert [t.intermediate_values for t in again.optuna_study.trials] == [
            t.intermediate_values for t in whole.optuna_study.trials
        ]
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), expected.parameters(), strict=True))

    def test_a_study_of_another_space_of_sparsities(self, tmp_path: Path) -> None:
        fit(tmp_path, search(n_trials=1), pruning(), max_epochs=1)
        other = {**SPACE, "prune.sparsity": Float(0.5, 0.9, log=True)}
        with pytest.raises(SearchError, match=r"prune.sparsity"):
            fit(tmp_path, search(other), pruning())

    def test_a_wider_range_of_sparsities_keeps_its_trials(self, tmp_path: Path) -> None:
        first = search(n_trials=1)
        fit(tmp_path, first, pruning(), max_epochs=1)
        trained = first.optuna_study.trials[0].params
        wider = search({**SPACE, "prune.sparsity": Float(0.5, 0.95)}, n_trials=2)
        fit(tmp_path, wider, pruning(), max_epochs=1)
        assert [trial.params == trained for trial in wider.optuna_study.trials] == [True, False]


@pytest.mark.parametrize("strategy", ["bayesian", "genetic"])
def test_every_strategy(tmp_path: Path, strategy: str) -> None:
    outer = pruning()
    space = {**SPACE, "prune.scope": ["global", "erk"]}
    found = search(space, sampler=strategy, n_trials=12, trial={"trainer": {"max_epochs": 2}})
    module = fit(tmp_path, found, outer)
    assert len([t for t in found.optuna_study.trials if t.value is not None]) >= 12
    assert zeros(module) == pytest.approx(found.best_architecture["prune.sparsity"], abs=0.01)


class TestCrossValidation:
    def test_each_fold_has_a_fresh_copy(self) -> None:
        callback, seen = pruning(), []

        class Spy(TestTheScore.Telling):
            def on_train_end(self) -> None:
                seen.append(next(cb for cb in self.trainer.callbacks if isinstance(cb, MagnitudePruning)))

        scores = cross_validate(
            Spy(width=16, dropout=0.0), nets.loaders()[0],
            {"folds": 3, "trainer": {"max_epochs": 4, "accelerator": "cpu", "devices": 1}, "callbacks": [callback]},
            monitor="val_loss",
        )  # fmt: skip
        assert scores.scores == pytest.approx([0.9] * 3, abs=0.01)
        assert len({id(each) for each in seen}) == 3 and callback not in seen
        assert callback.masks == {} and callback.sparsity == 0
        assert [each.sparsity for each in seen] == pytest.approx([0.9] * 3, abs=0.01)

    def test_a_callback_that_was_used_before_starts_anew(self, tmp_path: Path) -> None:
        callback = pruning()
        fit(tmp_path, callback)
        first = callback.masks
        module, options = nets.Net(width=9), {"max_epochs": 4, "accelerator": "cpu", "devices": 1}
        scores = cross_validate(
            module, nets.loaders()[0], {"folds": 2, "trainer": options, "callbacks": [callback]}, monitor="val_loss"
        )
        assert len(scores.scores) == 2
        assert callback.masks == first != {}
