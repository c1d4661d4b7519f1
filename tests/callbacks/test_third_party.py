"""A callback of a third party: what it declares is searched, resumed, shown and configured, and nothing else knows it.

`Smoothing` is defined here alone. Its gradients decay towards their running average, which is its state.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cli_nets
import lightning as L
import nets
import pytest
import torch
import yaml
from cli_nets import TRAINER
from search_options import merged
from torch import Tensor

from lightning_autoarch import ArchitectureSearch, CheckpointError, Float, Int, SearchError, SpaceError
from lightning_autoarch.callbacks.base import AutoArchCallback, Tunable
from lightning_autoarch.cli import AutoArchCLI
from lightning_autoarch.core.schema import Schema, mapping, tensor, whole
from lightning_autoarch.report import write_report
from lightning_autoarch.search.board import leaderboard


class Smoothing(AutoArchCallback):
    """g <- (1 - alpha) g + alpha rate m of each parameter, with m the gradient of the step before."""

    prefix = section = "smooth"
    schema = Schema("Smoothing", 1, {"steps": whole(), "last": mapping(tensor())})

    def __init__(self, alpha: float = 0.1, rate: float | dict[str, float] = 1.0, mode: str = "last") -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"Expected `alpha` in [0, 1], got {alpha}.")
        self.alpha, self.rate, self.mode = alpha, rate, mode
        self.steps = 0
        self.last: dict[str, Tensor] = {}

    def tunables(self) -> list[Tunable]:
        return [Tunable("alpha", float), Tunable("rate", float), Tunable("rate", float, by_pattern=True)]

    def save_state(self) -> dict[str, Any] | None:
        return {"steps": self.steps, "last": self.last} if self.steps else None

    def restore_state(self, state: dict[str, Any]) -> None:
        self.steps, self.last = state["steps"], dict(state["last"])

    def forget(self) -> None:
        self.steps, self.last = 0, {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bind(pl_module)

    def on_before_optimizer_step(self, trainer: Any, pl_module: L.LightningModule, optimizer: Any) -> None:
        for name, parameter in pl_module.named_parameters():
            assert parameter.grad is not None
            before = self.last.get(name)
            self.last[name] = parameter.grad.detach().clone()
            if before is not None:
                parameter.grad.lerp_(before, self.alpha * self._rate_of(name))
        self.steps += 1

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("alpha", self.alpha)
        pl_module.log("rate_of_first", self._rate_of("net.0.weight"))

    def _rate_of(self, name: str) -> float:
        if not isinstance(self.rate, Mapping):
            return self.rate
        return next((value for pattern, value in self.rate.items() if pattern == "*" or name.startswith(pattern)), 1.0)


SPACE = {"width": Int(8, 24), "smooth.alpha": Float(0.0, 0.9), "smooth.rate.net.0": Float(0.1, 1.0)}


def search(space: Any = None, **options: Any) -> ArchitectureSearch:
    given = {"monitor": "val_loss", "n_trials": 2, "sampler": "random", "trial": {"trainer": {"max_epochs": 1}}}
    return ArchitectureSearch(SPACE if space is None else space, **merged(given, options))


def fit(root: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    module, trainer = nets.Net(8, dropout=0.0), nets.trainer(root, *callbacks, max_epochs=2)
    trainer.fit(module, *nets.loaders(), **options)
    return trainer


class TestSearch:
    def test_trials_and_the_outer_fit_have_the_values(self, tmp_path: Path) -> None:
        found, smoothing = search(), Smoothing(rate=0.5)
        fit(tmp_path, found, smoothing)
        study, best = found.optuna_study, found.best_architecture
        assert study is not None and best is not None
        for trial in study.trials:
            metrics = trial.user_attrs["metrics"]
            assert metrics["alpha"] == pytest.approx(trial.params["smooth.alpha"])
            assert metrics["rate_of_first"] == pytest.approx(trial.params["smooth.rate.net.0"])
        assert smoothing.alpha == best["smooth.alpha"]
        assert smoothing.rate == {"net.0": best["smooth.rate.net.0"], "*": 0.5}
        assert smoothing.steps == 6

    def test_a_study_is_continued(self, tmp_path: Path) -> None:
        fit(tmp_path, search(), Smoothing())
        again = search(n_trials=3)
        fit(tmp_path, again, Smoothing())
        assert again.optuna_study is not None
        trials = again.optuna_study.trials
        assert len(trials) == 3 and all("smooth.alpha" in trial.params for trial in trials)

    def test_leaderboard_and_report(self, tmp_path: Path) -> None:
        found = search(study={"directory": tmp_path / "search"})
        fit(tmp_path, found, Smoothing())
        assert found.optuna_study is not None
        table = leaderboard(found.optuna_study, columns=200)
        assert "smooth.alpha" in table and "smooth.rate.net.0" in table
        page = write_report(found.optuna_study, tmp_path / "page.html").read_text("utf-8")
        assert "smooth.alpha" in page and "smooth.rate.net.0" in page

    def test_report_where_the_callback_is_not_imported(self, tmp_path: Path) -> None:
        space = {"smooth.alpha": Float(0.0, 0.9), "smooth.rate.net.[0-9]*": Float(0.1, 1.0)}
        fit(tmp_path, search(space, study={"directory": tmp_path / "search"}), Smoothing())
        code = "import sys; from lightning_autoarch.cli import main; main(sys.argv[1:])"
        command = [sys.executable, "-c", code, "report", str(tmp_path / "search" / "study.db"), "--output", "page.html"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        page = (tmp_path / "page.html").read_text("utf-8")
        assert "smooth.alpha" in page and "smooth.rate.net.[0-9]*" in page

    def test_names_that_it_does_not_declare(self, tmp_path: Path) -> None:
        with pytest.raises(SpaceError, match=r"`smooth\.alhpa`.*Smoothing.*Did you mean `smooth\.alpha`"):
            fit(tmp_path, search({"smooth.alhpa": Float(0.0, 0.9)}), Smoothing())
        with pytest.raises(SpaceError, match=r"`smooth\.mode`.*no tunable of Smoothing"):
            fit(tmp_path, search({"smooth.mode": ["last", "mean"]}), Smoothing())
        with pytest.raises(SpaceError, match=r"`smooth\.rate` and `smooth\.rate\.net\.0`.*set the same"):
            fit(tmp_path, search({"smooth.rate": Float(0.1, 1.0), "smooth.rate.net.0": Float(0.1, 1.0)}), Smoothing())

    def test_values_that_it_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(SpaceError, match=r"`smooth\.alpha` cannot be 2\.0: Expected `alpha` in \[0, 1\]"):
            fit(tmp_path, search({"smooth.alpha": Float(0.0, 2.0)}), Smoothing())
        with pytest.raises(SpaceError, match=r"`smooth\.alpha` cannot be 'high': Expected `alpha` to be float"):
            fit(tmp_path, search({"smooth.alpha": ["high", 0.5]}), Smoothing())

    def test_a_search_without_it(self, tmp_path: Path) -> None:
        with pytest.raises(SearchError, match=r"`smooth\.alpha` of the space needs a callback.*Smoothing"):
            fit(tmp_path, search())
        first, second = Smoothing(), Smoothing()
        first.name, second.name = "one", "two"
        with pytest.raises(SearchError, match=r"`smooth\.\*` of the space .* one callback, got Smoothing, Smoothing"):
            fit(tmp_path, search(), first, second)


class TestState:
    def test_a_fit_resumes(self, tmp_path: Path) -> None:
        trainer = fit(tmp_path, Smoothing(0.5))
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
        resumed = Smoothing(0.5)
        going_on = nets.trainer(tmp_path, resumed, max_epochs=3)
        going_on.fit(nets.Net(8, dropout=0.0), *nets.loaders(), ckpt_path=tmp_path / "saved.ckpt")
        assert resumed.steps == 9
        content = torch.load(tmp_path / "saved.ckpt", weights_only=True)
        assert content["callbacks"][Smoothing().state_key]["steps"] == 6

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"steps": -1}, "whole number >= 0"),
            ({"steps": "six"}, "`steps`"),
            ({"last": {"net": [1.0]}}, "tensor"),
            ({"format": 2}, "newer"),
        ],
    )
    def test_a_state_that_is_not_its_own(self, changed: dict[str, Any], words: str) -> None:
        smoothing = Smoothing()
        with pytest.raises(CheckpointError, match=f"(?s)Smoothing.*{words}"):
            smoothing.load_state_dict({"format": 1, "steps": 3, "last": {}, **changed})
        assert smoothing.steps == 0

    def test_copies_and_pickles_leave_the_fit_behind(self, tmp_path: Path) -> None:
        smoothing = Smoothing(0.5)
        trainer = fit(tmp_path, smoothing)
        assert smoothing.is_bound_to(trainer.lightning_module)
        for other in (copy.deepcopy(smoothing), pickle.loads(pickle.dumps(smoothing))):
            assert other.bound_module() is None and other.steps == 6 and other.alpha == 0.5
            assert "log" not in vars(other)

    def test_without_a_state_two_are_no_matter(self, tmp_path: Path) -> None:
        class Stateless(AutoArchCallback):
            pass

        trainer = fit(tmp_path, Stateless(), Stateless())
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
        assert torch.load(tmp_path / "saved.ckpt", weights_only=True)["callbacks"] == {}

    def test_two_of_one_name(self, tmp_path: Path) -> None:
        with pytest.raises(Exception, match=r"one Smoothing in a Trainer.*another `name`"):
            fit(tmp_path, Smoothing(), Smoothing())


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["autoarch"])
        monkeypatch.setenv("PL_GLOBAL_SEED", "1")
        monkeypatch.setenv("PL_SEED_WORKERS", "1")
        monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls

    @pytest.mark.parametrize("where", ["section", "callback"])
    def test_a_config_sets_it_and_gets_the_winners_values(self, where: str) -> None:
        init = {"alpha": 0.25, "rate": {"net.2": 0.5}}
        listed = {"class_path": f"{__name__}.Smoothing", "init_args": init}
        space = {"smooth.alpha": {"low": 0.0, "high": 0.9}, "smooth.rate.net.0": {"low": 0.1, "high": 1.0}}
        config = {
            "seed_everything": 1,
            "trainer": {**TRAINER, "callbacks": [listed]} if where == "callback" else TRAINER,
            "model": {"class_path": "cli_nets.Called"},
            "data": {"class_path": "cli_nets.Data"},
            "search": {"space": space, "monitor": "val_loss", "n_trials": 2, "sampler": "random"},
            **({"smooth": init} if where == "section" else {}),
        }
        Path("given.yaml").write_text(yaml.safe_dump(config))
        cli = AutoArchCLI(args=["search", "--config", "given.yaml"])
        [found] = [callback for callback in cli.trainer.callbacks if isinstance(callback, ArchitectureSearch)]
        best = found.best_architecture
        assert best is not None
        config = yaml.safe_load(Path("best.yaml").read_text())
        written = config["smooth"] if where == "section" else config["trainer"]["callbacks"][0]["init_args"]
        assert {name: written[name] for name in init} == {
            "alpha": best["smooth.alpha"],
            "rate": {"net.0": best["smooth.rate.net.0"], "net.2": 0.5},
        }
        fitted = AutoArchCLI(args=["fit", "--config", "best.yaml"], save_config_callback=None)
        [smoothing] = [callback for callback in fitted.trainer.callbacks if isinstance(callback, Smoothing)]
        assert smoothing.alpha == best["smooth.alpha"] and smoothing.steps > 0
        assert dict(smoothing.rate) == written["rate"]

    def test_both_of_section_and_callback(self, capsys: pytest.CaptureFixture[str]) -> None:
        callbacks = [{"class_path": f"{__name__}.Smoothing"}]
        Path("both.yaml").write_text(yaml.safe_dump({"trainer": {**TRAINER, "callbacks": callbacks}}))
        with pytest.raises(SystemExit):
            AutoArchCLI(cli_nets.Called, cli_nets.Data, args=["fit", "--config=both.yaml", "--smooth.alpha=0.2"])
        assert "There are two Smoothing: give `smooth:` or the callback, not both." in capsys.readouterr().err

    def test_a_checkpoint_with_its_state_is_validated(self) -> None:
        options: dict[str, Any] = {"trainer_defaults": TRAINER, "save_config_callback": None}
        AutoArchCLI(
            cli_nets.Called, cli_nets.Data, args=["fit", "--smooth.alpha=0.2"], **options
        ).trainer.save_checkpoint("smooth.ckpt")
        args = ["validate", "--smooth", "{alpha: 0.2}", "--ckpt_path", "smooth.ckpt"]
        validated = AutoArchCLI(cli_nets.Called, cli_nets.Data, args=args, **options)
        assert validated.trainer.callback_metrics["val_loss"] > 0
