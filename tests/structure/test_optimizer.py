"""The state of optimizers goes along: a step after the removal is the step of the kept channels before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from channel_nets import Residual, call
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adafactor, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.structure.graph import remove_channels_
from lightning_autoarch.structure.resize import Resized
from lightning_autoarch.structure.widen import widen_

Build = Callable[[Iterable[Tensor]], Optimizer]
OPTIMIZERS: dict[str, Build] = {
    "sgd": lambda p: SGD(p, 0.1),
    "momentum": lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, 0.01, amsgrad=True),
    "adam_foreach": lambda p: Adam(p, 0.01, foreach=True),
    "adam_fused": lambda p: Adam(p, 0.01, fused=True),
    "adamw": lambda p: AdamW(p, 0.01),
    "nadam": lambda p: NAdam(p, 0.01),
    "rmsprop": lambda p: RMSprop(p, 0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: Adagrad(p, 0.01),
}
KEEP = {"stem.weight": [0, 2, 3, 7], "a.weight": [1, 5, 6], "down.weight": [0, 9]}


def stepped(build: Build) -> tuple[nn.Module, Tensor, Optimizer]:
    torch.manual_seed(0)
    module, inputs = Residual(), torch.randn(3, 3, 6, 6)
    optimizer = build(module.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        call(module, inputs).square().sum().backward()
        optimizer.step()
    return module, inputs, optimizer


def cut(tensor: Tensor, index: dict[int, tuple[int, ...]]) -> Tensor:
    for dim, places in index.items():
        tensor = tensor.index_select(dim, torch.tensor(places))
    return tensor


def indices(done: Resized) -> dict[str, dict[int, tuple[int, ...]]]:
    return {change.name: dict(change.index) for change in done.changes}


class Flat(SGD):
    """Keeps a state of another shape."""

    def step(self, closure: object = None) -> None:
        for p in self.param_groups[0]["params"]:
            self.state[p] = {"flat": torch.zeros(p.numel()), "step": torch.zeros(())}


def test_state_of_another_shape_is_refused() -> None:
    module, inputs = Residual(), torch.randn(3, 3, 6, 6)
    optimizer = Flat(module.parameters(), 0.1)
    optimizer.step()
    with pytest.raises(StructureError, match=r"`flat` of `stem\.weight` to"):
        remove_channels_(module, inputs, {"stem.weight": [0, 1]}, [optimizer])
    assert module.stem.weight.shape == (8, 3, 3, 3) and optimizer.state[module.stem.weight]["flat"].shape == (216,)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_what_is_kept(name: str) -> None:
    """The optimizers here act on each element for itself: step and removal can change places."""
    module, inputs, optimizer = stepped(OPTIMIZERS[name])
    later, _, its_optimizer = stepped(OPTIMIZERS[name])
    identities = [id(p) for p in module.parameters()]
    done = remove_channels_(module, inputs, KEEP, [optimizer])
    index = indices(done)
    gradients = {n: torch.randn_like(p) for n, p in later.named_parameters()}
    for net in (module, later):
        for n, p in net.named_parameters():
            p.grad = cut(gradients[n], index.get(n, {})) if net is module else gradients[n]
    optimizer.step()
    its_optimizer.step()
    assert [id(p) for p in module.parameters()] == identities == [id(p) for p in optimizer.param_groups[0]["params"]]
    for n, p in later.named_parameters():
        torch.testing.assert_close(module.get_parameter(n), nn.Parameter(cut(p, index.get(n, {}))))


def test_the_gradient_is_cut() -> None:
    module, inputs, _ = stepped(OPTIMIZERS["sgd"])
    before = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    index = indices(remove_channels_(module, inputs, KEEP))
    for n, p in module.named_parameters():
        assert p.grad is not None and torch.equal(p.grad, cut(before[n], index.get(n, {})))


def test_rows_and_columns_of_adafactor() -> None:
    module, inputs, optimizer = stepped(lambda p: Adafactor(p, 0.01))
    remove_channels_(module, inputs, KEEP, [optimizer])
    call(module, inputs).sum().backward()
    optimizer.step()


def test_lbfgs_is_refused_and_nothing_changes() -> None:
    module, inputs = Residual(), torch.randn(3, 3, 6, 6)
    optimizer = LBFGS(module.parameters(), max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = call(module, inputs).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    for group in ("stem.weight", "down.weight"):
        with pytest.raises(StructureError, match="cannot be carried along"):
            remove_channels_(module, inputs, {group: [0, 1]}, [optimizer])
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    optimizer.step(closure)


def test_several_optimizers_and_parameters_without_state() -> None:
    torch.manual_seed(0)
    module, inputs = Residual(), torch.randn(3, 3, 6, 6)
    first, second = Adam(module.a.parameters()), SGD([*module.b.parameters(), *module.stem.parameters()], 0.1, 0.9)
    call(module, inputs).sum().backward()
    first.step()
    remove_channels_(module, inputs, KEEP, [first, second])
    assert first.state[module.a.weight]["exp_avg"].shape == module.a.weight.shape
    second.step()
    assert second.state[module.b.weight]["momentum_buffer"].shape == module.b.weight.shape


def test_a_graph_that_is_still_alive_does_not_spoil_the_next() -> None:
    module, inputs = Residual(), torch.randn(3, 3, 6, 6)
    alive = call(module, inputs).sum()
    remove_channels_(module, inputs, KEEP)
    call(module, inputs).sum().backward()
    assert module.stem.weight.grad is not None and module.stem.weight.grad.shape == module.stem.weight.shape
    del alive


def test_copies_take_their_moments() -> None:
    module, inputs, optimizer = stepped(OPTIMIZERS["adam"])
    done = widen_(module, inputs, {"stem.weight": 11}, torch.Generator().manual_seed(0), optimizers=[optimizer])
    state = optimizer.state[module.stem.weight]["exp_avg"]
    places = indices(done)["stem.weight"][0]
    assert state.shape == (11, 3, 3, 3)
    assert all(torch.equal(state[i], state[places.index(p)]) for i, p in enumerate(places))
    assert module.stem.weight.grad is None
    call(module, inputs).sum().backward()
    optimizer.step()
