"""On what a mask lies where a layer computes its weight, and where no mask would hold."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lightning_autoarch.core.errors import PruneValueError
from lightning_autoarch.core.patterns import match_values
from lightning_autoarch.prune.mask_updates import prune_further
from lightning_autoarch.prune.masked import MaskedWeights
from lightning_autoarch.prune.targets import examine_targets, find_targets


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand_like(x)


def old_weight_norm(layer: nn.Module, **options: object) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of which checkpoints are still full
        return nn.utils.weight_norm(layer, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "name", "dims"),
    [
        (lambda: old_weight_norm(nn.Linear(6, 4)), "weight_v", (1,)),
        (lambda: old_weight_norm(nn.Conv1d(3, 4, 2)), "weight_v", (1, 2)),
        (lambda: old_weight_norm(nn.Linear(6, 4), dim=None), "weight_v", (0, 1)),
        (lambda: old_weight_norm(nn.LSTM(3, 2), name="weight_hh_l0"), "weight_hh_l0_v", (1,)),
        (lambda: parametrizations.weight_norm(nn.Linear(6, 4)), "parametrizations.weight.original1", (1,)),
        (
            lambda: parametrizations.weight_norm(nn.ConvTranspose1d(3, 4, 2), dim=1),
            "parametrizations.weight.original1",
            (0, 2),
        ),
        (lambda: nn.utils.spectral_norm(nn.Linear(6, 4)), "weight_orig", ()),
        (lambda: parametrizations.spectral_norm(nn.Linear(6, 4)), "parametrizations.weight.original", ()),
    ],
)
def test_the_mask_lies_on_the_direction(make: object, name: str, dims: tuple[int, ...]) -> None:
    layer = make()  # type: ignore[operator]
    found = examine_targets(layer)
    assert name in found.parameters and not any(each.endswith(("_g", "original0")) for each in found.parameters)
    assert found.normed.get(name, ()) == dims
    assert name in found.computed and not found.left_dense and not found.not_chosen


@pytest.mark.parametrize("kind", ["old", "new", "spectral"])
@pytest.mark.parametrize("scope", ["global", "layer", "lamp"])
def test_the_weight_is_zero_where_it_is_masked_and_never_nan(kind: str, scope: str) -> None:
    norm = {"old": old_weight_norm, "new": parametrizations.weight_norm, "spectral": parametrizations.spectral_norm}
    torch.manual_seed(0)
    net = nn.Sequential(norm[kind](nn.Linear(3, 16)), nn.ReLU(), nn.Linear(16, 4))  # type: ignore[operator]
    found = examine_targets(net)
    weights = MaskedWeights(found.parameters, None, found.normed)
    weights.replace(prune_further(weights, 0.66, scope))  # type: ignore[arg-type]
    weights.apply_()
    net.eval()
    assert net(torch.randn(5, 3)).isfinite().all()
    masked = ~weights.masks[0].unpack()
    assert (net[0].weight[masked] == 0).all() and (net[0].weight[~masked] != 0).all()  # type: ignore[index]
    if kind != "spectral":
        assert weights.masks[0].unpack().any(1).all()  # each row keeps one
    if scope == "global":
        assert sum(weights.pruned) == round(0.66 * (48 + 64))


def test_a_sparsity_that_would_empty_a_row_is_not_reached() -> None:
    layer = parametrizations.weight_norm(nn.Linear(4, 8))
    found = examine_targets(layer)
    for scope in ("global", "layer"):
        weights = MaskedWeights(found.parameters, None, found.normed)
        (mask,) = prune_further(weights, 0.9, scope)  # type: ignore[arg-type]
        assert mask.unpack().sum(1).tolist() == [1] * 8


def test_each_row_keeps_its_largest_weight_among_equals_one() -> None:
    layer = parametrizations.weight_norm(nn.Linear(4, 2))
    with torch.no_grad():
        layer.parametrizations.weight.original1.copy_(torch.tensor([[1.0, -9, 2, 3], [5, 5, 5, 5]]))  # type: ignore
    found = examine_targets(layer)
    weights = MaskedWeights(found.parameters, None, found.normed)
    (mask,) = prune_further(weights, 0.75, "layer")
    assert mask.unpack()[0].tolist() == [False, True, False, False] and mask.unpack()[1].sum() == 1


@pytest.mark.parametrize(
    ("parametrisation", "why"),
    [(Symmetric(), "does not keep zeros"), (None, "Orthogonal does not keep zeros")],
)
def test_what_does_not_keep_zeros_is_named(parametrisation: nn.Module | None, why: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    if parametrisation is None:
        parametrizations.orthogonal(net[0])
    else:
        parametrize.register_parametrization(net[0], "weight", parametrisation)
    found = examine_targets(net)
    assert list(found.parameters) == ["1.weight"]
    assert list(found.left_dense) == ["0.weight"] and why in found.left_dense["0.weight"]
    assert not examine_targets(net, exclude="0").left_dense
    for pattern in ("0", "0.weight"):
        with pytest.raises(PruneValueError, match=f"`0.weight`, on which a mask would not hold: .*{why}"):
            find_targets(net, pattern)
    with pytest.raises(PruneValueError, match=f"`0.weight` cannot be pruned by a mask: .*{why}"):
        find_targets(net[0:1], None)


def test_one_that_keeps_zeros_is_seen_through_and_nothing_changes() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    parametrize.register_parametrization(net[0], "weight", Doubled())
    parametrize.register_parametrization(net[1], "weight", Noisy())
    state, generator = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    assert list(find_targets(net)) == ["0.parametrizations.weight.original", "1.parametrizations.weight.original"]
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_a_norm_of_each_number_by_itself() -> None:
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(1, 4)), nn.Linear(4, 2))
    assert "of each number by itself" in examine_targets(net).left_dense["0.weight"]


def test_patterns_name_the_layer_or_its_weight() -> None:
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    direction = "0.parametrizations.weight.original1"
    for pattern in ("0", "0.weight", direction):
        assert list(find_targets(net, pattern)) == [direction]
    assert list(find_targets(net, exclude="0.weight")) == ["1.weight"]
    assert (
        match_values({"0.weight": 0.5, "*": 0.9}, [direction, "1.weight"], "scope", PruneValueError)[direction] == 0.5
    )
    assert match_values({"0.weight": 0.5}, ["0.weight_v"], "scope", PruneValueError) == {"0.weight_v": 0.5}
