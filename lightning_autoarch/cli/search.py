"""The subcommand `search`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from lightning_autoarch.callbacks.joint.tuned import tuned_among
from lightning_autoarch.callbacks.joint.tuning import as_config as callback_config
from lightning_autoarch.callbacks.joint.tuning import changes, part
from lightning_autoarch.callbacks.search import ArchitectureSearch
from lightning_autoarch.cli.options import FITTING, StateHolder
from lightning_autoarch.cli.sections import differs, is_a, top_level
from lightning_autoarch.cli.winner import (
    as_config,
    check_config,
    near,
    where_study,
    with_arguments,
    writable,
    write_config,
)
from lightning_autoarch.core.errors import SearchError
from lightning_autoarch.core.prefixes import declared_prefixes
from lightning_autoarch.seam.lightning import callbacks_of, end_of_tuning, fast_dev_run
from lightning_autoarch.seam.lightning_cli import ExtensibleCLI
from lightning_autoarch.training.arguments import Constructor
from lightning_autoarch.training.data import split_architecture
from lightning_autoarch.training.trainer_settings import trainer_part
from lightning_autoarch.training.trial_files import kept_checkpoint


class SearchCommand(ExtensibleCLI):
    """LightningCLI with `search`, and with `search:` in its configs."""

    _runs: bool

    def search(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        output: str = "best.yaml",
    ) -> None:
        """Search an architecture, write a config with it, train nothing afterwards.

        Run again, it continues, up to `search.n_trials`.

        Args:
            model: searched.
            datamodule: its data.
            output: the config to write; `fit` takes it.
        """
        search, path = self._search_of(self.trainer), writable(Path(output))
        check_config(search.space.parameters)
        self._runs = True
        callbacks_of(self.trainer).insert(0, _StopBeforeTraining())
        self.trainer.fit(model, datamodule=datamodule)
        assert search.optuna_study is not None
        assert search.best_architecture is not None
        if fast_dev_run(self.trainer):
            print(f"fast_dev_run: one trial ran; {path} is not written.")
            return
        winner = f"trial #{search.state_dict()['trial']}, {search.monitor} {search.best_score:.6g}"
        architecture = {name: as_config(name, value) for name, value in search.best_architecture.items()}
        config = self._best_config(architecture)
        write_config(path, config, f"study `{search.optuna_study.study_name}`, {winner}")
        self._say_where(search, path)

    def _configured_search(self) -> Callback | None:
        given = top_level(self.given("search"))
        if self.subcommand not in FITTING:
            return StateHolder("search") if given else None
        if not differs("search", given, self.parser_of(self.subcommand)):
            return None
        for name in ("space", "monitor"):
            if given.get(name) is None:
                raise SearchError(f"`search.{name}` is missing: a search needs `space` and `monitor`.")
        options = dict(self.instantiated("search"))
        return ArchitectureSearch(**options)

    def _search_of(self, trainer: Trainer) -> ArchitectureSearch:
        search = first_search(callbacks_of(trainer))
        if search is None:
            raise SearchError("Nothing to search: give the config a section `search:` with `space` and `monitor`.")
        if search.factory is not None:
            raise SearchError(
                "`search` writes a config of the module's own arguments, which `factory` need not have: use `fit`."
            )
        return search

    def _best_config(self, architecture: Mapping[str, Any]) -> dict[str, Any]:
        """The config of this run, without the search and with the winner's arguments."""
        import yaml

        parser = self.parser_of(self.subcommand)
        given = self.config[self.subcommand]
        config: dict[str, Any] = yaml.safe_load(parser.dump(given, skip_default=True))
        whole: dict[str, Any] = yaml.safe_load(parser.dump(given, skip_none=False))
        seed = given.get("seed_everything")
        config = {"seed_everything": seed, **{k: v for k, v in config.items() if k not in ("search", "output")}}
        if callbacks := (config.get("trainer") or {}).get("callbacks"):
            config["trainer"]["callbacks"] = [c for c in callbacks if not is_a(c, ArchitectureSearch)]
        module, data = split_architecture(dict(architecture))
        for key, made, arguments in (("model", self.model, module), ("data", self.datamodule, data)):
            if arguments:
                named = Constructor.of(made).as_written(arguments)
                config[key] = with_arguments(config.get(key) or {}, whole.get(key) or {}, named)
        if of_trainer := trainer_part(architecture):
            config["trainer"] = {**(config.get("trainer") or {}), **of_trainer}
        self._write_callbacks(config, architecture)
        return config

    def _write_callbacks(self, config: dict[str, Any], architecture: Mapping[str, Any]) -> None:
        """Put the winner's values of tunables where the config has the callbacks, or else into their section."""
        callbacks = callbacks_of(self.trainer)
        for prefix in declared_prefixes():
            parameters = part(prefix, architecture)
            found = tuned_among(prefix, callbacks, "the Trainer's callbacks", list(parameters)) if parameters else None
            if found is None:
                continue
            written = callback_config(changes(found, parameters))
            listed = [c for c in (config.get("trainer") or {}).get("callbacks") or () if is_a(c, type(found))]
            if listed:
                listed[0]["init_args"] = {**(listed[0].get("init_args") or {}), **written}
            else:
                config[prefix] = {**(config.get(prefix) or {}), **written}

    @property
    def _program(self) -> str:
        return f"python {name}" if (name := Path(sys.argv[0]).name).endswith(".py") else name

    def _say_where(self, search: ArchitectureSearch, path: Path) -> None:
        assert search.optuna_study is not None
        study = search.optuna_study
        directory = Path(search.study.directory or Path(self.trainer.default_root_dir) / "autoarch" / study.study_name)
        winner = study.trials[search.state_dict()["trial"]]
        where, command = where_study(search.study.storage or directory / "study.db", study.study_name)
        weights = kept_checkpoint(directory, winner.number, winner.user_attrs.get("checkpoint"))
        rows = {
            "winner's config": str(path),
            "to train it": f"{self._program} fit --config {shlex.quote(str(path))}",
            "its weights": None if weights is None else near(weights),
            "study": where,
            "to see it": command,
        }
        print("\n".join(f"  {name:<15}  {value}" for name, value in rows.items() if value is not None))


def first_search(callbacks: Sequence[Callback]) -> ArchitectureSearch | None:
    """The first search among callbacks."""
    return next((callback for callback in callbacks if isinstance(callback, ArchitectureSearch)), None)


class _StopBeforeTraining(Callback):
    """Ends a fit where Lightning's own tuners end it."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise end_of_tuning()
