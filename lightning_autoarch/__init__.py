"""Find an architecture for any LightningModule, make it small, start it from what is already known.

SearchSpace -> sampler -> architecture -> build -> train (+ folds) -> score -> study
                  ^                                                            |
                  +------------------------------------------------------------+
best architecture -> your own module, rebuilt in place and trained -> plain checkpoint, report

What is listed here is public. Each name is imported from its module when it is first used (PEP 562), so that importing
one callback does not import the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lightning_autoarch._version import __version__

if TYPE_CHECKING:
    from lightning_autoarch.callbacks.base import AutoArchCallback, Tunable
    from lightning_autoarch.callbacks.choose import Choice, choose
    from lightning_autoarch.callbacks.prune.channels import ChannelPruning
    from lightning_autoarch.callbacks.prune.distillation import Distillation
    from lightning_autoarch.callbacks.prune.dynamic import SET, RigL
    from lightning_autoarch.callbacks.prune.magnitude import MagnitudePruning
    from lightning_autoarch.callbacks.prune.regularization import GroupLasso, L1Regularization, L2Regularization
    from lightning_autoarch.callbacks.prune.semi_structured import SemiStructuredPruning
    from lightning_autoarch.callbacks.search import ArchitectureSearch
    from lightning_autoarch.callbacks.search_config import StudyConfig, TrialConfig
    from lightning_autoarch.callbacks.transfer.learning import TransferLearning
    from lightning_autoarch.core.errors import (
        AutoArchError,
        CheckpointError,
        CheckpointNotPlain,
        CheckpointUnwritable,
        ExportError,
        MissingPackageError,
        MonitorMissing,
        PruneTypeError,
        PruneValueError,
        ReportError,
        ResizeError,
        SearchError,
        SpaceError,
        SpaceExhausted,
        StructureError,
        TracingError,
        TransferError,
        UnknownNames,
        UnsupportedVersionError,
    )
    from lightning_autoarch.prune.load import load_pruned
    from lightning_autoarch.prune.schedule import ConstantSparsity, CubicSparsity, IterativeSparsity, OneShot, Step
    from lightning_autoarch.search.bayesian import BayesianSampler
    from lightning_autoarch.search.parameters import Categorical, Float, Int, Repeat
    from lightning_autoarch.search.space import SearchSpace
    from lightning_autoarch.training.cross_validation import CrossValidation, cross_validate
    from lightning_autoarch.training.export import export
    from lightning_autoarch.training.folds import Folds, FoldScores
    from lightning_autoarch.training.sensitivity import sensitivity
    from lightning_autoarch.transfer.matching import Matching
    from lightning_autoarch.transfer.read.checkpoint import Source, read_checkpoint
    from lightning_autoarch.transfer.transfer_weights import transfer_weights
    from lightning_autoarch.transfer.tune.thawing import Thawing

_PUBLIC = {
    "lightning_autoarch.callbacks.base": "AutoArchCallback Tunable",
    "lightning_autoarch.callbacks.choose": "Choice choose",
    "lightning_autoarch.callbacks.prune.channels": "ChannelPruning",
    "lightning_autoarch.callbacks.prune.distillation": "Distillation",
    "lightning_autoarch.callbacks.prune.dynamic": "SET RigL",
    "lightning_autoarch.callbacks.prune.magnitude": "MagnitudePruning",
    "lightning_autoarch.callbacks.prune.regularization": "GroupLasso L1Regularization L2Regularization",
    "lightning_autoarch.callbacks.prune.semi_structured": "SemiStructuredPruning",
    "lightning_autoarch.callbacks.search": "ArchitectureSearch",
    "lightning_autoarch.callbacks.search_config": "StudyConfig TrialConfig",
    "lightning_autoarch.callbacks.transfer.learning": "TransferLearning",
    "lightning_autoarch.core.errors": (
        "AutoArchError CheckpointError CheckpointNotPlain CheckpointUnwritable ExportError "
        "MissingPackageError MonitorMissing PruneTypeError PruneValueError ReportError ResizeError "
        "SearchError SpaceError SpaceExhausted StructureError TracingError TransferError UnknownNames "
        "UnsupportedVersionError"
    ),
    "lightning_autoarch.prune.load": "load_pruned",
    "lightning_autoarch.prune.schedule": "ConstantSparsity CubicSparsity IterativeSparsity OneShot Step",
    "lightning_autoarch.search.bayesian": "BayesianSampler",
    "lightning_autoarch.search.parameters": "Categorical Float Int Repeat",
    "lightning_autoarch.search.space": "SearchSpace",
    "lightning_autoarch.training.cross_validation": "CrossValidation cross_validate",
    "lightning_autoarch.training.export": "export",
    "lightning_autoarch.training.folds": "FoldScores Folds",
    "lightning_autoarch.training.sensitivity": "sensitivity",
    "lightning_autoarch.transfer.matching": "Matching",
    "lightning_autoarch.transfer.read.checkpoint": "Source read_checkpoint",
    "lightning_autoarch.transfer.transfer_weights": "transfer_weights",
    "lightning_autoarch.transfer.tune.thawing": "Thawing",
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names.split()}

__all__ = [
    "SET",
    "ArchitectureSearch",
    "AutoArchCallback",
    "AutoArchError",
    "BayesianSampler",
    "Categorical",
    "ChannelPruning",
    "CheckpointError",
    "CheckpointNotPlain",
    "CheckpointUnwritable",
    "Choice",
    "ConstantSparsity",
    "CrossValidation",
    "CubicSparsity",
    "Distillation",
    "ExportError",
    "Float",
    "FoldScores",
    "Folds",
    "GroupLasso",
    "Int",
    "IterativeSparsity",
    "L1Regularization",
    "L2Regularization",
    "MagnitudePruning",
    "Matching",
    "MissingPackageError",
    "MonitorMissing",
    "OneShot",
    "PruneTypeError",
    "PruneValueError",
    "Repeat",
    "ReportError",
    "ResizeError",
    "RigL",
    "SearchError",
    "SearchSpace",
    "SemiStructuredPruning",
    "Source",
    "SpaceError",
    "SpaceExhausted",
    "Step",
    "StructureError",
    "StudyConfig",
    "Thawing",
    "TracingError",
    "TransferError",
    "TransferLearning",
    "TrialConfig",
    "Tunable",
    "UnknownNames",
    "UnsupportedVersionError",
    "__version__",
    "choose",
    "cross_validate",
    "export",
    "load_pruned",
    "read_checkpoint",
    "sensitivity",
    "transfer_weights",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
