"""Removal: against the dense network that does not read the channels, of every kind; and what must not change."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from channel_nets import CONVOLUTIONAL, SEQUENTIAL, Case, Recurrent, call, half, randomised, unproduced, unread
from torch import Tensor, nn

from lightning_autoarch.core.errors import StructureError
from lightning_autoarch.structure.attributes import standard_attributes
from lightning_autoarch.structure.graph import remove_channels_
from lightning_autoarch.structure.groups import channel_groups

CASES = CONVOLUTIONAL | SEQUENTIAL
EXACT_WHEN_ZERO = ("residual", "unet", "grouped", "separable", "reused", "chunked")  # of 0 every activation is 0


def built(case: Case) -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    module = randomised(case[0]()).eval()
    return module, case[1]()


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_all_groups_at_once_as_if_not_read(name: str, seed: int) -> None:
    module, inputs = built(CASES[name])
    groups = channel_groups(module, inputs)
    keep = {group.name: half(group, seed) for group in groups if group.fixed is None and group.exact}
    assert keep
    want = call(unread(module, groups, keep), inputs)
    before = parameters(module)
    remove_channels_(module, inputs, keep)
    torch.testing.assert_close(call(module, inputs), want, rtol=1e-4, atol=1e-5)
    assert parameters(module) < before


@pytest.mark.parametrize("name", CASES)
def test_each_group_alone(name: str) -> None:
    dense, inputs = built(CASES[name])
    groups = channel_groups(dense, inputs)
    for group in groups:
        if group.fixed is None and group.exact:
            module = copy.deepcopy(dense)
            keep = {group.name: half(group, 1)}
            remove_channels_(module, inputs, keep)
            torch.testing.assert_close(
                call(module, inputs), call(unread(dense, groups, keep), inputs), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("name", EXACT_WHEN_ZERO)
def test_as_if_the_channels_were_zero(name: str) -> None:
    dense, inputs = built(CASES[name])
    groups = channel_groups(dense, inputs)
    keep = {group.name: half(group, 2) for group in groups if group.fixed is None and group.exact}
    module = copy.deepcopy(dense)
    remove_channels_(module, inputs, keep)
    torch.testing.assert_close(
        call(module, inputs), call(unproduced(dense, groups, keep), inputs), rtol=1e-4, atol=1e-5
    )


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, Tensor]) -> bool:
    now = module.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in now)


class Net(nn.Module):
    """A convolution, what is tested, and a layer behind it."""

    def __init__(self, middle: Callable[[nn.Module, Tensor], Tensor], out: int = 4 * 16) -> None:
        super().__init__()
        self.middle = middle
        self.channels, self.heads, self.size, self.sizes = 4, 2, 64, (4, 16)
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Linear(out, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self, self.first(x)))


HARD_CODED = {
    "view": lambda m, x: x.view(-1, 64),
    "batch from the size": lambda m, x: x.reshape(x.numel() // 64, 64),
    "channels": lambda m, x: x.reshape(x.shape[0], 4, 16).flatten(1),
    "assertion": lambda m, x: x.flatten(1) if x.shape[1] == 4 else x.missing,
    "branch": lambda m, x: (x if x.shape[1] == 4 else -x).flatten(1),
    "padding": lambda m, x: torch.cat([x, x.new_zeros(x.shape[0], 4 - x.shape[1], 4, 4)], 1).flatten(1),
}


@pytest.mark.parametrize("name", HARD_CODED)
def test_sizes_in_the_code_are_found_and_all_is_rolled_back(name: str) -> None:
    module, inputs = Net(HARD_CODED[name]), torch.randn(2, 3, 4, 4)
    optimizer = torch.optim.Adam(module.parameters())
    call(module, inputs).sum().backward()
    optimizer.step()
    before, attributes = state(module), [dict(vars(m)) for m in module.modules()]
    gradients = {n: p.grad for n, p in module.named_parameters()}
    moments = {p: dict(s) for p, s in optimizer.state.items()}
    with pytest.raises(StructureError, match="nothing was changed"):
        remove_channels_(module, inputs, {"first.weight": [0, 3]}, [optimizer])
    assert unchanged(module, before)
    assert [dict(vars(m)) for m in module.modules()] == attributes
    assert all(p.grad is gradients[n] for n, p in module.named_parameters())
    assert all(s[k] is moments[p][k] for p, s in optimizer.state.items() for k in s)
    call(module, inputs).sum().backward()
    optimizer.step()


def test_the_error_names_the_place_and_the_shapes() -> None:
    module = nn.Sequential(nn.Identity(), Net(HARD_CODED["view"]))
    with pytest.raises(StructureError, match=r"in `1` raised RuntimeError: .*\[-1, 64\]"):
        remove_channels_(module, torch.randn(3, 3, 4, 4), {"1.first.weight": [0, 1, 2]})


ATTRIBUTES = {
    "channels": (lambda m, x: x.reshape(x.shape[0], m.channels, 16).flatten(1), {"channels": 2}),
    "size": (lambda m, x: x.view(-1, m.size), {"size": 32}),
    "sizes": (lambda m, x: x.reshape(-1, *m.sizes).flatten(1), {"sizes": (2, 16)}),
    "zeros": (lambda m, x: (x + torch.zeros(m.channels, 1, 1)).flatten(1), {"channels": 2}),
    "heads": (lambda m, x: x.view(x.shape[0], m.channels, -1).view(-1, m.size), {"channels": 2, "size": 32}),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_are_put_right(name: str) -> None:
    middle, wanted = ATTRIBUTES[name]
    dense, inputs = Net(middle), torch.randn(2, 3, 4, 4)
    module = copy.deepcopy(dense)
    groups = channel_groups(module, inputs)
    done = remove_channels_(module, inputs, {"first.weight": [0, 3]})
    assert done.attributes[""] == wanted
    assert {key: getattr(module, key) for key in wanted} == wanted
    want = call(unread(dense, groups, {"first.weight": [0, 3]}), inputs)
    torch.testing.assert_close(call(module, inputs), want)


class Slices(nn.Module):
    """What would run with fewer channels, and mean others."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.last = how, nn.Linear(4, 8), nn.Linear(8, 2)
        self.mixed = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.how == "shuffle":
            return self.last(x.view(-1, 2, x.shape[1] // 2).transpose(1, 2).flatten(1))
        if self.how == "interleave":
            return self.last(torch.stack([x[:, ::2], x[:, 1::2]], 2).flatten(1))
        return self.last(x.flip(1).roll(2, 1))


@pytest.mark.parametrize("how", ["shuffle", "interleave", "roll"])
def test_never_silently_wrong(how: str) -> None:
    """Refused, or right: whatever subset is kept."""
    for seed in range(4):
        dense, inputs = Slices(how), torch.randn(3, 4)
        groups = channel_groups(dense, inputs)
        for group in groups:
            if group.fixed is None:
                module, keep = copy.deepcopy(dense), {group.name: half(group, seed)}
                before = state(module)
                try:
                    remove_channels_(module, inputs, keep)
                except StructureError:
                    assert unchanged(module, before)
                else:
                    torch.testing.assert_close(call(module, inputs), call(unread(dense, groups, keep), inputs))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"stem.wight": [0]}, "Did you mean `stem.weight`"),
        ({"head.weight": [0]}, "have to stay: it is visible at the module's output"),
        ({"stem.weight": []}, "at least one"),
        ({"stem.weight": [0, 8]}, r"units in \[0, 8\)"),
        ({"stem.weight": [-1]}, r"units in \[0, 8\)"),
        ({"stem.weight": [0, 0]}, "distinct"),
        ({"stem.weight": range(8)}, "Expected units to remove"),
        ({}, "Expected units to remove"),
    ],
)
def test_bad_requests(keep: dict[str, list[int]], message: str) -> None:
    module, inputs = CASES["residual"][0](), CASES["residual"][1]()
    before = state(module)
    with pytest.raises(StructureError, match=message):
        remove_channels_(module, inputs, keep)
    assert unchanged(module, before)


@pytest.mark.parametrize("name", CASES)
def test_attributes_are_those_of_the_tensors(name: str) -> None:
    module, inputs = built(CASES[name])
    keep = {group.name: half(group, 0) for group in channel_groups(module, inputs) if group.fixed is None}
    remove_channels_(module, inputs, keep)
    for layer in module.modules():
        for attribute, value in standard_attributes(layer).items():
            assert getattr(layer, attribute) == value


@pytest.mark.parametrize("name", CASES)
def test_all_groups_can_shrink_again_and_train(name: str) -> None:
    """Norms over channels too: down to one unit, twice, and a step of training behind it."""
    module, inputs = built(CASES[name])
    for seed in range(2):
        keep = {g.name: half(g, seed) for g in channel_groups(module, inputs) if g.fixed is None}
        if keep:
            remove_channels_(module, inputs, keep)
    call(module.train(), inputs).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in module.parameters() if p.requires_grad)


def test_ties_identities_hooks_and_flags() -> None:
    module, inputs = CASES["reused"][0](), CASES["reused"][1]()
    module.again.weight.requires_grad_(False)
    seen: list[torch.Size] = []
    module.left.weight.register_hook(lambda grad: seen.append(grad.shape))
    identities = {name: id(p) for name, p in module.named_parameters(remove_duplicate=False)}
    remove_channels_(module, inputs, {"left.weight": [1, 2, 3], "first.weight": [0, 4]})
    assert {name: id(p) for name, p in module.named_parameters(remove_duplicate=False)} == identities
    assert module.right.weight is module.left.weight and not module.again.weight.requires_grad
    call(module, inputs).sum().backward()
    assert seen == [torch.Size([3, 2])]


def test_memory_format_and_dtype_stay() -> None:
    module = CASES["residual"][0]().to(memory_format=torch.channels_last).double()
    remove_channels_(module, torch.randn(2, 3, 6, 6, dtype=torch.double), {"a.weight": [0, 1, 5]})
    assert module.b.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.b.weight.dtype == torch.double and module.b.weight.shape == (8, 3, 3, 3)


def test_statistics_and_random_state_stay() -> None:
    module, inputs = CASES["residual"][0]().train(), CASES["residual"][1]()
    mean, random = module.nb.running_mean.clone(), torch.get_rng_state()
    remove_channels_(module, inputs, {"stem.weight": [0, 1, 5]})
    assert torch.equal(module.nb.running_mean, mean[[0, 1, 5]]) and module.nb.num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), random) and module.training


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projections_of_an_lstm_are_followed() -> None:
    module, inputs = Recurrent(proj_size=4), torch.randn(2, 5, 3)
    module.head = nn.Linear(4, 2)
    widths = {group.name: group.width for group in channel_groups(module, inputs) if group.fixed is None}
    assert widths == {"embed.weight": 6, "rnn.weight_ih_l0": 8, "rnn.weight_hr_l0": 4}
    remove_channels_(module, inputs, {"rnn.weight_ih_l0": [0, 1, 5, 6, 7], "rnn.weight_hr_l0": [0, 2]})
    assert (module.rnn.hidden_size, module.rnn.proj_size) == (5, 2)
    assert module(inputs).shape == (2, 2)


class SingleHead(nn.Module):
    """The scale of attention is made of the number of channels: without some it would be another one."""

    def __init__(self, scale: Callable[[Tensor], Tensor | float]) -> None:
        super().__init__()
        self.scale, self.q, self.k, self.v = scale, nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).mT
        return self.out((scores * self.scale(self.q(x))).softmax(-1) @ self.v(x))


@pytest.mark.parametrize("scale", [lambda q: q.shape[-1] ** -0.5, lambda q: 1 / torch.tensor(q.shape[-1]).sqrt()])
def test_a_scale_made_of_the_number_of_channels(scale: Callable[[Tensor], Tensor | float]) -> None:
    module, inputs = SingleHead(scale), torch.randn(2, 5, 4)
    with pytest.raises(StructureError, match="is a scale made of the number of channels"):
        remove_channels_(module, inputs, {"q.weight": [0, 1, 2]})
    dense = SingleHead(lambda q: 0.25)
    module, groups = copy.deepcopy(dense), channel_groups(dense, inputs)
    keep = {"q.weight": [0, 1, 2], "v.weight": [5, 6]}
    remove_channels_(module, inputs, keep)
    torch.testing.assert_close(call(module, inputs), call(unproduced(dense, groups, keep), inputs))


def test_parametrized_weights() -> None:
    normed, spectral = nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm
    dense = nn.Sequential(
        normed(nn.Conv1d(2, 6, 3)), nn.ReLU(), nn.Conv1d(6, 4, 1), nn.ReLU(), spectral(nn.Conv1d(4, 2, 1))
    )
    module, inputs = copy.deepcopy(dense).train(), torch.randn(2, 2, 9)
    groups, keep = channel_groups(dense, inputs), {"0.bias": [0, 2, 5]}
    iterated = module[4].parametrizations.weight[0]._u.clone()
    remove_channels_(module, inputs, keep)
    assert torch.equal(module[4].parametrizations.weight[0]._u, iterated) and module[4].training
    assert module[0].out_channels == 3
    torch.testing.assert_close(call(module.eval(), inputs), call(unread(dense.eval(), groups, keep), inputs))


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(4, 8, affine=False),
        nn.GroupNorm(2, 8, affine=False),
        nn.GroupNorm(1, 8),
        nn.LayerNorm([8, 4, 4], elementwise_affine=False),
        nn.LayerNorm([8, 4, 4]),
        nn.BatchNorm2d(8, affine=False),
        nn.BatchNorm2d(8, track_running_stats=False),
        nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        nn.LocalResponseNorm(3),
        nn.Sequential(nn.Flatten(), nn.Unflatten(1, (8, 4, 4))),
    ],
    ids=str,
)
def test_norms_without_parameters_and_over_everything(norm: nn.Module) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 8, 1), copy.deepcopy(norm), nn.Conv2d(8, 2, 1)).eval()
    inputs = torch.randn(2, 3, 4, 4)
    groups = {g.name: g for g in channel_groups(dense, inputs)}
    group = groups["0.weight"]
    if group.fixed is not None:
        assert isinstance(norm, nn.LocalResponseNorm)
        return
    module, keep = copy.deepcopy(dense), {"0.weight": list(range(0, group.width, 2))}
    remove_channels_(module, inputs, keep)
    if group.exact:
        torch.testing.assert_close(call(module, inputs), call(unread(dense, list(groups.values()), keep), inputs))
    channels = module[0].out_channels
    small = call(module, inputs)
    rows = sorted(i for unit in keep["0.weight"] for i in group.members[0].index[unit])
    assert channels == len(rows)
    by_hand = nn.Conv2d(3, channels, 1)
    by_hand.weight.data, by_hand.bias.data = dense[0].weight[rows], dense[0].bias[rows]
    torch.testing.assert_close(module[2](module[1](by_hand(inputs))), small)


class FailsForReal(nn.Module):
    """Runs for its shapes, and not with less than 8 channels of values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if type(x) is Tensor and x.shape[1] < 8:
            raise RuntimeError("a kernel says no")
        return self.last(x)


def test_a_forward_that_computes_is_run_and_rolled_back() -> None:
    module = FailsForReal()
    before = state(module)
    with pytest.raises(StructureError, match="a kernel says no"):
        remove_channels_(module, torch.randn(3, 4), {"first.weight": [0, 1]})
    assert unchanged(module, before) and module.first.out_features == 8


def test_sparse_gradients_are_dropped() -> None:
    module = nn.Sequential(nn.Embedding(9, 6, sparse=True), nn.Linear(6, 2))
    inputs = torch.randint(0, 9, (2, 3))
    call(module, inputs).sum().backward()
    remove_channels_(module, inputs, {"0.weight": [0, 1, 5]})
    assert module[0].weight.grad is None and module[1].weight.grad is not None
    call(module, inputs).sum().backward()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_in_any_context(context: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    module, inputs = CASES["lstm"][0](), CASES["lstm"][1]()
    with context():
        remove_channels_(module, inputs, {"rnn.weight_ih_l0": [0, 4, 5]})
    call(module, inputs).sum().backward()


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        module, inputs = CASES["residual"][0](), torch.empty(2, 3, 6, 6)
    remove_channels_(module, inputs, {"stem.weight": [0, 4, 5]})
    assert module.stem.weight.shape == (3, 3, 3, 3) and module.stem.weight.is_meta


class NormOfHalves(nn.Module):
    """Halves couple equal places of the groups of a norm that would otherwise lose whole groups."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, groups**2, 1), nn.GroupNorm(groups, groups**2)
        self.groups, self.out = groups, nn.Conv2d(groups, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        parts = x.chunk(self.groups, 1)
        return self.out(torch.stack(parts).sum(0) + torch.stack(self.norm(x).chunk(self.groups, 1)).sum(0))


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_a_group_norm_whose_groups_are_coupled_keeps_their_number(groups: int) -> None:
    module, inputs = NormOfHalves(groups), torch.randn(2, 3, 4, 4)
    (group,) = (g for g in channel_groups(module, inputs) if g.fixed is None)
    assert group.width == groups and not group.exact
    for width in range(groups - 1, 0, -1):
        shrunk = copy.deepcopy(module)
        done = remove_channels_(shrunk, inputs, {group.name: list(range(width))})
        assert (shrunk.norm.num_groups, shrunk.norm.num_channels) == (groups, groups * width)
        assert done.attributes["norm"] == {"num_channels": groups * width}
        assert call(shrunk, inputs).shape == (2, 2, 4, 4)


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("hooks", [False, True])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_consumer_in_weight_norm_keeps_its_weights(dim: int | None, hooks: bool) -> None:
    """g makes up for the norm of the input channels that went."""
    torch.manual_seed(0)
    normed = nn.utils.weight_norm if hooks else nn.utils.parametrizations.weight_norm
    first, last = nn.Conv1d(2, 8, 3), nn.ConvTranspose1d(8, 3, 3)
    module, inputs = nn.Sequential(first, nn.ReLU(), normed(last, dim=dim)), torch.randn(2, 2, 9)
    stay = torch.zeros(8, 1)
    stay[[0, 3, 4]] = 1
    want = module[2](module[1](module[0](inputs)) * stay)
    (group,) = (g for g in channel_groups(module, inputs) if g.fixed is None)
    assert group.exact
    remove_channels_(module, inputs, {group.name: [0, 3, 4]})
    torch.testing.assert_close(module(inputs), want)


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_channels_of_a_spectral_norm_stay(norm: Callable[[nn.Module], nn.Module]) -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 2))
    groups = channel_groups(module, torch.randn(3, 4))
    assert all("spectral norm" in str(g.fixed) for g in groups if g.width in (8, 6))
