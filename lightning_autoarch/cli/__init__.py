"""The program `autoarch`, a LightningCLI that also searches, prunes and transfers; `AutoArchCLI` for your own scripts.

    config.yaml with `search:` ─► autoarch search ─► best.yaml: the config with the winner's arguments ─► autoarch fit
                                 └► autoarch fit: searches, then trains the winner

    config.yaml, model.ckpt ─► autoarch prune ─► pruned.ckpt: trained further while `prune:` prunes it; pruned.html
    config.yaml, known.ckpt ─► autoarch transfer ─► finetuned.ckpt: fine-tuned from known.ckpt; finetuned.html

The keys of `search:` are the arguments of `ArchitectureSearch`, those of `prune:` of `MagnitudePruning`, those of
`transfer:` of `TransferLearning`. As with a plain LightningCLI, a config may list the callbacks under
`trainer.callbacks` instead.
"""

from lightning_autoarch.cli.app import AutoArchCLI
from lightning_autoarch.cli.program import main

__all__ = ["AutoArchCLI", "main"]
