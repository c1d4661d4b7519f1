"""Penalties: analytic cases, then autograd and a search for the minimum as oracles, then what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_autoarch.core.errors import PruneTypeError, PruneValueError
from lightning_autoarch.prune.penalty import L1, Groups, Penalty, SquaredL2

PENALTIES = [L1(), SquaredL2(), Groups(0), Groups(1), Groups(-1)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def plain(penalty: Penalty, w: Tensor) -> Tensor:
    """The penalty as its definition stands, for autograd."""
    if isinstance(penalty, L1):
        return w.abs().sum()
    if isinstance(penalty, SquaredL2):
        return (w**2).sum()
    assert isinstance(penalty, Groups)
    others = [d for d in range(w.dim()) if d != penalty.dim % w.dim()]
    return w.square().sum(others).sqrt().sum()


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 3, 2)])
def test_value_and_gradient_are_those_of_the_definition(penalty: Penalty, shape: tuple[int, ...]) -> None:
    w = normal(*shape).requires_grad_()
    value = plain(penalty, w)
    value.backward()
    torch.testing.assert_close(penalty.value(w), value.detach())
    torch.testing.assert_close(penalty.gradient(w), w.grad)
    assert not penalty.value(w).requires_grad and not penalty.gradient(w).requires_grad


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("amount", [0.0, 0.1, 1.5])
def test_proximal_step_is_the_minimum_of_its_definition(penalty: Penalty, amount: float) -> None:
    before = normal(6, 5)
    after = before.clone()
    penalty.proximal_([after], [amount])

    def objective(v: Tensor) -> float:
        return float((v - before).square().sum() / 2 + amount * plain(penalty, v))

    least = objective(after)
    assert all(objective(after + 1e-4 * normal(6, 5).roll(i, 1)) > least for i in range(5))
    if amount:  # 0 lies in (v - w) + a dP(v): where v is not 0, dP is its gradient
        left = after - before + amount * penalty.gradient(after)
        torch.testing.assert_close(left[after != 0], torch.zeros_like(left[after != 0]))


def test_analytic_l1() -> None:
    w = torch.tensor([2.0, -2.0, 0.5, -0.25, 0.0])
    assert L1().value(w) == 4.75
    assert L1().gradient(w).tolist() == [1, -1, 1, -1, 0]
    L1().proximal_([w], [0.5])
    assert w.tolist() == [1.5, -1.5, 0, 0, 0]


def test_analytic_l2() -> None:
    w = torch.tensor([2.0, -1.0, 0.0])
    assert SquaredL2().value(w) == 5
    assert SquaredL2().gradient(w).tolist() == [4, -2, 0]
    SquaredL2().proximal_([w], [1.5])
    assert w.tolist() == [0.5, -0.25, 0]


def test_analytic_groups() -> None:
    w = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(Groups(0).value(w), torch.tensor(5.5))
    torch.testing.assert_close(Groups(0).gradient(w), torch.tensor([[0.6, 0.8], [0.6, 0.8], [0, 0]]))
    Groups(0).proximal_([w], [1.0])
    torch.testing.assert_close(w, torch.tensor([[2.4, 3.2], [0, 0], [0, 0]]))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(penalty: Penalty, dtype: torch.dtype) -> None:
    w = normal(6, 5, dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert penalty.value(w).dtype == wide and penalty.value(w).dim() == 0
    assert penalty.gradient(w).dtype == dtype and penalty.gradient(w).shape == w.shape
    exact = normal(6, 5, dtype=dtype).double()
    penalty.proximal_([w], [0.25])
    penalty.proximal_([exact], [0.25])
    torch.testing.assert_close(w.double(), exact, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_sum_of_half_precision_does_not_overflow_in_it(penalty: Penalty) -> None:
    w = torch.full((300, 300), 60.0, dtype=torch.float16)
    assert penalty.value(w).isfinite() and penalty.value(w) > 70_000


@pytest.mark.parametrize("penalty", PENALTIES)
def test_parameters_are_changed_in_place_and_autograd_is_told(penalty: Penalty) -> None:
    w = nn.Parameter(normal(6, 5))
    pointer, loss = w.data_ptr(), (w**3).sum()
    penalty.proximal_([w], [0.1])
    assert w.data_ptr() == pointer and w.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_each_amount_goes_to_its_own_weight(penalty: Penalty) -> None:
    both, alone = [normal(6, 5), normal(6, 5)], normal(6, 5)
    penalty.proximal_(both, [0.0, 0.3])
    penalty.proximal_([alone], [0.3])
    assert torch.equal(both[0], normal(6, 5)) and torch.equal(both[1], alone)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("amount", [-0.1, float("nan"), float("inf")])
def test_refuses_amounts(penalty: Penalty, amount: float) -> None:
    w = normal(6, 5)
    with pytest.raises(PruneValueError, match="amounts"):
        penalty.proximal_([w], [amount])
    assert torch.equal(w, normal(6, 5))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_zeros_stay_and_have_no_slope(penalty: Penalty) -> None:
    w = torch.zeros(6, 5)
    assert penalty.value(w) == 0 and not penalty.gradient(w).any()
    penalty.proximal_([w], [0.1])
    assert not w.any()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_empty_and_strided(penalty: Penalty) -> None:
    assert penalty.value(torch.empty(0, 5)) == 0 and penalty.gradient(torch.empty(0, 5)).shape == (0, 5)
    penalty.proximal_([torch.empty(0, 5)], [0.1])
    base = normal(5, 12)
    w, dense = base.t()[::2], base.t()[::2].contiguous()
    torch.testing.assert_close(penalty.value(w), penalty.value(dense))
    torch.testing.assert_close(penalty.gradient(w), penalty.gradient(dense))
    penalty.proximal_([w], [0.3])
    penalty.proximal_([dense], [0.3])
    assert torch.equal(w, dense)


def test_tiny_groups_have_a_finite_gradient() -> None:
    w = torch.full((2, 3), 1e-40)  # denormal: its reciprocal is inf
    gradient = Groups(0).gradient(w)
    assert gradient.isfinite().all() and gradient.any()


def test_a_group_needs_its_dimension() -> None:
    Groups(1).check(torch.zeros(2, 3), "a")
    Groups(-2).check(torch.zeros(2, 3), "a")
    with pytest.raises(PruneValueError, match=r"`dim`.*got 1 for `net\.bias` of shape \(2,\).*exclude"):
        Groups(1).check(torch.zeros(2), "net.bias")
    with pytest.raises(PruneValueError, match="got 0"):
        Groups(0).check(torch.zeros(()), "scale")


@pytest.mark.parametrize("penalty", [L1(), Groups()])
def test_mixed_dtypes_are_refused(penalty: Penalty) -> None:
    with pytest.raises(PruneTypeError, match="one dtype"):
        penalty.proximal_([normal(2, 2), normal(2, 2).float()], [0.1, 0.1])
