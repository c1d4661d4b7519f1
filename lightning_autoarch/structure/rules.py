"""All rules: the name of an ATen operation without its overload -> the rule that follows channels through it."""

from __future__ import annotations

import torch

from lightning_autoarch.structure.flow import Rule, unknown
from lightning_autoarch.structure.rules_mixing import MIXING, pointwise
from lightning_autoarch.structure.rules_products import PRODUCTS
from lightning_autoarch.structure.rules_views import MOVES, VIEWS

RULES: dict[str, Rule] = {**VIEWS, **PRODUCTS, **MIXING}


def rule_of(op: torch._ops.OpOverload) -> Rule:
    """The rule of an operation; torch tags those that go element by element."""
    namespace, _, name = op._schema.name.partition("::")
    if namespace != "aten":
        return unknown
    if name in RULES:
        return RULES[name]
    return pointwise if torch.Tag.pointwise in op.tags else unknown


def keeps_source(op: torch._ops.OpOverload) -> bool:
    """Whether the output is still the parameter that went in, seen in another way."""
    return op._schema.name.removeprefix("aten::") in MOVES
