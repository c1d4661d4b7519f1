"""What the program says about a config that names what is not there, and where it finds what is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli_nets
import pytest

from lightning_autoarch.cli import AutoArchCLI, main
from lightning_autoarch.cli.paths import config_files, modules_beside

Write = Callable[..., str]


def ends(run: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


class TestKeysThatNothingTakes:
    def test_arguments_of_a_class_and_the_nearest(self, config: Write, capsys: Any) -> None:
        path = config(model={"class_path": "cli_nets.Called", "init_args": {"widht": 4}})
        said = ends(lambda: main(["fit", "--config", path]), capsys)
        assert "Known in Called: width, act, layers. Did you mean `width`?" in said

    def test_the_initials_of_a_name(self, config: Write, capsys: Any) -> None:
        path = config(model={"class_path": "cli_nets.Rated", "init_args": {"learning_rate": 0.1}})
        said = ends(lambda: main(["fit", "--config", path]), capsys)
        assert "Known in Rated: lr. Did you mean `lr`?" in said

    def test_an_argument_of_the_data_at_the_top(self, config: Write, capsys: Any) -> None:
        said = ends(lambda: main(["fit", "--config", config(batch_size=8)]), capsys)
        assert "Did you mean `data.init_args.batch_size`?" in said

    def test_an_argument_of_fixed_classes(self, config: Write, capsys: Any) -> None:
        for sections, told in (
            ({"data": {"batchsize": 8}}, "Did you mean `batch_size`?"),
            ({"data": {}, "batch_size": 8}, "Did you mean `data.batch_size`?"),
        ):
            path = config(**{"model": {}, **sections})
            said = ends(
                lambda path=path: AutoArchCLI(cli_nets.Called, cli_nets.Data, args=["fit", "--config", path]), capsys
            )
            assert told in said

    def test_a_section_that_there_is_not(self, config: Write, capsys: Any) -> None:
        said = ends(lambda: main(["fit", "--config", config(trianer={"max_epochs": 1})]), capsys)
        assert "Did you mean `trainer`?" in said

    def test_no_data(self, config: Write, capsys: Any) -> None:
        said = ends(lambda: main(["fit", "--config", config(data=None)]), capsys)
        assert "There are no data, and Called has no `train_dataloader` of its own" in said


class TestModulesBesideTheConfig:
    def test_are_found_by_the_program_and_only_while_it_runs(
        self, config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "beside_the_config.py").write_text("import cli_nets\nclass Mine(cli_nets.Called): ...\n")
        path = config(model={"class_path": "beside_the_config.Mine"})
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        before = list(sys.path)
        main(["fit", "--config", path, "--trainer.fast_dev_run", "true"])
        assert sys.modules.pop("beside_the_config").__file__ == str(tmp_path / "beside_the_config.py")
        assert sys.path == before

    def test_cannot_stand_in_for_what_is_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "a.yaml").touch()
        before = list(sys.path)
        with modules_beside(["fit", "--config", "deep/a.yaml"]):
            assert sys.path == [*before, str(tmp_path), str(tmp_path / "deep")]
        with modules_beside(["fit"]):
            assert sys.path == before

    def test_configs_of_a_command_line(self, tmp_path: Path) -> None:
        for name in ("a.yaml", "b.yaml", "c.yaml"):
            (tmp_path / name).touch()
        words = ["--config", "a.yaml", "fit", "-c", "b.yaml", "--config=c.yaml", "--config", "missing.yaml", "--config"]
        assert config_files(words) == [Path("c.yaml"), Path("a.yaml"), Path("b.yaml")]
