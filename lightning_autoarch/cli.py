"""`autoarch`: LightningCLI that searches and prunes, and `AutoArchCLI(MyModule, MyData)` for a script of your own.

    config.yaml, `search:` in it ─► autoarch search ─► best.yaml: the config with the winner's arguments ─► autoarch fit
                                 └► autoarch fit: searches, then trains the winner

    config.yaml, model.ckpt ─► autoarch prune ─► pruned.ckpt: trained on while `prune:` prunes it

The keys of `search:` are the arguments of `ArchitectureSearch`, those of `prune:` of `MagnitudePruning`. A config with
a callback among `trainer.callbacks` instead, as a plain LightningCLI takes it, is searched and pruned as well.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import pickle
import shlex
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, instantiate_class
from lightning.pytorch.utilities.exceptions import _TunerExitException
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_autoarch._version import __version__
from lightning_autoarch.callbacks.joint.families import FAMILIES
from lightning_autoarch.callbacks.joint.names import as_config, changes
from lightning_autoarch.callbacks.joint.pair import the_one
from lightning_autoarch.callbacks.prune.finetune import load_weights, prune_trained, sizes_on_disk
from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
from lightning_autoarch.callbacks.prune.masked import MaskedTraining
from lightning_autoarch.callbacks.search import ArchitectureSearch
from lightning_autoarch.errors import AutoArchError, SearchError, SpaceError
from lightning_autoarch.prune.errors import PruneValueError
from lightning_autoarch.prune.schedule import CubicSparsity, SparsitySchedule
from lightning_autoarch.report.pruned import pruned_table
from lightning_autoarch.training.data import split_architecture
from lightning_autoarch.training.optimizers import LateOptimizers
from lightning_autoarch.transfer.checkpoint import read_checkpoint

USAGE, FAILURE, INTERRUPTED = 2, 1, 130  # exit codes: jsonargparse's, Python's, the shell's for Ctrl-C
_NEEDED = ("jsonargparse", "docstring_parser", "typeshed_client")
_MISSING = 'The command line needs jsonargparse: pip install "lightning-autoarch[cli]"'
_MARK = "# Written by the subcommand `search`"
_ABOUT = "Find an architecture for a LightningModule, train it, prune it, report."
_ABOUT_OWN = {
    "search": "Search an architecture, write a config with it, train nothing afterwards.",
    "prune": "Load weights, train on while pruning, say what came of it, save a plain checkpoint.",
}
_SPARSITY = 0.9  # where `prune:` has no schedule
_USAGE = "%(prog)s [--config FILE] [--KEY VALUE ...]"  # jsonargparse's own names every key: 70 lines before each error
_SEARCHING = (None, "fit", "search")  # the subcommands in which `search:` means something; None: `run=False`
_PRUNING = (*_SEARCHING, "prune")  # and `prune:`


class AutoArchCLI(LightningCLI):
    """LightningCLI whose `fit` searches first if the config has `search:`, with the subcommand `search` for that alone.

    With `prune:` in the config training prunes; the subcommand `prune` does so from a checkpoint on.

    Takes what LightningCLI takes. Optimizers and schedulers of the config are made anew for each candidate. An error in
    the space or the search ends the program with one line, with `JSONARGPARSE_DEBUG=true` in a traceback.

    Raises:
        SystemExit: with 2 for a wrong config, 1 for a search that failed, 130 for Ctrl-C.

    Example::

        # train.py; python train.py search --config config.yaml && python train.py fit --config best.yaml
        AutoArchCLI(MyModule, MyData)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _check_installed()
        self._runs = False
        self._building: str | None = None  # the subcommand whose parser is being built; None with `run=False`
        with _in_short(lambda: self._runs):
            super().__init__(*args, **kwargs)

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
        search, path = self._search_of(self.trainer), _writable(Path(output))
        self._runs = True
        self.trainer.callbacks.insert(0, _StopBeforeTraining())  # type: ignore[attr-defined]
        self.trainer.fit(model, datamodule=datamodule)
        assert search.study is not None
        assert search.best_architecture is not None
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print(f"fast_dev_run: one trial ran; {path} is not written.")
            return
        winner = f"trial #{search.state_dict()['trial']}, {search.monitor} {search.best_score:.6g}"
        config = self._best_config(search.best_architecture)
        _write_config(path, config, f"study `{search.study.study_name}`, {winner}")
        self._say_where(search, path)

    def prune(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str = "",
        output: str = "pruned.ckpt",
    ) -> None:
        """Load weights, train on while pruning, say what came of it, save a plain checkpoint.

        Args:
            model: pruned.
            datamodule: its data.
            ckpt_path: where its weights are.
            output: the checkpoint to write: weights and hyperparameters, zeros where it is pruned.
        """
        load_weights(model, ckpt_path)
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        self._runs = True
        pruned = prune_trained(self.trainer, model, datamodule)
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print(f"fast_dev_run: one batch was trained; {output} is not written.")
            return
        self.trainer.save_checkpoint(output, weights_only=True)
        print(f"{pruned_table(pruned, sizes_on_disk(model, Path(output)))}\n\nWrote {output}")

    @property
    def _program(self) -> str:
        return f"python {name}" if (name := Path(sys.argv[0]).name).endswith(".py") else name

    def _say_where(self, search: ArchitectureSearch, path: Path) -> None:
        assert search.study is not None
        directory = Path(search.directory or Path(self.trainer.default_root_dir) / "autoarch" / search.study.study_name)
        winner = search.study.trials[search.state_dict()["trial"]]
        rows = {
            "winner's config": f"{path}   (train it: {self._program} fit --config {shlex.quote(str(path))})",
            "its weights": _near(winner.user_attrs["checkpoint"]) if "checkpoint" in winner.user_attrs else None,
            "study": _where_study(search.storage or directory / "study.db", search.study.study_name),
        }
        print("\n".join(f"  {name:<15}  {value}" for name, value in rows.items() if value is not None))

    def _best_config(self, architecture: Mapping[str, Any]) -> dict[str, Any]:
        """The config of this run, without the search and with the winner's arguments."""
        import yaml

        parser = self._parser(self.subcommand)
        given = self.config[self.subcommand]
        config: dict[str, Any] = yaml.safe_load(parser.dump(given, skip_default=True))
        seed = given.get("seed_everything")
        config = {"seed_everything": seed, **{k: v for k, v in config.items() if k not in ("search", "output")}}
        if callbacks := (config.get("trainer") or {}).get("callbacks"):
            config["trainer"]["callbacks"] = [c for c in callbacks if not _is_a(c, ArchitectureSearch)]
        module, data = split_architecture(dict(architecture))
        for key, arguments in (("model", module), ("data", data)):
            if arguments:
                config[key] = _with_arguments(config.get(key) or {}, given[key], arguments)
        self._write_callbacks(config, architecture)
        return config

    def _write_callbacks(self, config: dict[str, Any], architecture: Mapping[str, Any]) -> None:
        """Put the winner's parameters of callbacks, `prune.*` and `transfer.*`, where the config has the callbacks."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        for family in FAMILIES:
            parameters = family.part(architecture)
            found = the_one(family, callbacks, "the Trainer's callbacks", list(parameters)) if parameters else None
            if found is None:
                continue
            written = as_config(changes(found, parameters))
            listed = [c for c in (config.get("trainer") or {}).get("callbacks") or () if _is_a(c, type(found))]
            if listed:
                listed[0]["init_args"] = {**(listed[0].get("init_args") or {}), **written}
            else:
                config[family.section] = {**(config.get(family.section) or {}), **written}

    def _search_of(self, trainer: Trainer) -> ArchitectureSearch:
        search = _first_search(trainer.callbacks)  # type: ignore[attr-defined]
        if search is None:
            raise SearchError("Nothing to search: give the config a section `search:` with `space` and `monitor`.")
        if search.factory is not None:
            raise SearchError(
                "`search` writes a config of the module's own arguments, which `factory` need not have: use `fit`."
            )
        return search

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        if self._building in _SEARCHING:
            parser.add_class_arguments(_Options, "search", instantiate=False, fail_untyped=False)
        else:
            parser.add_argument("--search", type=dict, help="Of `fit` and `search`; not used here.")
        if self._building in _PRUNING:
            parser.add_class_arguments(_PruneOptions, "prune", instantiate=False, fail_untyped=False)
        else:
            parser.add_argument("--prune", type=dict, help="Of `fit`, `search` and `prune`; not used here.")
        super().add_core_arguments_to_parser(parser)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        callbacks = kwargs.get("callbacks", self._get(self.config_init, "trainer", default={}).get("callbacks"))
        others = callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]
        if self.subcommand == "prune":  # what the checkpoint holds is searched already
            others = [callback for callback in others if not isinstance(callback, ArchitectureSearch)]
        search, pruning = self._configured_search(), self._configured_pruning(others)
        if search is not None:
            if _first_search(others) is not None:
                raise SearchError("There are two searches: give `search:` or the callback, not both.")
            # The same command again is how a search resumes: its config.yaml is there already.
            self.save_config_kwargs = {"overwrite": True, **self.save_config_kwargs}
        if callbacks is not None or search is not None or pruning is not None:
            kwargs["callbacks"] = [callback for callback in (search, pruning, *others) if callback is not None]
        if self.subcommand in _ABOUT_OWN:
            self.save_config_callback = None  # they write something of their own
        return super().instantiate_trainer(**kwargs)

    def _configured_pruning(self, others: Sequence[Callback]) -> Callback | None:
        if self.subcommand not in _PRUNING:
            return None
        given = _top_level(self._get(self.config, "prune"))
        there = any(isinstance(callback, MaskedTraining) for callback in others)
        if _differs("prune", given, self._parser(self.subcommand)):
            if there:
                raise PruneValueError("There are two pruning callbacks: give `prune:` or the callback, not both.")
        elif there or self.subcommand != "prune":
            return None
        options = _top_level(self._get(self.config_init, "prune"))
        return MagnitudePruning(**{**options, "schedule": options["schedule"] or CubicSparsity(_SPARSITY)})

    def _configured_search(self) -> Callback | None:
        given = _top_level(self._get(self.config, "search"))
        if self.subcommand not in _SEARCHING:
            return _Searched() if given else None
        if not _differs("search", given, self._parser(self.subcommand)):
            return None
        for name in ("space", "monitor"):
            if given.get(name) is None:
                raise SearchError(f"`search.{name}` is missing: a search needs `space` and `monitor`.")
        options = dict(self._get(self.config_init, "search"))
        if isinstance(options["folds"], dict) and "class_path" in options["folds"]:
            options["folds"] = instantiate_class((), options["folds"])
        return ArchitectureSearch(**options)

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        """As LightningCLI does, but made over the parameters of the module that asks, when it asks."""
        parser = self._parser(subcommand)
        automatic = [
            [(key, given) for key, (given, link) in register.items() if link == "AUTOMATIC"]
            for register in (parser._optimizers, parser._lr_schedulers)
        ]
        if not self.auto_configure_optimizers or any(len(found) > 1 for found in automatic):
            super()._add_configure_optimizers_method_to_model(subcommand)
            return
        optimizer, scheduler = (self._initialiser(*found[0]) if found else None for found in automatic)
        if optimizer is None:
            return
        if is_overridden("configure_optimizers", self.model):
            rank_zero_warn(f"The config's `optimizer` replaces `{type(self.model).__name__}.configure_optimizers`.")

        def make(module: LightningModule) -> tuple[torch.optim.Optimizer, Any]:
            made = instantiate_class((module.parameters(),), optimizer)
            return made, None if scheduler is None else instantiate_class((made,), scheduler)

        LateOptimizers(self.configure_optimizers, make).bind(self.model)

    def _initialiser(self, key: str, registered: Any) -> dict[str, Any] | None:
        """`{"class_path": ..., "init_args": ...}` of an optimizer or scheduler, None where none is given."""
        init = self._get(self.config_init, key)
        if isinstance(registered, tuple):
            return init or None
        return {"class_path": f"{registered.__module__}.{registered.__qualname__}", "init_args": init or {}}

    def _setup_parser_kwargs(self, parser_kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        main, subcommands = super()._setup_parser_kwargs(parser_kwargs)
        subcommands |= {name: main.pop(name) for name in _ABOUT_OWN if name in main}
        return main, subcommands

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        for name, about in _ABOUT_OWN.items():
            self._building = name
            own = self.init_parser(**{"description": about, "usage": _USAGE, **kwargs.get(name, {})})
            self._subcommand_method_arguments[name] = _add_options(name, own)
            self._add_arguments(own)
            self._subcommand_parsers[name] = own
            _list_subcommand(parser, name, own, about)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        self._building = subcommand
        return super()._prepare_subcommand_parser(klass, subcommand, **{"usage": _USAGE, **kwargs})

    def _parse_ckpt_path(self) -> None:
        if self.config.get("subcommand") != "prune":
            super()._parse_ckpt_path()
            return
        given = self.config["prune"]
        read_checkpoint(given["ckpt_path"])  # says in one line what is wrong with it
        arguments = _hyperparameters(Path(given["ckpt_path"]))
        if not arguments:
            return
        where = arguments.pop("_class_path", (given.get("model") or {}).get("class_path"))
        model = arguments if where is None else {"class_path": where, "dict_kwargs": arguments}
        self.config = self.parser.parse_object({"prune": {"model": model}}, self.config)

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            if subcommand in _ABOUT_OWN:
                getattr(self, subcommand)(**self._prepare_subcommand_kwargs(subcommand))
            else:
                self._runs = True
                super()._run_subcommand(subcommand)
        except SystemExit as exit_:  # what Lightning makes of Ctrl-C
            raise SystemExit(INTERRUPTED if self.trainer.interrupted else exit_.code) from None


class _Options(ArchitectureSearch):
    """Search an architecture.

    Args:
        space: argument of the model (or `data.` and argument of the data) -> what it can be, such as
            `{low: 16, high: 512, log: true}`, `[relu, gelu]`, `{min: 1, max: 4, block: {width: {low: 8, high: 64}}}`.
        monitor: the logged value that is the score: the best epoch's counts.
    """

    # Only for jsonargparse to read: without `search:` nothing of it is required.
    def __init__(self, space: dict[str, Any] | None = None, *, monitor: str | None = None, **kwargs: Any) -> None:
        super().__init__(space or {}, monitor=monitor or "", **kwargs)


class _PruneOptions(MagnitudePruning):
    """Prune in training.

    Args:
        schedule: CubicSparsity, ConstantSparsity, OneShot or IterativeSparsity, by `class_path` and `init_args`; None:
            CubicSparsity(0.9) where anything else of `prune` is given, and in the subcommand `prune`.
    """

    # Only for jsonargparse to read: without `prune:` nothing of it is required.
    def __init__(self, schedule: SparsitySchedule | None = None, **kwargs: Any) -> None:
        super().__init__(schedule or CubicSparsity(_SPARSITY), **kwargs)


class _Searched(Callback):
    """Stands in where nothing is fitted: a checkpoint's state of the search then has its callback."""

    state_key = "lightning_autoarch.ArchitectureSearch"


class _StopBeforeTraining(Callback):
    """Ends a fit where Lightning's own tuners end it."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise _TunerExitException


def main(args: Sequence[str] | None = None) -> None:
    """The program `autoarch`.

    Raises:
        SystemExit: see `AutoArchCLI`.
    """
    words = sys.argv[1:] if args is None else list(args)
    if words and words[0] in _COMMANDS:
        with _in_short(lambda: True):
            try:
                _COMMANDS[words[0]](words[1:])
            except OSError as error:  # a directory that may not be written, a full disk
                _fail(str(error), FAILURE)
    else:
        about = {"description": _ABOUT, "version": __version__}
        _Autoarch(args=None if args is None else words, parser_kwargs=about)


class _Autoarch(AutoArchCLI):
    """With the subcommands that need neither model nor data, which `main` runs itself, listed in its help."""

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        for name, run in _COMMANDS.items():
            _list_subcommand(parser, name, LightningArgumentParser(), run.__doc__ or "")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        if self.config.get("subcommand") in _COMMANDS:
            parser.error(f"`{self.config.subcommand}` takes no options before it.")


def _list_subcommand(parser: LightningArgumentParser, name: str, own: LightningArgumentParser, about: str) -> None:
    assert parser._subcommands_action is not None
    parser._subcommands_action.add_subcommand(name, own, help=about)


def _report(args: Sequence[str]) -> None:
    """Write a study as one HTML page."""
    parser = argparse.ArgumentParser(prog="autoarch report", description=_report.__doc__)
    parser.add_argument("study", metavar="STUDY", help="The study's file, a directory with study.db, or a storage URL.")
    parser.add_argument("--output", metavar="FILE", help="Default: report.html beside the study.")
    parser.add_argument("--study-name", metavar="NAME", help="Which study, where the storage holds several.")
    given = parser.parse_args(args)
    from lightning_autoarch.report import write_report

    study = given.study
    if (Path(study) / "study.db").is_file():
        study = str(Path(study) / "study.db")
    beside = Path(study).parent if Path(study).is_file() else Path()
    print(f"Wrote {write_report(study, given.output or beside / 'report.html', study_name=given.study_name)}")


def _demo(args: Sequence[str]) -> None:
    """Search on handwritten digits, train the winner, say what came of it."""
    from lightning_autoarch.demo import DIRECTORY, N_TRIALS, demo

    parser = argparse.ArgumentParser(prog="autoarch demo", description=_demo.__doc__)
    parser.add_argument("--directory", default=DIRECTORY, help="For all that it writes. Default: %(default)s.")
    parser.add_argument("--n-trials", type=int, default=N_TRIALS, help="Over all runs. Default: %(default)s.")
    given = parser.parse_args(args)
    demo(given.directory, given.n_trials)


_COMMANDS = {"report": _report, "demo": _demo}


def _add_options(subcommand: str, parser: LightningArgumentParser) -> list[str]:
    """The arguments of our own subcommands' methods; returns their names."""
    if subcommand == "search":
        parser.add_argument("--output", default="best.yaml", help="The config to write; `fit` takes it.")
        return ["output"]
    parser.add_argument("--ckpt_path", required=True, help="A checkpoint of the model, or its weights alone.")
    parser.add_argument("--output", default="pruned.ckpt", help="The checkpoint to write: weights, hyperparameters.")
    return ["ckpt_path", "output"]


def _top_level(section: Any) -> dict[str, Any]:
    """The keys of a section and what they hold; a Namespace of jsonargparse iterates over the keys below them too."""
    return {} if section is None else dict(section if isinstance(section, Mapping) else vars(section))


def _differs(section: str, given: Mapping[str, Any], parser: LightningArgumentParser) -> bool:
    """Whether anything was given: a config that was parsed twice has lists where a default is a tuple."""
    defaults = {name: parser.get_default(f"{section}.{name}") for name in given}
    return any(value != defaults[name] and value != _as_list(defaults[name]) for name, value in given.items())


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _hyperparameters(path: Path) -> dict[str, Any]:
    """The model's in a Lightning checkpoint; none in a file of weights alone, or where they are more than data."""
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return {}
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        return {}
    return {k: v for k, v in dict(checkpoint.get("hyper_parameters") or {}).items() if k != "_instantiator"}


def _first_search(callbacks: Sequence[Callback]) -> ArchitectureSearch | None:
    return next((callback for callback in callbacks if isinstance(callback, ArchitectureSearch)), None)


def _is_a(callback: Mapping[str, Any], kind: type[Callback]) -> bool:
    """Whether an entry of `trainer.callbacks` in a config is of this class."""
    module, _, name = str(callback.get("class_path", "")).rpartition(".")
    cls = getattr(importlib.import_module(module), name, None) if module else None
    return isinstance(cls, type) and issubclass(cls, kind)


def _with_arguments(written: dict[str, Any], given: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The section `model` or `data` of a config with other arguments."""
    if "class_path" not in given:
        return {**written, **arguments}
    section = {"class_path": given["class_path"], **written}
    known = given.get("init_args") or {}
    for name, value in arguments.items():
        where = "init_args" if name in known else "dict_kwargs"
        section[where] = {**(section.get(where) or {}), name: value}
    return section


def _writable(path: Path) -> Path:
    """Where the config may be written: found out before the search, not after it."""
    if path.exists() and not path.read_text("utf-8", errors="replace").startswith(_MARK):
        raise SearchError(f"`{path}` was not written by `search` and is left alone: give another `--output`.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_config(path: Path, config: Mapping[str, Any], origin: str) -> None:
    import yaml

    path.write_text(f"{_MARK}: {origin}.\n{yaml.safe_dump(dict(config), sort_keys=False)}", "utf-8")


def _near(path: str | Path) -> str:
    """A path as seen from here, where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def _where_study(storage: Any, name: str) -> str:
    """A file or URL and the command that shows it; no storage object, and no password."""
    place = os.fspath(storage) if isinstance(storage, str | os.PathLike) else ""
    is_url = "://" in place
    if not place or (is_url and "@" in place):
        return f"`{name}` in its storage"
    shown = place if is_url else _near(place)
    return f"{shown}   (see it: autoarch report {shlex.quote(shown)})"


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        _fail(f"{_MISSING} (not installed: {', '.join(missing)})", USAGE)


@contextlib.contextmanager
def _in_short(runs: Callable[[], bool]) -> Iterator[None]:
    """Our own errors as one line, also where jsonargparse has wrapped them; a Ctrl-C that Lightning did not take."""
    try:
        yield
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except Exception as error:
        ours = _cause(error)
        if ours is None or os.environ.get("JSONARGPARSE_DEBUG", "").lower() == "true":
            raise
        _fail(str(ours), FAILURE if runs() and not isinstance(ours, SpaceError) else USAGE)


def _cause(error: BaseException | None) -> AutoArchError | None:
    while error is not None and not isinstance(error, AutoArchError):
        error = error.__cause__
    return error


def _fail(message: str, code: int) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    raise SystemExit(code)
