"""Which tensor of the source is which tensor of the module, by name.

"module.model.backbone.0.weight"        in the source
        rules:     each `(pattern, replacement)` in turn, on the name or on what is left of it without wrappers
        wrappers:  `_orig_mod.` and the like are ignored on both sides, at any depth
        prefix:    a leading path is replaced by another one, if it is unambiguous which
"net.encoder.0.weight"                  in the module
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from lightning_autoarch.core.errors import TransferError, did_you_mean, shown
from lightning_autoarch.core.patterns import Pattern, Renaming, make_renaming, plain_name
from lightning_autoarch.transfer.read.state_dicts import Shape

Rule: TypeAlias = tuple[Pattern, str]  # a pattern and its replacement
Prefix: TypeAlias = tuple[str, str]  # leading path in the source, and its replacement in the module

OUTER = ("module.", "model.")
WITHIN = re.compile(r"base_layer$|parametrizations$|lora_")  # parts of a layer, which are no path to another one
DEPTH = 3  # segments of a prefix, at most
MANY = 16  # a name that fits more places says nothing about prefixes
TRIED = 8  # prefixes, the most frequent ones


@dataclass(frozen=True)
class NameMatch:
    """Which names belong together.

    Attributes:
        pairs: Name in the module -> name in the source.
        by_rule: Names in the module that were found by a rule.
        prefix: The leading path in the source, and its replacement in the module.
        renamed: Name in the source -> its name after the rules.
        places: Name that the module would use -> name in the source, of every tensor of the source.
    """

    pairs: dict[str, str]
    by_rule: frozenset[str]
    prefix: Prefix
    renamed: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)


def match_names(
    sources: Mapping[str, Shape],
    targets: Mapping[str, Shape],
    rules: Sequence[Rule] = (),
    aliases: Callable[[str], str] = lambda name: name,
) -> NameMatch:
    """Pair names. Shapes are only used to choose among several prefixes.

    Args:
        sources: Names and shapes of the source.
        targets: Names and shapes of the module.
        rules: As for `transfer_weights`.
        aliases: The name of the tensor that another one is a part of, such as `conv.weight` for `conv.weight_g`. The
            prefix is found from these names too.

    Raises:
        TransferError: A bad or unused rule, or two names of the source that become one.
    """
    renamed, ruled = _renamed(list(sources), rules)
    keys = {key: name for name, key in renamed.items()}
    places = {plain_name(name): name for name in targets}
    shapes = {key: sources[name] for key, name in keys.items()}
    wanted = {place: targets[name] for place, name in places.items()}
    prefix = _best_prefix(_with_aliases(shapes, aliases), _with_aliases(wanted, aliases))
    pairs = {places[place]: keys[key] for place, key in _paired(shapes, wanted, prefix).items()}
    by_rule = frozenset(name for name, source in pairs.items() if source in ruled)
    moved = {_moved(key, wanted, prefix): name for key, name in keys.items()}
    return NameMatch(pairs, by_rule, prefix, {name: renamed[name] for name in ruled}, moved)


def without_outer(name: str) -> Iterator[str]:
    """The name, and what is left of it as wrappers are removed one by one."""
    name = plain_name(name)
    yield name
    while name.startswith(OUTER):
        name = name.partition(".")[2]
        yield name


def suggestion(name: str, shape: Shape, others: Mapping[str, Shape]) -> str:
    """`" Did you mean ..."` with a name that is left over on the other side, preferably of the same shape."""
    alike = [other for other, its in others.items() if its == shape]
    return did_you_mean(name, alike) or did_you_mean(name, others)


def checked_rules(rules: Sequence[Rule]) -> list[Renaming]:
    """The rules, checked.

    Raises:
        TransferError: Something else, or an invalid regular expression.
    """
    given: object = rules
    expected = 'Expected `rules` as a list of pairs such as ("backbone", "encoder")'
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise TransferError(f"{expected}, got {rules!r:.80}.")
    found = []
    for rule in given:
        if not isinstance(rule, tuple | list) or len(rule) != 2:
            raise TransferError(f"{expected}, got {rule!r:.80}.")
        pattern, replacement = rule
        found.append(make_renaming(pattern, replacement, "rules", TransferError))
    return found


def _renamed(names: Sequence[str], rules: Sequence[Rule]) -> tuple[dict[str, str], set[str]]:
    renamings = checked_rules(rules)
    used = [False] * len(renamings)
    renamed: dict[str, str] = {}
    ruled: set[str] = set()
    for name in names:
        key = plain_name(name)
        for i, renaming in enumerate(renamings):
            new = next((new for form in without_outer(key) if (new := _applied(renaming, form)) is not None), None)
            if new is not None:
                key, used[i] = new, True
                ruled.add(name)
        renamed[name] = key
    if not all(used):
        i = used.index(False)
        near = renamings[i].pattern.near(names)
        raise TransferError(
            f"Expected each rule to match a name of the source, got {rules[i]!r}, which matches none of "
            f"{_few(names)}.{near}"
        )
    _check_collisions(renamed)
    return renamed, ruled


def _applied(renaming: Renaming, name: str) -> str | None:
    try:
        return renaming.apply(name)
    except (re.error, IndexError) as error:
        raise TransferError(
            f"Expected a replacement for `{renaming.pattern}`, got {renaming.replacement!r}: {error}."
        ) from error


def _check_collisions(renamed: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for name, key in renamed.items():
        if key in seen:
            raise TransferError(
                f"Expected each tensor of the source to keep a name of its own, got `{shown(key)}` for both "
                f"`{shown(seen[key])}` and `{shown(name)}`; use narrower rules."
            )
        seen[key] = name


def _few(names: Sequence[str]) -> str:
    return ", ".join(f"`{shown(name)}`" for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _splits(name: str) -> Iterator[Prefix]:
    parts = name.split(".")
    for depth in range(min(DEPTH, len(parts) - 1) + 1):
        yield "".join(f"{part}." for part in parts[:depth]), ".".join(parts[depth:])


def _best_prefix(sources: Mapping[str, Shape], targets: Mapping[str, Shape]) -> Prefix:
    """The pair of prefixes with which the most names fit; `("", "")` if that is ambiguous."""
    same = ("", "")
    best, most = same, _fitting(sources, targets, _paired(sources, targets, same))
    ambiguous = False
    for prefix in _candidates(sources, targets):
        pairs = _paired(sources, targets, prefix)
        fitting = _fitting(sources, targets, pairs)
        if (fitting[1] or _is_usual(prefix)) and fitting > most:
            best, most, ambiguous = prefix, fitting, False
        elif fitting == most and best != same and pairs != _paired(sources, targets, best):
            ambiguous = True
    return same if ambiguous else best


def _fitting(sources: Mapping[str, Shape], targets: Mapping[str, Shape], pairs: Mapping[str, str]) -> tuple[int, int]:
    """The number of names that fit, those of equal shape counted twice; and the number of those."""
    equal = sum(targets[place] == sources[key] for place, key in pairs.items())
    return len(pairs) + equal, equal


def _candidates(sources: Mapping[str, Shape], targets: Mapping[str, Shape]) -> list[Prefix]:
    places: dict[str, list[str]] = defaultdict(list)
    for place in targets:
        for prefix, rest in _splits(place):
            places[rest].append(prefix)
    votes: Counter[Prefix] = Counter()
    for key in sources:
        for prefix, rest in _splits(key):
            found = places.get(rest, ())
            if len(found) <= MANY:  # of two prefixes with the same end, the shorter pair is enough
                votes.update((prefix, other) for other in found if _end(prefix) != _end(other) or not prefix)
    usable = [prefix for prefix, _ in votes.most_common() if _is_wrapping(prefix, sources, targets)]
    return usable[:TRIED]


def _is_wrapping(prefix: Prefix, sources: Collection[str], targets: Collection[str]) -> bool:
    """Whether it removes a prefix on one side, or exchanges two of which one starts every name.

    Modules of different names (`fc` and `head`) may have different contents, so exchanging them takes a rule.
    """
    old, new = prefix
    if any(WITHIN.match(part) for side in prefix for part in side.split(".")):
        return False
    if not (old and new):
        return bool(old or new)
    return all(name.startswith(old) for name in sources) or all(name.startswith(new) for name in targets)


def _is_usual(prefix: Prefix) -> bool:
    """Whether both sides consist of usual wrapper names, which are accepted without a tensor of equal shape."""
    return all(f"{part}." in OUTER for side in prefix for part in side.split(".") if part)


def _end(prefix: str) -> str:
    return prefix.rstrip(".").rpartition(".")[2]


def _with_aliases(shapes: Mapping[str, Shape], aliases: Callable[[str], str]) -> dict[str, Shape]:
    """The names, and their aliases, whose shapes are unknown."""
    return {**dict.fromkeys(map(aliases, shapes), (0,)), **shapes}


def _moved(key: str, targets: Collection[str], prefix: Prefix) -> str:
    """The name that the module would use for a name of the source."""
    old, new = prefix
    moved = new + key.removeprefix(old) if key.startswith(old) else key
    return key if key in targets and moved not in targets else moved


def _paired(sources: Mapping[str, Shape], targets: Mapping[str, Shape], prefix: Prefix) -> dict[str, str]:
    """Place -> key. A name outside of the prefix stands for itself, also if it exists with the other prefix too."""
    old, new = prefix
    moved = {new + key.removeprefix(old): key for key in sources if key.startswith(old)}
    pairs = {place: moved[place] for place in targets if place in moved}
    taken = set(pairs.values())
    pairs.update({place: place for place in targets if place not in pairs and place in sources and place not in taken})
    return pairs
