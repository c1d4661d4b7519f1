"""Bad input is one clear error and nothing changed; and what surrounds a call: autograd, compile, profiler, devices."""

from __future__ import annotations

import multiprocessing
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from weight_lists import DTYPES, LAYOUTS, NAN, few_values, normal, random_bits, same_bits, twin

from lightning_autoarch.core.errors import AutoArchError
from lightning_autoarch.prune import (
    BitMask,
    _ops,
    apply_masks_,
    count_nonzero,
    density,
    group_masks,
    group_norms,
    group_soft_threshold_,
    magnitude_masks,
    magnitude_threshold,
    nm_masks,
    prune_,
    regrow_masks,
    soft_threshold_,
)
from lightning_autoarch.prune.memory import overlaps_itself

Call = Callable[[Iterable[Tensor]], Any]


class Subclass(Tensor):
    pass


def apply_zeros(tensors: Iterable[Tensor]) -> None:
    listed = tensors if isinstance(tensors, list) else []
    plain = [t for t in listed if isinstance(t, Tensor) and not t.is_nested]
    apply_masks_(tensors, [BitMask.zeros(t.shape, t.device) for t in plain])


WRITING: dict[str, Call] = {
    "prune_": lambda tensors: prune_(tensors, sparsity=1.0),
    "prune_ by tensor": lambda tensors: prune_(tensors, sparsity=1.0, scope="tensor"),
    "apply_masks_": apply_zeros,
    "soft_threshold_": lambda tensors: soft_threshold_(tensors, 1e6),
    "group_soft_threshold_": lambda tensors: group_soft_threshold_(tensors, 1e6),
}
READING: dict[str, Call] = {
    "magnitude_threshold": lambda tensors: magnitude_threshold(tensors, sparsity=0.5),
    "magnitude_masks": lambda tensors: magnitude_masks(tensors, sparsity=0.5),
    "nm_masks": nm_masks,
    "group_norms": group_norms,
    "group_masks": lambda tensors: group_masks(tensors, 0.5),
    "density": density,
}
CALLS = WRITING | READING
MASK = BitMask.zeros((4,))


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.ones(4)


def nested(layout: torch.layout) -> Tensor:
    return torch.nested.nested_tensor([torch.ones(4), torch.ones(8)], layout=layout)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "one tensor": (lambda: torch.ones(4), TypeError, "Expected `tensors` to be a list of tensors, got one tensor"),
    "a number": (lambda: [torch.ones(4), 1.0], TypeError, "Expected `tensors[1]` to be a torch.Tensor"),
    "None": (lambda: [None], TypeError, "Expected `tensors[0]` to be a torch.Tensor or Parameter, got None."),
    "None at all": (lambda: None, TypeError, "Expected `tensors` to be a list of tensors, got None."),
    "an array": (lambda: np.ones(4), TypeError, "Expected `tensors` to be a list of tensors, got one ndarray"),
    "arrays": (lambda: [np.ones(4)], TypeError, "got ndarray: pass `torch.from_numpy(array)`"),
    "text": (lambda: "ab", TypeError, "Expected `tensors` to be a list of tensors, got one str"),
    "a module": (lambda: nn.Linear(2, 2), TypeError, "got the module Linear: pass `module.parameters()`"),
    "a module of modules": (lambda: nn.Sequential(nn.Linear(2, 2)), TypeError, "got the module Sequential"),
    "modules": (lambda: [nn.Linear(2, 2)], TypeError, "got Linear: pass its parameters, such as"),
    "a dict": (lambda: {"weight": torch.ones(4)}, TypeError, "got a dict: pass its `.values()`"),
    "nested": (lambda: [nested(torch.strided)], TypeError, "Expected `tensors[0]` to be dense, got a nested tensor"),
    "jagged": (lambda: [nested(torch.jagged)], TypeError, "got NestedTensor"),
    "integers": (lambda: [torch.ones(4), torch.ones(4).int()], TypeError, "Expected `tensors[1]` of dtype float32"),
    "booleans": (lambda: [torch.ones(4).bool()], TypeError, "Expected `tensors[0]` of dtype float32"),
    "complex": (lambda: [torch.ones(4) + 0j], TypeError, "Expected `tensors[0]` of dtype float32"),
    "float8": (lambda: [torch.ones(4).to(torch.float8_e5m2)], TypeError, "Expected `tensors[0]` of dtype float32"),
    "dtypes": (lambda: [torch.ones(4), torch.ones(4).half()], TypeError, "Expected tensors of one dtype"),
    "meta": (lambda: [torch.ones(4, device="meta")], ValueError, "Expected `tensors[0]` with values"),
    "devices": (lambda: [torch.ones(4), torch.ones(4, device="meta")], ValueError, "Expected `tensors[1]` with values"),
    "subclass": (lambda: [torch.ones(4).as_subclass(Subclass)], TypeError, "got Subclass"),
    "fake": (lambda: [fake()], TypeError, "got FakeTensor"),
    "sparse": (lambda: [torch.eye(4).to_sparse()], TypeError, "Expected `tensors[0]` to be dense"),
    "compressed": (lambda: [torch.eye(4).to_sparse_csr()], TypeError, "Expected `tensors[0]` to be dense"),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", BAD)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta", "ignore:The PyTorch API of nested tensors")
def test_bad_tensors(call: str, what: str) -> None:
    make, error, message = BAD[what]
    tensors = make()
    with pytest.raises(error, match=re.escape(message)) as raised:
        CALLS[call](tensors)
    assert isinstance(raised.value, AutoArchError)
    for tensor in tensors if isinstance(tensors, list) else [tensors]:
        if type(tensor) is Tensor and not tensor.is_nested and tensor.layout is torch.strided and not tensor.is_meta:
            assert torch.equal(tensor, torch.ones_like(tensor))


@pytest.mark.parametrize("call", CALLS)
def test_one_memory_as_two_dtypes_is_not_tied(call: str) -> None:
    memory = torch.ones(4)
    tensors = [memory.view(torch.float16), memory.view(torch.bfloat16)]
    with pytest.raises(TypeError, match="Expected tensors of one dtype"):
        magnitude_masks(tensors, k=1) if call == "apply_masks_" else CALLS[call](tensors)
    assert torch.equal(memory, torch.ones(4))


def test_a_parameter_list_is_a_list() -> None:
    parameters = nn.ParameterList([torch.ones(3), torch.ones(2)])
    assert [mask.count() for mask in prune_(parameters, k=4)] == [1, 0]


WRONG_KINDS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "p=True": (lambda t: group_norms([t], True), "Expected `p` a number, got True."),
    "p='2'": (lambda t: group_norms([t], "2"), "Expected `p` a number, got '2'."),
    "dim=1.0": (lambda t: group_norms([t], dim=1.0), "Expected `dim` an int, got 1.0."),
    "dim=True": (lambda t: group_soft_threshold_([t], 0.5, True), "Expected `dim` an int, got True."),
    "dim=None": (lambda t: group_masks([t], 0.5, dim=None), "Expected `dim` an int, got None."),
    "n=True": (lambda t: nm_masks([t], n=True), "Expected `n` an int, got True."),
    "n=2.0": (lambda t: nm_masks([t], 2.0), "Expected `n` an int, got 2.0."),
    "m='4'": (lambda t: nm_masks([t], m="4"), "Expected `m` an int, got '4'."),
    "dim=1.0 of nm": (lambda t: nm_masks([t], dim=1.0), "Expected `dim` an int, got 1.0."),
    "one mask": (lambda t: prune_([t], k=1, masks=BitMask.ones((4, 4))), "Expected `masks` to be a list of BitMask"),
    "one mask to apply": (lambda t: apply_masks_([t], BitMask.ones((4, 4))), "got one BitMask: pass a list with it"),
    "no masks": (lambda t: apply_masks_([t], None), "Expected `masks` to be a list of BitMask, got None"),
    "masks by name": (lambda t: apply_masks_([t], {"w": BitMask.ones((4, 4))}), "got a dict: pass its `.values()`"),
    "masks of booleans": (lambda t: apply_masks_([t], t.bool()[None]), "Expected `masks` to be a list of BitMask"),
    "tensors for masks": (lambda t: apply_masks_([t, t], [t > 0, t > 0]), "Tensor: pass `BitMask.pack"),
    "arrays for masks": (lambda t: apply_masks_([t, t], [np.ones(4), np.ones(4)]), "Expected a BitMask for tensors[0]"),
    "stacked scores": (lambda t: prune_([t], k=1, scores=t[None].clone()), "Expected `scores` to be a list of tensors"),
    "scores of arrays": (lambda t: prune_([t, t], k=1, scores=[np.ones(4), np.ones(4)]), "Expected `scores[0]` to"),
    "scores of none": (lambda t: prune_([t], k=1, scores=[None]), "Expected `scores[0]` to be a torch.Tensor"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_KINDS)
def test_wrong_kinds(what: str) -> None:
    call, message = WRONG_KINDS[what]
    tensor = torch.ones(4, 4)
    with pytest.raises(TypeError, match=re.escape(message)) as raised:
        call(tensor)
    assert isinstance(raised.value, AutoArchError)
    assert (tensor == 1).all() and tensor._version == 0


def test_integers_of_any_kind() -> None:
    tensor = normal(4, 8)
    for p in (2.0, np.int64(2), torch.tensor(2)):
        assert same(group_norms([tensor], p, np.int64(1)), group_norms([tensor], 2, 1))  # type: ignore[arg-type]
    assert nm_masks([tensor], np.uint8(1), torch.tensor(4), np.int16(-1)) == nm_masks([tensor], 1, 4)  # type: ignore[arg-type]


NO_NUMBERS = [
    True, np.True_, "0.5", b"0", 0.5j, np.array(True), np.array("0.5"), np.array(0.5j), object(), torch.tensor(True),
    torch.tensor(0.5j), torch.tensor(0.5, device="meta"), torch.tensor(0.5).as_subclass(Subclass),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_number(value: Any) -> None:
    tensor = torch.ones(4, 2)
    calls: dict[str, Callable[[], Any]] = {
        "sparsity": lambda: prune_([tensor], sparsity=value),
        "k": lambda: prune_([tensor], k=value),
        "sparsity[0]": lambda: prune_([tensor], sparsity=[value], scope="tensor"),
        "k[0]": lambda: magnitude_masks([tensor], k=[value], scope="tensor"),
        "amount": lambda: group_masks([tensor], value),
        "amounts": lambda: soft_threshold_([tensor], value),
        "amounts[0]": lambda: group_soft_threshold_([tensor], [value]),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=rf"Expected `{re.escape(name)}` an? (number|int)") as raised:
            call()
        assert isinstance(raised.value, AutoArchError)
    assert (tensor == 1).all() and tensor._version == 0


def test_a_number_that_no_float_holds() -> None:
    with pytest.raises(ValueError, match="Expected `sparsity` a number in the range of a float"):
        magnitude_masks([torch.ones(4)], sparsity=10**400)


def test_lists_of_numbers_where_one_is_expected() -> None:
    for value in ([0.5], np.array([0.5]), torch.tensor([0.5])):
        with pytest.raises(TypeError, match="Expected `sparsity` a number"):
            prune_([torch.ones(4)], sparsity=value)
        with pytest.raises(TypeError, match="Expected `k` an int"):
            prune_([torch.ones(4)], k=value)


class TestIndicesInErrors:
    """They are those of the caller's list, also behind tied tensors and where each tensor is pruned by itself."""

    tied, other = torch.ones(2), torch.ones(3)

    @pytest.mark.parametrize("scope", ["global", "tensor"])
    @pytest.mark.parametrize(
        ("last", "error", "message"),
        [
            (torch.tensor([1.0, NAN, 2.0]), ValueError, "NaN in scores[2]"),
            (torch.ones(4), ValueError, "for tensors[2], got (4,)"),
            (torch.ones(3).int(), TypeError, "`scores[2]` of dtype"),
            (torch.ones(3).half(), TypeError, "(scores[2])"),
            (torch.ones(3).to_sparse(), TypeError, "`scores[2]` to be dense"),
        ],
        ids=str,
    )
    def test_scores(self, scope: Any, last: Tensor, error: type[Exception], message: str) -> None:
        score = torch.ones(2)
        for call in (magnitude_masks, prune_):
            with pytest.raises(error, match=re.escape(message)):
                call([self.tied, self.tied, self.other], k=1, scope=scope, scores=[score, score, last])
        assert self.tied._version == self.other._version == 0

    def test_different_scores_of_tied_tensors(self) -> None:
        with pytest.raises(ValueError, match=r"Expected equal `scores` for tied tensors, got another for tensors\[2\]"):
            magnitude_masks([self.other, self.tied, self.tied], k=1, scores=[torch.ones(n) for n in (3, 2, 2)])

    def test_nan_without_scores(self) -> None:
        with pytest.raises(ValueError, match=r"NaN in tensors\[2\]"):
            magnitude_masks([self.tied, self.tied, torch.tensor([NAN])], k=1, scope="tensor")

    def test_amounts_of_one_tensor(self) -> None:
        tensors = [self.tied, self.tied, torch.tensor([NAN, 1.0, 2.0])]
        for k, message in [
            ([1, 1, 4], "the number of weights of tensors[2]"),
            ([1, 1, 3], "the 2 weights of tensors[2]"),
        ]:
            with pytest.raises(ValueError, match=re.escape(message)):
                prune_(tensors, k=k, scope="tensor", nan="keep")


OVERLAPS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "expanded": lambda t: [t[:1].expand(4, 8)],
    "rows that share": lambda t: [t[:2], t[1:3]],
    "rows and columns": lambda t: [t[:, 1:], t[2:]],
    "the whole and its transpose": lambda t: [t, t.t()],
    "two places that meet": lambda t: [t.flatten().as_strided((4, 3), (2, 3))],
    "windows": lambda t: [t.flatten().unfold(0, 4, 2)],
}


@pytest.mark.parametrize("call", WRITING)
@pytest.mark.parametrize("what", OVERLAPS)
def test_overlap_is_refused_where_it_would_be_written(call: str, what: str) -> None:
    memory = normal(4, 8)
    before = memory.clone()
    with pytest.raises(ValueError, match=r"memory of their own|its own memory"):
        WRITING[call](OVERLAPS[what](memory))
    assert torch.equal(memory, before)


@pytest.mark.parametrize("call", WRITING)
def test_neighbours_that_interleave_are_no_overlap(call: str) -> None:
    memory = normal(40, 8)
    WRITING[call]([memory[:, ::2], memory[:, 1::2]])
    assert not memory.any()


def test_ten_thousand_views_that_interleave() -> None:
    memory = normal(6, 10_000)
    columns = list(memory.unbind(1))
    before = memory.clone()
    with pytest.raises(ValueError, match=r"memory of their own, got `tensors\[\d+\]` and `tensors\[\d+\]`"):
        prune_([*columns, memory[2, 5_000:5_001]], sparsity=0.5)
    assert torch.equal(memory, before)
    prune_(columns, sparsity=0.5)
    assert int((memory == 0).sum()) == 30_000


def test_the_views_that_overlap_are_named() -> None:
    memory = torch.ones(4, 8)
    with pytest.raises(ValueError, match=r"got `tensors\[1\]` and `tensors\[3\]`"):
        prune_([memory[:, 0], memory[:, 1], torch.ones(3), memory[2:, 1:3]], sparsity=0.5)


def test_views_at_odd_addresses() -> None:
    data = np.zeros(64, dtype=np.uint8)
    a = torch.from_numpy(data[:32].view(np.float32))
    b = torch.from_numpy(np.ndarray(4, dtype=np.float32, buffer=data, offset=30))  # shares the last two bytes
    c = torch.from_numpy(np.ndarray(4, dtype=np.float32, buffer=data, offset=34))
    with pytest.raises(ValueError, match="memory of their own"):
        soft_threshold_([a, b], 0.5)
    soft_threshold_([a, c], 0.5)


DISTINCT = [((2, 3), (3, 2)), ((3, 2), (2, 3)), ((4, 2, 3), (12, 3, 2)), ((2, 4, 4), (3, 6, 25))]


@pytest.mark.parametrize(("shape", "strides"), DISTINCT)
@pytest.mark.parametrize("call", CALLS)
def test_elements_that_interleave_but_are_distinct(call: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    memory = normal(120)
    tensor = memory.as_strided(shape, strides)
    places = torch.arange(120).as_strided(shape, strides)
    assert places.unique().numel() == tensor.numel()
    copy, calls = tensor.clone(), CALLS | {"nm_masks": lambda tensors: nm_masks(tensors, 1, 2, dim=shape.index(2))}
    assert same(calls[call]([tensor]), calls[call]([copy]))
    assert same_bits(tensor.contiguous(), copy)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), max_size=4),
    st.sampled_from([torch.float32, torch.float16]),
)
def test_overlap_is_decided_exactly(dims: list[tuple[int, int]], dtype: torch.dtype) -> None:
    shape, strides = [size for size, _ in dims], [stride for _, stride in dims]
    places = torch.arange(200).as_strided(shape, strides)
    tensor = torch.zeros(200, dtype=dtype).as_strided(shape, strides)
    assert overlaps_itself(tensor) == (places.unique().numel() < places.numel())


@pytest.mark.parametrize("call", READING)
@pytest.mark.parametrize("what", OVERLAPS)
def test_overlap_may_be_read(call: str, what: str) -> None:
    tensors = OVERLAPS[what](normal(4, 8))
    copies = [tensor.contiguous().clone() for tensor in tensors]
    if call == "nm_masks" and any(tensor.shape[-1] % 4 for tensor in tensors):
        tensors, copies = tensors[1:], copies[1:]
    ours, expected = READING[call](tensors), READING[call](copies)
    if call == "group_norms":
        assert all(same_bits(a, b) for a, b in zip(ours, expected, strict=True))
    else:
        assert ours == expected


ONES: dict[str, Any] = {"sparsity": 0.5}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "Expected exactly one of `sparsity` and `k`"),
        ({"sparsity": 0.5, "k": 1}, ValueError, "Expected exactly one of `sparsity` and `k`"),
        ({"sparsity": 1.2}, ValueError, "Expected `sparsity` in [0, 1], got 1.2."),
        ({"sparsity": -0.1}, ValueError, "Expected `sparsity` in [0, 1], got -0.1."),
        ({"sparsity": float("nan")}, ValueError, "Expected `sparsity` in [0, 1], got nan."),
        ({"sparsity": "half"}, TypeError, "Expected `sparsity` a number"),
        ({"sparsity": True}, TypeError, "Expected `sparsity` a number"),
        ({"sparsity": [0.5, 0.5]}, TypeError, "Expected `sparsity` a number"),
        ({"k": 7}, ValueError, "Expected `k` in [0, 6]"),
        ({"k": -1}, ValueError, "Expected `k` in [0, 6]"),
        ({"k": 2.0}, TypeError, "Expected `k` an int, got 2.0"),
        ({"k": [1, 4], "scope": "tensor"}, ValueError, "Expected `k` in [0, 2]"),
        ({"k": [1], "scope": "tensor"}, ValueError, "Expected one of `k` for each of 2 tensors, got 1"),
        ({"sparsity": [0.5, 2.0], "scope": "tensor"}, ValueError, "in [0, 1], got 2.0: pass `k=2` for that many"),
        ({**ONES, "scope": "layer"}, ValueError, "Expected `scope` to be 'global' or 'tensor', got 'layer'"),
        ({**ONES, "nan": "drop"}, ValueError, "Expected `nan` to be 'error' or 'keep', got 'drop'"),
        ({**ONES, "masks": [BitMask.ones((4,))]}, ValueError, "Expected one of `masks` for each of 2 tensors, got 1"),
        ({**ONES, "masks": [BitMask.ones((4,)), BitMask.ones((2, 1))]}, ValueError, "tensors[1]"),
        ({**ONES, "masks": [torch.ones(4).bool()] * 2}, TypeError, "Expected a BitMask"),
        ({**ONES, "masks": [BitMask((4,), torch.zeros(8, dtype=torch.uint8)), None]}, TypeError, "Expected a BitMask"),
        ({**ONES, "scores": [torch.ones(4)]}, ValueError, "Expected one of `scores` for each of 2 tensors, got 1"),
        ({**ONES, "scores": [torch.ones(4), torch.ones(3)]}, ValueError, "tensors[1]"),
        ({**ONES, "scores": [torch.ones(4), torch.ones(2).half()]}, TypeError, "one dtype"),
        ({**ONES, "scores": [torch.ones(4), torch.ones(2).int()]}, TypeError, "scores[1]"),
        ({**ONES, "scores": [torch.ones(4), torch.tensor([1.0, float("nan")])]}, ValueError, "[1]"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)  # fmt: skip
@pytest.mark.parametrize("call", [magnitude_masks, prune_])
def test_bad_options(call: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    tensors = [torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 6.0])]
    with pytest.raises(error, match=re.escape(message)):
        call(tensors, **options)
    assert [tensor.tolist() for tensor in tensors] == [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0]]


def test_masks_on_another_device() -> None:
    masks = [BitMask._of((4,), torch.zeros(8, dtype=torch.uint8, device="meta"))]
    for call in (lambda t: prune_(t, sparsity=0.5, masks=masks), lambda t: apply_masks_(t, masks)):
        tensor = torch.ones(4)
        with pytest.raises(ValueError, match=r"Expected a mask of shape \(4,\) on cpu for .*tensors\[0\].*on meta"):
            call([tensor])
        assert tensor.tolist() == [1.0] * 4


def test_a_mask_is_not_a_list_of_masks() -> None:
    with pytest.raises(TypeError):
        apply_masks_([torch.ones(4)], BitMask.ones((4,)))  # type: ignore[arg-type]


@pytest.mark.parametrize("call", WRITING)
class TestAutograd:
    def test_a_write_between_forward_and_backward_is_torch_s_error(self, call: str) -> None:
        weight = nn.Parameter(torch.ones(4))
        loss = (weight * weight.detach().clone().requires_grad_()).exp().sum() + (weight**2).sum()
        WRITING[call]([weight])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_parameters_without_no_grad(self, call: str) -> None:
        weight = nn.Parameter(torch.ones(4))
        WRITING[call]([weight])
        assert weight.tolist() == [0.0] * 4 and weight.requires_grad and weight.grad_fn is None and weight.is_leaf
        (weight * 3).sum().backward()
        assert weight.grad is not None and weight.grad.tolist() == [3.0] * 4

    def test_views_and_results_of_operations(self, call: str) -> None:
        weight = nn.Parameter(torch.ones(4, 4))
        version = weight._version
        WRITING[call]([weight[1:3]])
        assert weight.sum() == 8.0 and weight._version > version

    def test_inference_tensors(self, call: str) -> None:
        with torch.inference_mode():
            tensor = torch.ones(4)
            WRITING[call]([tensor])
            assert tensor.tolist() == [0.0] * 4
        outside = torch.ones(4)
        with torch.inference_mode():
            WRITING[call]([outside])
        WRITING[call]([tensor])

    def test_versions_rise_once_also_of_tied(self, call: str) -> None:
        a, b = torch.ones(4), torch.ones(4)
        WRITING[call]([a, b, a])
        assert (a._version, b._version) == (1, 1)


@pytest.mark.parametrize("call", READING)
def test_reading_raises_no_version(call: str) -> None:
    weight = nn.Parameter(few_values(4, 4))
    before = weight.detach().clone()
    READING[call]([weight])
    assert weight._version == 0 and same_bits(weight, before)


@pytest.mark.parametrize("call", [*CALLS, "count_nonzero"])
def test_profiler_shows_the_name(call: str) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        count_nonzero(torch.ones(4)) if call == "count_nonzero" else CALLS[call]([torch.ones(4)])
    name = f"pruning_{call.split()[0]}"
    assert [event.key for event in profile.key_averages() if event.key == name] == [name]


def compiled_step(x: Tensor, weight: Tensor) -> Tensor:
    y = (x * weight).sin()
    prune_([weight], sparsity=0.5)
    return y + weight


def test_compile_breaks_the_graph_and_leaves_the_call_alone() -> None:
    x, weight = torch.ones(4), torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = compiled_step(x, twin(weight))
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of what torch imports
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            result = torch.compile(compiled_step, backend=backend)(x, weight)
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match="prune_"):
            torch.compile(compiled_step, backend="eager", fullgraph=True)(x, weight)
        torch._dynamo.reset()
    assert torch.equal(result, expected) and weight.tolist() == [0.0, 0.0, 3.0, 4.0]
    assert len(graphs) == 2  # before and after: nothing inside is compiled
    assert "pruning_prune_" in {event.key for event in profile.key_averages()}


RECORDERS: dict[str, Callable[[Any, Tensor], object]] = {
    "make_fx": lambda function, x: make_fx(function)(x),
    "make_fx of fakes": lambda function, x: make_fx(function, tracing_mode="fake")(x),
    "make_fx before dispatch": lambda function, x: make_fx(function, pre_dispatch=True)(x),
    "jit.trace": lambda function, x: torch.jit.trace(function, x),
}


@pytest.mark.parametrize("recorder", RECORDERS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is (deprecated|not supported)")
def test_a_trace_is_one_clear_error(call: str, recorder: str) -> None:
    tensor = torch.ones(4)

    def step(x: Tensor) -> Tensor:
        apply_masks_([x], [MASK]) if call == "apply_masks_" else CALLS[call]([x])
        return x * 2

    with pytest.raises(RuntimeError, match=r"Expected a call of `\w+` outside of") as raised:
        RECORDERS[recorder](step, tensor)
    assert isinstance(raised.value, AutoArchError)
    assert tensor.tolist() == [1.0] * 4
    CALLS[call]([tensor])  # and after it all is well


@pytest.mark.parametrize("transform", [torch.vmap, torch.func.grad, torch.func.functionalize])
@pytest.mark.parametrize("call", [call for call in CALLS if call != "apply_masks_"])
def test_values_inside_of_torch_func_have_no_memory(call: str, transform: Any) -> None:
    tensor = torch.ones(4)

    def step(x: Tensor) -> Tensor:
        CALLS[call]([x])
        return x.sum()

    with pytest.raises(TypeError, match=r"Expected `tensors\[0\]` to have memory, got a value inside of torch.func"):
        transform(step)(tensor)
    assert tensor.tolist() == [1.0] * 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("call", CALLS)
def test_other_devices_run_the_reference(call: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    for maker in (normal, few_values, random_bits):
        ours = [maker(40, 12, dtype=dtype), maker(4, 4, 8, dtype=dtype).transpose(0, 1)]
        theirs = [twin(tensor) for tensor in ours]
        expected = CALLS[call](ours)
        with monkeypatch.context() as patch:
            patch.setattr(_ops, "compiled", lambda device: False)
            for name in ("select", "apply_masks", "nm_mask", "soft_threshold", "group_norms", "group_soft_threshold"):
                patch.setattr(_ops, name, None)
            assert same(CALLS[call](theirs), expected)
        assert all(map(same_bits, ours, theirs))


def test_other_devices_keep_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [normal(300), few_values(20, 7)]
    masks = [BitMask.pack(normal(*tensor.shape, seed=3) > -1) for tensor in tensors]
    calls: list[Callable[[], list[BitMask]]] = [
        lambda: magnitude_masks(tensors, masks=masks, k=200),
        lambda: regrow_masks(tensors, masks, k=20),
        lambda: magnitude_masks(tensors, masks=masks, k=400, nan="keep"),
    ]
    expected = [call() for call in calls]
    monkeypatch.setattr(_ops, "compiled", lambda device: False)
    assert [call() for call in calls] == expected
    transposed = [normal(8, 12).t()]
    assert nm_masks(transposed, transposable=True)[0].count() == 48
    tensors[1][3, 3] = float("nan")
    with pytest.raises(ValueError, match=r"tensors\[1\]"):
        prune_(tensors, k=3)
    with pytest.raises(ValueError, match="440"):
        prune_(tensors, k=440, nan="keep")


def test_optimizer_continues_on_pruned_weights() -> None:
    net = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    masks: list[BitMask] | None = None
    for sparsity in (0.25, 0.5, 0.75):
        optimizer.zero_grad()
        net(torch.ones(2, 8)).square().sum().backward()
        optimizer.step()
        if masks is not None:
            apply_masks_([net.weight], masks)
        masks = prune_([net.weight], sparsity=sparsity, masks=masks)
        assert density([net.weight]) == 1 - sparsity


def same(a: Any, b: Any) -> bool:
    """What two calls returned, on whatever devices."""
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, BitMask):
        return a.to("cpu") == b.to("cpu")
    return same_bits(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", CALLS)
def test_cuda_against_the_cpu(call: str, layout: str, dtype: torch.dtype) -> None:
    for maker in (normal, few_values, random_bits):
        here = [LAYOUTS[layout](maker(64, 33, 4, 4, dtype=dtype)), LAYOUTS[layout](maker(3, 2, 5, 4, dtype=dtype))]
        there = [twin(tensor.cuda()) for tensor in here]
        assert same(CALLS[call](there), CALLS[call](here))
        assert all(same_bits(a, b) for a, b in zip(there, here, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_selection_of_many(dtype: torch.dtype) -> None:
    for maker in (normal, few_values, random_bits):
        here = list(maker(3_000_001, dtype=dtype).split([1, 63, 1_000_000, 1_999_937]))
        for options in ({"sparsity": 0.5}, {"k": 1}, {"sparsity": 0.999}, {"sparsity": 0.7, "scope": "tensor"}):
            there = [tensor.cuda() for tensor in here]
            ours = [tensor.clone() for tensor in here]
            masks, expected = prune_(there, **options), prune_(ours, **options)  # type: ignore[arg-type]
            assert same(masks, expected) and all(map(same_bits, there, ours))
            scores = [few_values(tensor.numel(), dtype=dtype, seed=1) for tensor in here]
            again = {"sparsity": 0.9, "scores": [score.cuda() for score in scores], "masks": masks}
            if "scope" not in options and options.get("sparsity", 0) < 0.9:
                assert same(magnitude_masks(there, **again), magnitude_masks(  # type: ignore[arg-type]
                    ours, sparsity=0.9, scores=scores, masks=expected))  # fmt: skip
            if sum(mask.numel - mask.count() for mask in expected) >= 10:
                grown = regrow_masks([tensor.clone() for tensor in ours], expected, k=10)
                assert same(regrow_masks(there, masks, k=10), grown)


@pytest.mark.gpu
def test_cuda_nan_names_the_tensor() -> None:
    tensors = [torch.ones(100_000, device="cuda"), torch.ones(100_000, device="cuda")]
    tensors[1][77_777] = float("nan")
    with pytest.raises(ValueError, match=r"tensors\[1\]"):
        prune_(tensors, sparsity=0.5)
    assert tensors[0].all()
    assert same(prune_(tensors, k=150_000, nan="keep"), prune_(
        [tensor.nan_to_num(nan=2.0).fill_(1).index_fill_(0, torch.tensor([77_777], device="cuda"), 2.0) if i else
         torch.ones(100_000, device="cuda") for i, tensor in enumerate(tensors)], k=150_000))  # fmt: skip


@pytest.mark.gpu
def test_cuda_follows_the_current_stream() -> None:
    tensor = torch.zeros(1 << 24, device="cuda")
    values = torch.arange(1.0, 1 + tensor.numel(), device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(10_000_000)  # on another stream the selection would see zeros
        tensor.copy_(values)
        (mask,) = prune_([tensor], k=1 << 23)
        apply_masks_([tensor], [mask])
        assert int(tensor.argmax()) == tensor.numel() - 1 and not tensor[: 1 << 23].any() and tensor[1 << 23 :].all()


@pytest.mark.gpu
def test_cuda_graph_of_apply_masks() -> None:
    tensors = [torch.ones(100 + i, device="cuda") for i in range(600)]  # more than one launch takes
    masks = magnitude_masks(tensors, sparsity=0.5)
    apply_masks_(tensors, masks)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        apply_masks_(tensors, masks)
    for tensor in tensors:
        tensor.fill_(3.0)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(t, 3.0 * mask.unpack()) for t, mask in zip(tensors, masks, strict=True))


@pytest.mark.gpu
def test_cuda_and_cpu_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="Expected tensors on one device"):
        prune_([torch.ones(4), torch.ones(4, device="cuda")], sparsity=0.5)
    with pytest.raises(ValueError, match="Expected a mask"):
        apply_masks_([torch.ones(4, device="cuda")], [BitMask.ones((4,))])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on threads
def test_a_forked_process_does_not_wait_for_the_threads_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    w = torch.randn(1 << 20)
    expected = prune_([w.clone()], sparsity=0.5)[0].words
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply_async(_pruned, (w.numpy(),)).get(timeout=30)
    np.testing.assert_array_equal(found, expected.numpy())


def _pruned(w: np.ndarray) -> np.ndarray:
    return prune_([torch.from_numpy(w)], sparsity=0.5)[0].words.numpy()
