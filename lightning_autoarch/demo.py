"""`autoarch demo`: the whole way on real data in under a minute: search, train the winner, print the result.

The data are the handwritten digits that ship with scikit-learn. Candidates are compared on the validation images; the
last word have the test images, which neither the search nor the training sees, against the module's default arguments
trained in the same way.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shlex
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_autoarch.callbacks.search import ArchitectureSearch
from lightning_autoarch.search.leaderboard import count, in_one_line
from lightning_autoarch.search.parameters import Categorical, Float, Int, Repeat

DIRECTORY, N_TRIALS = "autoarch-demo", 25
MAX_PARAMS = 30_000  # without a limit the largest net wins, which is no surprise
TRIAL_EPOCHS, EPOCHS = 6, 20
SPACE = {
    "stem": Categorical(["none", "conv"]),
    "channels": Int(4, 16, log=True, when={"stem": ["conv"]}),
    "kernel": Categorical([3, 5], when={"stem": ["conv"]}),
    "layers": Repeat(1, 3, {"width": Int(8, 128, log=True), "act": Categorical(["relu", "gelu", "tanh"])}),
    "dropout": Float(0.0, 0.5),
    "lr": Float(1e-3, 1e-2, log=True),
    "data.batch_size": Categorical([32, 64, 128]),
}
_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
_CHATTER = ("GPU available", "TPU available", "💡 Tip", "`Trainer.fit` stopped", "`weights_only` was not set")


class DigitsData(L.LightningDataModule):
    """1,797 images of 8 x 8 pixels in 10 classes: three fifths to train, a fifth to validate, a fifth to test.

    Args:
        batch_size: of training.
    """

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        images = torch.as_tensor(x, dtype=torch.float32).div(16).reshape(-1, 1, 8, 8)
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
        third, fourth = len(y) * 3 // 5, len(y) * 4 // 5  # of five parts
        parts = (order[:third], order[third:fourth], order[fourth:])
        self.train, self.val, self.test = (TensorDataset(images[i], torch.as_tensor(y)[i]) for i in parts)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=self.hparams["batch_size"], shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=512)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.test, batch_size=512)


class DigitsNet(L.LightningModule):
    """An optional convolution, then fully connected layers: an ordinary module, which knows nothing of a search.

    Args:
        layers: of the fully connected part, each `{"width": ..., "act": "relu" | "gelu" | "tanh"}`.
        stem: "conv" or "none".
        channels: of the convolution.
        kernel: its size.
        dropout: before the last layer.
        lr: Adam's learning rate.
    """

    def __init__(
        self,
        layers: Sequence[dict[str, Any]] = ({"width": 64, "act": "relu"},),
        stem: str = "none",
        channels: int = 8,
        kernel: int = 3,
        dropout: float = 0.0,
        lr: float = 3e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        conv = [nn.Conv2d(1, channels, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2)]
        parts: list[nn.Module] = [*(conv if stem == "conv" else []), nn.Flatten()]
        width = 16 * channels if stem == "conv" else 64
        for layer in layers:
            parts += [nn.Linear(width, layer["width"]), _ACTIVATIONS[layer["act"]]()]
            width = layer["width"]
        self.net = nn.Sequential(*parts, nn.Dropout(dropout), nn.Linear(width, 10))

    def forward(
        self,
        x: Tensor,  # (n, 1, 8, 8) in [0, 1]
    ) -> Tensor:  # (n, 10) logits
        return self.net(x)  # type: ignore[no-any-return]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_acc", self._accuracy(batch))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_acc", self._accuracy(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])

    def _accuracy(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        logits: Tensor = self(x)
        return (logits.argmax(1) == y).float().mean()


def demo(directory: str | os.PathLike[str] = DIRECTORY, n_trials: int = N_TRIALS) -> dict[str, Any]:
    """Search, train, compare, and say so on standard output; continues what an earlier run left.

    Args:
        directory: for the study, the checkpoints and the report.
        n_trials: over all runs.

    Returns:
        What `result.json` in the directory holds.

    Raises:
        SystemExit: with 130, on Ctrl-C.
    """
    directory = Path(directory)
    result = _earlier(directory / "result.json")
    if result is None or result["trials"] < n_trials:
        print(_plan(n_trials), flush=True)
        with _quiet(), _one_thread():
            result = _searched(directory, n_trials)
    else:
        print(f"Done already: {directory} holds a search of {result['trials']} trials and its winner.")
    print(_summary(directory, result, _report(directory)))
    return result


def _searched(directory: Path, n_trials: int) -> dict[str, Any]:
    search = ArchitectureSearch(
        SPACE,
        monitor="val_acc",
        mode="max",
        n_trials=n_trials,
        sampler="bayesian",
        limits={"params": MAX_PARAMS},
        trial={"trainer": {"max_epochs": TRIAL_EPOCHS}},
        study={"directory": directory},
    )
    winner = _trained([search], directory / "winner.ckpt")
    result = {
        "trials": n_trials,
        "architecture": search.best_architecture,
        "validation_accuracy": search.best_score,
        "winner": winner,
        "default": _trained([], None),
    }
    (directory / "result.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return result


def _trained(callbacks: list[L.Callback], checkpoint: Path | None) -> dict[str, Any]:
    """Train a net that starts as the default one; how large it is in the end, and how good on the test images."""
    torch.manual_seed(0)
    net, data = DigitsNet(), DigitsData()
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(net, datamodule=data)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise SystemExit(130 if trainer.interrupted else 1) from None
    if checkpoint is not None:
        trainer.save_checkpoint(checkpoint)
    [logged] = trainer.test(net, datamodule=data, verbose=False)
    parameters = sum(p.numel() for p in net.parameters())
    return {"parameters": parameters, "test_accuracy": logged["test_acc"], "test_images": len(data.test)}


def _plan(n_trials: int) -> str:
    return (
        "Handwritten digits, 1,797 images of 8 x 8 pixels: 1,078 to train, 359 to choose by, 360 held out.\n"
        f"{n_trials} architectures of at most {MAX_PARAMS:,} parameters are tried, {TRIAL_EPOCHS} epochs each; "
        f"the best is then trained for {EPOCHS}.\n"
        "On one thread: nets as small as these are slower on several.\n"
    )


def _summary(directory: Path, result: dict[str, Any], report: str) -> str:
    winner, default = result["winner"], result["default"]
    next_trials = 2 * int(result["trials"])
    return f"""
Found
  architecture   {in_one_line(result["architecture"])}
  validation     {result["validation_accuracy"]:.1%} after {TRIAL_EPOCHS} epochs in its trial
  test           {_accuracy(winner)}, {count(winner["parameters"])} parameters
  to compare     {_accuracy(default)}, {count(default["parameters"])} parameters: the module's defaults, trained as long

Written to {directory}
  study.db       the {result["trials"]} trials, an Optuna study
  winner.ckpt    the winner, trained: a plain Lightning checkpoint
  trials/        checkpoints of the three best trials
  result.json    the numbers above
  {report}

Next
  search on      autoarch demo{_option(directory)} --n-trials {next_trials}
                 It continues, also after Ctrl-C or a crash.
  load it        from lightning_autoarch.demo import DigitsNet
                 net = DigitsNet.load_from_checkpoint("{directory / "winner.ckpt"}")
  your own       Trainer(callbacks=[ArchitectureSearch(space, monitor=...)]) for any module that calls
                 save_hyperparameters(), or `search:` in a config: autoarch search --help"""


def _accuracy(of: dict[str, Any]) -> str:
    """With the standard error of a share of so many images."""
    share, n = float(of["test_accuracy"]), int(of["test_images"])
    return f"{share:.1%} +- {math.sqrt(share * (1 - share) / n):.1%}"


def _option(directory: Path) -> str:
    return "" if str(directory) == DIRECTORY else f" --directory {shlex.quote(str(directory))}"


def _report(directory: Path) -> str:
    from lightning_autoarch.core.errors import ReportError
    from lightning_autoarch.report import write_report

    try:
        write_report(directory / "study.db", directory / "report.html")
    except ReportError as error:
        return f"(no report.html: {error})"
    return "report.html    how the search went: open it in a browser"


def _earlier(path: Path) -> dict[str, Any] | None:
    try:
        result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    return result


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's remarks on the machine; the search's own lines use the same logger."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_CHATTER)

    handlers = logging.getLogger("lightning.pytorch").handlers
    for handler in handlers:
        handler.addFilter(is_news)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_news)
