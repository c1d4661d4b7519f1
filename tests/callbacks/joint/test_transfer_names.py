"""How to fine-tune, searched with the architecture: what a name sets, what a trial starts from, what the winner has."""

from __future__ import annotations

import copy
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
from search_options import merged
from torch import Tensor

from lightning_autoarch import (
    ArchitectureSearch,
    Categorical,
    Float,
    Int,
    Repeat,
    SearchError,
    SpaceError,
    TransferLearning,
)
from lightning_autoarch.callbacks.joint.tuning import with_parameters
from lightning_autoarch.callbacks.transfer import life
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.tune.thawing import Thawing

LAYERS = [{"width": 8}]
SPACE: dict[str, Any] = {
    "lr": Float(1e-3, 1e-1, log=True),
    "transfer.strategy": Categorical(["full", "linear_probe", "gradual"]),
    "transfer.layer_decay": Float(0.5, 1.0),
}
WIDTHS: dict[str, Any] = {"width": [8, 12], "transfer.layer_decay": Float(0.5, 1.0)}


class Net(nets.Net):
    """Three blocks: net.0, net.3, and the head net.6."""

    def __init__(self, width: int = 8, lr: float = 1e-2) -> None:
        super().__init__(width, lr=lr, layers=LAYERS, dropout=0.0)
        self.save_hyperparameters()


def pretrained(width: int = 8, seed: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: tensor.clone() for name, tensor in Net(width).state_dict().items()}


def search(space: Any = None, **options: Any) -> ArchitectureSearch:
    given = {"monitor": "val_loss", "n_trials": 3, "sampler": "random", "trial": {"trainer": {"max_epochs": 3}}}
    return ArchitectureSearch(space or SPACE, **merged(given, options))


def fit(root: Path, *callbacks: L.Callback, module: Any = None, ckpt_path: Any = None, **options: Any) -> Any:
    module = Net() if module is None else module
    resume = {} if ckpt_path is None else {"ckpt_path": ckpt_path, "weights_only": False}
    nets.trainer(root, *callbacks, **{"max_epochs": 3, **options}).fit(module, *nets.loaders(shuffle=False), **resume)
    return module


def checkpoint(found: ArchitectureSearch) -> dict[str, Any]:
    assert found.optuna_study is not None
    return torch.load(found.optuna_study.best_trial.user_attrs["checkpoint"], weights_only=True)


def same(state: Any, expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(state[name], expected[name]) for name in expected)


class Start(L.Callback):
    """The weights with which training starts."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weights = copy.deepcopy(pl_module.state_dict())


class TestNames:
    @pytest.mark.parametrize(
        ("options", "parameters", "expected"),
        [
            ({}, {"strategy": "gradual", "layer_decay": 0.7}, {"strategy": "gradual", "layer_decay": 0.7}),
            ({"l2_sp": 0.1}, {"l2_sp": 0.2, "warmup_epochs": 0.5}, {"l2_sp": 0.2, "warmup_epochs": 0.5}),
            (
                {"strategy": "lp_ft"},
                {"probe_epochs": 2},
                {"thawing": Thawing(probe_epochs=2), "strategy": "lp_ft"},
            ),
            (
                {"strategy": "gradual", "thawing": Thawing(unit="step", every=9)},
                {"every": 4},
                {"thawing": Thawing(unit="step", every=4)},
            ),
            (
                {"strategy": "gradual", "thawing": Thawing(monitor="a")},
                {"patience": 2, "min_delta": 0.1},
                {"thawing": Thawing(monitor="a", patience=2, min_delta=0.1)},
            ),
            ({}, {"freeze_depth": 2, "freeze": "net.0", "head": "net.3"}, {"freeze_depth": 2, "freeze": "net.0"}),
            (
                {"lr_scale": {"*": 2.0, "net.0": 3.0}},
                {"lr_scale.net.0": 0.1, "lr_scale.net.[3-6]": 0.2},
                {"lr_scale": {"net.0": 0.1, "net.[3-6]": 0.2, "*": 2.0}},
            ),
            ({"strategy": "lora", "lora": {"lora_alpha": 16}}, {"lora.r": 4}, {"lora": {"r": 4, "lora_alpha": 16}}),
        ],
    )
    def test_what_they_set(self, options: Any, parameters: dict[str, Any], expected: dict[str, Any]) -> None:
        callback = TransferLearning("weights.pt", rules=[("a", "b")], **options)
        before = callback.arguments()
        made = with_parameters(callback, parameters)
        assert {name: made.arguments()[name] for name in expected} == expected
        assert list(made.lr_scale) == list(expected.get("lr_scale", {}))  # the first that matches counts
        assert {
            k: v
            for k, v in made.arguments().items()
            if k not in {"thawing", *(n.partition(".")[0] for n in parameters)}
        } == {k: v for k, v in before.items() if k not in {"thawing", *(n.partition(".")[0] for n in parameters)}}
        assert callback.arguments() == before

    def test_a_checkpoint_and_what_happens_to_misfits(self) -> None:
        made = with_parameters(TransferLearning("a.pt"), {"checkpoint": "b.pt", "on_mismatch": "slice"})
        assert made.checkpoint == "b.pt" and made.on_mismatch == "slice"

    @pytest.mark.parametrize(
        ("options", "space", "message"),
        [
            ({}, {"transfer.layer_decy": Float(0.5, 1)}, r"`transfer.layer_decy`.*Did you mean `transfer.layer_decay`"),
            (
                {},
                {"transfer.lr_scal.net": Float(0.5, 1)},
                r"`transfer.lr_scal.net` .*no tunable.*lr_scale.<pattern>",
            ),
            ({}, {"transfer.lr_scale": Float(0.5, 1)}, r"`transfer.lr_scale` cannot be 0.5: .*pattern: factor"),
            ({}, {"transfer.rules": ["a"]}, r"`transfer.rules`"),
            ({}, {"transfer.strategy": ["full", "probe"]}, r"`transfer.strategy` cannot be 'probe': .*linear_probe"),
            ({}, {"transfer.layer_decay": Float(0.5, 1.5)}, r"`transfer.layer_decay` cannot be 1.5: .*\(0, 1\]"),
            ({}, {"transfer.freeze_depth": Int(-1, 2)}, r"`transfer.freeze_depth` cannot be -1: .*>= 0"),
            ({}, {"transfer.probe_epochs": Int(1, 2)}, r"`transfer.probe_epochs` cannot be 1: .*lp_ft"),
            ({}, {"transfer.on_mismatch": ["skip", "cut"]}, r"`transfer.on_mismatch` cannot be 'cut'"),
            ({}, {"transfer.checkpoint": ["nowhere.pt"]}, r"`transfer.checkpoint` cannot be 'nowhere.pt': .*nothing"),
            ({}, {"transfer.freeze": Repeat(1, 2, {"x": Int(1, 2)})}, r"`transfer.freeze`.*Repeat"),
            (
                {"strategy": "lp_ft", "thawing": Thawing(probe_epochs=1)},
                {"transfer.strategy": ["full", "lp_ft"]},
                r"`transfer.strategy` cannot be 'full': `probe_epochs`",
            ),
        ],
    )
    def test_what_is_refused_before_training(self, tmp_path: Path, options: Any, space: Any, message: str) -> None:
        with pytest.raises(SpaceError, match=message):
            fit(tmp_path, search(space), TransferLearning(pretrained(), **options))
        assert not list(tmp_path.rglob("study.db"))

    @pytest.mark.parametrize(
        ("callbacks", "message"),
        [
            ([], r"`transfer.strategy` of the space needs a callback whose tunable it is, such as TransferLearning"),
            ([TransferLearning("nowhere.pt")], r"Expected a checkpoint at nowhere.pt, got nothing there"),
        ],
    )
    def test_which_callback(self, tmp_path: Path, callbacks: Any, message: str) -> None:
        with pytest.raises(SearchError, match=message):
            fit(tmp_path, search(), *callbacks)
        assert not list(tmp_path.rglob("study.db"))

    def test_two(self, tmp_path: Path) -> None:
        found = search(trial={"callbacks": [TransferLearning(), TransferLearning()]})
        with pytest.raises(SearchError, match=r"tunables of one callback, got .* in `trial.callbacks`"):
            fit(tmp_path, found)

    def test_one_that_the_module_brings_along(self, tmp_path: Path) -> None:
        class Own(Net):
            def configure_callbacks(self) -> Any:
                return TransferLearning(pretrained())

        with pytest.raises(SearchError, match="configure_callbacks"):
            fit(tmp_path, search(), module=Own())

    def test_a_combination_that_cannot_be_is_not_tried(self, tmp_path: Path) -> None:
        space = {
            "transfer.strategy": Categorical(["full", "lp_ft"]),
            "transfer.freeze_depth": Int(0, 1),
            "transfer.probe_epochs": Int(1, 2, when={"transfer.freeze_depth": [1]}),
        }
        bad = {"transfer.strategy": "full", "transfer.freeze_depth": 1, "transfer.probe_epochs": 1}
        found = search(space, n_trials=4, enqueue=[bad])
        with pytest.warns(UserWarning, match="is not tried: `probe_epochs` requires"):
            fit(tmp_path, found, TransferLearning(pretrained()))
        assert found.optuna_study is not None
        tried = [t.user_attrs["architecture"] for t in found.optuna_study.trials if "architecture" in t.user_attrs]
        assert len(tried) == 4
        assert all(a["transfer.strategy"] == "lp_ft" for a in tried if "transfer.probe_epochs" in a)

    def test_what_exists_only_with_another(self, tmp_path: Path) -> None:
        space = {
            "transfer.strategy": Categorical(["full", "lp_ft"]),
            "transfer.probe_epochs": Int(1, 2, when={"transfer.strategy": ["lp_ft"]}),
        }
        transfer = TransferLearning(pretrained())
        found = search(space, n_trials=1, enqueue=[{"transfer.strategy": "lp_ft", "transfer.probe_epochs": 2}])
        fit(tmp_path, found, transfer)
        assert (transfer.strategy, transfer.thawing.probe_epochs) == ("lp_ft", 2)


class TestTrials:
    class Watched(Net):
        starts: list[dict[str, Tensor]] = []

        def on_train_start(self) -> None:
            self.starts.append(copy.deepcopy(self.state_dict()))

    def test_start_from_the_checkpoint(self, tmp_path: Path) -> None:
        self.Watched.starts.clear()
        transfer, found = TransferLearning(pretrained()), search(after="stop")
        fit(tmp_path, found, transfer, module=self.Watched())
        assert len(self.Watched.starts) == 3
        assert all(same(start, pretrained()) for start in self.Watched.starts)

    def test_of_several_checkpoints(self, tmp_path: Path) -> None:
        paths = [str(tmp_path / f"{seed}.pt") for seed in (1, 2)]
        for seed, path in zip((1, 2), paths, strict=True):
            torch.save(pretrained(seed=seed), path)
        self.Watched.starts.clear()
        transfer, found = TransferLearning(paths[0]), search({"transfer.checkpoint": Categorical(paths)}, n_trials=2)
        module = fit(tmp_path, found, transfer, module=self.Watched())
        assert found.optuna_study is not None and found.best_architecture is not None
        tried = [t.user_attrs["architecture"] for t in found.optuna_study.trials if "architecture" in t.user_attrs]
        assert {a["transfer.checkpoint"] for a in tried} == set(paths)
        for architecture, start in zip([*tried, found.best_architecture], module.starts, strict=True):
            assert same(start, pretrained(seed=1 + paths.index(architecture["transfer.checkpoint"])))
        assert transfer.checkpoint == found.best_architecture["transfer.checkpoint"]

    @pytest.mark.parametrize(
        ("on_mismatch", "shares"),
        [("skip", {8: 1.0, 12: 17 / 173}), ("slice", {8: 1.0, 12: 121 / 173}), ("widen", {8: 1.0, 12: 1.0})],
    )
    def test_of_an_architecture_that_the_checkpoint_does_not_fit(
        self, tmp_path: Path, on_mismatch: Any, shares: dict[int, float]
    ) -> None:
        transfer = TransferLearning(
            pretrained(), on_mismatch=on_mismatch, matching=Matching(example_inputs=torch.zeros(2, 4))
        )
        found = search(WIDTHS, n_trials=2, enqueue=[{"width": 8}, {"width": 12}])
        fit(tmp_path, found, transfer, max_epochs=1)
        assert found.optuna_study is not None
        got = {t.params["width"]: t.user_attrs["transferred"] for t in found.optuna_study.trials}
        assert got == pytest.approx({width: shares[width] for width in got}) and len(got) == 2

    def test_one_that_does_not_fit_and_may_not(self, tmp_path: Path) -> None:
        transfer = TransferLearning(pretrained(), on_mismatch="error")
        found = search(WIDTHS, n_trials=2, enqueue=[{"width": 8}, {"width": 12}])
        fit(tmp_path, found, transfer, max_epochs=1)
        assert found.optuna_study is not None and found.best_architecture is not None
        assert found.best_architecture["width"] == 8
        errors = [t.user_attrs["error"] for t in found.optuna_study.trials if t.params["width"] == 12]
        assert errors and all(error.startswith("TransferError") for error in errors)

    def test_more_frozen_blocks_than_a_candidate_has(self, tmp_path: Path) -> None:
        found = search({"transfer.freeze_depth": Int(0, 3)}, n_trials=4)
        fit(tmp_path, found, TransferLearning(pretrained()), max_epochs=1)
        assert found.optuna_study is not None
        errors = {t.params["transfer.freeze_depth"]: t.user_attrs.get("error", "") for t in found.optuna_study.trials}
        assert {depth for depth, error in errors.items() if error} == {d for d in errors if d > 2} == {3}
        assert "at most 2, the blocks of Net below its head, got 3" in errors[3]

    def test_with_folds(self, tmp_path: Path) -> None:
        found = search(folds=2, n_trials=2)
        fit(tmp_path, found, TransferLearning(pretrained(), reinit=["net.6"]), max_epochs=3)
        assert found.optuna_study is not None
        assert [t.user_attrs["transferred"] for t in found.optuna_study.trials] == pytest.approx([112 / 121] * 2)

    @pytest.mark.parametrize("strategy", ["bayesian", "genetic"])
    def test_every_strategy(self, tmp_path: Path, strategy: str) -> None:
        transfer, found = TransferLearning(pretrained()), search(sampler=strategy, n_trials=11)
        fit(tmp_path, found, transfer, max_epochs=1)
        assert found.optuna_study is not None and found.best_architecture is not None
        assert len([t for t in found.optuna_study.trials if t.value is not None]) >= 11
        assert transfer.strategy == found.best_architecture["transfer.strategy"]


class TestTheWinner:
    def test_is_fine_tuned_again_from_the_checkpoint(self, tmp_path: Path) -> None:
        start, transfer, found = Start(), TransferLearning(pretrained(), l2_sp=0.01), search()
        module = fit(tmp_path, found, transfer, start)
        assert same(start.weights, pretrained())
        assert not same(module.state_dict(), pretrained())
        assert transfer.report is not None and transfer.report.share == 1.0

    @pytest.mark.parametrize("after", ["keep", "stop"])
    @pytest.mark.parametrize("search_first", [True, False])
    def test_keeps_the_weights_of_its_trial(
        self, tmp_path: Path, after: Any, search_first: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        took_over: list[Any] = []
        take_over = life.take_over
        monkeypatch.setattr(life, "take_over", lambda *a, **k: took_over.append(a[0]) or take_over(*a, **k))

        class AtFitStart(L.Callback):
            def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
                self.weights = copy.deepcopy(pl_module.state_dict())

        start, transfer = AtFitStart(), TransferLearning(pretrained(), l2_sp=0.01, reinit=["net.6"])
        found = search(after=after)
        callbacks = [found, transfer] if search_first else [transfer, found]
        module = fit(tmp_path, *callbacks, start)
        saved = checkpoint(found)
        assert same(start.weights, saved["state_dict"])
        assert same(module.state_dict(), saved["state_dict"]) == (after == "stop")
        assert transfer.report is None
        assert len(took_over) == 3 and module not in took_over  # the trials' modules alone
        expected = {name: tensor for name, tensor in pretrained().items() if not name.startswith("net.6")}
        start_of_l2_sp = transfer.state_dict()["start"]
        assert start_of_l2_sp.keys() == expected.keys() and same(start_of_l2_sp, expected)  # not the trial's weights
        assert found.best_architecture is not None
        assert transfer.layer_decay == found.best_architecture["transfer.layer_decay"]

    def test_keeps_what_only_the_trials_know(self, tmp_path: Path) -> None:
        found = search(after="stop", trial={"callbacks": [TransferLearning(pretrained())]})
        module = fit(tmp_path, found)
        assert same(module.state_dict(), checkpoint(found)["state_dict"])

    def test_trial_callbacks_and_a_plain_outer_fit(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match=r"without TransferLearning"):
            fit(tmp_path, search(trial={"callbacks": [TransferLearning(pretrained())]}), max_epochs=1)

    def test_no_start_for_l2_sp(self, tmp_path: Path) -> None:
        inner, outer = TransferLearning(pretrained()), TransferLearning(pretrained(), l2_sp=0.1)
        with pytest.raises(Exception, match="the weights that `l2_sp` began with"):
            fit(tmp_path, search(after="keep", trial={"callbacks": [inner]}), outer)

    def test_adapters_without_peft(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "peft" else find(name, *a))
        space = {"transfer.strategy": Categorical(["full", "lora"])}
        with pytest.raises(SpaceError, match=r"`transfer.strategy` cannot be 'lora': .*needs peft: `pip install"):
            fit(tmp_path, search(space), TransferLearning(pretrained()))
        assert not list(tmp_path.rglob("study.db"))

    @pytest.mark.parametrize("after", ["keep", "stop"])
    def test_adapters_are_kept_as_a_change_of_the_weights(self, tmp_path: Path, after: Any) -> None:
        pytest.importorskip("peft", reason="peft is not installed: the extra `lora` has it")
        start = Start()
        transfer = TransferLearning(pretrained(), strategy="lora", lora={"r": 2})
        space = {"lr": Float(1e-2, 1e-1), "transfer.lora.r": Categorical([1, 2])}
        found = search(space, n_trials=2, after=after)
        module = fit(tmp_path, found, transfer, start)
        kept = checkpoint(found)["state_dict"]
        assert kept.keys() == pretrained().keys()  # of a plain module, with what the adapters of the trial have learned
        assert not any(torch.equal(kept[name], tensor) for name, tensor in pretrained().items() if "weight" in name)
        if after == "keep":
            assert same(start.weights, kept)
            assert module.state_dict().keys() == kept.keys()
        learned = [name for name in kept if not torch.equal(module.state_dict()[name], kept[name])]
        weights = ["net.0.weight", "net.3.weight", "net.6.weight", "net.6.bias"]
        assert learned == (weights if after == "keep" else [])

    def test_adapters_only_in_trials(self, tmp_path: Path) -> None:
        pytest.importorskip("peft", reason="peft is not installed: the extra `lora` has it")
        space = {"lr": Float(1e-2, 1e-1), "transfer.strategy": Categorical(["lora"])}
        start = Start()
        found = search(space, n_trials=1, after="keep", trial={"callbacks": [TransferLearning(pretrained())]})
        with pytest.warns(UserWarning, match=r"without TransferLearning"):
            module = fit(tmp_path, found, start, max_epochs=1)
        assert same(start.weights, checkpoint(found)["state_dict"])  # what the adapters of the trial have learned
        assert start.weights.keys() == module.state_dict().keys() == pretrained().keys()
        assert not torch.equal(start.weights["net.0.weight"], pretrained()["net.0.weight"])

    def test_adapters_only_in_the_outer_fit(self, tmp_path: Path) -> None:
        pytest.importorskip("peft", reason="peft is not installed: the extra `lora` has it")
        start, transfer = Start(), TransferLearning(pretrained(), strategy="lora", lora={"r": 2})
        found = search({"lr": Float(1e-2, 1e-1)}, n_trials=1, after="keep")
        module = fit(tmp_path, found, transfer, start, max_epochs=1)
        kept = checkpoint(found)["state_dict"]
        assert same(start.weights, kept)  # the trial knew nothing of `pretrained`
        assert module.state_dict().keys() == kept.keys()
        assert not torch.equal(module.state_dict()["net.0.weight"], kept["net.0.weight"])

    def test_a_second_search_with_the_same_callback(self, tmp_path: Path) -> None:
        transfer, start = TransferLearning(pretrained()), Start()
        fit(tmp_path, search(n_trials=1), transfer)
        again = search(n_trials=2, seed=1, study={"name": "again"})
        fit(tmp_path, again, transfer, start)
        assert again.best_architecture is not None and same(start.weights, pretrained())
        assert transfer.layer_decay == again.best_architecture["transfer.layer_decay"]

    def test_callbacks_can_be_copied_afterwards(self, tmp_path: Path) -> None:
        torch.save(pretrained(), tmp_path / "pretrained.pt")
        transfer, found = TransferLearning(tmp_path / "pretrained.pt"), search(n_trials=1)
        fit(tmp_path, found, transfer)
        assert copy.deepcopy(transfer).tuning == pickle.loads(pickle.dumps(transfer)).tuning == transfer.tuning
        assert len(pickle.dumps(transfer)) < 10_000  # neither module nor Trainer are in it
        assert pickle.loads(pickle.dumps(found)).best_architecture == found.best_architecture

    def test_fast_dev_run(self, tmp_path: Path) -> None:
        transfer, found = TransferLearning(pretrained()), search(after="keep", trial={"trainer": {}})
        fit(tmp_path, found, transfer, fast_dev_run=True)
        assert found.best_architecture is not None
        assert transfer.strategy == found.best_architecture["transfer.strategy"]


class TestResume:
    def test_an_interrupted_trial_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        class Interrupt(L.Callback):
            armed = True

            def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
                if Interrupt.armed and trainer.current_epoch == 2:
                    Interrupt.armed = False
                    raise KeyboardInterrupt

        def transfer() -> TransferLearning:
            return TransferLearning(pretrained(), l2_sp=0.01, warmup_epochs=1.0)

        options: dict[str, Any] = {"n_trials": 2, "trial": {"trainer": {"max_epochs": 4}}}
        whole = search(**options)
        expected = fit(tmp_path / "whole", whole, transfer())
        with pytest.raises(SystemExit):
            fit(tmp_path / "cut", search(**merged(options, {"trial": {"callbacks": [Interrupt()]}})), transfer())
        assert list((tmp_path / "cut").rglob("last.ckpt"))
        again = search(**merged(options, {"trial": {"callbacks": [Interrupt()]}}))
        module = fit(tmp_path / "cut", again, transfer())
        assert whole.optuna_study is not None and again.optuna_study is not None
        assert [t.intermediate_values for t in again.optuna_study.trials] == [
            t.intermediate_values for t in whole.optuna_study.trials
        ]
        assert [t.user_attrs["transferred"] for t in again.optuna_study.trials] == [1.0, 1.0]
        assert same(module.state_dict(), expected.state_dict())

    @pytest.mark.parametrize("after", ["train", "keep"])
    def test_the_outer_fit_goes_on_bit_for_bit(self, tmp_path: Path, after: Any) -> None:
        class Save(L.Callback):
            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                if trainer.current_epoch == 1:
                    trainer.save_checkpoint(tmp_path / "part.ckpt")

        space = {**SPACE, "transfer.freeze_depth": Int(0, 2), "transfer.l2_sp": Float(0.01, 0.1)}
        found, transfer = search(space, after=after), TransferLearning(pretrained())
        module = fit(tmp_path / "whole", found, transfer, Save(), max_epochs=4)
        again, fresh = search(space, n_trials=99, after=after), TransferLearning(tmp_path / "gone.pt")
        other = fit(tmp_path / "later", again, fresh, ckpt_path=str(tmp_path / "part.ckpt"), max_epochs=4)
        assert again.best_architecture == found.best_architecture
        assert fresh.tuning == transfer.tuning and fresh.report is None
        assert not (tmp_path / "later" / "autoarch").exists()
        assert same(other.state_dict(), module.state_dict())
