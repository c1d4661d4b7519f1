"""The distance of a student's outputs from its teacher's.

With logits z, temperature T and softmax s(z) over the classes (Hinton, Vinyals & Dean, "Distilling the Knowledge in a
Neural Network", 2015, section 2):

    KL:     T^2 sum_i p_i (log p_i - log q_i),   p = s(z_teacher / T),  q = s(z_student / T),   mean over all positions
    MSE:    mean (z_student - z_teacher)^2       the limit of KL for large T and logits of mean 0 (section 2.1)

T^2 keeps the size of the gradients as T changes. Both are computed in float32, or float64 for float64.

An output is a tensor, or tensors in tuples, lists, dicts and dataclasses. Each floating-point tensor of the student
with at least one dimension and a gradient is compared with the teacher's in the same place, and their losses are
averaged. Of a dict with the key `logits`, only these are compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.counts import as_number

OutputLoss = Callable[[Any, Any], Tensor]  # of the student's output and the teacher's
Kind = Literal["auto", "kl", "mse"]
KINDS = ("auto", "kl", "mse")


def kl_loss(
    student: Tensor,  # (..., classes, ...) logits
    teacher: Tensor,  # of the same shape
    temperature: float = 4.0,
    dim: int = -1,
) -> Tensor:  # without dimensions
    """T^2 KL(teacher || student) of softened classes along `dim`, its mean over all other positions.

    >>> teacher = torch.tensor([[2.0, 0.0]])
    >>> [round(float(kl_loss(student, teacher, 1.0)), 4) for student in (teacher + 5, -teacher)]  # shifts do not count
    [0.0, 1.5232]
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    q = functional.log_softmax(student.to(wide) / temperature, dim)
    p = functional.log_softmax(teacher.to(wide) / temperature, dim)
    each = functional.kl_div(q, p, reduction="none", log_target=True).sum(dim)
    return temperature**2 * each.mean()


def mse_loss(student: Tensor, teacher: Tensor) -> Tensor:  # without dimensions
    """Mean of the squared differences."""
    wide = torch.promote_types(student.dtype, torch.float32)
    return functional.mse_loss(student.to(wide), teacher.to(wide))


def output_loss(student: Any, teacher: Any, kind: Kind = "auto", temperature: float = 4.0) -> Tensor:
    """The mean over the tensors of two outputs.

    Args:
        student: tensors, also in tuples, lists, dicts and dataclasses.
        teacher: likewise, with a tensor of the same shape in the place of each tensor of the student that is compared.
        kind: "kl" along the last dimension; "mse"; "auto": KL for tensors (batch, classes > 1), else MSE. Outputs with
            more dimensions may have classes along any of them, or be images or series: MSE is right for all of them.
            Several outputs of a regression are (batch, n) as classes are: use "mse".
        temperature: of KL, > 0.

    Raises:
        PruneTypeError, PruneValueError: there is nothing to compare, a shape differs, or KL is of a single class.

    >>> student = {"logits": torch.zeros(2, 3, requires_grad=True), "loss": torch.tensor(1.0)}
    >>> output_loss(student, {"logits": torch.zeros(2, 3)}).item()
    0.0
    """
    own, others = dict(_tensors(student)), dict(_tensors(teacher))
    compared = {path: tensor for path, tensor in own.items() if _compares(tensor)}
    if not compared:
        raise PruneTypeError(
            f"Expected an output with a floating-point tensor that has a gradient, got {type(student).__qualname__}. "
            "Pass `loss` as a function of both outputs, or the `layer` whose output it is."
        )
    losses = []
    for path, tensor in compared.items():
        _check_pair(path, tensor, others.get(path), kind)
        as_classes = kind == "kl" or (kind == "auto" and tensor.dim() == 2 and tensor.shape[1] > 1)
        losses.append(kl_loss(tensor, others[path], temperature) if as_classes else mse_loss(tensor, others[path]))
    return torch.stack([loss.to(losses[0]) for loss in losses]).mean()


def check_temperature(temperature: object) -> float:
    """A finite number > 0.

    Raises:
        PruneTypeError, PruneValueError: it is anything else.
    """
    number = as_number(temperature, "temperature")
    if not 0 < number < float("inf"):
        raise PruneValueError(f"Expected `temperature` > 0 and finite, got {number}.")
    return number


def _compares(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 0 and tensor.requires_grad


def _check_pair(path: str, student: Tensor, teacher: Tensor | None, kind: Kind) -> None:
    where = f"the output `{path}`" if path else "the output"
    if teacher is None:
        raise PruneValueError(f"Expected the teacher to have {where} too. Pass `loss` as a function of both outputs.")
    if teacher.shape != student.shape:
        raise PruneValueError(
            f"Expected {where} of teacher and student in one shape, got {tuple(teacher.shape)} and "
            f"{tuple(student.shape)}. Pass `loss` as a function of both outputs."
        )
    if kind == "kl" and student.shape[-1] == 1:
        raise PruneValueError(f"Expected several classes along the last dimension of {where} for 'kl'. Take 'mse'.")


def _tensors(output: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in an output, under the path to each: `[0].hidden`."""
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, Mapping):
        for key in ["logits"] if "logits" in output else output:
            yield from _tensors(output[key], f"{path}[{key!r}]")
    elif isinstance(output, tuple | list):
        for i, item in enumerate(output):
            yield from _tensors(item, f"{path}[{i}]")
    elif dataclasses.is_dataclass(output):
        for field in dataclasses.fields(output):
            yield from _tensors(getattr(output, field.name), f"{path}.{field.name}")
