"""One language of patterns: globs, regular expressions, modules, tied and computed weights, replacements."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_autoarch.core.errors import PruneValueError, TransferError
from lightning_autoarch.core.patterns import (
    ModuleNames,
    NamePattern,
    compile_patterns,
    layer_name,
    make_renaming,
    match_values,
    plain_name,
)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def found(module: nn.Module, patterns: Any) -> set[str]:
    return ModuleNames(module).matching(compile_patterns(patterns, "freeze", TransferError), "freeze", TransferError)


class TestNames:
    @pytest.mark.parametrize(
        ("raw", "plain"),
        [
            ("0.weight", "0.weight"),
            ("_orig_mod.0.weight", "0.weight"),
            ("net._orig_mod", "net"),
            ("a._fsdp_wrapped_module.b._checkpoint_wrapped_module.weight", "a.b.weight"),
            ("my_orig_mod.weight", "my_orig_mod.weight"),
            ("", ""),
        ],
    )
    def test_plain(self, raw: str, plain: str) -> None:
        assert plain_name(raw) == plain

    @pytest.mark.parametrize("name", ["0.parametrizations.weight.original", "0.weight_v", "0.weight_orig"])
    def test_of_the_layer(self, name: str) -> None:
        assert layer_name(name) == "0.weight"
        assert NamePattern("*.weight").covers(name)

    def test_of_a_module(self) -> None:
        names = ModuleNames(Tied())
        assert list(names.parameters) == [
            "embed.weight",
            "body.0.weight",
            "body.0.bias",
            "body.2.weight",
            "body.2.bias",
        ]
        assert names.first["head.weight"] == "embed.weight"
        assert names.raw["embed.weight"] == ["embed.weight", "head.weight"]
        assert list(names.modules) == ["embed", "body", "body.0", "body.1", "body.2", "head"]

    def test_of_a_compiled_module(self) -> None:
        module = nn.Sequential(torch.compile(nn.Linear(2, 2), backend="eager"))
        names = ModuleNames(module)
        assert names.raw == {"0.weight": ["0._orig_mod.weight"], "0.bias": ["0._orig_mod.bias"]}
        assert isinstance(names.modules["0"], nn.Linear)

    def test_a_module_that_is_there_twice_has_two_names(self) -> None:
        layer = nn.Linear(2, 2)
        assert ModuleNames(nn.Sequential(layer, layer)).raw["0.weight"] == ["0.weight", "1.weight"]


class TestMatching:
    @pytest.mark.parametrize(
        ("patterns", "names"),
        [
            ("body.0", {"body.0.weight", "body.0.bias"}),
            ("body.*.weight", {"body.0.weight", "body.2.weight"}),
            (["body.0.bias", "embed"], {"body.0.bias", "embed.weight"}),
            ("head", {"embed.weight"}),
            (re.compile(r"\.bias$"), {"body.0.bias", "body.2.bias"}),
            ("re:^body\\.2$", {"body.2.weight", "body.2.bias"}),
            ("*", {"embed.weight", "body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"}),
        ],
    )
    def test_stands_for(self, patterns: Any, names: set[str]) -> None:
        assert found(Tied(), patterns) == names

    def test_a_name_may_be_added(self) -> None:
        names = ModuleNames(nn.Sequential(weight_norm(nn.Linear(2, 2))))
        names.add("0.weight", "0.parametrizations.weight.original1")
        assert names.find(NamePattern("0.weight")) == {"0.parametrizations.weight.original1"}

    def test_what_a_module_stands_for_may_be_another(self) -> None:
        names = ModuleNames(Tied())
        matrices = names.find(NamePattern("body*"), lambda path, module: {f"{path}.weight"} if path == "body.0" else ())
        assert matrices == {"body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"}
        assert names.find(NamePattern("body"), lambda path, module: {"body.0.weight"}) == {"body.0.weight"}

    @pytest.mark.parametrize(
        ("pattern", "text"),
        [
            ("bodi", "The pattern `bodi` of `freeze` matches no parameter of the module. Did you mean `body`?"),
            ("^body\\.0", "It is a glob: write a regular expression as `re.compile(...)`, or as `re:...` in a file."),
            (re.compile("^bode$"), "The pattern `re:^bode$` of `freeze` matches no parameter"),
        ],
    )
    def test_nothing(self, pattern: Any, text: str) -> None:
        with pytest.raises(TransferError, match=re.escape(text)):
            found(Tied(), pattern)

    @pytest.mark.parametrize("given", [3, None, "", ["a", ""], ["a", 3], b"a", [re.compile(b"a")], {"a": 1}])
    def test_no_patterns(self, given: Any) -> None:
        with pytest.raises(TransferError, match="Expected `freeze` to be patterns of names, globs or "):
            compile_patterns(given, "freeze", TransferError)

    def test_a_broken_expression(self) -> None:
        with pytest.raises(TransferError, match=r"Expected a regular expression in `freeze`, got 're:\('"):
            compile_patterns("re:(", "freeze", TransferError)


class TestValues:
    def test_the_first_pattern_counts(self) -> None:
        names = ["a.weight", "b.weight", "b.bias"]
        assert match_values({"b.bias": 1, "b": 2}, names, "scale", PruneValueError) == {"b.weight": 2, "b.bias": 1}
        assert match_values({re.compile("^a"): 1}, names, "scale", PruneValueError) == {"a.weight": 1}

    def test_one_for_all(self) -> None:
        assert match_values({"*": "x"}, ["a", "b"], "scale", PruneValueError) == {"a": "x", "b": "x"}

    def test_nothing(self) -> None:
        with pytest.raises(PruneValueError, match="`c` of `scale` matches none of the targets"):
            match_values({"c": 1}, ["a.weight"], "scale", PruneValueError)


class TestRenaming:
    @pytest.mark.parametrize(
        ("pattern", "replacement", "name", "new"),
        [
            ("backbone", "encoder", "backbone.0.weight", "encoder.0.weight"),
            ("backbone", "encoder", "backbone2.0.weight", None),
            ("backbone", "encoder", "net.backbone.weight", None),
            ("backbone", "", "backbone.0.weight", "0.weight"),
            ("*", "net.*", "0.weight", "net.0.weight"),
            ("*.gamma", "*.weight", "bn.1.gamma", "bn.1.weight"),
            ("layer?.*", "layers.*", "layer1.weight", "layers.weight"),
            ("blocks.*.norm", "layers.*.ln", "blocks.3.norm.bias", "layers.3.ln.bias"),
            (re.compile(r"^h\.(\d+)"), r"layer.\1", "h.7.weight", "layer.7.weight"),
            ("re:norm", "ln", "norm1.norm.bias", "ln1.ln.bias"),
            ("re:^x", "y", "a.x", None),
        ],
    )
    def test_apply(self, pattern: Any, replacement: str, name: str, new: str | None) -> None:
        assert make_renaming(pattern, replacement, "rules", TransferError).apply(name) == new

    @pytest.mark.parametrize(
        ("pattern", "replacement", "text"),
        [
            ("a", "b.*", "at most as many `*`"),
            ("a", 3, "a string as replacement"),
            (3, "a", "to be patterns"),
            ("re:[", "a", "a regular expression in `rules`"),
        ],
    )
    def test_what_is_none(self, pattern: Any, replacement: Any, text: str) -> None:
        with pytest.raises(TransferError, match=re.escape(text)):
            make_renaming(pattern, replacement, "rules", TransferError)
