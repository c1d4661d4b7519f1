"""The best of several sets of callbacks, by cross-validation, and what is saved of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
from torch import Tensor

from lightning_autoarch import (
    AutoArchError,
    ChannelPruning,
    Choice,
    ConstantSparsity,
    FoldScores,
    L1Regularization,
    MagnitudePruning,
    SearchError,
    TransferLearning,
    choose,
    cross_validate,
    load_pruned,
)

TRAINER: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "devices": 1}
CV: dict[str, Any] = {"folds": 2, "trainer": TRAINER}


class Untouched(L.Callback):
    """Of a training that must not begin."""

    def setup(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError


def net(**options: Any) -> nets.Net:
    return nets.Net(**{"width": 16, "lr": 0.02, "dropout": 0.0, **options})


def pretrained(path: Path) -> dict[str, Tensor]:
    torch.manual_seed(3)
    module = net()
    nets.trainer(path, max_epochs=30).fit(module, *nets.loaders())
    return module.state_dict()


def test_ten_lines(tmp_path: Path) -> None:
    weights = pretrained(tmp_path)
    cv = {**CV, "trainer": {**TRAINER, "max_epochs": 2}}
    choice = choose(net(), nets.loaders()[0], {
        "scratch": [],
        "full": TransferLearning(weights),
        "probe": [TransferLearning(weights, strategy="linear_probe")],
        "sparse": [TransferLearning(weights), MagnitudePruning(ConstantSparsity(0.5), every_n_steps=1)],
    }, cv, monitor="val_loss", output=tmp_path / "best.ckpt")  # fmt: skip
    assert list(choice.scores) == ["scratch", "full", "probe", "sparse"]
    assert choice.best == min(choice.scores, key=lambda name: choice.scores[name].mean)
    assert choice.best in ("full", "probe") and choice.scores["scratch"].mean > choice.scores["full"].mean
    assert choice.checkpoint == tmp_path / "best.ckpt"
    best = nets.Net.load_from_checkpoint(choice.checkpoint, map_location="cpu")
    assert best.hparams["width"] == 16
    lines = str(choice).splitlines()
    assert lines[0].split() == ["val_loss", "the", "best", "has"] and lines[1].startswith(choice.best)
    assert lines[-1].startswith("scratch") and "-" in lines[-1].split("±")[1]  # the best has less


def test_scores_are_those_of_cross_validation_and_paired(tmp_path: Path) -> None:
    loader = nets.loaders()[0]
    candidates = {"a": [], "b": L1Regularization(0.5)}
    choice = choose(net(), loader, candidates, {**CV, "seed": 4}, monitor="val_loss")
    for name, callbacks in (("a", []), ("b", [L1Regularization(0.5)])):
        alone = cross_validate(
            net(), loader, {"folds": 2, "trainer": TRAINER, "callbacks": callbacks, "seed": 4}, monitor="val_loss"
        )
        assert choice.scores[name] == alone
    assert choice.checkpoint is None and choice.failures == {}
    other = "b" if choice.best == "a" else "a"
    expected = [a - b for a, b in zip(choice.scores[choice.best].scores, choice.scores[other].scores, strict=True)]
    assert choice.behind(other).scores == pytest.approx(expected)


def test_the_larger_and_of_equals_the_first() -> None:
    class Scored(nets.Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            first = any(isinstance(cb, L1Regularization) for cb in self.trainer.callbacks)
            self.log("val_acc", torch.tensor(0.5 if first else 0.25))

    loader = nets.loaders()[0]
    candidates = {"low": [], "high": L1Regularization(0.1), "as high": L1Regularization(0.2)}
    for mode, best in (("max", "high"), ("min", "low")):
        assert choose(Scored(), loader, candidates, CV, monitor="val_acc", mode=mode).best == best


def test_the_last_training_is_of_the_whole_set_and_the_module_is_not_trained(tmp_path: Path) -> None:
    seen: list[int] = []

    class Counting(nets.Net):
        def on_train_start(self) -> None:
            seen.append(len(self.trainer.train_dataloader.dataset))

    module = Counting(dropout=0.0)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    data = nets.Data()
    cv = {**CV, "folds": 3}
    choose(module, data, {"a": []}, cv, monitor="val_loss", output=tmp_path / "deep" / "best.ckpt")
    assert seen == [32, 32, 32, 48]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    again = tmp_path / "again.ckpt"
    choose(module, nets.Data(), {"a": []}, cv, monitor="val_loss", output=again)
    first, second = (torch.load(p, weights_only=True)["state_dict"] for p in (tmp_path / "deep" / "best.ckpt", again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_saved_is_plain(tmp_path: Path) -> None:
    callback = MagnitudePruning(ConstantSparsity(0.75), every_n_steps=1)
    loader = nets.loaders()[0]
    choose(net(), loader, {"sparse": callback}, CV, monitor="val_loss", output=tmp_path / "best.ckpt")
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert "optimizer_states" not in content and "callbacks" not in content
    weights = [tensor for name, tensor in content["state_dict"].items() if name.endswith("weight")]
    zeros = sum(int((tensor == 0).sum()) for tensor in weights) / sum(tensor.numel() for tensor in weights)
    assert zeros == 0.75
    assert callback.masks == {}


def test_fewer_channels(tmp_path: Path) -> None:
    module = net(layers=[{"width": 16}])
    candidates = {"small": ChannelPruning(0.5, of="flops", at=0.5, round_to=1, example_inputs=torch.zeros(2, 4))}
    cv = {**CV, "trainer": {**TRAINER, "max_epochs": 2}}
    loader = nets.loaders()[0]
    choose(module, loader, candidates, cv, monitor="val_loss", output=tmp_path / "best.ckpt")
    small = load_pruned(net(layers=[{"width": 16}]), tmp_path / "best.ckpt")
    assert small.net[0].out_features < 16 and torch.isfinite(small(torch.zeros(2, 4))).all()


def test_adapters_are_merged(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra `lora`")
    candidates = {"lora": TransferLearning(strategy="lora")}
    loader = nets.loaders()[0]
    choose(net(), loader, candidates, CV, monitor="val_loss", output=tmp_path / "best.ckpt")
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert content["state_dict"].keys() == net().state_dict().keys()


def test_an_interrupted_call_continues(tmp_path: Path) -> None:
    trained: list[str] = []

    class Telling(L.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            trained.append(Path(trainer.default_root_dir).name)

    given = {"a": [Telling()], "b": [Telling(), L1Regularization(0.1)]}
    cv = {**CV, "trainer": {**TRAINER, "max_epochs": 2}, "directory": tmp_path}
    first = choose(net(), nets.loaders()[0], given, cv, monitor="val_loss")
    assert trained == ["fold0"] * 2 + ["fold1"] * 2 + ["fold0"] * 2 + ["fold1"] * 2
    (tmp_path / "b" / "fold1" / "last.ckpt").unlink()
    trained.clear()
    again = choose(net(), nets.loaders()[0], given, cv, monitor="val_loss")
    assert trained == ["fold1"] * 2
    assert again.scores == first.scores


def test_one_that_fails_is_named_and_the_others_go_on() -> None:
    candidates = {"bad": TransferLearning({"a.weight": torch.zeros(2, 2)}), "good": []}
    choice = choose(net(), nets.loaders()[0], candidates, CV, monitor="val_loss")
    assert choice.best == "good" and list(choice.scores) == ["good"]
    assert "fold 0: TransferError" in choice.failures["bad"]
    assert str(choice).splitlines()[-1].startswith("bad: failed: Cross-validation failed: fold 0")
    with pytest.raises(SearchError, match=r"No candidate could be trained:\n  bad: .*TransferError"):
        choose(net(), nets.loaders()[0], {"bad": candidates["bad"]}, CV, monitor="val_loss")


@pytest.mark.parametrize(
    ("candidates", "options", "message"),
    [
        ({}, {}, r"`candidates` as \{name: callbacks\}, at least one"),
        ([L1Regularization(0.1)], {}, r"`candidates` as \{name: callbacks\}"),
        ({"a/b": []}, {}, r"names of `candidates`.*'a/b'"),
        ({"..": []}, {}, r"names of `candidates`"),
        ({"a": ["adam"]}, {}, r"callbacks for the candidate `a`, got 'adam'"),
        ({"a": None}, {}, r"callbacks for the candidate `a`, \[\] for none, got None"),
        (
            {"a": []},
            {"trainer": {**TRAINER, "callbacks": [L1Regularization(0.1)]}},
            "no callbacks in `trainer`",
        ),
        ({"a": []}, {"mode": "best"}, r"`mode` to be one of min, max, got 'best'"),
        ({"a": []}, {"monitor": "val_los"}, r"Did you mean `val_loss`"),
        ({"a": []}, {"folds": 1}, r"`folds`"),
        ({"a": []}, {"fold": 2}, r"Did you mean `folds`"),
    ],
)
def test_what_is_refused(candidates: Any, options: Any, message: str) -> None:
    score = {"monitor": "val_loss", **{name: value for name, value in options.items() if name in ("monitor", "mode")}}
    cv = {**CV, **{name: value for name, value in options.items() if name not in score and name != "mode"}}
    with pytest.raises(SearchError, match=message):
        choose(net(), nets.loaders()[0], candidates, cv, **score)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("file/best.ckpt", r"write `output` to .*best\.ckpt, cannot:"),
        (".", "`output` to name a file, got the directory"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_before_training(tmp_path: Path, output: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AutoArchError, match=message):
        choose(
            net(), nets.loaders()[0], {"a": Untouched()}, CV, monitor="val_loss", output=tmp_path / output
        )  # fmt: skip


def test_a_directory_that_cannot_be_written_to_is_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cv = {"directory": tmp_path / "file" / "all"}
    with pytest.raises(SearchError, match=r"file/all cannot be written to.*`cv.directory`"):
        choose(net(), nets.loaders()[0], {"a": Untouched()}, cv, monitor="val_loss")
    with pytest.raises(SearchError, match=r"file/all cannot be written to.*`directory`"):
        cross_validate(net(), nets.loaders()[0], cv, monitor="val_loss")


def test_the_table() -> None:
    scores = {"full": FoldScores((0.8, 0.9)), "probe": FoldScores((0.7, 0.7))}
    assert str(Choice(scores, "full", "val_acc", "max", {"lora": "no peft"})) == (
        "       val_acc         the best has\n"
        "full   0.8500 ±0.0500\n"
        "probe  0.7000 ±0.0000  +0.1500 ±0.0500\n"
        "lora: failed: no peft"
    )
