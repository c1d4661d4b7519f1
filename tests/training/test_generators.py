"""Random states that the user's objects hold: every trial starts from the same ones, and continues from its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset

from lightning_autoarch import ArchitectureSearch, Int
from lightning_autoarch.training.data import TrialData
from lightning_autoarch.training.generators import LONGEST, held, kept, restore, states
from lightning_autoarch.training.module import ModuleBuilder
from lightning_autoarch.training.trainer_settings import SILENT
from lightning_autoarch.training.trial import TrialSpec, run_trial

DRAWS: dict[str, tuple[Any, Callable[[Any], float]]] = {
    "torch": (lambda: torch.Generator().manual_seed(3), lambda g: torch.rand((), generator=g).item()),
    "numpy": (lambda: np.random.default_rng(3), lambda g: g.normal()),
    "philox": (lambda: np.random.Generator(np.random.Philox(3)), lambda g: g.normal()),
    "legacy": (lambda: np.random.RandomState(3), lambda g: g.normal()),
    "python": (lambda: random.Random(3), lambda g: g.gauss(0, 1)),
}


class Noisy(Dataset[Any]):
    """Adds noise of its own generator, which it holds deep inside."""

    def __init__(self, kind: str):
        self.samples = nets.samples()
        make, self.draw = DRAWS[kind]
        self.transforms = [{"noise": type("Noise", (), {})()}]
        self.transforms[0]["noise"].generator = make()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Any:
        x, y = self.samples[i]
        return x + self.draw(self.transforms[0]["noise"].generator), y


class NoisyNet(nets.Net):
    def __init__(self, width: int = 4):
        super().__init__(width=width)
        self.save_hyperparameters()
        self.generator = np.random.default_rng(0)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * self.generator.uniform(0.5, 1.5)


def data_of(kind: str) -> TrialData:
    noisy = DataLoader(Subset(Noisy(kind), range(40)), batch_size=16)
    both = CombinedLoader([noisy, nets.loaders(generator=torch.Generator().manual_seed(1))[0]], "min_size")
    shuffled = RandomSampler(nets.samples(16, 1), num_samples=8, generator=torch.Generator().manual_seed(2))
    return TrialData(train=both, val=DataLoader(nets.samples(16, 1), batch_size=8, sampler=shuffled))


class Pair(NoisyNet):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return sum(super(Pair, self).training_step(part, batch_idx) for part in batch)


def spec(directory: Path | None, data: TrialData, module: Any = None) -> TrialSpec:
    trainer = {**SILENT, "max_epochs": 4, "accelerator": "cpu", "devices": 1}
    builder = ModuleBuilder.of(module or Pair())
    return TrialSpec({}, builder, data, trainer, monitor="val_loss", mode="min", seed=7, directory=directory)


def never(step: int, value: float) -> bool:
    return False


def interrupting(step: int, value: float) -> bool:
    if step == 2:
        raise KeyboardInterrupt
    return False


@pytest.mark.parametrize("kind", DRAWS)
def test_an_interrupted_trial_continues_bit_for_bit(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = run_trial(spec(tmp_path / "a", data_of(kind)), never)
    with pytest.raises(KeyboardInterrupt):
        run_trial(spec(tmp_path / "b", data_of(kind)), interrupting)
    continued = run_trial(spec(tmp_path / "b", data_of(kind)), never)
    assert continued.history == whole.history
    assert len(set(whole.history)) == 4
    torch.load(tmp_path / "b" / "last.ckpt", weights_only=True)


def test_trials_do_not_depend_on_those_before(tmp_path: Path) -> None:
    class Data(nets.Data):
        """Keeps its generator and dataset for all loaders that it makes."""

        def setup(self, stage: str) -> None:
            self.generator, self.noisy, self.val = torch.Generator().manual_seed(1), Noisy("numpy"), nets.samples(16, 1)

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.noisy, batch_size=16, shuffle=True, generator=self.generator)

    data = Data()
    data.setup("fit")
    histories = [run_trial(spec(None, TrialData(data), NoisyNet()), never).history for _ in range(2)]
    assert histories[0] == histories[1]


def test_the_batch_that_flops_are_counted_on_draws_nothing(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()

    class Look(nets.L.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            assert torch.equal(generator.get_state(), state)

    callback = ArchitectureSearch(
        {"width": Int(2, 9)}, monitor="val_loss", n_trials=2, sampler="random", limits={"flops": 10**6}
    )
    trainer = nets.trainer(tmp_path, callback, Look(), max_epochs=1)
    trainer.fit(nets.Net(), *nets.loaders(generator=generator))


def test_where_generators_are_found() -> None:
    class Holder:
        def __init__(self, **attributes: Any):
            vars(self).update(attributes)

    one, two = random.Random(1), np.random.default_rng(2)
    ring = Holder(one=one)
    ring.itself = ring
    roots = {
        "a": Holder(ring=ring, many=[two] * (LONGEST + 1), system=random.SystemRandom(), trainer=nets.trainer(".")),
        "b": [one, (two, None)],
    }
    assert held(roots) == {"a.ring.one": one, "b.1.0": two}
    with kept(roots):
        drawn = one.random(), two.random()
    assert (one.random(), two.random()) == drawn


@pytest.mark.parametrize("kind", [*DRAWS, *("MT19937", "SFC64", "PCG64DXSM")])
def test_states_are_plain_and_return(tmp_path: Path, kind: str) -> None:
    if kind in DRAWS:
        make, draw = DRAWS[kind]
    else:
        make, draw = lambda: np.random.Generator(getattr(np.random, kind)(3)), lambda g: float(g.normal())
    generator = {"it": make()}
    draw(generator["it"])
    torch.save(states(generator), tmp_path / "states.pt")
    drawn = [draw(generator["it"]) for _ in range(3)]
    other = {"it": make()}
    restore(other, torch.load(tmp_path / "states.pt", weights_only=True))
    assert [draw(other["it"]) for _ in range(3)] == drawn
