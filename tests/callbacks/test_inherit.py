"""Searches whose trials start from earlier ones: which, what of them, and what is written down."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
from optuna.trial import FrozenTrial
from search_options import merged

from lightning_autoarch import ArchitectureSearch, Categorical, Int, Repeat, SearchError, TransferLearning
from lightning_autoarch.report import write_report
from lightning_autoarch.search.board import leaderboard
from lightning_autoarch.training import inheritance as heritage
from lightning_autoarch.training.data import TrialData
from lightning_autoarch.training.inheritance import Parent, WeightInheritance
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.trainer_settings import SILENT
from lightning_autoarch.training.trial import TrialSpec, run_trial


class Shown(nets.Net):
    """With an example, by which its channels are known; nothing random in it but its start."""

    def __init__(self, width: int = 4, layers: Any = (), lr: float = 1e-2):
        super().__init__(width=width, layers=layers, lr=lr, dropout=0.0)
        self.save_hyperparameters()
        self.example_input_array = torch.zeros(2, 4)


WIDTH = {"width": {"low": 2, "high": 32, "log": True}}


def search(**options: Any) -> ArchitectureSearch:
    defaults = {"n_trials": 4, "sampler": "random", "trial": {"trainer": {"max_epochs": 2}, "inherit": "best"}}
    given = merged(defaults, options)
    return ArchitectureSearch(given.pop("space", WIDTH), monitor="val_loss", **given)


def fitted(root: Path, callback: ArchitectureSearch, module: L.LightningModule | None = None) -> list[FrozenTrial]:
    nets.trainer(root, callback, max_epochs=1).fit(Shown() if module is None else module, *nets.loaders())
    assert callback.optuna_study is not None
    return callback.optuna_study.trials


class Watch(L.Callback):
    """The first validation loss is that of the weights that a trial starts from."""

    first: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            x, y = nets.samples(16, 1).tensors
            self.first.append(float((pl_module(x) - y).square().mean()))


@pytest.fixture
def firsts() -> list[float]:
    Watch.first = []
    return Watch.first


class TestParents:
    def test_the_best_so_far(self, tmp_path: Path) -> None:
        trials = fitted(tmp_path, search(n_trials=6))
        assert trials[0].user_attrs["parent"] is None and "inherited" not in trials[0].user_attrs
        for trial in trials[1:]:
            before = trials[: trial.number]
            assert trial.user_attrs["parent"] == min(before, key=lambda t: (t.value, t.number)).number

    def test_the_nearest(self, tmp_path: Path) -> None:
        widths = (4, 28, 5, 24)
        trials = fitted(
            tmp_path,
            search(trial={"inherit": "nearest"}, study={"keep_top_k": 9}, enqueue=[{"width": w} for w in widths]),
        )
        assert [trial.params["width"] for trial in trials] == list(widths)
        assert [trial.user_attrs["parent"] for trial in trials] == [None, 0, 0, 1]

    def test_only_those_that_keep_a_checkpoint(self, tmp_path: Path) -> None:
        callback = search(trial={"inherit": "nearest"}, study={"keep_top_k": 1}, n_trials=6)
        trials = fitted(tmp_path, callback)
        for trial in trials[1:]:
            best = min(trials[: trial.number], key=lambda t: (t.value, t.number))
            assert trial.user_attrs["parent"] == best.number

    def test_trials_that_fail_are_no_parents(self, tmp_path: Path) -> None:
        class Picky(Shown):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                if self.hparams["width"] == 3:
                    raise ValueError("three")
                return super().training_step(batch, batch_idx)

        trials = fitted(tmp_path, search(enqueue=[{"width": 3}, {"width": 4}], n_trials=3), Picky())
        assert [trial.user_attrs["parent"] for trial in trials] == [None, None, 1]

    @pytest.mark.parametrize("inherit", ["best", "nearest"])
    def test_one_seed_one_family(self, tmp_path: Path, inherit: Any) -> None:
        runs = [
            [
                (t.params, t.value, t.user_attrs["parent"])
                for t in fitted(tmp_path / name, search(trial={"inherit": inherit}))
            ]
            for name in "ab"
        ]
        assert runs[0] == runs[1]

    def test_none_is_as_before(self, tmp_path: Path) -> None:
        trials = fitted(tmp_path, search(trial={"inherit": None}))
        assert not any({"parent", "inherited", "total_epochs"} & set(trial.user_attrs) for trial in trials)

    def test_duplicates_have_none(self, tmp_path: Path) -> None:
        trials = fitted(tmp_path, search(space={"width": [4, 5]}, n_trials=2, sampler="random", seed=1))
        twins = [trial for trial in trials if "duplicate_of" in trial.user_attrs]
        assert not any("parent" in trial.user_attrs for trial in twins)

    def test_a_trial_run_has_nothing_to_inherit(self, tmp_path: Path) -> None:
        nets.trainer(tmp_path, search(), fast_dev_run=True).fit(Shown(), *nets.loaders())


class TestWeights:
    def test_wider_starts_where_the_parent_ended(self, tmp_path: Path, firsts: list[float]) -> None:
        options: dict[str, Any] = {"n_trials": 3, "enqueue": [{"width": w} for w in (4, 8, 19)]}
        trials = fitted(tmp_path, search(**options, trial={"callbacks": [Watch()]}))
        for trial in trials[1:]:
            parent = trials[trial.user_attrs["parent"]]
            assert firsts[trial.number] == pytest.approx(parent.value, rel=1e-4)
            assert trial.user_attrs["inherited"] == 1

    def test_without_an_example_what_both_have_is_copied(self, tmp_path: Path) -> None:
        module = nets.Net(dropout=0.0)
        trials = fitted(tmp_path, search(n_trials=2, enqueue=[{"width": 4}, {"width": 8}]), module)
        assert trials[1].user_attrs["inherited"] == pytest.approx((4 * 4 + 4 + 4 + 1) / (8 * 4 + 8 + 8 + 1))

    def test_narrower_and_deeper(self, tmp_path: Path) -> None:
        layers = {"layers": Repeat(0, 2, {"width": Int(2, 8)})}
        enqueue = [{"layers": []}, {"layers": [{"width": 3}]}, {"layers": [{"width": 6}, {"width": 2}]}, {"layers": []}]
        trials = fitted(tmp_path, search(space=layers, enqueue=enqueue[:3], n_trials=4))
        assert all(0 < trial.user_attrs["inherited"] <= 1 for trial in trials[1:] if "inherited" in trial.user_attrs)
        assert all(trial.state.name == "COMPLETE" for trial in trials if "duplicate_of" not in trial.user_attrs)

    def test_forward_that_cannot_be_followed(self, tmp_path: Path) -> None:
        class Peeking(Shown):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.net(x) if x.is_meta or x.isfinite().all() else x

        trials = fitted(tmp_path, search(n_trials=2, enqueue=[{"width": 4}, {"width": 8}]), Peeking())
        assert 0 < trials[1].user_attrs["inherited"] < 1

    def test_nothing_in_common_starts_fresh_and_says_why(self, tmp_path: Path) -> None:
        class Unlike(Shown):
            def state_dict(self, *args: Any, **kwargs: Any) -> Any:
                return {f"{name}.of.width.{self.hparams['width']}": x for name, x in super().state_dict().items()}

        trials = fitted(tmp_path, search(n_trials=2, enqueue=[{"width": 4}, {"width": 9}]), Unlike())
        attributes = trials[1].user_attrs
        assert attributes["inherited"] == 0 and "share" in attributes["inherited_reason"]
        assert attributes["total_epochs"] == attributes["epochs"] and trials[1].state.name == "COMPLETE"

    @pytest.mark.parametrize("after", ["train", "keep"])
    def test_the_winner_is_trained_as_ever(self, tmp_path: Path, after: Any) -> None:
        callback, starts = search(after=after), []

        class Start(L.Callback):
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                starts.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})

        nets.trainer(tmp_path, callback, Start(), max_epochs=1).fit(Shown(), *nets.loaders())
        assert callback.optuna_study is not None
        kept = torch.load(callback.optuna_study.best_trial.user_attrs["checkpoint"], weights_only=True)["state_dict"]
        assert all(torch.equal(kept[name], tensor) for name, tensor in starts[0].items()) == (after == "keep")


class TestRecord:
    def test_epochs_of_all_parents_count(self, tmp_path: Path) -> None:
        trials = fitted(tmp_path, search(n_trials=6))
        for trial in trials[1:]:
            parent = trials[trial.user_attrs["parent"]].user_attrs
            assert trial.user_attrs["epochs"] == 2
            assert trial.user_attrs["total_epochs"] == 2 + parent.get("total_epochs", 2)

    def test_shown_where_trials_are(self, tmp_path: Path) -> None:
        callback = search(n_trials=3)
        trials = fitted(tmp_path, callback)
        header, *lines = leaderboard(callback.optuna_study, columns=200).splitlines()  # type: ignore[arg-type]
        assert "parent" in header and "in all" in header
        assert any(f"#{trials[2].user_attrs['parent']} 100%" in line for line in lines)
        page = write_report(callback.optuna_study, tmp_path / "report.html").read_text("utf-8")  # type: ignore[arg-type]
        assert "<th" in page and "in all" in page and "In all: the epochs that its weights have seen" in page

    def test_not_shown_where_there_are_none(self, tmp_path: Path) -> None:
        callback = search(trial={"inherit": None}, n_trials=2)
        fitted(tmp_path, callback)
        assert "parent" not in leaderboard(callback.optuna_study)  # type: ignore[arg-type]


class TestInterrupted:
    def test_continued_trial_does_not_inherit_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The search is stopped in the second epoch of trial 1, and started again."""
        whole = [(t.params, t.value, t.user_attrs["parent"]) for t in fitted(tmp_path / "whole", search())]
        taken: list[int] = []
        inherit = heritage.inherit_weights
        monkeypatch.setattr(heritage, "inherit_weights", lambda *args: taken.append(1) or inherit(*args))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fitted(tmp_path / "parts", search(trial={"callbacks": [Stop(1)]}))
        assert taken == [1]
        with pytest.warns(UserWarning, match=r"other conditions.*`callbacks\.0\.class`: stored 'Stop'"):
            trials = fitted(tmp_path / "parts", search(study={"accept_changes": True}))
        assert [(t.params, t.value, t.user_attrs["parent"]) for t in trials] == whole
        assert len(taken) == 3 and all(trial.user_attrs["inherited"] == 1 for trial in trials[1:])

    def test_trial_that_was_done_but_not_written_down(self, tmp_path: Path) -> None:
        spec = child(tmp_path)
        done = run_trial(spec, lambda step, value: True)
        again = run_trial(spec, lambda step, value: pytest.fail("trained again"))
        assert done.state == again.state == "pruned"
        assert done.inherited == again.inherited and again.inherited is not None and again.inherited.share == 1

    def test_parent_that_is_gone(self, tmp_path: Path) -> None:
        spec = child(tmp_path)
        assert spec.parent is not None
        spec.parent.checkpoint.unlink()
        result = run_trial(spec, lambda step, value: False)
        assert result.state == "complete" and result.inherited is not None
        assert result.inherited.share == result.inherited.epochs == 0 and "parent.ckpt" in result.inherited.reason

    def test_spec_goes_through_pickle(self, tmp_path: Path) -> None:
        spec = child(tmp_path)
        results = [run_trial(s, lambda step, value: False) for s in (pickle.loads(pickle.dumps(spec)),)]
        assert results[0].inherited is not None and results[0].inherited.share == 1


class Stop(L.Callback):
    """Ctrl-C in the second epoch of the n-th trial, counted from 0."""

    def __init__(self, trial: int) -> None:
        self.trial = trial

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1 and Path(trainer.default_root_dir).name == f"{self.trial:04d}":
            raise KeyboardInterrupt


def child(root: Path) -> TrialSpec:
    """Of a parent whose checkpoint is there."""
    torch.save({"state_dict": Shown(width=4).state_dict()}, root / "parent.ckpt")
    train, val = nets.loaders()
    return TrialSpec(
        architecture={"width": 8},
        builder=ModuleBuilder.of(Shown()),
        data=TrialData(train=train, val=val),
        trainer={**SILENT, "max_epochs": 2, "accelerator": "cpu", "devices": 1},
        monitor="val_loss",
        mode="min",
        seed=1,
        directory=root / "0001",
        parent=Parent(0, root / "parent.ckpt", 5),
    )


class TestArguments:
    @pytest.mark.parametrize("inherit", ["worst", True, 1, ""])
    def test_other_words(self, inherit: Any) -> None:
        with pytest.raises(SearchError, match=r"`trial.inherit` to be one of best, nearest, None"):
            search(trial={"inherit": inherit})

    def test_folds_would_leak(self) -> None:
        with pytest.raises(SearchError, match=r"`inherit='best'` does not go with `folds`.*validate"):
            search(folds=3)
        search(folds=3, trial={"inherit": None})

    @pytest.mark.parametrize("name", ["transfer.checkpoint", "transfer.reinit"])
    def test_names_that_it_leaves_no_effect(self, tmp_path: Path, name: str) -> None:
        callbacks = search(space={name: Categorical(["a", "b"])}), TransferLearning()
        with pytest.raises(SearchError, match=rf"`{name}` of the space has no effect with `inherit='best'`"):
            nets.trainer(tmp_path, *callbacks, max_epochs=1).fit(Shown(), *nets.loaders())

    def test_state_of_the_callback_is_plain(self) -> None:
        callback = WeightInheritance(Parent(3, Path("x.ckpt"), 4))
        assert callback.state_dict() == {}
        callback.load_state_dict({"share": 0.5, "reason": ""})
        assert callback.inherited is not None and callback.inherited.epochs == 4
        assert callback.state_dict() == {"format": 1, "share": 0.5, "reason": ""}
