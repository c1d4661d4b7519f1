"""`autoarch demo`: search an architecture on real data, train the best one and print the result, in under a minute.

The data are the handwritten digits of scikit-learn. Candidates are compared on the validation images. The winner is
then compared with the module's default arguments, trained in the same way, on test images that neither has seen.
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
MAX_PARAMS = 30_000  # without a limit the largest net would win
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
    """1,797 images of 8 x 8 pixels in 10 classes: 3/5 for training, 1/5 for validation, 1/5 for testing.

    Args:
        batch_size: the batch size of training.
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
    """An optional convolution, then fully connected layers: an ordinary module, independent of the search.

    Args:
        layers: the fully connected layers, each as `{"width": ..., "act": "relu" | "gelu" | "tanh"}`.
        stem: "conv" or "none".
        channels: the number of channels of the convolution.
        kernel: the kernel size of the convolution.
        dropout: the dropout rate before the last layer.
        lr: the learning rate of Adam.
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
    """Search, train the winner, compare it with the default and print the result. Continues an earlier run.

    Args:
        directory: where to write the study, the checkpoints and the report.
        n_trials: the number of trials, over all runs.

    Returns:
        The content of `result.json` in the directory.

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
        print(f"Done already: {directory} contains a search of {result['trials']} trials and its winner.")
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
    """Train the default net, or the winner if `callbacks` holds a search; return its size and its test accuracy."""
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
    except SystemExit:  # Lightning's response to Ctrl-C
        raise SystemExit(130 if trainer.interrupted else 1) from None
    if checkpoint is not None:
        trainer.save_checkpoint(checkpoint)
    [logged] = trainer.test(net, datamodule=data, verbose=False)
    parameters = sum(p.numel() for p in net.parameters())
    return {"parameters": parameters, "test_accuracy": logged["test_acc"], "test_images": len(data.test)}


def _plan(n_trials: int) -> str:
    return (
        "Handwritten digits, 1,797 images of 8 x 8 pixels: 1,078 for training, 359 for validation, 360 for testing.\n"
        f"{n_trials} architectures of at most {MAX_PARAMS:,} parameters are tried for {TRIAL_EPOCHS} epochs each; "
        f"the best is then trained for {EPOCHS}.\n"
        "It runs on one thread: nets this small are slower on several.\n"
    )


def _summary(directory: Path, result: dict[str, Any], report: str) -> str:
    winner, default = result["winner"], result["default"]
    next_trials = 2 * int(result["trials"])
    return f"""
Found
  architecture   {in_one_line(result["architecture"])}
  validation     {result["validation_accuracy"]:.1%} after {TRIAL_EPOCHS} epochs in its trial
  test           {_accuracy(winner)}, {count(winner["parameters"])} parameters
  to compare     {_accuracy(default)}, {count(default["parameters"])} parameters: the defaults, trained in the same way

Written to {directory}
  study.db       the {result["trials"]} trials, an Optuna study
  winner.ckpt    the winner, trained: a plain Lightning checkpoint
  trials/        checkpoints of the three best trials
  result.json    the numbers above
  {report}

Next
  search on      autoarch demo{_option(directory)} --n-trials {next_trials}
                 It continues this search, also after Ctrl-C or a crash.
  load it        from lightning_autoarch.demo import DigitsNet
                 net = DigitsNet.load_from_checkpoint("{directory / "winner.ckpt"}")
  your own       Trainer(callbacks=[ArchitectureSearch(space, monitor=...)]) for any module that calls
                 save_hyperparameters(), or `search:` in a config: autoarch search --help"""


def _accuracy(of: dict[str, Any]) -> str:
    """An accuracy with its standard error, which is that of a binomial share."""
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
    return "report.html    a report of the search: open it in a browser"


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
    """Hide Lightning's remarks about the machine. The search logs with the same logger, and is shown."""

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
