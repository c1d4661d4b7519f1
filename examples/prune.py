"""Architecture and sparsity searched together: python examples/prune.py (half a minute; run again, it goes on).

Every candidate may keep 1,000 weights: is a wide net that is very sparse better than a narrow one that is dense?
"""

from typing import Any

import lightning as L

from lightning_autoarch import ArchitectureSearch, Categorical, CubicSparsity, Float, Int, MagnitudePruning
from lightning_autoarch.demo import DigitsData, DigitsNet


class Net(DigitsNet):
    """One hidden layer of some width."""

    def __init__(self, width: int = 32, lr: float = 3e-3) -> None:
        super().__init__([{"width": width, "act": "relu"}], lr=lr)
        self.save_hyperparameters()


def small(architecture: dict[str, Any]) -> bool:
    """Whether about 1,000 of the (64 + 10) * width weights are kept; parameters are counted dense."""
    kept = 74 * architecture["width"] * (1 - architecture["prune.sparsity"])
    return 700 <= kept <= 1000


search = ArchitectureSearch(
    space={
        "width": Int(16, 256, log=True),
        "prune.sparsity": Float(0.2, 0.98),  # the schedule's final sparsity
        "prune.scope": Categorical(["global", "erk"]),
    },
    monitor="val_acc",
    mode="max",
    n_trials=12,
    constraints=[small],
    trial={"trainer": {"max_epochs": 6}},
)
pruning = MagnitudePruning(CubicSparsity(0.9, end=0.5), every_n_steps=10)  # trials get copies with their parameters
model, data = Net(), DigitsData()
trainer = L.Trainer(max_epochs=15, accelerator="cpu", callbacks=[search, pruning], logger=False)
trainer.fit(model, datamodule=data)  # searches, rebuilds `model`, trains and prunes it as the winner was
print(search.best_architecture, f"sparsity {pruning.sparsity:.1%}", trainer.test(model, datamodule=data)[0])
