"""Find an architecture for any LightningModule, make it small, start it from what is already known.

SearchSpace -> sampler -> architecture -> build -> train (+ folds) -> score -> study
                  ^                                                            |
                  +------------------------------------------------------------+
best architecture -> your own module, rebuilt in place and trained -> plain checkpoint, report
"""

from lightning_autoarch._version import __version__
from lightning_autoarch.callbacks.choose import Choice, choose
from lightning_autoarch.callbacks.prune import (
    SET,
    ChannelPruning,
    Distillation,
    GroupLasso,
    L1Regularization,
    L2Regularization,
    MagnitudePruning,
    RigL,
    SemiStructuredPruning,
)
from lightning_autoarch.callbacks.search import ArchitectureSearch
from lightning_autoarch.callbacks.transfer import TransferLearning
from lightning_autoarch.core.errors import AutoArchError, SearchError, SpaceError, SpaceExhausted
from lightning_autoarch.prune.load import load_pruned
from lightning_autoarch.prune.schedule import ConstantSparsity, CubicSparsity, IterativeSparsity, OneShot
from lightning_autoarch.search.parameters import Categorical, Float, Int, Repeat
from lightning_autoarch.search.space import SearchSpace
from lightning_autoarch.training.export import export
from lightning_autoarch.training.folds import FoldScores, cross_validate

__all__ = [
    "SET",
    "ArchitectureSearch",
    "AutoArchError",
    "Categorical",
    "ChannelPruning",
    "Choice",
    "ConstantSparsity",
    "CubicSparsity",
    "Distillation",
    "Float",
    "FoldScores",
    "GroupLasso",
    "Int",
    "IterativeSparsity",
    "L1Regularization",
    "L2Regularization",
    "MagnitudePruning",
    "OneShot",
    "Repeat",
    "RigL",
    "SearchError",
    "SearchSpace",
    "SemiStructuredPruning",
    "SpaceError",
    "SpaceExhausted",
    "TransferLearning",
    "__version__",
    "choose",
    "cross_validate",
    "export",
    "load_pruned",
]
