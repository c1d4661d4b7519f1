"""Why a module cannot be exported, and where: the submodule and the line that the tracer was in."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from lightning_autoarch.core.errors import ExportError

LONGEST = 300  # characters of another library's message


def failure(module: nn.Module, what: str, error: Exception) -> ExportError:
    """An error that names the cause and the place, to be raised from `error`."""
    chain = list(_chain(error))
    root = chain[-1]
    first = str(root).strip().partition("\n")[0][:LONGEST]
    return ExportError(f"{type(module).__name__} {what}: {type(root).__name__}: {first}{_place(module, chain)}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _place(module: nn.Module, chain: list[BaseException]) -> str:
    """ " (in `encoder.0`, a Block, at nets.py:12)", of the innermost frame in a submodule or in the user's code."""
    names = {id(child): name for name, child in module.named_modules()}
    within = line = ""
    for error in chain:
        for frame, number in traceback.walk_tb(error.__traceback__):
            code, owner = frame.f_code, frame.f_locals.get("self")
            if id(owner) in names and names[id(owner)]:
                within = f"in `{names[id(owner)]}`, a {type(owner).__name__}"
            if id(owner) in names and "site-packages" not in code.co_filename:
                line = f"at {Path(code.co_filename).name}:{number}"
    found = ", ".join(filter(None, [within, line]))
    return f" ({found})" if found else ""
