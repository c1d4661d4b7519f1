"""`autoarch`: LightningCLI that searches, prunes, transfers; `AutoArchCLI(MyModule, MyData)` in a script of your own.

    config.yaml, `search:` in it ─► autoarch search ─► best.yaml: the config with the winner's arguments ─► autoarch fit
                                 └► autoarch fit: searches, then trains the winner

    config.yaml, model.ckpt ─► autoarch prune ─► pruned.ckpt: trained on while `prune:` prunes it; pruned.html
    config.yaml, known.ckpt ─► autoarch transfer ─► finetuned.ckpt: started from what is known; finetuned.html

The keys of `search:` are the arguments of `ArchitectureSearch`, those of `prune:` of `MagnitudePruning`, those of
`transfer:` of `TransferLearning`. A config with a callback among `trainer.callbacks` instead, as a plain LightningCLI
takes it, does as well.
"""

from lightning_autoarch.cli.app import AutoArchCLI
from lightning_autoarch.cli.program import main

__all__ = ["AutoArchCLI", "main"]
