"""Defects of Lightning's BaseFinetuning and BackboneFinetuning, which add parameter groups while training."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from conformance import Defect, Seen
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning, LearningRateFinder
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from transfer_defects import THAW, AtEpochStart, Make, Net, Theirs, fit, in_optimizer, ours, resumed, trained

from lightning_autoarch import TransferLearning
from lightning_autoarch.transfer.tune.thawing import Thawing


class Fresh(Net):
    """Norms with their first weights, all of them ones and zeros; the optimizer has the head and one of the norms."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8, bias=False)]
        self.backbone = nn.Sequential(*layers, nn.BatchNorm1d(8))

    def configure_optimizers(self) -> Optimizer:
        return torch.optim.SGD([*self.head.parameters(), *self.backbone[1].parameters()], lr=0.05)


def by_value(make: Make) -> Seen:
    count = in_optimizer(fit(Fresh(), make()))
    return Seen(f"{count} of 8 parameters are in the optimizer", count == 8)


class Watched(Net):
    """Compares what the frozen backbone computes in training with what it computes in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.furthest = 0.0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.trainer.current_epoch < THAW:
            training = self.backbone(batch[0]).detach()
            self.backbone.eval()
            self.furthest = max(self.furthest, float((training - self.backbone(batch[0]).detach()).abs().max()))
            self.backbone.train()
        return super().training_step(batch, batch_idx)


def one_function(make: Make) -> Seen:
    module = Watched()
    fit(module, make(), max_epochs=THAW + 1)
    return Seen(f"in training up to {module.furthest:.2g} from validation", module.furthest == 0)


def drift(make: Make) -> Seen:
    """What of a frozen backbone moves before it thaws, statistics included."""
    module, names = Net(), []
    before = {name: tensor.clone() for name, tensor in module.backbone.state_dict().items()}

    class Last(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch < THAW:
                state = pl_module.backbone.state_dict()
                names.extend(name for name in state if not torch.equal(state[name], before[name]))

    fit(module, make(), Last(), max_epochs=THAW + 1)
    return Seen(f"{len(names)} of {len(before)} tensors moved while frozen", not names)


def backbone_finetuning(**options: Any) -> BaseFinetuning:
    return BackboneFinetuning(unfreeze_backbone_at_epoch=THAW, **options)


def drift_of_switched_off() -> Seen:
    return drift(lambda: backbone_finetuning(train_bn=False))


def stopped_between(make: Make) -> Seen:
    """From the last checkpoint before the thaw."""
    return resumed(make, THAW - 1)


def stopped_after(make: Make) -> Seen:
    """From a checkpoint whose optimizer has the groups of the thaw."""
    return resumed(make, THAW + 1)


def finder(make: Make) -> Seen:
    module, seen = Net(), []
    with tempfile.TemporaryDirectory() as folder:
        find = LearningRateFinder(num_training_steps=25, early_stop_threshold=None)
        watch = AtEpochStart(lambda trainer, own: seen.append(trained(own)))
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            fit(module, find, make(), watch, default_root_dir=folder)
    found = ", ".join(map(str, seen[-4:]))
    return Seen(f"a rate of {module.lr:.2g}, then trains {found} of 10 parameters", seen[-4:] == [2, 10, 10, 10])


def plateau(optimizer: Optimizer) -> Any:
    rates = [0.0] * len(optimizer.param_groups)
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=9.0, min_lr=rates)


def halved(make: Make, scheduler: Callable[[Optimizer], Any]) -> Seen:
    """Rates of all groups at each epoch; right if all follow the schedule."""
    module, rates = Net(scheduler), []
    watch = AtEpochStart(lambda trainer, own: rates.append({g["lr"] for g in trainer.optimizers[0].param_groups}))
    fit(module, make(), watch)
    text = "; ".join(", ".join(f"{rate:g}" for rate in sorted(each)) for each in rates)
    return Seen(f"rates {text}", rates == [{0.05}, {0.025}, {0.0125}, {0.00625}])


def plateau_of_peer() -> Seen:
    return halved(Theirs, plateau)


def plateau_of_ours() -> Seen:
    # Lightning steps it after validation: the first value is the best so far, with this threshold all later are worse.
    return halved(ours, plateau)


def lambdas(optimizer: Optimizer) -> Any:
    return lr_scheduler.LambdaLR(optimizer, halves)


def halves(epoch: int) -> float:
    return 0.5**epoch


def lambdas_of_peer() -> Seen:
    return halved(Theirs, lambdas)


def lambdas_of_ours() -> Seen:
    return halved(ours, lambdas)


RANKS = """
import logging, os, sys, warnings
sys.path.insert(0, sys.argv[1])
import torch
import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler
from transfer_defects import QUIET, Net, loader, ours
from transfer_defects_lightning import backbone_finetuning
warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
module = Net()
start = module.backbone[0].weight.detach().clone()
options = {**QUIET, "devices": 2, "strategy": DDPStrategy(process_group_backend="gloo")}
trainer = L.Trainer(**options, max_epochs=4, callbacks=[{"peer": backbone_finetuning, "ours": ours}[sys.argv[2]]()])
data = loader().dataset
sampler = DistributedSampler(data, 2, int(os.environ.get("LOCAL_RANK", 0)), shuffle=False)
trainer.fit(module, DataLoader(data, batch_size=8, sampler=sampler))
both = trainer.strategy.all_gather(torch.cat([p.detach().flatten() for p in module.parameters()]))
if trainer.global_rank == 0:
    moved = not torch.equal(module.backbone[0].weight.detach(), start)
    print("SEEN", float((both[0] - both[1]).abs().max()), moved, flush=True)
"""


def two_processes(who: str) -> Seen:
    """DDP, where what thaws must be averaged between the processes from then on."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "ranks.py")
        script.write_text(RANKS)
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(script), str(Path(__file__).parent), who]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    found = re.search(r"SEEN (\S+) (True|False)", done.stdout)
    if found is None:
        lines = [line for line in done.stderr.splitlines() if "Error" in line]
        return Seen(lines[0][:150] if lines else f"status {done.returncode}", False)
    apart, moved = float(found[1]), found[2] == "True"
    text = f"the ranks' weights are {apart:.2g} apart, the backbone {'has' if moved else 'has not'} learnt"
    return Seen(text, apart == 0 and moved)


def ddp_of_peer() -> Seen:
    return two_processes("peer")


def ddp_of_ours() -> Seen:
    return two_processes("ours")


class ThawsByEpoch(BaseFinetuning):
    """One layer each epoch, from the top; where an optimizer has several groups they are added one by one."""

    def freeze_before_training(self, pl_module: L.LightningModule) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: L.LightningModule, epoch: int, optimizer: Optimizer) -> None:
        layers = {1: pl_module.backbone[3:], 2: pl_module.backbone[:3]}
        if epoch in layers:
            self.unfreeze_and_add_param_group(layers[epoch], optimizer, lr=0.05)


def gradual() -> TransferLearning:
    return TransferLearning(freeze="backbone", thawing=Thawing(unfreeze={1: "backbone.[3-4]", 2: "backbone.[0-1]"}))


def row(name: str, check: Callable[[Make], Seen], theirs: Make = Theirs, own: Make = ours) -> Defect:
    return Defect(name, lambda: check(theirs), lambda: check(own))


DEFECTS = [
    row("parameters of equal value are taken for one", by_value),
    row("a frozen norm normalises by the batch in training, by its statistics in validation", one_function),
    row("a frozen norm drifts: it is trained and gathers statistics", drift, backbone_finetuning),
    Defect("the same, where the peer is told not to train norms", drift_of_switched_off, lambda: drift(ours)),
    row("a fit that resumes after the thaw is frozen again", stopped_after),
    row("a fit that resumes before the thaw", stopped_between),
    row("a fit that resumes after several thaws, groups and all", stopped_after, ThawsByEpoch, gradual),
    row("LearningRateFinder before it", finder),
    Defect("ReduceLROnPlateau when something thaws", plateau_of_peer, plateau_of_ours),
    Defect("LambdaLR when something thaws", lambdas_of_peer, lambdas_of_ours),
    Defect("two processes (DDP) when something thaws", ddp_of_peer, ddp_of_ours),
]
