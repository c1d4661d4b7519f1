"""The logger of a trial: modules may log to it, plot with it and write into its directory, and nothing is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger


class TrialLogger(Logger):
    """Accepts everything and stores nothing. Its directory is the trial's own, and so is `trainer.log_dir`.

    Args:
        directory: of the trial; None makes a temporary one when it is first read, and removes it with the logger.
    """

    def __init__(self, directory: Path | None) -> None:
        super().__init__()
        self._directory = directory
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._experiment = Absorbing()

    @property
    def save_dir(self) -> str:
        """The directory, which is created if it does not exist."""
        if self._directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="autoarch-", ignore_cleanup_errors=True)
            self._directory = Path(self._temporary.name)
        return str(self._directory)

    @property
    def log_dir(self) -> str:
        return self.save_dir

    @property
    def root_dir(self) -> str:
        return self.save_dir

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def experiment(self) -> Absorbing:
        return self._experiment

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def close(self) -> None:
        """Remove the temporary directory, if there is one."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def __getitem__(self, index: int) -> TrialLogger:
        return self  # `self.logger[0].experiment`

    def __getattr__(self, name: str) -> Absorbing:
        if name.startswith("_"):
            raise AttributeError(name)
        return Absorbing()  # `log_image` and the like of other loggers


class Absorbing:
    """Accepts any call, attribute, index and iteration, without effect."""

    def __call__(self, *args: Any, **kwargs: Any) -> Absorbing:
        return self

    def __getattr__(self, name: str) -> Absorbing:
        if name.startswith("__"):  # copying and pickling look for methods that are not there
            raise AttributeError(name)
        return self

    def __setattr__(self, name: str, value: Any) -> None: ...

    def __getitem__(self, key: Any) -> Absorbing:
        return self

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Absorbing:
        return self

    def __exit__(self, *args: object) -> None: ...
