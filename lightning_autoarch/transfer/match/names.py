"""Which tensor of the source is which of the module, by name.

"module.model.backbone.0.weight"        in the source
        rules:     each `(pattern, replacement)` in turn, on the name or on what is left without wrappers
        wrappers:  `_orig_mod.` and the like are no part of a name, on either side, at any depth
        prefix:    a leading path is taken off on either side, if it is clear which
"net.encoder.0.weight"                  in the module
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from lightning_autoarch.core.errors import TransferError, did_you_mean, shown

Rule: TypeAlias = tuple[str, str]
Shape: TypeAlias = tuple[int, ...]

INNER = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
OUTER = ("module.", "model.")
WITHIN = re.compile(r"base_layer$|parametrizations$|lora_")  # parts of a layer, which lie on no path to one
DEPTH = 3  # segments of a prefix
MANY = 16  # places that a name fits: it says nothing about prefixes
TRIED = 8  # prefixes, those with the most names


@dataclass(frozen=True)
class NameMatch:
    """Which names belong together."""

    pairs: dict[str, str]  # name in the module -> name in the source
    by_rule: frozenset[str]  # names in the module
    prefix: Rule  # leading path in the source, and what stands for it in the module
    renamed: Mapping[str, str] = field(default_factory=dict)  # name in the source -> what rules have made of it
    places: Mapping[str, str] = field(default_factory=dict)  # every name of the source, as the module would say it


def match_names(
    sources: Mapping[str, Shape],
    targets: Mapping[str, Shape],
    rules: Sequence[Rule] = (),
    aliases: Callable[[str], str] = lambda name: name,
) -> NameMatch:
    """Pair names; shapes only tell which of several prefixes is meant.

    Args:
        sources: names and shapes of the source.
        targets: names and shapes of the module.
        rules: as for `transfer_weights`.
        aliases: what a name stands for where a tensor is spelled in parts, such as `conv.weight` for `conv.weight_g`.
            The prefix is found from these names too.

    Raises:
        TransferError: a bad or unused rule, or two names of the source that become one.
    """
    renamed, ruled = _renamed(list(sources), rules)
    keys = {key: name for name, key in renamed.items()}
    places = {INNER.sub("", name): name for name in targets}
    shapes = {key: sources[name] for key, name in keys.items()}
    wanted = {place: targets[name] for place, name in places.items()}
    prefix = _best_prefix(_with_aliases(shapes, aliases), _with_aliases(wanted, aliases))
    pairs = {places[place]: keys[key] for place, key in _paired(shapes, wanted, prefix).items()}
    by_rule = frozenset(name for name, source in pairs.items() if source in ruled)
    moved = {_moved(key, wanted, prefix): name for key, name in keys.items()}
    return NameMatch(pairs, by_rule, prefix, {name: renamed[name] for name in ruled}, moved)


def compiled(patterns: Sequence[str], name: str) -> list[re.Pattern[str]]:
    """Regular expressions of an argument.

    Raises:
        TransferError: not a list of valid ones.
    """
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TransferError(f"Expected `{name}` as a list of regular expressions, got {patterns!r}.")
    try:
        return [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise TransferError(f"Expected regular expressions in `{name}`, got {error.pattern!r}: {error}.") from error


def without_outer(name: str) -> Iterator[str]:
    """The name, and what is left of it as wrappers are taken off."""
    name = INNER.sub("", name)
    yield name
    while name.startswith(OUTER):
        name = name.partition(".")[2]
        yield name


def suggestion(name: str, shape: Shape, others: Mapping[str, Shape]) -> str:
    """`" Did you mean ..."` for what is left over on the other side, of the same shape if there is one."""
    alike = [other for other, its in others.items() if its == shape]
    return did_you_mean(name, alike) or did_you_mean(name, others)


def _renamed(names: Sequence[str], rules: Sequence[Rule]) -> tuple[dict[str, str], set[str]]:
    patterns = _checked(rules)
    used = [False] * len(rules)
    renamed: dict[str, str] = {}
    ruled: set[str] = set()
    for name in names:
        key = INNER.sub("", name)
        for i, (pattern, (_, replacement)) in enumerate(zip(patterns, rules, strict=True)):
            form = next((form for form in without_outer(key) if pattern.search(form)), None)
            if form is not None:
                key, used[i] = _replaced(pattern, replacement, form), True
                ruled.add(name)
        renamed[name] = key
    if not all(used):
        rule = rules[used.index(False)]
        raise TransferError(
            f"Expected each rule to match a name of the source, {rule!r} matches none of {_few(names)}."
        )
    _check_collisions(renamed)
    return renamed, ruled


def _checked(rules: Sequence[Rule]) -> list[re.Pattern[str]]:
    for rule in rules:
        if not isinstance(rule, tuple | list) or len(rule) != 2 or not all(isinstance(part, str) for part in rule):
            raise TransferError(f'Expected `rules` as [("^backbone\\\\.", "encoder.")], got {rule!r}.')
    return compiled([pattern for pattern, _ in rules], "rules")


def _replaced(pattern: re.Pattern[str], replacement: str, name: str) -> str:
    try:
        return pattern.sub(replacement, name)
    except (re.error, IndexError) as error:
        raise TransferError(f"Expected a replacement for {pattern.pattern!r}, got {replacement!r}: {error}.") from error


def _check_collisions(renamed: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for name, key in renamed.items():
        if key in seen:
            raise TransferError(
                f"Expected each tensor of the source to keep a name of its own, got `{shown(key)}` for both "
                f"`{shown(seen[key])}` and `{shown(name)}`; make the rules narrower."
            )
        seen[key] = name


def _few(names: Sequence[str]) -> str:
    return ", ".join(f"`{shown(name)}`" for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _splits(name: str) -> Iterator[Rule]:
    parts = name.split(".")
    for depth in range(min(DEPTH, len(parts) - 1) + 1):
        yield "".join(f"{part}." for part in parts[:depth]), ".".join(parts[depth:])


def _best_prefix(sources: Mapping[str, Shape], targets: Mapping[str, Shape]) -> Rule:
    """The pair of prefixes with which the most names fit; none where none is better than all others."""
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
    """How many names fit, with those of equal shape twice; and how many of these."""
    equal = sum(targets[place] == sources[key] for place, key in pairs.items())
    return len(pairs) + equal, equal


def _candidates(sources: Mapping[str, Shape], targets: Mapping[str, Shape]) -> list[Rule]:
    places: dict[str, list[str]] = defaultdict(list)
    for place in targets:
        for prefix, rest in _splits(place):
            places[rest].append(prefix)
    votes: Counter[Rule] = Counter()
    for key in sources:
        for prefix, rest in _splits(key):
            found = places.get(rest, ())
            if len(found) <= MANY:  # of two prefixes with one end the shorter pair says more
                votes.update((prefix, other) for other in found if _end(prefix) != _end(other) or not prefix)
    usable = [prefix for prefix, _ in votes.most_common() if _is_wrapping(prefix, sources, targets)]
    return usable[:TRIED]


def _is_wrapping(prefix: Rule, sources: Collection[str], targets: Collection[str]) -> bool:
    """Whether it takes off a prefix on one side, or exchanges two of which one stands before every name.

    Parts with other names (`fc` here, `head` there) may hold other things: that is for a rule to say.
    """
    old, new = prefix
    if any(WITHIN.match(part) for side in prefix for part in side.split(".")):
        return False
    if not (old and new):
        return bool(old or new)
    return all(name.startswith(old) for name in sources) or all(name.startswith(new) for name in targets)


def _is_usual(prefix: Rule) -> bool:
    """Whether both sides are made of wrappers' names, which need no tensor of equal shape to be believed."""
    return all(f"{part}." in OUTER for side in prefix for part in side.split(".") if part)


def _end(prefix: str) -> str:
    return prefix.rstrip(".").rpartition(".")[2]


def _with_aliases(shapes: Mapping[str, Shape], aliases: Callable[[str], str]) -> dict[str, Shape]:
    """Names, and what they stand for, whose shape is unknown."""
    return {**dict.fromkeys(map(aliases, shapes), (0,)), **shapes}


def _moved(key: str, targets: Collection[str], prefix: Rule) -> str:
    """A name of the source as the module would say it."""
    old, new = prefix
    moved = new + key.removeprefix(old) if key.startswith(old) else key
    return key if key in targets and moved not in targets else moved


def _paired(sources: Mapping[str, Shape], targets: Mapping[str, Shape], prefix: Rule) -> dict[str, str]:
    """Place -> key. A name outside of the prefix keeps itself; one that is there under both names keeps its own."""
    old, new = prefix
    moved = {new + key.removeprefix(old): key for key in sources if key.startswith(old)}
    pairs = {place: moved[place] for place in targets if place in moved}
    taken = set(pairs.values())
    pairs.update({place: place for place in targets if place not in pairs and place in sources and place not in taken})
    return pairs
