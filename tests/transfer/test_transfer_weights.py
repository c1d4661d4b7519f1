"""`transfer_weights`: what is copied, what becomes of other shapes, and that nothing is touched on an error."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from nets import Net
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lightning_autoarch.core.errors import CheckpointError, TransferError
from lightning_autoarch.transfer.matching import Matching
from lightning_autoarch.transfer.read.checkpoint import read_checkpoint
from lightning_autoarch.transfer.transfer_weights import transfer_weights


def net(width: int = 6, classes: int = 3, channels: int = 3, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
    )  # fmt: skip


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name].nan_to_num(7.5), b[name].nan_to_num(7.5)), name


class TestUse:
    """As a user writes it."""

    def test_checkpoint_of_lightning_into_its_net(self, tmp_path: Path) -> None:
        trainer = L.Trainer(
            max_epochs=0, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path,
        )  # fmt: skip
        old = Net(width=8)
        trainer.strategy.connect(old)
        trainer.save_checkpoint(tmp_path / "old.ckpt")
        new = Net(width=8)
        report = transfer_weights(new, tmp_path / "old.ckpt")
        assert_same(bits(new), bits(old))
        assert report.share == 1 and set(report.counts) == {"loaded"}

    def test_a_rule_that_leads_nowhere_is_told(self) -> None:
        report = transfer_weights(net(), net(seed=1), rules=[("0", "zero")])
        assert report["0.weight"].reason == "a rule renames it to `zero.weight` in the source"
        [left] = [each for each in report if each.status == "unexpected" and each.source == "0.weight"]
        assert left.reason == "a rule renames it to `zero.weight`, which the module does not have"

    def test_backbone_of_another_net(self) -> None:
        class Student(L.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.encoder = net()[:2]
                self.head = nn.Linear(6, 10)

        teacher = nn.ModuleDict({"backbone": net()[:2], "fc": nn.Linear(6, 3)})
        student = Student()
        report = transfer_weights(student, teacher, rules=[("backbone", "encoder")])
        assert torch.equal(student.encoder[0].weight, teacher["backbone"][0].weight)
        assert report.names("renamed") == [name for name in student.state_dict() if name.startswith("encoder")]
        assert report.names("missing") == ["head.weight", "head.bias"]
        assert report.names("unexpected") == ["fc.weight", "fc.bias"]

    def test_parameters_stay_the_same_objects(self) -> None:
        module = net(seed=1)
        module[0].weight.requires_grad_(False)
        before = {name: (p, p.data_ptr(), p.requires_grad) for name, p in module.named_parameters()}
        transfer_weights(module, net())
        assert all(p is before[n][0] for n, p in module.named_parameters())
        assert {n: (p, p.data_ptr(), p.requires_grad) for n, p in module.named_parameters()} == before
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        module(torch.randn(2, 3, 8, 8)).sum().backward()
        optimizer.step()

    def test_source_is_not_changed_or_shared(self) -> None:
        source, module = net(), net(seed=1)
        before = bits(source)
        transfer_weights(module, source)
        module[0].weight.data.zero_()
        assert_same(bits(source), before)

    def test_from_itself(self) -> None:
        module = net()
        before = bits(module)
        assert transfer_weights(module, module).share == 1
        assert_same(bits(module), before)

    def test_swap_of_two_parts_of_itself(self) -> None:
        module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
        before = bits(module)
        transfer_weights(module, module, rules=[("a", "x"), ("b", "a"), ("x", "b")])
        assert torch.equal(module["a"].weight, before["b.weight"])
        assert torch.equal(module["b"].weight, before["a.weight"])

    def test_batch_statistics_go_along(self) -> None:
        source = net()
        source.train()(torch.randn(4, 3, 8, 8))
        module = net(seed=1)
        transfer_weights(module, source)
        assert torch.equal(module[1].running_var, source[1].running_var) and module[1].num_batches_tracked == 1

    def test_no_gradients(self) -> None:
        module = net(seed=1)
        transfer_weights(module, dict(net().named_parameters()))
        assert all(p.grad is None and p.is_leaf for p in module.parameters())


class TestNothingInCommon:
    def test_names(self) -> None:
        module = nn.ModuleDict({"encoder": nn.Linear(2, 2)})
        with pytest.raises(TransferError, match=r"`encodr\.weigth`.*Did you mean `encoder\.weight`"):
            transfer_weights(module, {"encodr.weigth": torch.ones(2, 2)})

    def test_near_names_of_what_is_left(self) -> None:
        module = nn.ModuleDict({"a": nn.Linear(2, 2), "decoder": nn.Linear(4, 2)})
        report = transfer_weights(module, {"a.weight": torch.ones(2, 2), "decodr.weight": torch.ones(2, 4)})
        assert report["decodr.weight"].reason == "Did you mean `decoder.weight`?"
        assert report["decoder.weight"].reason == "Did you mean `decodr.weight`?"

    @pytest.mark.parametrize("on_mismatch", ["wide", "strict", None])
    def test_other_words(self, on_mismatch: Any) -> None:
        with pytest.raises(TransferError, match="'skip', 'slice', 'widen', 'error'"):
            transfer_weights(net(), net(), on_mismatch=on_mismatch)


class TestShapes:
    def test_skip(self) -> None:
        module = net(width=8, seed=1)
        before = bits(module)
        report = transfer_weights(module, net())
        assert set(report.names("skipped")) == {name for name in before if name != "5.bias"}
        assert report.names("loaded") == ["5.bias"]
        assert report["0.weight"].reason == "(6, 3, 3, 3) in the source, (8, 3, 3, 3) in the module"
        del before["5.bias"]
        assert_same({name: tensor for name, tensor in bits(module).items() if name != "5.bias"}, before)

    def test_count_of_batches_stays_with_its_statistics(self) -> None:
        source, module = net(), net(width=8, seed=1)
        source.train()(torch.randn(4, 3, 8, 8))
        assert transfer_weights(module, source)["1.num_batches_tracked"].status == "skipped"
        assert module[1].num_batches_tracked == 0

    def test_error(self) -> None:
        module = net(width=8, seed=1)
        before = bits(module)
        with pytest.raises(
            TransferError, match=r"`0\.weight`.*\(6, 3, 3, 3\) in the source, \(8, 3, 3, 3\) in the module"
        ):
            transfer_weights(module, net(), on_mismatch="error")
        assert_same(bits(module), before)

    @pytest.mark.parametrize(("old", "new"), [(8, 6), (6, 8), (6, 6)])
    def test_slice(self, old: int, new: int) -> None:
        source, module = net(width=old), net(width=new, seed=1)
        before = bits(module)
        report = transfer_weights(module, source, on_mismatch="slice")
        n = min(old, new)
        for name, tensor in source.state_dict().items():
            place = tuple(
                slice(0, size) for size in [min(a, b) for a, b in zip(tensor.shape, before[name].shape, strict=True)]
            )
            expected = before[name].clone()
            expected[place] = tensor[place]
            assert torch.equal(module.state_dict()[name], expected)
        if old != new:
            assert "0.weight" in report.names("sliced") and report["0.weight"].taken == n * 27

    def test_narrower_by_leading_channels_is_the_net_without_the_others(self) -> None:
        source, module = net(width=8).eval(), net(width=5, seed=1).eval()
        transfer_weights(module, source, on_mismatch="slice")
        x = torch.randn(2, 3, 8, 8)
        features = source[:5](x)[:, :5]
        assert torch.allclose(module(x), features @ source[5].weight[:, :5].T + source[5].bias, atol=1e-6)

    def test_output_layer_is_not_cut(self) -> None:
        module = net(width=4, classes=2, seed=1)
        before = bits(module)
        report = transfer_weights(module, net(), on_mismatch="slice")
        assert set(report.names("initialised")) == {"5.weight", "5.bias"}
        assert torch.equal(module[5].weight, before["5.weight"])

    def test_output_layer_by_its_name(self) -> None:
        source = nn.ModuleDict({"head": nn.Linear(4, 3), "body": nn.Linear(4, 6)})
        module = nn.ModuleDict({"head": nn.Linear(4, 2), "body": nn.Linear(4, 5)})
        report = transfer_weights(module, source, on_mismatch="slice", head="head")
        assert report.names("initialised") == ["head.weight", "head.bias"]
        assert report.names("sliced") == ["body.weight", "body.bias"]
        with pytest.raises(TransferError, match="The pattern `tail` of `head` matches no tensor"):
            transfer_weights(module, source, head="tail")

    def test_other_number_of_dimensions(self) -> None:
        module = nn.Linear(2, 2)
        source = {"weight": torch.ones(2, 2, 1), "bias": torch.ones(2)}
        for on_mismatch in ("skip", "slice"):
            assert transfer_weights(module, source, on_mismatch=on_mismatch).names("skipped") == ["weight"]


class TestClasses:
    def test_rows(self) -> None:
        source, module = net(classes=5), net(classes=4, seed=1)
        before = bits(module)
        report = transfer_weights(module, source, matching=Matching(classes={4: 0, 1: 3}))
        for leaf in ("weight", "bias"):
            old, new, was = getattr(source[5], leaf), getattr(module[5], leaf), before[f"5.{leaf}"]
            assert torch.equal(new, torch.stack([old[4], was[1], was[2], old[1]]))
        assert report["5.weight"].status == "sliced" and report["5.weight"].taken == 12
        assert report["5.weight"].reason == "2 of 5 classes in the source, of 4 in the module"

    def test_equal_sizes_are_mapped_too(self) -> None:
        source, module = net(), net(seed=1)
        transfer_weights(module, source, matching=Matching(classes={0: 2, 1: 1, 2: 0}))
        assert torch.equal(module[5].weight, source[5].weight.flip(0))

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            ([1], "Expected `classes` as"),
            ({}, "Expected `classes` as"),
            ({"cat": 0}, "Expected `classes` as"),
            ({True: 0}, "Expected `classes` as"),
            ({-1: 0}, "Expected `classes` as"),
            ({0: 1, 1: 1}, "different row of the module"),
            ({3: 0}, r"below 3 in the source for `5\.\w+`, got 3"),
            ({0: 4}, r"below 4 in the module for `5\.\w+`, got 4"),
        ],
    )
    def test_what_is_no_mapping(self, classes: Any, message: str) -> None:
        with pytest.raises(TransferError, match=message):
            transfer_weights(net(classes=4, seed=1), net(), matching=Matching(classes=classes))

    def test_no_such_layer(self) -> None:
        with pytest.raises(TransferError, match="Expected an output layer in the source"):
            transfer_weights(
                net(), {k: v for k, v in net().state_dict().items() if k[0] == "0"}, matching=Matching(classes={0: 0})
            )

    def test_rows_of_another_width(self) -> None:
        with pytest.raises(TransferError, match="rows of equal size"):
            transfer_weights(net(width=8), net(), matching=Matching(classes={0: 0}))


class TestReinit:
    def test_stays(self) -> None:
        module = net(seed=1)
        before = bits(module)
        report = transfer_weights(module, net(), reinit=["5"])
        assert torch.equal(module[5].weight, before["5.weight"])
        assert report.names("initialised") == ["5.weight", "5.bias"]

    def test_unused(self) -> None:
        with pytest.raises(TransferError, match=r"The pattern `head` of `reinit` matches no tensor"):
            transfer_weights(net(), net(), reinit=["head"])

    @pytest.mark.parametrize("reinit", ["", 3, [3], ["re:("]])
    def test_what_is_no_list_of_patterns(self, reinit: Any) -> None:
        with pytest.raises(TransferError, match=r"Expected .*`reinit`"):
            transfer_weights(net(), net(), reinit=reinit)


class TestTied:
    def module(self, *, tied: bool = True) -> nn.ModuleDict:
        module = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
        if tied:
            module["head"].weight = module["embed"].weight
        return module

    @pytest.mark.parametrize("left", [["embed.weight"], ["head.weight"], ["embed.weight", "head.weight"]])
    def test_once(self, left: list[str]) -> None:
        source, module = self.module(), self.module()
        report = transfer_weights(module, {name: source.state_dict()[name] for name in left})
        assert torch.equal(module["embed"].weight, source["embed"].weight)
        assert module["head"].weight is module["embed"].weight
        assert (report.parameters, report.taken) == (15, 15) and report.names("missing") == []
        assert report["head.weight"].reason == "tied to `embed.weight`"

    def test_equal_copies(self) -> None:
        weight = torch.full((5, 3), float("nan"))
        transfer_weights(self.module(), {"embed.weight": weight, "head.weight": weight.clone()})

    def test_source_has_two(self) -> None:
        module = self.module()
        before = bits(module)
        with pytest.raises(TransferError, match=r"`embed\.weight` and `head\.weight`, which are tied, got different"):
            transfer_weights(module, self.module(tied=False))
        assert_same(bits(module), before)

    def test_two_from_one_that_is_tied(self) -> None:
        module = self.module(tied=False)
        assert transfer_weights(module, self.module()).share == 1
        assert torch.equal(module["embed"].weight, module["head"].weight)

    def test_two_parameters_on_one_memory(self) -> None:
        module = self.module()
        module["head"].weight = nn.Parameter(module["embed"].weight.data)
        assert transfer_weights(module, self.module()).parameters == 15

    def test_module_used_twice(self) -> None:
        block = nn.Linear(2, 2)
        report = transfer_weights(nn.Sequential(block, block), {"0.weight": torch.ones(2, 2)})
        assert report["1.weight"].status == "loaded" and report.parameters == 6


class TestNumbers:
    @pytest.mark.parametrize("old", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("new", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_cast_to_the_dtype_of_the_module(self, old: torch.dtype, new: torch.dtype) -> None:
        source, module = nn.Linear(3, 2).to(old), nn.Linear(3, 2).to(new)
        transfer_weights(module, source)
        assert module.weight.dtype == new and torch.equal(module.weight, source.weight.to(new))

    def test_what_would_be_infinite(self) -> None:
        with pytest.raises(TransferError, match=r"`weight` within torch\.float16, got 1e\+06"):
            transfer_weights(nn.Linear(1, 1).half(), {"weight": torch.full((1, 1), 1e6)})
        transfer_weights(nn.Linear(1, 1).half(), {"weight": torch.full((1, 1), float("inf"))})

    def test_quantised(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weight = torch.quantize_per_tensor(torch.tensor([[0.5, -1.0]]), 0.5, 0, torch.qint8)
        module = nn.Linear(2, 1)
        transfer_weights(module, {"weight": weight})
        assert module.weight.tolist() == [[0.5, -1.0]]

    @pytest.mark.parametrize("extra", [{}, {"weight.SCB": torch.ones(2)}])
    def test_codes_are_no_numbers(self, extra: dict[str, Tensor]) -> None:
        with pytest.raises(TransferError, match=r"`weight`, got torch\.int8 codes of a quantised"):
            transfer_weights(nn.Linear(2, 2), {"weight": torch.ones(2, 2, dtype=torch.int8), **extra})

    def test_packed_by_others(self) -> None:
        with pytest.raises(TransferError, match=r"codes `fc\.qweight`"):
            transfer_weights(nn.ModuleDict({"fc": nn.Linear(2, 2)}), {"fc.qweight": torch.ones(2, 2)})
        with pytest.raises(CheckpointError, match="packed by torch"):
            transfer_weights(nn.Linear(1, 1), {"fc._packed_params": (torch.ones(1), None), "bias": torch.ones(1)})

    def test_eight_bit_floats(self) -> None:
        weight = torch.tensor([[1.0, -2.0]]).to(torch.float8_e4m3fn)
        module = nn.Linear(2, 1)
        transfer_weights(module, {"weight": weight})
        assert module.weight.tolist() == [[1, -2]]
        transfer_weights(module, {"weight": weight, "weight_scale": torch.tensor(3.0)})
        assert module.weight.tolist() == [[3, -6]]
        with pytest.raises(TransferError, match="Expected one scale"):
            transfer_weights(module, {"weight": weight, "weight_scale_inv": torch.ones(1, 2)})

    def test_sparse(self) -> None:
        module = nn.Linear(2, 2)
        transfer_weights(module, {"weight": torch.eye(2).to_sparse()})
        assert torch.equal(module.weight, torch.eye(2))

    def test_complex(self) -> None:
        real, turned = nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.complex64)
        assert transfer_weights(turned, real).share == 1 and torch.equal(turned.weight.real, real.weight)
        assert transfer_weights(nn.Linear(2, 2), turned).names("skipped") == ["weight", "bias"]
        with pytest.raises(TransferError, match=r"torch\.complex64 in the source, torch\.float32 in the module"):
            transfer_weights(real, turned, on_mismatch="error")

    def test_integers(self) -> None:
        module = nn.Module()
        module.register_buffer("count", torch.tensor(3, dtype=torch.int32))
        transfer_weights(module, {"count": torch.tensor(5)})
        assert module.count == 5 and module.count.dtype == torch.int32
        with pytest.raises(TransferError, match="do not fit"):
            transfer_weights(module, {"count": torch.tensor(2**40)})
        assert transfer_weights(module, {"count": torch.tensor(0.5)}).names("skipped") == ["count"]

    def test_scalar_and_empty(self) -> None:
        module = nn.Module()
        module.scale = nn.Parameter(torch.tensor(1.0))
        module.empty = nn.Parameter(torch.zeros(0, 3))
        report = transfer_weights(module, {"scale": torch.tensor(2.0), "empty": torch.zeros(0, 3)})
        assert module.scale == 2 and report.share == 1
        assert transfer_weights(module, {"scale": torch.ones(1)}, on_mismatch="slice").names("skipped") == ["scale"]

    def test_strides(self) -> None:
        module = net(seed=1).to(memory_format=torch.channels_last)
        source = net()
        transfer_weights(module, source)
        assert torch.equal(module[0].weight, source[0].weight)
        assert module[0].weight.is_contiguous(memory_format=torch.channels_last)


class TestModules:
    @pytest.mark.parametrize("where", ["module", "source"])
    def test_meta(self, where: str) -> None:
        real, meta = nn.Linear(2, 2), nn.Linear(2, 2, device="meta")
        module, source = (meta, real) if where == "module" else (real, meta)
        with pytest.raises(TransferError, match=r"`weight`.*on the meta device"):
            transfer_weights(module, source)

    @pytest.mark.parametrize("where", ["module", "source"])
    def test_lazy(self, where: str) -> None:
        real, lazy = nn.Linear(2, 2), nn.LazyLinear(2)
        module, source = (lazy, real) if where == "module" else (real, lazy)
        with pytest.raises((TransferError, CheckpointError), match=r"`weight`.*lazy parameter"):
            transfer_weights(module, source)

    def test_lazy_part_that_is_not_asked_for(self) -> None:
        module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.LazyLinear(2)})
        assert transfer_weights(module, {"a.weight": torch.ones(2, 2)})["b.weight"].status == "missing"

    def test_inference(self) -> None:
        with torch.inference_mode():
            module = nn.Linear(2, 2)
        with pytest.raises(TransferError, match="inference_mode"):
            transfer_weights(module, nn.Linear(2, 2))

    def test_expanded_buffer(self) -> None:
        module = nn.Linear(2, 2)
        module.register_buffer("ids", torch.zeros(1).expand(3))
        with pytest.raises(TransferError, match=r"`ids`.*expanded view"):
            transfer_weights(module, {"weight": torch.ones(2, 2), "ids": torch.ones(3)})

    def test_non_persistent_buffers_are_the_modules_own(self) -> None:
        module = nn.Linear(2, 2)
        module.register_buffer("cache", torch.zeros(2), persistent=False)
        report = transfer_weights(module, {"weight": torch.ones(2, 2), "cache": torch.ones(2)})
        assert module.cache.tolist() == [0, 0] and report.names("unexpected") == ["cache"]

    @pytest.mark.parametrize("kind", [parametrizations.weight_norm, parametrizations.spectral_norm])
    def test_parametrised_from_plain_and_from_itself(self, kind: Callable[[nn.Module], nn.Module]) -> None:
        source, module = nn.Linear(3, 2), kind(nn.Linear(3, 2))
        report = transfer_weights(module, source)
        assert report.share == 1
        if kind is parametrizations.weight_norm:
            assert torch.allclose(module.weight, source.weight)
        else:
            assert torch.equal(module.parametrizations.weight.original, source.weight)
        again = kind(nn.Linear(3, 2))
        assert transfer_weights(again, module).share == 1
        assert_same(bits(again), bits(module))

    def test_parametrisation_that_refuses(self) -> None:
        class Doubled(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return 2 * x

        module = nn.Linear(2, 2)
        parametrize.register_parametrization(module, "weight", Doubled())
        before = bits(module)
        report = transfer_weights(module, {"weight": torch.ones(2, 2), "bias": torch.ones(2)})
        assert all("refuses" in report[name].reason for name in report.names("skipped")) and report.names("skipped")
        assert torch.equal(module.parametrizations.weight.original, before["parametrizations.weight.original"])
        with pytest.raises(TransferError, match="refuses"):
            transfer_weights(module, {"weight": torch.ones(2, 2)}, on_mismatch="error")

    def test_parametrisation_that_makes_another_weight(self) -> None:
        module = parametrizations.orthogonal(nn.Linear(2, 2))
        report = transfer_weights(module, {"weight": torch.ones(2, 2)})
        assert "which changes the weight" in report["parametrizations.weight.original"].reason

    def test_compiled_module(self) -> None:
        source, module = net(), net(seed=1)
        compiled = torch.compile(module, backend="eager")
        assert transfer_weights(compiled, source).share == 1
        assert_same(bits(module), bits(source))

    def test_under_default_device_and_inference(self) -> None:
        source, module = net(), net(seed=1)
        with torch.device("cpu"), torch.inference_mode():
            transfer_weights(module, source)
        assert_same(bits(module), bits(source))


class TestLazySource:
    def test_only_what_fits_is_read(self, tmp_path: Path) -> None:
        import torch.distributed.checkpoint as dcp

        source, module = net(), net(classes=7, seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save({"state_dict": source.state_dict()}, checkpoint_id=tmp_path / "dcp", no_dist=True)
        state = read_checkpoint(tmp_path / "dcp")
        read = []
        inner = state._read  # type: ignore[attr-defined]
        state._read = lambda name: read.append(name) or inner(name)  # type: ignore[attr-defined]
        report = transfer_weights(module, state)
        assert report.names("skipped") == ["5.weight", "5.bias"] and not {"5.weight", "5.bias"} & set(read)
        assert torch.equal(module[0].weight, source[0].weight)


class Refusing(Tensor):
    """Its copies fail, some of them."""

    left = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.copy_:
            if Refusing.left == 0:
                raise MemoryError("no more")
            Refusing.left -= 1
        return super().__torch_function__(func, types, args, kwargs or {})


class TestAtomic:
    def refusing(self) -> nn.Sequential:
        module = net(seed=1)
        for i in (0, 5):
            weight = module[i].weight.data.as_subclass(Refusing)
            module[i].weight = nn.Parameter(weight)
            assert isinstance(module[i].weight, Refusing)
        return module

    @pytest.mark.parametrize("copies", [0, 1])
    def test_copy_that_fails_half_way(self, copies: int) -> None:
        module = self.refusing()
        before = bits(net(seed=1))
        Refusing.left = copies
        with pytest.raises(MemoryError, match="no more"):
            transfer_weights(module, net())
        assert_same({k: v.as_subclass(Tensor) for k, v in module.state_dict().items()}, before)

    def test_subclass_that_does_not(self) -> None:
        module = self.refusing()
        Refusing.left = 2
        transfer_weights(module, net())
        assert_same({k: v.as_subclass(Tensor) for k, v in module.state_dict().items()}, bits(net()))

    @pytest.mark.parametrize("copies", range(6))
    def test_mode_that_fails_half_way(self, copies: int) -> None:
        from torch.utils._python_dispatch import TorchDispatchMode

        class Failing(TorchDispatchMode):
            left = copies

            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if func is torch.ops.aten.copy_.default:
                    if self.left == 0:
                        raise KeyboardInterrupt
                    self.left -= 1
                return func(*args, **(kwargs or {}))

        module = net(seed=1)
        before = bits(module)
        with Failing(), pytest.raises(KeyboardInterrupt):
            transfer_weights(module, net())
        assert_same(bits(module), before)

    def test_interrupt_after_the_last_copy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = torch._foreach_copy_

        def interrupted(*args: Any) -> None:
            real(*args)
            raise KeyboardInterrupt

        monkeypatch.setattr(torch, "_foreach_copy_", interrupted)
        module = self.refusing()
        Refusing.left = 2
        with pytest.raises(KeyboardInterrupt):
            transfer_weights(module, net())
        assert_same({k: v.as_subclass(Tensor) for k, v in module.state_dict().items()}, bits(net()))

    def test_chunk_that_cannot_be_read(self) -> None:
        from lightning_autoarch.transfer.read.state_dicts import LazyStateDict

        source, module = net(), net(seed=1)
        before = bits(module)

        def read(name: str) -> Tensor:
            if name.startswith("5"):
                raise CheckpointError("broken")
            return source.state_dict()[name]

        with pytest.raises(CheckpointError, match="broken"):
            transfer_weights(module, LazyStateDict({k: v.to("meta") for k, v in source.state_dict().items()}, read))
        assert_same(bits(module), before)

    def test_source_that_is_not_what_it_says(self) -> None:
        from lightning_autoarch.transfer.read.state_dicts import LazyStateDict

        module = nn.Linear(2, 2)
        before = bits(module)
        for wrong in (torch.ones(1), torch.ones(2, 2, device="meta")):
            state = LazyStateDict({"weight": torch.ones(2, 2, device="meta")}, lambda name, wrong=wrong: wrong)
            with pytest.raises(TransferError, match=r"`weight` of shape \(2, 2\), as the source declares"):
                transfer_weights(module, state)
        assert_same(bits(module), before)

    def test_version_counters_tell_autograd(self) -> None:
        module = nn.Linear(2, 2)
        out = (module(torch.ones(1, 2)) ** 2).sum()
        transfer_weights(module, copy.deepcopy(module))
        x = torch.ones(1, 2, requires_grad=True)
        y = module(x) ** 2
        transfer_weights(module, nn.Linear(2, 2))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
        del out
