"""Names: wrappers, prefixes, rules; what is ambiguous is left alone and what is wrong is an error."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from lightning_autoarch.core.errors import TransferError
from lightning_autoarch.transfer.match.name_matching import match_names
from lightning_autoarch.transfer.transfer_weights import transfer_weights


def pairs(sources: list[str], targets: list[str], *rules: tuple[str, str]) -> dict[str, str]:
    """Source -> target; the shape of a tensor is told by the last part of its name."""

    def shapes(names: list[str]) -> dict[str, tuple[int, ...]]:
        return {name: (len(name.split(".")[-1]),) for name in names}

    return {source: target for target, source in match_names(shapes(sources), shapes(targets), rules).pairs.items()}


def under(*prefixes: str) -> list[str]:
    """The names of a small net, under each prefix."""
    return [f"{prefix}{name}" for prefix in prefixes for name in ("conv.weight", "conv.bias", "norm.running_mean")]


WRAPPERS = ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model.", "net.", "backbone."]


class TestPrefixes:
    @pytest.mark.parametrize("prefix", WRAPPERS)
    def test_of_the_source(self, prefix: str) -> None:
        assert pairs(under(prefix), under("")) == dict(zip(under(prefix), under(""), strict=True))

    @pytest.mark.parametrize("prefix", WRAPPERS)
    def test_of_the_module(self, prefix: str) -> None:
        assert pairs(under(""), under(prefix)) == dict(zip(under(""), under(prefix), strict=True))

    def test_of_both(self) -> None:
        assert pairs(under("module.model."), under("net.encoder.")) == dict(
            zip(under("module.model."), under("net.encoder."), strict=True)
        )

    def test_compiled_part_of_a_net(self) -> None:
        assert pairs(["net._orig_mod.a.w", "head.w"], ["net.a.w", "head._orig_mod.w"]) == {
            "net._orig_mod.a.w": "net.a.w",
            "head.w": "head._orig_mod.w",
        }

    def test_names_outside_of_the_prefix_stay(self) -> None:
        found = pairs([*under("backbone."), "head.weight"], [*under(""), "head.weight", "other.bias"])
        assert found == {**dict(zip(under("backbone."), under(""), strict=True)), "head.weight": "head.weight"}

    def test_equal_names_need_none(self) -> None:
        names = [*under("a."), *under("b.")]
        assert pairs(names, names) == dict(zip(names, names, strict=True))
        assert pairs(under("a."), names) == dict(zip(under("a."), under("a."), strict=True))

    def test_student_and_teacher_are_ambiguous(self) -> None:
        assert pairs(under(""), under("student.", "teacher.")) == {}
        assert pairs(under("student.", "teacher."), under("")) == {}

    def test_the_whole_net_is_not_ambiguous(self) -> None:
        targets = [*under("net."), "head.weight", "head.bias"]
        assert set(pairs(under(""), targets).values()) == set(under("net."))

    def test_shapes_decide(self) -> None:
        shapes = {"weight": (3, 2), "bias": (3,)}
        targets = {"a.weight": (5, 2), "a.bias": (5,), "b.weight": (3, 2), "b.bias": (3,)}
        assert match_names(shapes, targets).pairs == {"b.weight": "weight", "b.bias": "bias"}

    def test_wrappers_need_no_equal_shape(self) -> None:
        assert match_names({"module.model.w": (3,)}, {"w": (4,)}).pairs == {"w": "module.model.w"}
        assert match_names({"net.w": (3,)}, {"w": (4,)}).pairs == {}

    def test_prefix_is_told(self) -> None:
        shapes = {"weight": (3, 2)}
        assert match_names({"module.weight": (3, 2)}, shapes).prefix == ("module.", "")
        assert match_names(shapes, {"net.weight": (3, 2)}).prefix == ("", "net.")
        assert match_names(shapes, shapes).prefix == ("", "")

    def test_many_layers_take_no_time_of_note(self) -> None:
        names = [f"layers.{i}.attention.{kind}.weight" for i in range(500) for kind in "qkvo"]
        assert len(pairs([f"model.{name}" for name in names], [f"net.{name}" for name in names])) == 2000


class TestRules:
    def test_replace(self) -> None:
        assert pairs(["backbone.w", "neck.w"], ["encoder.w", "neck.w"], ("backbone", "encoder")) == {
            "backbone.w": "encoder.w",
            "neck.w": "neck.w",
        }

    def test_in_turn_and_with_groups(self) -> None:
        rules = [(re.compile(r"^block(\d+)\."), r"layers.\1."), (r"re:\.fc\.", ".linear.")]
        assert pairs(["block3.fc.w"], ["layers.3.linear.w"], *rules) == {"block3.fc.w": "layers.3.linear.w"}

    def test_stars_are_filled_in(self) -> None:
        rule = ("layers.*.att", "blocks.*.attention")
        assert pairs(["layers.3.att.w"], ["blocks.3.attention.w"], rule) == {"layers.3.att.w": "blocks.3.attention.w"}

    def test_a_path_is_taken_off(self) -> None:
        assert pairs(["net.a.w", "b.w"], ["a.w", "c.w"], ("net", "")) == {"net.a.w": "a.w"}

    def test_a_regular_expression_for_a_glob(self) -> None:
        with pytest.raises(TransferError, match=r"re\.compile"):
            pairs(["backbone.w"], ["encoder.w"], ("^backbone\\.", "encoder."))

    def test_under_wrappers(self) -> None:
        found = pairs(["module._orig_mod.model.backbone.w"], ["encoder.w"], ("backbone", "encoder"))
        assert found == {"module._orig_mod.model.backbone.w": "encoder.w"}

    def test_for_the_wrapper_itself(self) -> None:
        assert pairs(["module.a.w"], ["b.w"], ("module.a", "b")) == {"module.a.w": "b.w"}

    def test_then_the_prefix(self) -> None:
        assert pairs(["old.w", "old.bb"], ["net.new.w", "net.new.bb"], ("old", "new")) == {
            "old.w": "net.new.w",
            "old.bb": "net.new.bb",
        }

    def test_unused(self) -> None:
        with pytest.raises(
            TransferError, match=r"each rule to match .*\('encoder', 'x'\), which matches none of `a.w`"
        ):
            pairs(["a.w"], ["a.w"], ("encoder", "x"))

    def test_collision(self) -> None:
        with pytest.raises(TransferError, match=r"got `c\.w` for both `a\.w` and `b\.w`"):
            pairs(["a.w", "b.w"], ["c.w"], ("[ab]", "c"))

    def test_wrapped_and_not(self) -> None:
        with pytest.raises(TransferError, match="for both"):
            pairs(["_orig_mod.a.w", "a.w"], ["a.w"])

    @pytest.mark.parametrize(
        ("rules", "message"),
        [
            ([("re:(", "x")], "regular expression in `rules`"),
            ([("re:a", r"\9")], "Expected a replacement for `re:a`"),
            ([("a",)], "Expected `rules` as"),
            ([("a", 3)], "a string as replacement in `rules`"),
            ([("a", "*")], "at most as many `\\*` in the replacement"),
            (["ab"], "Expected `rules` as"),
            ("ab", "Expected `rules` as a list"),
            ({"a": "b"}, "Expected `rules` as"),
        ],
    )
    def test_what_is_no_rule(self, rules: object, message: str) -> None:
        module = nn.ModuleDict({"a": nn.Linear(1, 1)})
        with pytest.raises(TransferError, match=message):
            transfer_weights(module, {"a.weight": torch.ones(1, 1)}, rules=rules)  # type: ignore[arg-type]
