"""Make sure that a trial's checkpoint contains data only, when it is written, so that reading it runs no code.

What a trial needs to go on (weights, optimizers, states of callbacks) has to be plain: tensors, numbers, strings, lists
and dicts. Otherwise the search ends at its first checkpoint, not after hours when one is read. Hyperparameters are not
needed, as the module is built before: of those that are no plain data (a class, a member of an Enum, a module) the
checkpoint holds a description of each, by which `load_from_checkpoint` has to be given them. What a module's own
`on_save_checkpoint` adds and is no plain data is left out; such a trial starts anew if it is interrupted.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule

from lightning_autoarch.core.errors import CheckpointError, CheckpointNotPlain, UnknownNames, shown
from lightning_autoarch.core.schema import described, first_strange
from lightning_autoarch.reading.archive import read_archive, read_part
from lightning_autoarch.search.choices import written

SHOWN = 20  # names in an error
OMITTED = "lightning_autoarch.omitted"  # the entries of the module that a trial's checkpoint was written without


def check_reads_back(path: Path, content: Mapping[str, Any] | None) -> None:
    """Check that a checkpoint that was just written can be read as data, and remove it if it cannot.

    Args:
        path: of the file.
        content: what it contains; None if that is not known.

    Raises:
        CheckpointNotPlain: it cannot be read as data; the message names the object that prevents it.
    """
    if content is not None and first_strange(content) is None:
        return
    try:
        read_archive(path)  # classes that the user has declared safe are read
    except CheckpointError as error:
        path.unlink(missing_ok=True)
        raise CheckpointNotPlain(
            f"The checkpoint of a trial would hold {_unreadable(content)}, which cannot be read without running code "
            f"({_reason(error)}): the trial could not be continued, nor its weights be used. Let that state be tensors "
            "and plain Python, such as `float(x)` or `x.tolist()`. Or, where a file of somebody else could do no harm "
            "with these classes and functions, declare all of them safe before the search, in every process: "
            "`torch.serialization.add_safe_globals([...])`."
        ) from error


def describe_hyperparameters(checkpoint: dict[str, Any]) -> bool:
    """Replace each hyperparameter in a Lightning checkpoint that cannot be read as data by a description of it.

    Returns:
        Whether there was one.
    """
    changed = False
    for kind in (LightningModule, LightningDataModule):
        held = checkpoint.get(kind.CHECKPOINT_HYPER_PARAMS_KEY)
        if held is None or _reads_back(held):
            continue
        checkpoint.pop(kind.CHECKPOINT_HYPER_PARAMS_TYPE, None)
        checkpoint[kind.CHECKPOINT_HYPER_PARAMS_KEY] = {
            str(name): value if _reads_back(value) else _in_words(value) for name, value in _entries(held)
        }
        changed = True
    return changed


def omit_objects(checkpoint: dict[str, Any], own: Iterable[str]) -> list[str]:
    """Remove the entries of a checkpoint that the module has added and that cannot be read as data.

    Args:
        checkpoint: changed in place; `OMITTED` then lists what it was written without.
        own: the keys that the module has added.

    Returns:
        The keys that were left out.
    """
    omitted = [key for key in own if not _reads_back(checkpoint[key])]
    for key in omitted:
        del checkpoint[key]
    if omitted:
        checkpoint[OMITTED] = [str(key) for key in omitted]
    return omitted


def _unreadable(content: Any, where: str = "") -> str:
    """A description of the first thing in nested data that cannot be read, and of where it is."""
    if content is None:
        return "an object"
    for key, part in _parts(content):
        if not _reads_back(part):
            return _unreadable(part, f"{where}[{described(key)}]")
    return f"{described(content)} under {where or 'its root'}"


def _parts(content: Any) -> list[tuple[Any, Any]]:
    if type(content) in (dict, OrderedDict):
        return list(content.items())
    return list(enumerate(content)) if type(content) in (list, tuple) else []


def _reason(error: CheckpointError) -> str:
    """Every name that is not known to be safe, of the object and of the objects inside of it."""
    if not isinstance(error, UnknownNames):
        return str(error)
    return "it needs " + ", ".join(f"`{shown(name)}`" for name in error.names[:SHOWN])


def _entries(held: Any) -> list[tuple[Any, Any]]:
    try:
        return [(name, held[name]) for name in held]
    except Exception:  # a container of the user's, such as a config whose interpolations do not resolve
        return []


def _in_words(value: Any) -> Any:
    try:
        form = written(value)
    except Exception:  # whatever the `repr` of an object of the user's raises
        return described(value)
    return form if first_strange(form) is None else described(value)


def _reads_back(value: Any) -> bool:
    if first_strange(value) is None:
        return True
    file = io.BytesIO()
    try:
        torch.save(value, file)
        read_part(file.getvalue(), "a hyperparameter")
    except (CheckpointError, pickle.PickleError, AttributeError, TypeError, RuntimeError):
        return False
    return True
