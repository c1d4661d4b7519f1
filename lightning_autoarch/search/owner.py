"""Which process runs a trial, and whether it is still alive."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning_autoarch.core.schema import Mismatch, optional, real, record, text, whole

OWNER = record({"host": text(), "pid": whole(1, 2**31 - 1), "start": optional(real())})


@dataclass(frozen=True)
class Owner:
    """The process that runs a trial."""

    host: str
    pid: int
    start: float | None  # of the process, in the system's own unit; None where it cannot be read

    @classmethod
    def myself(cls) -> Owner:
        return cls(socket.gethostname(), os.getpid(), _process_start(os.getpid()))

    @classmethod
    def of(cls, stored: object) -> Owner | None:
        """What a trial's record says; None where that is no owner, so that only a heartbeat tells."""
        try:
            OWNER(stored, "owner")
        except Mismatch:
            return None
        assert isinstance(stored, Mapping)
        return cls(stored["host"], stored["pid"], stored["start"])

    def is_gone(self) -> bool | None:
        """Whether the process has ended; None on another host, where that cannot be seen."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return self.start is not None and self.start != _process_start(self.pid)


def _process_start(pid: int) -> float | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return float(stat.rpartition(")")[2].split()[19])
