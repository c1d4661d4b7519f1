"""A search in Python: python examples/search.py (about a minute; run again, it goes on to the training)."""

import lightning as L

from lightning_autoarch import ArchitectureSearch, Categorical, Float, Int, Repeat
from lightning_autoarch.demo import DigitsData, DigitsNet  # an ordinary module that calls `save_hyperparameters()`

search = ArchitectureSearch(
    space={
        "layers": Repeat(1, 3, {"width": Int(16, 128, log=True), "act": Categorical(["relu", "gelu"])}),
        "stem": Categorical(["none", "conv"]),
        "channels": Int(4, 16, log=True, when={"stem": ["conv"]}),
        "lr": Float(1e-3, 1e-2, log=True),
        "data.batch_size": Categorical([32, 64]),
    },
    monitor="val_acc",
    mode="max",
    n_trials=15,
    limits={"params": 30_000},
    trial={"trainer": {"max_epochs": 5}},
)
model, data = DigitsNet(), DigitsData()
trainer = L.Trainer(max_epochs=15, accelerator="cpu", callbacks=[search], logger=False)
trainer.fit(model, datamodule=data)  # searches, rebuilds `model` in place as the winner, trains it
print(search.best_architecture, trainer.test(model, datamodule=data)[0])
