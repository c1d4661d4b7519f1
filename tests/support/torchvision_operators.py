"""torchvision beside a torch that its wheel was not built for: PyPI's are for torch with CUDA.

Its compiled operators do not load then. Nets need none of them (they are about boxes), but importing torchvision
describes two to torch, and fails where they are not there; and so does all that imports it: torchmetrics, Lightning,
timm. Declared, they can be described.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

OPERATORS = ("nms", "qnms")
_library: torch.library.Library | None = None  # what it declares is there as long as it lives


def declare_missing() -> None:
    """Make torchvision importable, if it is installed and is not."""
    global _library
    if find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in OPERATORS:
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
