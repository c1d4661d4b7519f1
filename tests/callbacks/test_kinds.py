"""Every kind of work: tiny, real, and no module knows of the search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import nets
import pytest
import torch
from lightning.pytorch.demos import LightningTransformer
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from sklearn.datasets import load_iris
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_autoarch import ArchitectureSearch, Int


def search(space: dict[str, Any], monitor: str, **options: Any) -> ArchitectureSearch:
    return ArchitectureSearch(space, **{"monitor": monitor, "n_trials": 2, "sampler": "random", **options})


def winner_of(
    tmp_path: Path, module: L.LightningModule, callback: ArchitectureSearch, *data: Any, **options: Any
) -> Any:
    nets.trainer(tmp_path, callback, max_epochs=1, **options).fit(module, *data)
    assert callback.best_architecture is not None
    assert len([t for t in callback.optuna_study.trials if t.state.name == "COMPLETE"]) == callback.n_trials
    return callback.best_architecture


class Gan(L.LightningModule):
    """Two optimizers, manual optimization."""

    def __init__(self, latent: int = 2, width: int = 4):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(latent, width), nn.ReLU(), nn.Linear(width, 4))
        self.critic = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch[0]
        for_generator, for_critic = self.optimizers()
        fake = self.generator(torch.randn(len(real), self.hparams["latent"]))
        loss = -self.critic(fake).mean()
        self._step(for_generator, loss)
        loss = self.critic(fake.detach()).mean() - self.critic(real).mean()
        self._step(for_critic, loss)
        self.log("critic_loss", loss, on_epoch=True, on_step=False)

    def _step(self, optimizer: Any, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=0.01) for net in (self.generator, self.critic)], []


def test_gan_with_manual_optimization_and_no_validation(tmp_path: Path) -> None:
    module = Gan()
    best = winner_of(
        tmp_path, module, search({"latent": Int(1, 9), "width": Int(2, 9)}, "critic_loss"), nets.loaders()[0]
    )
    assert module.generator[0].in_features == best["latent"]


class MultiTask(L.LightningModule):
    """Dict batches, several losses, a metric object."""

    def __init__(self, width: int = 4):
        super().__init__()
        import torchmetrics

        self.save_hyperparameters()
        self.body, self.a, self.b = nn.Linear(4, width), nn.Linear(width, 1), nn.Linear(width, 3)
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)

    def forward(self, features: torch.Tensor, **rest: Any) -> dict[str, torch.Tensor]:
        hidden = self.body(features).relu()
        return {"a": self.a(hidden), "b": self.b(hidden)}

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        out = self(**batch)
        self.accuracy(out["b"], batch["b"])
        return nn.functional.mse_loss(out["a"], batch["a"]) + nn.functional.cross_entropy(out["b"], batch["b"])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log_dict({"val/total": self._loss(batch), "val/accuracy": self.accuracy})

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


class Dicts(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        x = torch.full((4,), float(i % 3))
        return {"features": x, "a": x[:1], "b": torch.tensor(i % 3)}


def test_multi_task_with_dict_batches_and_flops(tmp_path: Path) -> None:
    callback = search({"width": Int(2, 64)}, "val/accuracy", mode="max", limits={"flops": 8 * 2 * 32 * (4 + 1 + 3)})
    best = winner_of(
        tmp_path, MultiTask(), callback, DataLoader(Dicts(), batch_size=8), DataLoader(Dicts(), batch_size=8)
    )
    assert best["width"] <= 32


class MultiLabel(MultiTask):
    def _loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(self(x)["b"], y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/total", self._loss(batch))


def test_multi_label(tmp_path: Path) -> None:
    data = TensorDataset(torch.randn(24, 4), (torch.rand(24, 3) > 0.5).float())
    winner_of(tmp_path, MultiLabel(), search({"width": Int(2, 9)}, "val/total"), DataLoader(data), DataLoader(data))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        while True:
            x = torch.randn(8, 4, generator=generator)
            yield x, x.sum(1, keepdim=True)


def test_endless_stream_with_steps_for_an_end(tmp_path: Path) -> None:
    stream = DataLoader(Stream(), batch_size=None)
    callback = search({"width": Int(2, 9)}, "val_loss")
    options = {"max_steps": 6, "val_check_interval": 2, "limit_val_batches": 1}
    winner_of(tmp_path, nets.Net(), callback, stream, stream, **options)
    assert [list(t.intermediate_values) for t in callback.optuna_study.trials] == [[0, 1, 2]] * 2


def test_training_metric_without_validation(tmp_path: Path) -> None:
    class Plain(nets.Net):
        validation_step = L.LightningModule.validation_step

    winner_of(tmp_path, Plain(), search({"width": Int(2, 9)}, "train_loss"), nets.loaders()[0])


def test_training_metric_beside_a_validation(tmp_path: Path) -> None:
    callback = search({"width": Int(2, 9)}, "train_loss", trial={"trainer": {"max_epochs": 3}})
    winner_of(tmp_path, nets.Net(), callback, *nets.loaders())
    for trial in callback.optuna_study.trials:
        values = list(trial.intermediate_values.values())
        assert len(set(values)) == 3  # each epoch's own, none of them an old one


def test_validation_every_second_epoch(tmp_path: Path) -> None:
    callback = search({"width": Int(2, 9)}, "val_loss", trial={"trainer": {"max_epochs": 4}})
    winner_of(tmp_path, nets.Net(), callback, *nets.loaders(), check_val_every_n_epoch=2)
    assert [len(t.intermediate_values) for t in callback.optuna_study.trials] == [2, 2]


class SemiSupervised(nets.Net):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        return self._loss(labelled) + 0.1 * (self(unlabelled[0]) - self(unlabelled[0] + 0.01)).square().mean()


def test_semi_supervised_with_two_loaders(tmp_path: Path) -> None:
    both = CombinedLoader({"labelled": nets.loaders()[0], "unlabelled": nets.loaders()[0]}, "max_size_cycle")
    winner_of(tmp_path, SemiSupervised(), search({"width": Int(2, 9)}, "val_loss"), both, nets.loaders()[1])


class AutoEncoder(L.LightningModule):
    """Unsupervised, its own loaders, real data."""

    def __init__(self, bottleneck: int = 1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, bottleneck), nn.Linear(bottleneck, 4))

    def setup(self, stage: str) -> None:
        self.data = torch.tensor(load_iris().data, dtype=torch.float32)

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=32)

    val_dataloader = train_dataloader

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.net(batch), batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("reconstruction", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def test_unsupervised_with_the_modules_own_loaders(tmp_path: Path) -> None:
    winner_of(tmp_path, AutoEncoder(), search({"bottleneck": Int(1, 4)}, "reconstruction"))


class Episodes(IterableDataset[Any]):
    """A bandit: the policy's own actions make the data."""

    def __init__(self, policy: nn.Module):
        self.policy = policy

    def __iter__(self) -> Any:
        for _ in range(16):
            state = torch.randn(4)
            action = torch.distributions.Categorical(logits=self.policy(state)).sample()
            yield state, action, (action == (state.sum() > 0)).float()


class Reinforce(L.LightningModule):
    def __init__(self, width: int = 4):
        super().__init__()
        self.save_hyperparameters()
        self.policy = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))

    def train_dataloader(self) -> Any:
        return DataLoader(Episodes(self.policy), batch_size=8)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        state, action, reward = batch
        self.log("reward", reward.mean(), on_step=False, on_epoch=True)
        chosen = torch.distributions.Categorical(logits=self.policy(state)).log_prob(action)
        return -(chosen * reward).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


def test_reinforcement(tmp_path: Path) -> None:
    winner_of(tmp_path, Reinforce(), search({"width": Int(2, 9)}, "reward", mode="max"))


class Recommender(L.LightningModule):
    def __init__(self, factors: int = 2, sparse: bool = False):
        super().__init__()
        self.save_hyperparameters()
        self.users, self.items = nn.Embedding(9, factors, sparse=sparse), nn.Embedding(7, factors, sparse=sparse)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        user, item, rating = batch
        loss = nn.functional.mse_loss((self.users(user) * self.items(item)).sum(1), rating)
        self.log("loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_recommender_with_sparse_embeddings(tmp_path: Path) -> None:
    data = TensorDataset(torch.arange(63) % 9, torch.arange(63) % 7, torch.rand(63))
    winner_of(
        tmp_path,
        Recommender(),
        search({"factors": Int(1, 5), "sparse": [True, False]}, "loss_epoch"),
        DataLoader(data, 9),
    )


class Series(L.LightningModule):
    """An LSTM, whose FLOPs a CPU would count as 0."""

    def __init__(self, hidden: int = 4):
        super().__init__()
        self.save_hyperparameters()
        self.lstm, self.head = nn.LSTM(1, hidden, batch_first=True), nn.Linear(hidden, 1)
        self.example_input_array = torch.randn(2, 12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


def test_time_series_with_a_limit_on_flops(tmp_path: Path) -> None:
    wave = torch.sin(torch.arange(400) / 5).unfold(0, 13, 7).unsqueeze(-1)
    data = DataLoader(TensorDataset(wave[:, :12], wave[:, 12]), batch_size=16)
    limit = 2 * 2 * 12 * 4 * 16 * (16 + 1) + 2 * 2 * 16
    callback = search({"hidden": Int(1, 64)}, "val_loss", limits={"flops": limit}, n_trials=4)
    best = winner_of(tmp_path, Series(), callback, data, data)
    assert best["hidden"] <= 16


class Language(LightningTransformer):
    """Lightning's own demo model as it is, given hyperparameters; it logs nothing, so a monitor is added."""

    def __init__(self, nlayers: int = 1, nhid: int = 8):
        super().__init__(vocab_size=11)
        self.save_hyperparameters()
        self.model = type(self.model)(vocab_size=11, ninp=8, nhead=2, nhid=nhid, nlayers=nlayers)

    def prepare_data(self) -> None:
        """Its own would download a corpus."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", super().training_step(batch, batch_idx))


def test_text_with_lightnings_transformer(tmp_path: Path) -> None:
    tokens = torch.arange(8 * 6).reshape(8, 6) % 11
    data = DataLoader(TensorDataset(tokens, tokens.roll(1, 1)), batch_size=4)
    module = Language()
    best = winner_of(tmp_path, module, search({"nlayers": Int(1, 3), "nhid": Int(4, 9)}, "val_loss"), data, data)
    assert sum(isinstance(m, nn.TransformerEncoderLayer) for m in module.modules()) == best["nlayers"]


@pytest.mark.parametrize("kind", [BoringModel, ManualOptimBoringModel])
def test_lightnings_own_demo_classes_unmodified(tmp_path: Path, kind: type[L.LightningModule]) -> None:
    class Boring(kind):  # type: ignore[misc,valid-type]
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            out = super().validation_step(batch, batch_idx)
            self.log("x", out["x"])
            return out

    def factory(width: int) -> Boring:
        module = Boring()
        module.layer = nn.Sequential(nn.Linear(32, width), nn.Linear(width, 2))
        return module

    module = Boring()
    best = winner_of(tmp_path, module, search({"width": Int(2, 9)}, "x", factory=factory), limit_train_batches=2)
    assert module.layer[0].out_features == best["width"]


class Image(L.LightningModule):
    """Convolutions with batch normalisation and a learning-rate schedule."""

    def __init__(self, channels: int = 4, blocks: Any = ()):
        super().__init__()
        self.save_hyperparameters()
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU()]
        for block in blocks:
            layers += [nn.Conv2d(channels, channels, block["kernel"], padding="same"), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def test_image(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(torch.randn(20, 1, 8, 8), torch.arange(20) % 10), batch_size=10)
    space = {"channels": Int(2, 6), "blocks": {"min": 0, "max": 2, "block": {"kernel": [3, 5]}}}
    winner_of(tmp_path, Image(), search(space, "val_loss", limits={"flops": 10**9}), data, data)
