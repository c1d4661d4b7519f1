"""Distances between outputs: analytic cases, torch's own as oracle, structures, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.distillation import check_temperature, kl_loss, mse_loss, output_loss


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_is_its_definition(temperature: float) -> None:
    student, teacher = normal(7, 5), normal(7, 5, seed=1)
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    expected = temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()
    torch.testing.assert_close(kl_loss(student, teacher, temperature), expected)
    batchmean = functional.kl_div(q.log(), p, reduction="batchmean") * temperature**2
    torch.testing.assert_close(kl_loss(student, teacher, temperature), batchmean)


def test_kl_along_another_dimension_is_the_mean_over_pixels() -> None:
    student, teacher = normal(2, 5, 3, 4), normal(2, 5, 3, 4, seed=1)
    rows = [x.movedim(1, -1).reshape(-1, 5) for x in (student, teacher)]
    torch.testing.assert_close(kl_loss(student, teacher, 2.0, dim=1), kl_loss(*rows, 2.0))


def test_gradient_tends_to_that_of_the_logits() -> None:
    """Hinton et al. 2015, equation (4): for zero-mean logits dC/dz -> (z - v) / N at high temperature."""
    student, teacher = (x - x.mean(-1, keepdim=True) for x in (normal(1, 6), normal(1, 6, seed=1)))
    student.requires_grad_()
    kl_loss(student, teacher, 1e3).backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 6, rtol=1e-2, atol=1e-3)


def test_least_where_student_is_teacher() -> None:
    teacher = normal(7, 5)
    assert kl_loss(teacher, teacher).abs() < 1e-12 and mse_loss(teacher, teacher) == 0
    assert kl_loss(normal(7, 5, seed=1), teacher) > 0


def test_extreme_logits_stay_finite() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = kl_loss(student, -student.detach(), 1.0)
    loss.backward()
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = normal(64, 100).to(dtype), normal(64, 100, seed=1).to(dtype)
    for loss in (kl_loss, mse_loss):
        assert loss(student, teacher).dtype == torch.float32
        torch.testing.assert_close(loss(student, teacher), loss(student.float(), teacher.float()))


@pytest.mark.parametrize(
    ("shape", "classes"),
    [((4, 3), True), ((4, 1), False), ((4,), False), ((4, 7, 3), False), ((2, 3, 4, 4), False), ((0, 3), True)],
)
def test_auto(shape: tuple[int, ...], classes: bool) -> None:
    student, teacher = normal(*shape).requires_grad_(), normal(*shape, seed=1)
    expected = kl_loss(student, teacher, 2.0) if classes else mse_loss(student, teacher)
    assert torch.equal(output_loss(student, teacher, "auto", 2.0).nan_to_num(), expected.nan_to_num())


def test_a_kind_that_is_named_is_taken() -> None:
    student, teacher = normal(4, 7, 3).requires_grad_(), normal(4, 7, 3, seed=1)
    assert torch.equal(output_loss(student, teacher, "kl", 2.0), kl_loss(student, teacher, 2.0))
    assert torch.equal(output_loss(student[0], teacher[0], "mse"), mse_loss(student[0], teacher[0]))


@dataclasses.dataclass
class Output:
    logits: Tensor
    hidden: Any = None


def test_structures_are_compared_place_by_place() -> None:
    a, b = normal(4, 3).requires_grad_(), normal(4, 1).requires_grad_()
    c, d = normal(4, 3, seed=1), normal(4, 1, seed=1)
    mean = (kl_loss(a, c) + mse_loss(b, d)) / 2
    pairs: list[tuple[Any, Any]] = [
        ((a, b), (c, d)),
        ([a, (b, None)], [c, (d, "text")]),
        ({"x": a, "y": [b]}, {"y": [d], "x": c, "more": c}),
        (Output(a, {"h": b}), Output(c, {"h": d})),
    ]
    for student, teacher in pairs:
        torch.testing.assert_close(output_loss(student, teacher), mean)


def test_only_logits_of_a_dict_that_has_them() -> None:
    student = {"loss": normal(1).requires_grad_(), "logits": normal(4, 3).requires_grad_()}
    teacher = {"logits": normal(4, 3, seed=1)}
    assert torch.equal(output_loss(student, teacher), kl_loss(student["logits"], teacher["logits"]))


def test_what_has_no_gradient_or_is_no_number_is_left_out() -> None:
    own, other = normal(4, 3).requires_grad_(), normal(4, 3, seed=1)
    student = (own, normal(4, 3), torch.arange(4), normal(1).sum().requires_grad_())
    assert torch.equal(output_loss(student, (other,)), kl_loss(own, other))


@pytest.mark.parametrize("student", [torch.arange(3), torch.zeros(2, 2), None, (), {"a": 1}, torch.tensor(1.0)])
def test_refuses_outputs_without_anything_to_compare(student: Any) -> None:
    with pytest.raises(PruneTypeError, match="output with a floating-point tensor"):
        output_loss(student, student)


def test_refuses_what_does_not_match() -> None:
    student = {"a": normal(4, 3).requires_grad_()}
    with pytest.raises(PruneValueError, match=r"the output `\['a'\]` too"):
        output_loss(student, {"b": normal(4, 3)})
    with pytest.raises(PruneValueError, match=r"\['a'\].*one shape, got \(4, 1\) and \(4, 3\)"):
        output_loss(student, {"a": normal(4, 1)})
    with pytest.raises(PruneValueError, match=r"several classes.*'mse'"):
        output_loss(normal(4, 1).requires_grad_(), normal(4, 1), "kl")


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_refuses_temperatures(value: float) -> None:
    with pytest.raises(PruneValueError, match="temperature"):
        check_temperature(value)
    with pytest.raises(PruneTypeError, match="temperature"):
        check_temperature("4")
