"""Modules without an example input, as public projects write them: what their first training step calls is followed."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_autoarch.callbacks.prune.channels import ChannelPruning
from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.prune.schedule import Step

QUIET: dict[str, Any] = {
    "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    "accelerator": "cpu", "devices": 1, "max_epochs": 1,
}  # fmt: skip


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


AFTER_TWO = Step(2)


def fit(module: L.LightningModule, at: Any = AFTER_TWO, steps: int = 4, **options: Any) -> ChannelPruning:
    """Four steps of images of 4 x 4 in two classes."""
    images = TensorDataset(torch.randn(4 * steps, 4, 4), torch.randint(2, (4 * steps,)))
    pruning = ChannelPruning(0.5, at=at, **options)
    L.Trainer(**QUIET, callbacks=[pruning]).fit(module, DataLoader(images, 4))
    return pruning


class Base(L.LightningModule):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class FlattensInTheStep(Base):
    """An autoencoder, whose step calls its halves apart."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(16, 32, 8), mlp(8, 32, 16)

    def forward(self, x: Tensor) -> Any:
        return self.decoder(self.encoder(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].flatten(1)
        return F.mse_loss(self.decoder(self.encoder(x)), x)


class NetInAnAttribute(Base):
    """No forward; the net has two arguments, one by its name, and a metric is fed on the way."""

    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes, self.body = nn.Embedding(2, 16), mlp(16, 32, 2)

        def forward(self, x: Tensor, *, condition: Tensor) -> Any:
            return self.body(x + self.classes(condition))

    def __init__(self) -> None:
        super().__init__()
        self.model, self.mean, self.criterion = self.Conditioned(), MeanMetric(), nn.CrossEntropyLoss()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.criterion(self.model(batch[0].flatten(1), condition=batch[1]), batch[1])
        self.mean(loss)
        return loss


class SamplesActions(Base):
    """A policy whose forward draws an action, and a critic; two optimizers by hand."""

    class Actor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = mlp(16, 32, 2)

        def forward(self, state: Tensor) -> Any:
            policy = Categorical(logits=self.logits(state))
            return policy, policy.sample()

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.actor, self.critic = self.Actor(), mlp(16, 32, 1)

    def forward(self, state: Tensor) -> Any:
        return *self.actor(state), self.critic(state)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        actor, critic = self.optimizers()  # type: ignore[attr-defined]
        state = batch[0].flatten(1)
        policy, action = self.actor(state)
        self._step(actor, -policy.log_prob(action).mean())
        self._step(critic, self.critic(state).square().mean())

    def _step(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.actor, self.critic)]


class DictOfFeatures(Base):
    """A forward of one dict, made of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(16, 32, 2)

    def forward(self, x: dict[str, Tensor]) -> Any:
        return {"logits": self.net(x["features"])}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self({"features": batch[0].flatten(1)})["logits"], batch[1])


def hidden(module: nn.Module) -> dict[str, int]:
    """Widths of the hidden layers."""
    return {name: part[0].out_features for name, part in module.named_modules() if isinstance(part, nn.Sequential)}


@pytest.mark.parametrize("at", [Step(2), 1.0])
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (FlattensInTheStep, ["encoder", "decoder"]),
        (NetInAnAttribute, ["model.body"]),
        (SamplesActions, ["actor.logits", "critic"]),
        (DictOfFeatures, ["net"]),
    ],
)
def test_what_the_step_calls_is_pruned_and_trains_on(kind: Any, names: list[str], at: Any) -> None:
    torch.manual_seed(0)
    module = kind()
    before = {name: part[2].weight.shape[0] for name, part in module.named_modules() if isinstance(part, nn.Sequential)}
    fit(module, at, scope="layer")
    assert hidden(module) == dict.fromkeys(names, 16)
    assert {name: module.get_submodule(name)[2].out_features for name in names} == before  # of every call


def test_recording_changes_nothing_of_the_training_and_leaves_no_hook() -> None:
    weights = []
    for callbacks in ([], [ChannelPruning(0.5, at=1.0, targets="actor")]):
        torch.manual_seed(0)
        module = SamplesActions()
        seen: list[dict[str, Tensor]] = []
        data = TensorDataset(torch.randn(16, 4, 4), torch.zeros(16))
        L.Trainer(**QUIET, callbacks=[*callbacks, Watch(seen)]).fit(module, DataLoader(data, 4))
        weights.append(seen[-1])
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in module.modules())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class Watch(L.Callback):
    def __init__(self, seen: list[dict[str, Tensor]]) -> None:
        self.seen = seen

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        self.seen.append(copy.deepcopy(pl_module.state_dict()))


class TargetNetwork(Base):
    """A net that follows another one, as in Q-learning and self-supervised training."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.target_net = mlp(16, 32, 2), mlp(16, 32, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        state = batch[0].flatten(1)
        with torch.no_grad():
            wanted = self.target_net(state)
        return F.mse_loss(self.net(state), wanted)


def test_a_net_that_does_not_learn_is_not_pruned_and_a_twin_is_told() -> None:
    module = TargetNetwork()
    with pytest.warns(UserWarning, match="`target_net` has the shapes of `net` and does not learn.*at=1.0"):
        fit(module)
    assert hidden(module) == {"net": 16, "target_net": 32}
    fit(after := TargetNetwork(), at=1.0)  # without a warning: nothing follows any more
    assert hidden(after) == {"net": 16, "target_net": 32}


class NothingToFollow(Base):
    """Looks at a value in the same module that holds the weights."""

    class Layer(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.detach().sum()) > -1e9 else x

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = self.Layer(16, 32), self.Layer(32, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.last(self.first(batch[0].flatten(1))), batch[1])


def test_what_cannot_be_followed_is_refused_with_the_remedy_before_a_weight_changes() -> None:
    module = NothingToFollow()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(StructureError, match=r"(?s)reads values of a tensor.*self\.example_input_array"):
        fit(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in module.modules())


class UsesAWeightBetweenCalls(Base):
    """Part of the forward that cannot be followed computes with a weight of a layer that it also calls."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(16, 32, 2)

        def forward(self, x: Tensor) -> Any:
            scores = self.body(x)
            return scores + F.linear(x, self.body[0].weight)[:, :32] @ x.new_ones(32, 2) * float(x.sum())

    def __init__(self) -> None:
        super().__init__()
        self.net = self.Net()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0].flatten(1)), batch[1])


def test_the_whole_call_has_to_run_with_the_smaller_parts() -> None:
    module = UsesAWeightBetweenCalls()
    with pytest.raises(StructureError, match="The forward of the resized module raised RuntimeError"):
        fit(module)
    assert hidden(module) == {"net.body": 32}
