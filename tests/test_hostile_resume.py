"""`trainer.fit(ckpt_path=...)` with a checkpoint of a stranger, and each callback of the package among the callbacks.

No code in it runs, and it ends in an error of the package, or in Lightning's or torch's own where they read the part.
"""

from __future__ import annotations

import copy
import itertools
import os
import tempfile
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from guarded import Case, Guard
from torch import Tensor, nn

import lightning_autoarch
from lightning_autoarch import (
    SET,
    ArchitectureSearch,
    ChannelPruning,
    ConstantSparsity,
    Distillation,
    GroupLasso,
    Int,
    L1Regularization,
    L2Regularization,
    MagnitudePruning,
    RigL,
    SemiStructuredPruning,
    TransferLearning,
)
from lightning_autoarch.core.errors import AutoArchError

PACKAGE = os.path.dirname(lightning_autoarch.__file__)


class Module(L.LightningModule):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.example_input_array = torch.ones(2, 8)
        self.layers = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("loss", self(batch).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


CALLBACKS: dict[str, Callable[[], L.Callback]] = {
    "ArchitectureSearch": lambda: ArchitectureSearch(
        {"width": Int(4, 9)}, monitor="loss", sampler="random", n_trials=1, study={"directory": "search"}
    ),
    "ChannelPruning": lambda: ChannelPruning(0.5, round_to=1),
    "MagnitudePruning": lambda: MagnitudePruning(ConstantSparsity(0.5)),
    "MagnitudePruning with Distillation": lambda: MagnitudePruning(
        ConstantSparsity(0.5), distill=Distillation(teacher=Module())
    ),
    "RigL": lambda: RigL(0.5),
    "SET": lambda: SET(0.5),
    "SemiStructuredPruning": SemiStructuredPruning,
    "Distillation": lambda: Distillation(teacher=Module()),
    "GroupLasso": lambda: GroupLasso(0.1),
    "L1Regularization": lambda: L1Regularization(0.1),
    "L2Regularization": lambda: L2Regularization(0.1),
    "TransferLearning": TransferLearning,
}

STATELESS = {"GroupLasso", "L1Regularization", "L2Regularization"}


class Run:
    """Code in a file: where it is unpickled, it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hacked",)


def out_of_range() -> Tensor:
    return torch.sparse_coo_tensor([[5], [2]], [1.0], (8, 8), check_invariants=False)


def in_states(value: Callable[[], Any]) -> Callable[[dict[str, Any]], None]:
    """In the place of each field of each callback's state, and in one that no version has."""

    def change(content: dict[str, Any]) -> None:
        content["callbacks"] = {
            key: {**{field: value() for field in state if field != "format"}, "more": value()}
            for key, state in content["callbacks"].items()
        }

    return change


def in_weights(value: Callable[[], Any]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["state_dict"]["layers.0.weight"] = value()

    return change


def at(name: str, value: Callable[[], Any]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content[name] = value()

    return change


def huge() -> Tensor:
    return torch.zeros(1).expand(10**10)


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "code beside all": at("more", Run),
    "code in states": in_states(Run),
    "a module in states": in_states(lambda: nn.Linear(1, 1)),
    "sparse out of range in states": in_states(out_of_range),
    "sparse out of range as weights": in_weights(out_of_range),
    "huge in states": in_states(huge),
    "huge as weights": in_weights(huge),
    "texts in states": in_states(lambda: "\x1b[2J" * 10_000),
    "large numbers in states": in_states(lambda: 10**400),
    "no states": at("callbacks", list),
    "no weights": at("state_dict", lambda: 3),
    "loops of nobody": at("loops", lambda: {"fit_loop": "\x1b[2J"}),
    "optimizers of nobody": at("optimizer_states", lambda: [{"state": 3}]),
}


def resumed(name: str, change: str) -> str:
    """Who has refused the checkpoint; "Lightning" for an error of its own, raised in none of the package's files."""
    content = copy.deepcopy(checkpoint(name))
    CHANGES[change](content)
    torch.save(content, "evil.ckpt")
    try:
        fit(name, max_epochs=2, ckpt_path="evil.ckpt", weights_only=True)
    except AutoArchError:
        raise
    except Exception as error:  # of what Lightning reads itself
        inner = [frame.filename for frame in traceback.extract_tb(error.__traceback__)][-3:]
        if any(file.startswith(PACKAGE) for file in inner):
            raise
        return f"Lightning: {type(error).__name__}"
    return "resumed"


@cache
def checkpoint(name: str) -> dict[str, Any]:
    """Of one epoch with this callback."""
    fit(name, max_epochs=1).save_checkpoint("good.ckpt")
    content: dict[str, Any] = torch.load("good.ckpt", weights_only=True)
    content["callbacks"].setdefault(CALLBACKS[name]().state_key, {})
    return content


def fit(name: str, *, max_epochs: int, **resume: Any) -> L.Trainer:
    callback = CALLBACKS[name]()
    trainer = L.Trainer(
        max_epochs=max_epochs, accelerator="cpu", callbacks=[callback], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=".",
    )  # fmt: skip
    batches = torch.utils.data.DataLoader(torch.ones(2, 8), batch_size=2)
    trainer.fit(Module(), batches, batches, **resume)
    return trainer


def warm_up() -> None:
    """Of the guarded process: what a fit imports late is imported before anything hostile is read."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in CALLBACKS:
            checkpoint(name)
        os.chdir(before)


def test_each_callback(guard: Guard, tmp_path: Path) -> None:
    asked = {
        (name, change): tmp_path / f"{i}" for i, (name, change) in enumerate(itertools.product(CALLBACKS, CHANGES))
    }
    for folder in asked.values():
        folder.mkdir()
    cases = [Case((name, change), folder, 1 << 20) for (name, change), folder in asked.items()]
    outcomes = dict(zip(asked, guard.run_all(resumed, cases, writes=True), strict=True))
    assert {case: found for case, outcome in outcomes.items() if (found := outcome.problems())} == {}
    assert list(tmp_path.glob("*/hacked")) == []
    ends = {case: outcome.value or outcome.kind for case, outcome in outcomes.items()}
    code = {case: end for case, end in ends.items() if case[1].startswith(("code", "a module"))}
    assert set(code.values()) == {"refused", "Lightning: UnpicklingError"}
    assert {name for (name, _), end in code.items() if end == "refused"} == {"ArchitectureSearch", "ChannelPruning"}
    tampered = {case: end for case, end in ends.items() if case[1].endswith("in states") and case not in code}
    assert {name for (name, _), end in tampered.items() if end != "refused"} == STATELESS
    assert all(end == "resumed" for (name, _), end in tampered.items() if name in STATELESS)
    others = {case: end for case, end in ends.items() if case not in code and case not in tampered}
    assert "resumed" not in others.values()
