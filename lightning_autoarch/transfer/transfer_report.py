"""`TransferReport`: what happened to every tensor of the module and of the source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lightning_autoarch.core.errors import TransferError, shown

if TYPE_CHECKING:
    import pandas as pd

MEANINGS = {
    "loaded": "copied",
    "renamed": "copied, found by a rule",
    "sliced": "copied in part",
    "widened": "with more channels, the function kept",
    "interpolated": "for other positions or input channels",
    "identity": "a layer that the source does not have, which passes its input on",
    "initialised": "left unchanged on purpose",
    "skipped": "left unchanged, because it did not fit",
    "missing": "left unchanged, because the source does not have it",
    "unexpected": "only in the source",
}
TAKEN = ("loaded", "renamed", "sliced", "widened", "interpolated")
SHOWN = 5  # examples of a status in the table


@dataclass(frozen=True)
class TensorReport:
    """What happened to one tensor.

    Attributes:
        name: Its name in the module, or in the source if the module does not have it.
        status: One of `MEANINGS`.
        reason: Why, in words.
        source: Its name in the source; None if the source does not have it.
        shape: Its shape in the module.
        source_shape: Its shape in the source.
        is_parameter: Whether it is a parameter of the module.
        numel: Number of its elements; 0 if it is tied to an earlier tensor, or only in the source.
        taken: Number of elements that come from the source.
    """

    name: str
    status: str
    reason: str = ""
    source: str | None = None
    shape: tuple[int, ...] | None = None
    source_shape: tuple[int, ...] | None = None
    is_parameter: bool = False
    numel: int = 0
    taken: int = 0


@dataclass(frozen=True)
class TransferReport:
    """The result of a transfer. `str()` is a short table.

    Attributes:
        tensors: The tensors of the module in its order, then those of the source that the module does not have.
        prefix: The leading path in the source, and its replacement in the module.
    """

    tensors: tuple[TensorReport, ...]
    prefix: tuple[str, str] = ("", "")

    def __iter__(self) -> Iterator[TensorReport]:
        return iter(self.tensors)

    def __getitem__(self, name: str) -> TensorReport:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def names(self, *statuses: str) -> list[str]:
        """Names of the tensors with one of these statuses."""
        return [tensor.name for tensor in self.tensors if tensor.status in statuses]

    @property
    def counts(self) -> dict[str, int]:
        """Status -> number of tensors, without zeros."""
        statuses = [tensor.status for tensor in self.tensors]
        return {status: statuses.count(status) for status in MEANINGS if status in statuses}

    @property
    def parameters(self) -> int:
        """Number of parameters of the module, tied ones counted once."""
        return sum(tensor.numel for tensor in self.tensors if tensor.is_parameter)

    @property
    def taken(self) -> int:
        """Number of parameters that come from the source."""
        return sum(tensor.taken for tensor in self.tensors if tensor.is_parameter)

    @property
    def share(self) -> float:
        """Share of the parameters that come from the source, from 0 to 1; 0 for a module without parameters."""
        return self.taken / self.parameters if self.parameters else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report as plain Python scalars, lists and dicts, for JSON."""
        return {
            "share": self.share,
            "parameters": self.parameters,
            "taken": self.taken,
            "prefix": list(self.prefix),
            "counts": self.counts,
            "tensors": [_plain(asdict(tensor)) for tensor in self.tensors],
        }

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each tensor. Requires pandas."""
        import pandas as pd

        return pd.DataFrame(
            [asdict(tensor) for tensor in self.tensors], columns=list(TensorReport.__dataclass_fields__)
        )

    def __str__(self) -> str:
        lines = [f"{self.share:.1%} of {self.parameters:,} parameters taken over"]
        if any(self.prefix):
            lines.append(f"`{self.prefix[0]}*` of the source is `{self.prefix[1]}*` in the module")
        lines.append(f"{'':13}{'tensors':>8}{'parameters':>14}{'%':>7}")
        lines += [self._line(status, count) for status, count in self.counts.items()]
        for status in ("skipped", "missing", "unexpected"):
            lines += self._examples(status)
        return "\n".join(lines)

    def _line(self, status: str, count: int) -> str:
        found = [tensor for tensor in self.tensors if tensor.status == status and tensor.is_parameter]
        numel = sum(tensor.taken if status in TAKEN else tensor.numel for tensor in found)
        percent = f"{100 * numel / self.parameters:7.1f}" if self.parameters and status != "unexpected" else ""
        return f"{status:13}{count:8}{numel:14,}{percent}".rstrip()

    def _examples(self, status: str) -> list[str]:
        found = [tensor for tensor in self.tensors if tensor.status == status]
        lines = [
            f"{status} `{shown(tensor.name)}`" + (f": {shown(tensor.reason, 400)}" if tensor.reason else "")
            for tensor in found[:SHOWN]
        ]
        return [*lines, f"{status}: {len(found) - SHOWN} more"] if len(found) > SHOWN else lines


def check_share(report: TransferReport, min_share: float | None) -> None:
    """Raise TransferError, naming what is missing, if less was taken over than `min_share`."""
    if min_share is None or report.share >= min_share:
        return
    left = [tensor for tensor in report if tensor.is_parameter and tensor.taken < tensor.numel]
    largest = sorted(left, key=lambda tensor: tensor.taken - tensor.numel)[:SHOWN]
    names = ", ".join(f"`{tensor.name}` ({tensor.status})" for tensor in largest)
    more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    raise TransferError(
        f"Expected at least {min_share:.1%} of the parameters in the source (`min_share`), got {report.share:.1%}: "
        f"missing at least in part are {names}{more}.\n{report}"
    )


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}
