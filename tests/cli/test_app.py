"""The command line, called in this process: what it writes, trains, refuses, and says."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli_nets
import lightning as L
import optuna
import pytest
import torch
import yaml
from cli_nets import TRAINER
from lightning.pytorch.cli import LightningCLI

from lightning_autoarch import ArchitectureSearch, Step, TransferLearning
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.cli import AutoArchCLI, main
from lightning_autoarch.training.optimizers import LateOptimizers

SEARCH: dict[str, Any] = {
    "space": {"width": {"low": 2, "high": 32, "log": True}, "act": ["relu", "tanh"]},
    "monitor": "val_loss",
    "n_trials": 2,
    "sampler": "random",
    "trial": {"trainer": {"max_epochs": 1}},
}
SPACE = {
    **SEARCH["space"],
    "layers": {"min": 1, "max": 3, "block": {"width": {"low": 2, "high": 9}}},
    "data.batch_size": [4, 8],
}
WITH_PARTS = {
    "class_path": "cli_nets.WithParts",
    "init_args": {"encoder": {"class_path": "cli_nets.Encoder", "init_args": {"size": 5}}},
}
WITHOUT_OPTIMIZER = {"class_path": "cli_nets.Net"}
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
BY_CLASS = "lightning_autoarch.ArchitectureSearch"

Write = Callable[..., str]


@pytest.fixture
def config(tmp_path: Path) -> Write:
    """Writes a config with sections replaced; None leaves one out."""

    def write(name: str = "config.yaml", **sections: Any) -> str:
        whole = {
            "seed_everything": 1,
            "trainer": TRAINER,
            "model": {"class_path": "cli_nets.OwnOptimizer"},
            "data": {"class_path": "cli_nets.Data"},
            "search": SEARCH,
        }
        whole.update(copy.deepcopy(sections))
        path = tmp_path / name
        path.write_text(yaml.safe_dump({key: value for key, value in whole.items() if value is not None}))
        return str(path)

    return write


def exit_code(*args: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(args)
    return ended.value.code


def trial_weights(study: optuna.Study) -> dict[str, Any]:
    return torch.load(study.best_trial.user_attrs["checkpoint"], weights_only=True)["state_dict"]


class TestSearch:
    def test_best_yaml_is_a_config_of_the_winner_for_fit(self, config: Write, capsys: Any) -> None:
        stopper = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val_loss"}}
        path = config(search={**SEARCH, "space": SPACE}, trainer={**TRAINER, "callbacks": [stopper]})
        cli = AutoArchCLI(args=["search", "--config", path])
        search = next(c for c in cli.trainer.callbacks if isinstance(c, ArchitectureSearch))
        assert len(search.optuna_study.trials) == 2
        assert cli.trainer.global_step == 0
        said = capsys.readouterr().out
        assert "autoarch fit --config best.yaml" in said
        assert "autoarch report autoarch/OwnOptimizer/study.db" in said
        assert sorted(p.name for p in Path().iterdir()) == ["autoarch", "best.yaml", "config.yaml"]

        best = yaml.safe_load(Path("best.yaml").read_text())
        assert "search" not in best
        assert [c["class_path"] for c in best["trainer"]["callbacks"]] == [stopper["class_path"]]
        given = {**best["model"]["init_args"], "data.batch_size": best["data"]["init_args"]["batch_size"]}
        assert given == search.best_architecture

        fitted = AutoArchCLI(args=["fit", "--config", "best.yaml"], save_config_callback=None)
        assert fitted.trainer.current_epoch == 2
        assert fitted.model.net[0][0].out_features == search.best_architecture["width"]
        assert len(fitted.model.net) == 2 + len(search.best_architecture["layers"])
        assert fitted.datamodule.hparams["batch_size"] == search.best_architecture["data.batch_size"]

    def test_fixed_classes(self, config: Write) -> None:
        path = config(model={"act": "relu"}, data={"batch_size": 8}, search={**SEARCH, "space": SPACE})
        classes = (cli_nets.OwnOptimizer, cli_nets.Data)
        cli = AutoArchCLI(*classes, args=["search", "--config", path, "--output", "out/winner.yaml"])
        best = yaml.safe_load(Path("out/winner.yaml").read_text())
        [search] = [c for c in cli.trainer.callbacks if isinstance(c, ArchitectureSearch)]
        assert {**best["model"], "data.batch_size": best["data"]["batch_size"]} == search.best_architecture
        fitted = AutoArchCLI(*classes, args=["fit", "--config", "out/winner.yaml"], save_config_callback=None)
        assert fitted.trainer.current_epoch == 2

    def test_again_continues(self, config: Write) -> None:
        path = config()
        main(["search", "--config", path])
        cli = AutoArchCLI(args=["search", "--config", path, "--search.n_trials", "4"])
        [search] = [c for c in cli.trainer.callbacks if isinstance(c, ArchitectureSearch)]
        assert len(search.optuna_study.trials) == 4

    def test_callback_of_a_plain_config(self, config: Write) -> None:
        callback = {"class_path": BY_CLASS, "init_args": SEARCH}
        main(["search", "--config", config(search=None, trainer={**TRAINER, "callbacks": [callback]})])
        best = yaml.safe_load(Path("best.yaml").read_text())
        assert best["trainer"]["callbacks"] == []
        assert best["model"]["init_args"]["width"] != 4

    def test_logger_keeps_the_summary(self, config: Write) -> None:
        logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs", "name": "a"}}
        main(["search", "--config", config(trainer={**TRAINER, "logger": logger})])
        assert "search/best_score" in Path("logs/a/version_0/metrics.csv").read_text()

    def test_arguments_that_are_objects(self, config: Write) -> None:
        cli = AutoArchCLI(args=["search", "--config", config(model=WITH_PARTS)])
        assert len(cli.model.hparams["encoder"]["init_args"]) == 1

    def test_a_directory_of_any_name(self, config: Write, capsys: Any) -> None:
        main(["search", "--config", config(search={**SEARCH, "study": {"directory": "why? #1"}})])
        assert "autoarch report 'why? #1/study.db'" in capsys.readouterr().out
        for study in ("why? #1", "why? #1/study.db"):
            main(["report", study])
            assert "Wrote why? #1/report.html" in capsys.readouterr().out

    def test_password_of_a_storage_is_not_shown(self, config: Write, capsys: Any) -> None:
        main(["search", "--config", config(search={**SEARCH, "study": {"storage": "sqlite:///who:secret@study.db"}})])
        assert "secret" not in capsys.readouterr().out
        assert "secret" not in Path("best.yaml").read_text()

    def test_foreign_output_is_left_alone(self, config: Write, capsys: Any) -> None:
        Path("best.yaml").write_text("mine: 1\n")
        assert exit_code("search", "--config", config()) == 2
        assert "give another `--output`" in capsys.readouterr().err
        assert not Path("autoarch").exists()
        assert Path("best.yaml").read_text() == "mine: 1\n"

    @pytest.mark.parametrize("output", ["file/best.yaml", "folder", "x" * 300])
    def test_output_that_cannot_be_written_is_found_before_the_search(
        self, output: str, config: Write, capsys: Any
    ) -> None:
        Path("file").touch()
        Path("folder").mkdir()
        assert exit_code("search", "--config", config(), "--output", output) == 2
        assert "`output`" in capsys.readouterr().err
        assert not Path("autoarch").exists()

    def test_fast_dev_run_writes_nothing(self, config: Write, capsys: Any) -> None:
        path = config()
        main(["search", "--config", path, "--trainer.fast_dev_run", "true"])
        assert "not written" in capsys.readouterr().out
        assert [p.name for p in Path().iterdir()] == ["config.yaml"]

    def test_splitter_by_class_path(self, config: Write) -> None:
        folds = {"class_path": "sklearn.model_selection.ShuffleSplit", "init_args": {"n_splits": 2, "random_state": 0}}
        cli = AutoArchCLI(args=["search", "--config", config(search={**SEARCH, "folds": folds})])
        [search] = [c for c in cli.trainer.callbacks if isinstance(c, ArchitectureSearch)]
        assert [len(t.user_attrs["fold_scores"]) for t in search.optuna_study.trials] == [2, 2]

    def test_pruner_and_sampler_by_class_path(self, config: Write) -> None:
        options = {
            "sampler": {"class_path": "optuna.samplers.TPESampler", "init_args": {"seed": 0}},
            "pruner": {"class_path": "optuna.pruners.MedianPruner"},
        }
        cli = AutoArchCLI(run=False, args=["--config", config(search={**SEARCH, **options})])
        search = cli.trainer.callbacks[0]
        assert isinstance(search.sampler, optuna.samplers.TPESampler)
        assert isinstance(search.pruner, optuna.pruners.MedianPruner)

    def test_groups_of_options(self, config: Write) -> None:
        given = ["--search.trial.trainer.max_epochs=3", "--search.study.keep_top_k=7", "--search.trial.on_nan=ignore"]
        limits = ["--search.limits.params=2e6", "--search.folds=3"]
        cli = AutoArchCLI(run=False, args=["--config", config(), *given, *limits])
        search = cli.trainer.callbacks[0]
        assert (search.trial.trainer["max_epochs"], search.trial.on_nan) == (3, "ignore")
        assert (search.study.keep_top_k, search.limits, search.folds.splitter) == (7, {"params": 2e6}, 3)

    def test_groups_of_a_callback_by_class_path(self, config: Write) -> None:
        options = {"trial": {"trainer": {"max_epochs": 3}}, "study": {"name": "s"}, "folds": {"splitter": 3}}
        given = {"class_path": BY_CLASS, "init_args": {**SEARCH, **options}}
        path = config(search=None, trainer={**TRAINER, "callbacks": [given]})
        search = AutoArchCLI(run=False, args=["--config", path]).trainer.callbacks[0]
        assert (search.trial.trainer, search.study.name, search.folds.splitter) == ({"max_epochs": 3}, "s", 3)


class TestFit:
    def test_searches_then_trains_the_winner_and_may_be_run_again(self, config: Write) -> None:
        path = config("search.yaml")
        for _ in range(2):  # the second time config.yaml is there already
            cli = AutoArchCLI(args=["fit", "--config", path])
            search = cli.trainer.callbacks[0]
            assert len(search.optuna_study.trials) == 2
            assert cli.trainer.current_epoch == 2
            assert {k: cli.model.hparams[k] for k in SEARCH["space"]} == search.best_architecture
        assert "search" in yaml.safe_load(Path("config.yaml").read_text())

    def test_checkpoint_is_tested_with_the_config_of_the_search(self, config: Write) -> None:
        path = config("search.yaml", trainer={**TRAINER, "enable_checkpointing": True})
        fitted = AutoArchCLI(args=["fit", "--config", path])
        checkpoint = fitted.trainer.checkpoint_callback.best_model_path
        tested = AutoArchCLI(args=["test", "--config", path, "--ckpt_path", checkpoint], save_config_callback=None)
        assert tested.model.hparams["width"] == fitted.model.hparams["width"]
        assert not [c for c in tested.trainer.callbacks if isinstance(c, ArchitectureSearch)]

    def test_without_search_is_lightnings(self, config: Write) -> None:
        cli = AutoArchCLI(args=["fit", "--config", config("plain.yaml", search=None)])
        assert not [c for c in cli.trainer.callbacks if isinstance(c, ArchitectureSearch)]
        assert cli.model.hparams["width"] == 4

    def test_without_running(self, config: Write) -> None:
        cli = AutoArchCLI(run=False, args=["--config", config()])
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        assert cli.model.hparams["width"] == cli.trainer.callbacks[0].best_architecture["width"]


class TestOptimizersOfTheConfig:
    @pytest.mark.parametrize("cls", [AutoArchCLI, LightningCLI])
    @pytest.mark.parametrize("run", [True, False])
    def test_train_candidates_and_winner(self, config: Write, cls: type[LightningCLI], run: bool) -> None:
        scheduler = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.5}}
        trainer = {**TRAINER, "callbacks": [{"class_path": BY_CLASS, "init_args": SEARCH}]}
        sections = {"model": WITHOUT_OPTIMIZER, "optimizer": ADAM, "lr_scheduler": scheduler}
        path = config("plain.yaml", search=None, trainer=trainer, **sections)
        cli = cls(run=run, args=[*(["fit"] if run else []), "--config", path])
        started = {}
        if not run:
            cli.trainer.callbacks.append(_Remember(started))
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        [search] = [c for c in cli.trainer.callbacks if isinstance(c, ArchitectureSearch)]
        [optimizer] = cli.trainer.optimizers
        assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in cli.model.parameters()}
        assert [g["lr"] for g in optimizer.param_groups] == [0.0025]  # halved after each of two epochs
        assert all(not torch.equal(v, started[k]) for k, v in cli.model.state_dict().items() if started)
        self.check_score(search)

    def check_score(self, search: ArchitectureSearch) -> None:
        """The best trial's weights are trained ones, and have the score that the study holds."""
        module = cli_nets.Net(**search.best_architecture)
        L.seed_everything(1, verbose=False)
        module.load_state_dict(trial_weights(search.optuna_study))
        checker = L.Trainer(**{**TRAINER, "callbacks": []})
        [logged] = checker.validate(module, datamodule=cli_nets.Data(), verbose=False)
        assert logged["val_loss"] == pytest.approx(search.best_score)
        checkpoint = torch.load(search.optuna_study.best_trial.user_attrs["checkpoint"], weights_only=True)
        assert len(checkpoint["optimizer_states"][0]["state"]) == len(list(module.parameters()))

    def test_are_made_over_the_module_that_asks(self, config: Write) -> None:
        cli = AutoArchCLI(run=False, args=["--config", config(model=WITHOUT_OPTIMIZER, optimizer=ADAM)])
        late = cli.model.configure_optimizers.__func__
        assert isinstance(late, LateOptimizers)
        other = cli_nets.Net(width=9)
        optimizer = late(other)
        assert [p.shape for p in optimizer.param_groups[0]["params"]] == [p.shape for p in other.parameters()]

    def test_of_one_class(self, config: Write) -> None:
        class OneClass(AutoArchCLI):
            def add_arguments_to_parser(self, parser: Any) -> None:
                parser.add_optimizer_args(torch.optim.SGD)
                parser.add_lr_scheduler_args(torch.optim.lr_scheduler.ExponentialLR)

        sections = {"optimizer": {"lr": 0.02}, "lr_scheduler": {"gamma": 0.1}}
        cli = OneClass(args=["fit", "--config", config("own.yaml", model=WITHOUT_OPTIMIZER, **sections)])
        assert type(cli.trainer.optimizers[0]) is torch.optim.SGD
        assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0002)

    def test_of_the_module_are_replaced_aloud(self, config: Write) -> None:
        with pytest.warns(UserWarning, match="replaces `OwnOptimizer.configure_optimizers`"):
            AutoArchCLI(run=False, args=["--config", config(optimizer=ADAM)])


class _Remember(L.Callback):
    """The weights that training starts from."""

    def __init__(self, started: dict[str, torch.Tensor]) -> None:
        self.started = started

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.started.update({k: v.clone() for k, v in pl_module.state_dict().items()})


class TestPrune:
    @pytest.fixture
    def trained(self, config: Write) -> str:
        """A checkpoint of a net of 32 hidden units, which the configs do not name."""
        model = {"class_path": "cli_nets.OwnOptimizer", "init_args": {"width": 32}}
        cli = AutoArchCLI(args=["fit", "--config", config("dense.yaml", search=None, model=model)])
        cli.trainer.save_checkpoint("dense.ckpt")
        Path("config.yaml").unlink()
        return "dense.ckpt"

    def zeros(self, module: Any) -> float:
        weights = [p for p in module.parameters() if p.dim() == 2]
        return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)

    def test_default(self, config: Write, trained: str, capsys: Any) -> None:
        cli = AutoArchCLI(args=["prune", "--config", config(search=None), "--ckpt_path", trained])
        said = capsys.readouterr().out
        assert cli.model.net[0][0].out_features == 32  # as the checkpoint says
        assert self.zeros(cli.model) == 0.9
        lines = [line.split() for line in said.splitlines()]
        assert ["all", "of", "them", "160", "16", "90.0%"] in lines
        [score] = [line for line in lines if line[:1] == ["val_loss"]]
        dense = cli_nets.OwnOptimizer.load_from_checkpoint(trained)
        [before] = L.Trainer(**TRAINER).validate(dense, datamodule=cli_nets.Data(), verbose=False)
        assert float(score[1]) == pytest.approx(before["val_loss"], rel=1e-3) and float(score[2]) > 0
        assert f"on disk  dense {Path('pruned.ckpt').stat().st_size / 1000:.3g} kB, sparse " in said
        written = ["config.yaml", "dense.ckpt", "dense.yaml", "pruned.ckpt", "pruned.html"]
        assert sorted(p.name for p in Path().iterdir()) == written
        pruned = cli_nets.OwnOptimizer.load_from_checkpoint("pruned.ckpt")
        assert all(torch.equal(a, b) for a, b in zip(pruned.parameters(), cli.model.parameters(), strict=True))
        held = torch.load("pruned.ckpt", weights_only=True)
        assert "callbacks" not in held and "optimizer_states" not in held

    def test_section(self, config: Write, trained: str) -> None:
        schedule = {"class_path": "CubicSparsity", "init_args": {"final_sparsity": 0.5, "end": 0.5}}
        path = config(search=None, prune={"schedule": schedule, "scope": "layer", "every_n_steps": 1})
        args = ["--config", path, "--ckpt_path", trained, "--output", "out/p.ckpt", "--prune.targets", "net.0"]
        cli = AutoArchCLI(args=["prune", *args])
        assert (cli.model.net[0][0].weight == 0).float().mean() == 0.5
        assert (cli.model.net[1].weight != 0).all()
        assert Path("out/p.ckpt").exists()

    def test_moments(self, config: Write, trained: str) -> None:
        for at, expected in (("1.0", 1), ("1", 1), ("{step: 1}", Step(1))):
            options = ["--prune.schedule=OneShot", "--prune.schedule.sparsity=0.5", f"--prune.schedule.at={at}"]
            cli = AutoArchCLI(args=["prune", "--config", config(search=None), "--ckpt_path", trained, *options])
            [pruning] = [c for c in cli.trainer.callbacks if isinstance(c, MagnitudePruning)]
            assert pruning.schedule.at == expected

    def test_options_alone(self, config: Write, trained: str) -> None:
        options = ["--prune.schedule=OneShot", "--prune.schedule.sparsity=0.75", "--prune.schedule.at={step: 2}"]
        cli = AutoArchCLI(args=["prune", "--config", config(search=None), "--ckpt_path", trained, *options])
        assert self.zeros(cli.model) == 0.75

    @pytest.mark.parametrize("name", ["RigL", "SET", "SemiStructuredPruning"])
    def test_callback_of_the_config(self, config: Write, trained: str, name: str) -> None:
        callback = {"class_path": f"lightning_autoarch.{name}"}
        callback["init_args"] = {"targets": "net.0"} if name == "SemiStructuredPruning" else {"sparsity": 0.5}
        path = config(trainer={**TRAINER, "callbacks": [callback]})  # with `search:`, of no use here
        cli = AutoArchCLI(args=["prune", "--config", path, "--ckpt_path", trained])
        assert (cli.model.net[0][0].weight == 0).float().mean() == pytest.approx(0.5, abs=0.15)
        assert not Path("autoarch").exists()

    def test_a_search_among_the_callbacks_is_left_out(self, config: Write, trained: str) -> None:
        callback = {"class_path": BY_CLASS, "init_args": SEARCH}
        path = config(search=None, trainer={**TRAINER, "callbacks": [callback]})
        AutoArchCLI(args=["prune", "--config", path, "--ckpt_path", trained])
        assert not Path("autoarch").exists()

    def test_checkpoint_of_a_script(self, config: Write) -> None:
        module = cli_nets.OwnOptimizer(width=9)
        trainer = L.Trainer(**TRAINER)
        trainer.fit(module, datamodule=cli_nets.Data())
        trainer.save_checkpoint("script.ckpt")
        for extra in ([], ["--model.init_args.width=9"]):
            cli = AutoArchCLI(args=["prune", "--config", config(search=None), "--ckpt_path", "script.ckpt", *extra])
            assert cli.model.net[0][0].out_features == 9

    def test_weights_alone(self, config: Write) -> None:
        torch.save(cli_nets.Net().state_dict(), "weights.pt")
        cli = AutoArchCLI(args=["prune", "--config", config(search=None), "--ckpt_path", "weights.pt"])
        assert self.zeros(cli.model) == 0.9

    def test_fit_prunes_too(self, config: Write) -> None:
        section = {"schedule": {"class_path": "ConstantSparsity", "init_args": {"sparsity": 0.5}}}
        cli = AutoArchCLI(args=["fit", "--config", config("fit.yaml", search=None, prune=section)])
        assert self.zeros(cli.model) == 0.5
        tested = AutoArchCLI(args=["test", "--config", "fit.yaml"], save_config_callback=None)
        assert tested.trainer.callback_metrics["test_loss"] > 0

    @pytest.mark.parametrize("where", ["section", "callback"])
    def test_joint_search_writes_the_winners_sparsity(self, config: Write, where: str) -> None:
        schedule = {"class_path": "lightning_autoarch.prune.schedule.CubicSparsity"}
        schedule["init_args"] = {"final_sparsity": 0.9, "end": 0.5}
        init = {"schedule": schedule, "every_n_steps": 1}
        callback = {"class_path": "lightning_autoarch.MagnitudePruning", "init_args": init}
        space = {"width": {"low": 8, "high": 32}, "prune.sparsity": {"low": 0.5, "high": 0.8}, "prune.scope": ["erk"]}
        path = config(
            "both.yaml",
            search={**SEARCH, "space": space},
            **({"prune": init} if where == "section" else {"trainer": {**TRAINER, "callbacks": [callback]}}),
        )
        cli = AutoArchCLI(args=["search", "--config", path])
        [search] = [c for c in cli.trainer.callbacks if isinstance(c, ArchitectureSearch)]
        best = yaml.safe_load(Path("best.yaml").read_text())
        given = best["prune"] if where == "section" else best["trainer"]["callbacks"][0]["init_args"]
        assert given["scope"] == "erk" and given["every_n_steps"] == 1
        assert given["schedule"]["init_args"]["final_sparsity"] == search.best_architecture["prune.sparsity"]
        fitted = AutoArchCLI(args=["fit", "--config", "best.yaml"], save_config_callback=None)
        assert self.zeros(fitted.model) == pytest.approx(search.best_architecture["prune.sparsity"], abs=0.02)
        assert fitted.model.hparams["width"] == search.best_architecture["width"]

    def test_joint_search_writes_how_the_winner_was_tuned(self, config: Write, trained: str) -> None:
        init = {"checkpoint": trained, "lr_scale": {"net": 2.0}}
        callback = {"class_path": "lightning_autoarch.callbacks.transfer.learning.TransferLearning", "init_args": init}
        space = {
            "transfer.strategy": ["gradual", "linear_probe"],
            "transfer.layer_decay": {"low": 0.5, "high": 1.0},
            "transfer.lr_scale.net": {"low": 0.5, "high": 1.0},
            "prune.sparsity": {"low": 0.5, "high": 0.8},
        }
        schedule = {"class_path": "lightning_autoarch.prune.schedule.ConstantSparsity", "init_args": {"sparsity": 0.5}}
        path = config(
            "tuned.yaml",
            search={**SEARCH, "space": space},
            trainer={**TRAINER, "callbacks": [callback]},
            model={"class_path": "cli_nets.OwnOptimizer", "init_args": {"width": 32}},
            prune={"schedule": schedule, "every_n_steps": 1},
        )
        cli = AutoArchCLI(args=["search", "--config", path])
        [search] = [c for c in cli.trainer.callbacks if isinstance(c, ArchitectureSearch)]
        best = yaml.safe_load(Path("best.yaml").read_text())
        [listed] = best["trainer"]["callbacks"]
        found = search.best_architecture
        assert listed["init_args"]["strategy"] == found["transfer.strategy"]
        assert listed["init_args"]["layer_decay"] == found["transfer.layer_decay"]
        assert listed["init_args"]["lr_scale"] == {"net": found["transfer.lr_scale.net"]}
        assert listed["init_args"]["checkpoint"] == trained
        assert best["prune"]["schedule"]["init_args"]["sparsity"] == found["prune.sparsity"]
        fitted = AutoArchCLI(args=["fit", "--config", "best.yaml"], save_config_callback=None)
        [transfer] = [c for c in fitted.trainer.callbacks if isinstance(c, TransferLearning)]
        assert transfer.strategy == found["transfer.strategy"] and transfer.report.share == 1.0

    @pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`")
    def test_without_validation(self, config: Write, capsys: Any) -> None:
        torch.save(cli_nets.OwnOptimizer().state_dict(), "weights.pt")
        path = config(search=None, model={"class_path": "cli_nets.NoValidation"})
        AutoArchCLI(args=["prune", "--config", path, "--ckpt_path", "weights.pt"])
        said = capsys.readouterr().out
        assert "val_loss" not in said and "90.0%" in said

    def test_fast_dev_run_writes_nothing(self, config: Write, trained: str, capsys: Any) -> None:
        args = ["prune", "--config", config(search=None), "--ckpt_path", trained, "--trainer.fast_dev_run", "true"]
        main(args)
        assert "not written" in capsys.readouterr().out
        assert not Path("pruned.ckpt").exists()

    @pytest.mark.parametrize(
        ("sections", "options", "code", "said"),
        [
            ({}, ["--ckpt_path", "nothing.ckpt"], 2, "Expected a checkpoint at nothing.ckpt"),
            ({}, ["--ckpt_path", "config.yaml"], 2, "config.yaml"),
            ({}, ["--ckpt_path", "broken.ckpt"], 2, "broken.ckpt"),
            ({}, ["--ckpt_path", "other.pt"], 2, "Expected `net.0.0.weight` of shape (4, 4) in other.pt, got (7, 4)"),
            ({}, ["--ckpt_path", "more.pt"], 2, "more.pt has `more`"),
            ({}, ["--ckpt_path", "good.pt", "--prune.scope", "lamp", "--prune.criterion", "random"], 2, "lamp"),
            ({}, ["--ckpt_path", "good.pt", "--prune.targets", "nett.*"], 1, "`nett.*` of `targets` matches no weight"),
            ({"prune": {"schedule": {"class_path": "OneShot", "init_args": {"sparsity": 1.5}}}},
             ["--ckpt_path", "good.pt"], 2, "Expected `sparsity` in [0, 1), got 1.5"),
            ({"prune": {"scope": "erk"}, "trainer": {**TRAINER, "callbacks": [
                {"class_path": "lightning_autoarch.RigL"}]}},
             ["--ckpt_path", "good.pt"], 2, "not both"),
        ],
    )  # fmt: skip
    def test_errors_are_one_line(
        self, config: Write, capsys: Any, sections: Any, options: list[str], code: int, said: str
    ) -> None:
        state = cli_nets.Net().state_dict()
        torch.save(state, "good.pt")
        torch.save({**state, "more": torch.ones(1)}, "more.pt")
        torch.save(cli_nets.Net(width=7).state_dict(), "other.pt")
        Path("broken.ckpt").write_bytes(Path("good.pt").read_bytes()[:500])
        assert exit_code("prune", "--config", config(**{"search": None, **sections}), *options) == code
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert line.startswith("autoarch: error: ")
        assert said in line
        assert not Path("pruned.ckpt").exists()

    def test_without_a_checkpoint(self, config: Write, capsys: Any) -> None:
        assert exit_code("prune", "--config", config(search=None)) == 2
        assert "ckpt_path" in capsys.readouterr().err

    def test_help(self, capsys: Any) -> None:
        assert exit_code("prune", "--help") == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "--ckpt_path CKPT_PATH" in text and "--prune.schedule" in text and "--prune.every_n_steps" in text
        assert exit_code("test", "--help") == 0
        text = capsys.readouterr().out
        assert "--prune PRUNE" in text and "--prune.scope" not in text


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "code", "said"),
        [
            ({"space": {"widht": {"lwo": 1}}}, 2, "Parameter `widht`: expected low and high"),
            ({"space": {"widht": {"lwo": 1, "high": 2}}}, 2, "`widht`: unknown key `lwo` for Int. Did you mean `low`?"),
            ({"space": {"widht": {"low": 1, "high": 2}}}, 2, "is no argument of OwnOptimizer.__init__. Did you mean"),
            ({"sampler": "randon"}, 2, "Expected `sampler` to be one of"),
            ({"space": None}, 2, "`search.space` is missing"),
            ({"monitor": "val_los"}, 1, "Did you mean `val_loss`?"),
        ],
    )
    def test_are_one_line(self, config: Write, capsys: Any, change: Any, code: int, said: str) -> None:
        assert exit_code("search", "--config", config(search={**SEARCH, **change})) == code
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert line.startswith("autoarch: error: ")
        assert said in line

    def test_are_one_line_in_a_callback_by_class_path(self, config: Write, capsys: Any) -> None:
        wrong = {"class_path": BY_CLASS, "init_args": {**SEARCH, "space": {"width": {"lwo": 1, "high": 2}}}}
        path = config(search=None, trainer={**TRAINER, "callbacks": [wrong]})
        assert exit_code("fit", "--config", path) == 2
        assert "\n".join(capsys.readouterr().err.splitlines()[-1:]).startswith("autoarch: error: Parameter `width`")

    def test_with_a_traceback_on_demand(self, config: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
        with pytest.raises(Exception, match="Expected `sampler`"):
            main(["search", "--config", config(search={**SEARCH, "sampler": "randon"})])

    def test_of_other_people_keep_their_traceback(self, config: Write) -> None:
        with pytest.raises(ValueError, match="accelerator"):
            main(["search", "--config", config(), "--trainer.accelerator", "abacus"])

    def test_unknown_option_is_short(self, config: Write, capsys: Any) -> None:
        assert exit_code("search", "--config", config(search={**SEARCH, "n_trails": 3})) == 2
        said = capsys.readouterr().err
        assert "search.n_trails" in said
        assert len(said.splitlines()) < 6

    def test_no_search(self, config: Write, capsys: Any) -> None:
        assert exit_code("search", "--config", config(search=None)) == 2
        assert "give the config a section `search:`" in capsys.readouterr().err

    def test_two_searches(self, config: Write, capsys: Any) -> None:
        callback = {"class_path": BY_CLASS, "init_args": SEARCH}
        assert exit_code("fit", "--config", config(trainer={**TRAINER, "callbacks": [callback]})) == 2
        assert "not both" in capsys.readouterr().err

    def test_factory_has_no_place_in_a_config(self, config: Write, capsys: Any) -> None:
        path = config(search={**SEARCH, "factory": "cli_nets.OwnOptimizer"})
        assert exit_code("search", "--config", path) == 2
        assert "use `fit`" in capsys.readouterr().err

    def test_ctrl_c_keeps_what_is_done(
        self, config: Write, capsys: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cli_nets.PressCtrlC, "trials", 0)
        path = config(search={**SEARCH, "trial": {"callbacks": [{"class_path": "cli_nets.PressCtrlC"}]}})
        with caplog.at_level("INFO"):
            assert exit_code("search", "--config", path) == 130
        assert "The search was stopped after 1 of 2 trials." in caplog.text + capsys.readouterr().err
        assert not Path("best.yaml").exists()
        main(["search", "--config", path])
        assert Path("best.yaml").exists()

    def test_without_jsonargparse(self, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jsonargparse" else find(name))
        assert exit_code("fit") == 2
        assert 'pip install "lightning-autoarch[cli]"' in capsys.readouterr().err


class TestHelp:
    def test_lists_every_subcommand(self, capsys: Any) -> None:
        assert exit_code("--help") == 0
        listed = capsys.readouterr().out
        for name in ("fit", "validate", "test", "predict", "search", "prune", "transfer", "report", "demo"):
            assert f"\n    {name}  " in listed

    def test_of_search_explains_its_options(self, capsys: Any) -> None:
        assert exit_code("search", "--help") == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "--search.n_trials N_TRIALS how many trials" in text
        assert "--search.trial.trainer TRAINER Trainer arguments that differ" in text
        assert "--search.space SPACE argument of the model" in text
        assert "--output OUTPUT" in text

    def test_of_test_only_mentions_the_search(self, capsys: Any) -> None:
        assert exit_code("test", "--help") == 0
        text = capsys.readouterr().out
        assert "--search SEARCH" in text
        assert "--search.n_trials" not in text


class TestReport:
    def study(self) -> Path:
        study = optuna.create_study(storage="sqlite:///study.db", study_name="mine")
        study.add_trial(optuna.trial.create_trial(value=1.0))
        return Path("study.db")

    def test_writes_a_page_beside_the_study(self, capsys: Any, tmp_path: Path) -> None:
        pytest.importorskip("plotly")
        self.study()
        main(["report", str(tmp_path)])
        assert (tmp_path / "report.html").exists()
        assert "report.html" in capsys.readouterr().out
        main(["report", "study.db", "--output", "other.html", "--study-name", "mine"])
        assert Path("other.html").exists()

    def test_says_what_is_not_there(self, capsys: Any) -> None:
        self.study()
        assert exit_code("report", "studdy.db") == 1
        assert exit_code("report", "study.db", "--study-name", "yours") == 1
        said = capsys.readouterr().err
        assert "Did you mean `study.db`?" in said
        assert "It holds `mine`." in said
        assert exit_code("report") == 2

    def test_takes_no_options_before_it(self, config: Write, capsys: Any) -> None:
        assert exit_code("--config", config(search=None), "report") == 2
