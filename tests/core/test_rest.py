"""A module that ran at rest is as before, whatever its forward does; and its copies."""

from __future__ import annotations

import random

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_autoarch.core.rest import at_rest, detached_copy, left_unchanged, meta_copy


class Restless(nn.Module):
    """Its forward changes whatever a forward can."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("steps", torch.zeros(1))
        self.plain = torch.tensor([0.0, float("nan")])
        self.cache: list[Tensor] = []
        self.state: Tensor | None = None
        self.dropped: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.plain += 1
        self.cache.append(x)
        self.state = torch.rand(2)
        self.norm.running_mean = torch.ones(2)
        np.random.rand()
        random.random()
        self.dropped = self.training
        return self.norm(self.linear(x))


def generators() -> list[bytes]:
    return [bytes(torch.get_rng_state().numpy()), np.random.get_state()[1].tobytes(), repr(random.getstate()).encode()]


@pytest.mark.parametrize("rest", [at_rest, left_unchanged])
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored(rest: type, fails: bool) -> None:
    module = Restless()
    mean, before, random_state = module.norm.running_mean, dict(vars(module)), generators()
    try:
        with rest(module):
            module(torch.ones(3, 2))
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert dict(vars(module)) == before
    assert module.cache == []
    assert module.steps.item() == 0
    assert module.plain[0] == 0
    assert module.norm.running_mean is mean
    assert generators() == random_state
    assert torch.is_grad_enabled()


def test_at_rest_is_in_eval_mode_without_gradients_and_repeatable() -> None:
    module, seen = Restless().train(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with at_rest(module):
            assert not module(torch.ones(3, 2)).requires_grad
            assert module.dropped is False
            seen.append(module.state)
    assert torch.equal(seen[0], seen[1])
    assert module.training
    assert module.norm.training


def test_a_lightning_module_has_no_trainer_meanwhile() -> None:
    module, trainer = L.LightningModule(), L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    inner = L.LightningModule()
    module.inner = inner
    module.trainer = trainer
    with at_rest(module):
        for each in (module, inner):
            with pytest.raises(RuntimeError):
                _ = each.trainer
    assert module.trainer is trainer
    assert inner.trainer is trainer


class TestCopies:
    def test_the_trainer_is_not_copied(self) -> None:
        module, trainer = L.LightningModule(), L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        module.trainer = trainer
        copied = detached_copy(module)
        assert module.trainer is trainer
        with pytest.raises(RuntimeError):
            _ = copied.trainer

    @pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
    def test_what_torch_cannot_copy(self) -> None:
        module = nn.Linear(2, 2)
        module.computed = module.weight * 2
        module.sparse = torch.eye(2).to_sparse_csr()
        copied = detached_copy(module)
        assert torch.equal(copied.computed, module.computed)
        assert torch.equal(copied.sparse.to_dense(), torch.eye(2))
        assert copied.weight is not module.weight

    def test_on_meta_ties_are_kept(self) -> None:
        module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        module[1].weight = module[0].weight
        copied = meta_copy(module)
        assert copied[0].weight.is_meta
        assert copied[1].weight is copied[0].weight
        assert isinstance(copied[0].weight, nn.Parameter)
        assert not module[0].weight.is_meta
