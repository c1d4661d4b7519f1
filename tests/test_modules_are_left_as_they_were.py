"""Every public call that is given a module leaves it, and the process, as they were but for what the call is for.

A call is one of three kinds: it only looks at the module; it changes values of tensors; it changes shapes too. What is
not its business must be the same objects with the same values afterwards: hooks, buffers, train and eval modes,
`requires_grad`, gradients, attributes of every submodule, random number generators and switches of torch. Also where
the call raises.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from surroundings import differences, of_module, of_process
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_autoarch as package
from lightning_autoarch import (
    SET,
    AutoArchError,
    ChannelPruning,
    ConstantSparsity,
    Distillation,
    GroupLasso,
    L1Regularization,
    L2Regularization,
    MagnitudePruning,
    RigL,
    SemiStructuredPruning,
    Step,
    TransferLearning,
    cross_validate,
    export,
    load_pruned,
    read_checkpoint,
)
from lightning_autoarch.prune import apply_masks_, magnitude_masks, prune_
from lightning_autoarch.prune.channels import Reduction, Selection, check_prunable, prune_channels_
from lightning_autoarch.prune.targets import find_targets
from lightning_autoarch.structure.cost import cost_of, flops_by_density, seconds_of
from lightning_autoarch.structure.graph import remove_channels_
from lightning_autoarch.structure.groups import channel_groups
from lightning_autoarch.structure.recipe import apply_recipe_
from lightning_autoarch.structure.trace import trace
from lightning_autoarch.structure.widen import widen_
from lightning_autoarch.training.sensitivity import sensitivity
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.transfer_weights import transfer_weights


class Everything(L.LightningModule):
    """Layers of many kinds, a forward that remembers, hooks of the user's, a frozen layer and one in another mode."""

    def __init__(self, width: int = 16, norms: bool = True, breaks: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.conv, self.norm = nn.Conv1d(2, width, 3, padding=1), nn.BatchNorm1d(width) if norms else nn.Identity()
        self.drop, self.frozen = nn.Dropout(0.2), nn.Linear(width, 16)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.rnn, self.head = nn.LSTM(16, 8, batch_first=True), nn.Linear(8, 1)
        self.frozen.requires_grad_(False)
        self.norm.eval()
        self.calls, self.last = 0, []
        self.register_buffer("seen", torch.zeros(()))
        self.head.register_forward_hook(lambda *_: None)
        self.head.register_full_backward_hook(lambda *_: None)
        self.example_input_array = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last.append(x.shape)
        self.seen = self.seen + 1
        x = self.drop(self.norm(self.conv(x)).relu()).mT
        x = self.frozen(x)
        if self.hparams["breaks"]:
            raise RuntimeError("the user's own mistake")
        x = self.rnn(x + self.attend(x, x, x)[0])[0]
        return self.head(x.mean(1)) + 0 * torch.rand(())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 1e-3, momentum=0.9)


class Coded(Everything):
    """A size is written into its forward."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().mT.reshape(-1, 5, 16)
        return self.head(self.rnn(self.frozen(x))[0].mean(1))


X = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(1))


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(2)
    return DataLoader([(torch.randn(2, 5, generator=generator), torch.ones(1)) for _ in range(4)], 2)


Call = Callable[[Any, Path], object]
HALF = 0.5

LOOKS: dict[str, Call] = {
    "trace": lambda m, _: trace(m, X),
    "channel_groups": lambda m, _: channel_groups(m, X),
    "check_prunable": lambda m, _: check_prunable(m, X, Reduction(HALF)),
    "cost_of": lambda m, _: cost_of(m, X),
    "latency": lambda m, _: cost_of(m, X, latency=True),
    "seconds_of": lambda m, _: seconds_of(m, X, runs=2),
    "flops_by_density": lambda m, _: flops_by_density(m, X, {"head": 0.5}),
    "find_targets": lambda m, _: find_targets(m),
    "magnitude_masks": lambda m, _: magnitude_masks([m.head.weight], sparsity=0.5),
    "export": lambda m, path: export(m, path / "net.pt"),
    "export of a graph": lambda m, path: export(m, path / "net.pt2"),
    "sensitivity": lambda m, _: sensitivity(m, loader(), [0.5], targets="head"),
    "cross_validate": lambda m, path: cross_validate(
        m, loader(), {"folds": 2, "trainer": {"max_epochs": 1, "accelerator": "cpu"}}, monitor="val_loss"
    ),
    "as a source": lambda m, _: transfer_weights(Everything(), m),
    "read_checkpoint": lambda m, path: read_checkpoint(_saved(m, path / "weights.pt")),
}

VALUES: dict[str, Call] = {
    "prune_": lambda m, _: prune_([m.head.weight], sparsity=0.5),
    "apply_masks_": lambda m, _: apply_masks_([m.head.weight], magnitude_masks([m.head.weight], sparsity=0.5)),
    "transfer_weights": lambda m, _: transfer_weights(m, Everything().state_dict()),
    "transfer of slices": lambda m, _: transfer_weights(
        m, Everything(8).state_dict(), on_mismatch="slice", matching=Matching(example_inputs=X)
    ),
    "widened from a module": lambda m, _: transfer_weights(
        m, Everything(8), on_mismatch="widen", matching=Matching(example_inputs=X)
    ),
    "widened from tensors": lambda m, _: transfer_weights(
        m, Everything(8).state_dict(), on_mismatch="widen", matching=Matching(example_inputs=X)
    ),
}

SHAPES: dict[str, Call] = {
    "remove_channels_": lambda m, _: remove_channels_(m, X, {"conv.weight": range(8)}),
    "widen_": lambda m, _: widen_(m, X, {"conv.weight": 24}),
    "a share": lambda m, _: prune_channels_(m, X, HALF),
    "parameters": lambda m, _: prune_channels_(m, X, 0.4, of="parameters"),
    "flops": lambda m, _: prune_channels_(m, X, 0.4, of="flops"),
    "apply_recipe_": lambda m, _: apply_recipe_(m, _recipe()),
    "load_pruned": lambda m, _: load_pruned(m, _small().state_dict(), _recipe()),
}

RAISES: dict[str, Call] = {
    "a forward that breaks": lambda m, _: channel_groups(_broken(m), X),
    "costs of a forward that breaks": lambda m, _: cost_of(_broken(m), X, latency=True),
    "nothing may go": lambda m, _: prune_channels_(m, X, HALF, selection=Selection(targets="head")),
    "no such group": lambda m, _: remove_channels_(m, X, {"no": [0]}),
    "a width that is none": lambda m, _: widen_(m, X, {"conv.weight": 3}),
    "out of reach": lambda m, _: prune_channels_(m, X, 0.999, of="flops"),
    "another recipe": lambda m, _: apply_recipe_(m, {**_recipe(), "attributes": {"nowhere": {"width": 1}}}),
    "nothing in common": lambda m, _: transfer_weights(m, {"other": torch.zeros(3)}),
    "no such score": lambda m, _: sensitivity(m, loader(), [0.5], monitor="nothing", targets="head"),
    "no format": lambda m, path: export(m, path / "net.xyz"),
    "an export of a forward that breaks": lambda m, path: export(_broken(m), path / "net.pt2"),
}


def _saved(module: nn.Module, path: Path) -> Path:
    torch.save(module.state_dict(), path)
    return path


def _small() -> Everything:
    module = Everything()
    prune_channels_(module, X, HALF)
    return module


def _recipe() -> dict[str, Any]:
    return prune_channels_(Everything(), X, HALF).recipe


def _broken(module: Everything) -> Everything:
    """The same module, whose forward raises from now on."""
    module.hparams["breaks"] = True
    return module


@pytest.fixture
def module() -> Everything:
    torch.manual_seed(0)
    made = Everything()
    made.head.weight.grad = torch.ones_like(made.head.weight)
    return made


@pytest.mark.parametrize("name", LOOKS)
@pytest.mark.filterwarnings("ignore")
def test_calls_that_only_look(module: Everything, tmp_path: Path, name: str) -> None:
    before, process = of_module(module), of_process()
    LOOKS[name](module, tmp_path)
    assert differences(before, of_module(module)) == []
    assert name == "as a source" or differences(process, of_process()) == []


@pytest.mark.parametrize("name", VALUES)
def test_calls_that_change_values(module: Everything, tmp_path: Path, name: str) -> None:
    before = of_module(module, values=False)
    VALUES[name](module, tmp_path)
    assert differences(before, of_module(module, values=False)) == []


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.filterwarnings("ignore")
def test_calls_that_change_shapes(module: Everything, tmp_path: Path, name: str) -> None:
    module.head.weight.grad = None  # copied channels have none
    before = of_module(module, shapes=False, values=False)
    SHAPES[name](module, tmp_path)
    changed = differences(before, of_module(module, shapes=False, values=False))
    assert [line for line in changed if not line.startswith("/attend/")] == []  # of other heads than torch can have
    assert module.calls == 0 and module.last == [] and float(module.seen) == 0


@pytest.mark.parametrize("name", RAISES)
def test_calls_that_raise(module: Everything, tmp_path: Path, name: str) -> None:
    module.hparams["breaks"] = "breaks" in name
    before, process = of_module(module), of_process()
    with pytest.raises((AutoArchError, RuntimeError)):
        RAISES[name](module, tmp_path)
    assert differences(before, of_module(module)) == []
    assert name in ("another recipe",) or differences(process, of_process()) == []


def test_a_removal_that_is_rolled_back() -> None:
    module = Coded()
    module.rnn.weight_hh_l0.grad = torch.ones(32, 8)
    before, process = of_module(module), of_process()
    with pytest.raises(AutoArchError):
        remove_channels_(module, X, {"conv.weight": [0, 1, 2]})
    assert differences(before, of_module(module)) == []
    assert differences(process, of_process()) == []


CALLBACKS: dict[str, Callable[[], L.Callback]] = {
    "ChannelPruning": lambda: ChannelPruning(0.5, at=Step(1)),
    "ChannelPruning before": lambda: ChannelPruning(0.4, of="flops"),
    "ChannelPruning after": lambda: ChannelPruning(0.4, of="parameters", at=1.0),
    "Distillation": lambda: Distillation(teacher=Everything()),
    "GroupLasso": lambda: GroupLasso(1e-3),
    "L1Regularization": lambda: L1Regularization(1e-3),
    "L2Regularization": lambda: L2Regularization(1e-3),
    "MagnitudePruning": lambda: MagnitudePruning(ConstantSparsity(0.5)),
    "RigL": lambda: RigL(0.5),
    "SET": lambda: SET(0.5),
    "SemiStructuredPruning": lambda: SemiStructuredPruning(),
    "TransferLearning": lambda: TransferLearning(Everything().state_dict()),
}


def fitted(*callbacks: L.Callback) -> Everything:
    torch.manual_seed(0)
    module = Everything()
    with warnings.catch_warnings(action="ignore"):  # of layers in eval mode
        L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, loader(), loader())
    return module


@pytest.fixture(scope="module")
def plain() -> Everything:
    """After a fit without a callback of the package."""
    return fitted()


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_fit_leaves_what_a_fit_leaves(plain: Everything, name: str) -> None:
    left = fitted(CALLBACKS[name]())
    changed = differences(_kinds(plain), _kinds(left))
    assert [line for line in changed if not line.startswith("/attend/")] == []  # of other heads than torch can have


def _kinds(module: nn.Module) -> dict[str, Any]:
    """Hooks are counted and values left out: two modules are compared."""
    found: dict[str, Any] = {}
    for path, each in module.named_modules():
        found[path] = {
            name: len(value) if "hooks" in name and value is not None else sorted(map(str, vars(each)))
            for name, value in vars(each).items()
        }
        found[path]["modes"] = (type(each), each.training, [p.requires_grad for p in each.parameters(recurse=False)])
    return found


def test_every_public_callback_and_call_is_here() -> None:
    """Who adds to the public names adds a line above, or says here why none is needed."""
    rebuilt = {"ArchitectureSearch", "choose"}  # the module becomes another one: that is what they are for
    base = {"AutoArchCallback"}  # does nothing by itself
    classes = {name for name in package.__all__ if inspect.isclass(getattr(package, name))}
    callbacks = {name for name in classes if issubclass(getattr(package, name), L.Callback)}
    assert callbacks - rebuilt - base <= {name.split()[0] for name in CALLBACKS}
    functions = {name for name in package.__all__ if inspect.isfunction(getattr(package, name))}
    assert functions - rebuilt <= {*LOOKS, *VALUES, *SHAPES}


def test_a_pruned_module_can_be_scripted_and_pickled_without_the_package() -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    for _ in range(2):
        prune_channels_(module, torch.randn(2, 8), HALF, selection=Selection(round_to=1))
    torch.testing.assert_close(torch.jit.script(module)(torch.ones(2, 8)), module(torch.ones(2, 8)))
    assert all("lightning_autoarch" not in str(vars(each)) for each in copy.deepcopy(module).modules())
