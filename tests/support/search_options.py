"""Options of `ArchitectureSearch`: the defaults of a test module, and what a test adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merged(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Both; options of the groups `trial` and `study` are added to the defaults of their group."""
    both = [name for name in ("trial", "study") if name in defaults and name in options]
    return {**defaults, **options, **{name: {**defaults[name], **options[name]} for name in both}}
