"""Optional packages: imported when a function needs them; the error names the command that installs them."""

from __future__ import annotations

import importlib
from types import ModuleType

from lightning_autoarch.core.errors import MissingPackageError


def needed(
    module: str,  # to import
    purpose: str,  # "Writing ONNX"
    install: str,  # what pip is to install
) -> ModuleType:
    """Import a module.

    Raises:
        MissingPackageError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {module.partition('.')[0]} ({error}): pip install {install}"
        ) from error
