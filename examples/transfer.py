"""Does what is known of five digits help with the other five? python examples/transfer.py (some seconds).

A net is trained on all images of 0 to 4; then on 20 images of 5 to 9, from fresh weights and from those that it has.
"""

from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Subset

from lightning_autoarch import TransferLearning
from lightning_autoarch.callbacks.transfer.fine_tune import fine_tune
from lightning_autoarch.demo import DigitsData, DigitsNet
from lightning_autoarch.report import write_transfer_report

KNOWN, NEW = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)


class SomeDigits(DigitsData):
    """Images of some of the classes, the first so many of them to train."""

    def __init__(self, classes: tuple[int, ...] = NEW, n_train: int | None = 20, batch_size: int = 20) -> None:
        super().__init__(batch_size)
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.train, self.val, self.test = map(self._chosen, (self.train, self.val, self.test))

    def train_dataloader(self) -> DataLoader[Any]:
        few = Subset(self.train, range(len(self.train))[: self.hparams["n_train"]])
        return DataLoader(few, batch_size=self.hparams["batch_size"], shuffle=True)

    def _chosen(self, images: Any) -> Any:
        return Subset(images, [i for i, (_, label) in enumerate(images) if int(label) in self.hparams["classes"]])


def trainer(epochs: int, *callbacks: L.Callback) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, callbacks=[*callbacks], **quiet)


def net(seed: int) -> DigitsNet:
    L.seed_everything(seed, verbose=False)
    return DigitsNet(stem="conv", layers=[{"width": 64, "act": "relu"}])


def accuracy(module: L.LightningModule) -> float:
    [scores] = trainer(1).test(module, datamodule=SomeDigits(), verbose=False)
    return scores["test_acc"]


if __name__ == "__main__":
    before = trainer(15)
    before.fit(net(0), datamodule=SomeDigits(KNOWN, n_train=None, batch_size=32))
    before.save_checkpoint("known.ckpt")

    scores: dict[str, list[float]] = {"fresh weights": [], "fine-tuned": []}
    for seed in (0, 1, 2):
        fresh, tuned = net(seed), net(seed)
        trainer(20).fit(fresh, datamodule=SomeDigits())
        transfer = TransferLearning("known.ckpt", reinit=["net.7"])  # net.7: the layer of the classes
        result = fine_tune(trainer(20, transfer), tuned, SomeDigits())
        scores["fresh weights"].append(accuracy(fresh))
        scores["fine-tuned"].append(accuracy(tuned))
    print(result.report)
    for name, values in scores.items():
        print(f"{name:14} {', '.join(f'{value:.1%}' for value in values)} of the test images (3 seeds)")
    page = write_transfer_report(
        transfer.report, "transfer.html", before=result.before, after=result.after, blocks=result.blocks
    )
    print(f"Wrote {page}")
