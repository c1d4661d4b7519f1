"""One language of patterns for parameters and layers: what pruning, transfer, spaces and the command line understand.

    "encoder.*.weight"          a glob over dotted names, where `*` crosses dots (`fnmatch`)
    "encoder"                   a module: what lies in it
    re.compile(r"\\.\\d+\\.fc1\\b") a regular expression, found anywhere in a name unless `^` and `$` anchor it
    "re:\\\\.\\\\d+\\\\.fc1\\\\b"       the same in YAML and other files that hold only text

Names are those that a user wrote. What wrappers put into them, `_orig_mod` of `torch.compile` for example, is left out
(`plain_name`), and a weight that a parametrisation or a weight norm computes also answers to the name that its layer
uses (`layer_name`). A tied parameter has several names, and any of them may match.

`ModuleNames` finds what a pattern stands for in a module, `NamePattern` matches a single name, and `Renaming` rewrites
names by a pattern and its replacement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from typing import TypeAlias, TypeVar

from torch import nn
from torch.nn import Parameter

from lightning_autoarch.core.errors import AutoArchError, did_you_mean, shown

Pattern: TypeAlias = str | re.Pattern[str]
Patterns: TypeAlias = Pattern | Sequence[Pattern]
Inside: TypeAlias = Callable[[str, nn.Module], Iterable[str]]  # (path, module) -> first names of parameters

K = TypeVar("K", bound=Pattern)
V = TypeVar("V")

PREFIX = "re:"  # of a regular expression as text
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?:\.|$)")
COMPUTED = re.compile(r"parametrizations\.(\w+)\.original\d*$|(?<=weight)_(?:v|orig)$")
LOOKS_REGULAR = re.compile(r"[\\^$(|]|\.[*+]")


def plain_name(name: str) -> str:
    """A name without what wrappers put into it.

    >>> plain_name("net._orig_mod.0.weight"), plain_name("net._orig_mod")
    ('net.0.weight', 'net')
    """
    return WRAPPERS.sub("", name).rstrip(".")


def layer_name(name: str) -> str:
    """The name that a layer uses for a weight which it computes from this parameter; any other name as it is.

    >>> layer_name("0.parametrizations.weight.original1"), layer_name("0.weight_v"), layer_name("0.bias")
    ('0.weight', '0.weight', '0.bias')
    """
    return COMPUTED.sub(r"\1", name)


@dataclass(frozen=True)
class NamePattern:
    """One pattern, as `compile_patterns` makes it.

    >>> encoder = NamePattern("encoder.*")
    >>> encoder.matches("encoder.0"), encoder.covers("encoder.0.weight"), encoder.covers("encoder2.weight")
    (True, True, False)
    """

    given: Pattern

    def matches(self, name: str) -> bool:
        """Whether it names exactly this: a parameter or a module."""
        return fnmatchcase(name, self.given) if isinstance(self.given, str) else bool(self.given.search(name))

    def covers(self, name: str) -> bool:
        """Whether it names this parameter, the weight that is computed from it, or a module around it."""
        parts = name.split(".")
        around = (".".join(parts[:i]) for i in range(1, len(parts) + 1))
        return self.matches(layer_name(name)) or any(map(self.matches, around))

    def near(self, names: Iterable[str]) -> str:
        """The end of an error for a pattern that matches nothing: a name that is near, or how to write a regex."""
        if isinstance(self.given, str) and LOOKS_REGULAR.search(self.given):
            return f" It is a glob: write a regular expression as `re.compile(...)`, or as `{PREFIX}...` in a file."
        return did_you_mean(str(self), names)

    def __str__(self) -> str:
        return self.given if isinstance(self.given, str) else PREFIX + self.given.pattern


def compile_patterns(given: Patterns, argument: str, error: type[AutoArchError]) -> list[NamePattern]:
    """The patterns of an argument, one or several.

    Raises:
        AutoArchError: of the class `error`: something else, an empty pattern or a broken regular expression.

    >>> [str(pattern) for pattern in compile_patterns(["encoder", "re:fc[12]$"], "freeze", AutoArchError)]
    ['encoder', 're:fc[12]$']
    """
    several: object = given  # of any type, whatever the annotation says
    if isinstance(several, str | Mapping) or not isinstance(several, Iterable):
        several = [given]
    return [_compiled(pattern, argument, error) for pattern in several]


def _compiled(pattern: object, argument: str, error: type[AutoArchError]) -> NamePattern:
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        return NamePattern(pattern)
    if not isinstance(pattern, str) or not pattern:
        raise error(f"Expected `{argument}` to be patterns of names, globs or `re.compile(...)`, got {pattern!r:.80}.")
    if not pattern.startswith(PREFIX):
        return NamePattern(pattern)
    try:
        return NamePattern(re.compile(pattern.removeprefix(PREFIX)))
    except re.error as problem:
        raise error(f"Expected a regular expression in `{argument}`, got {pattern!r:.80}: {problem}.") from problem


def match_values(
    values: Mapping[K, V],  # by pattern
    names: Sequence[str],
    argument: str,
    error: type[AutoArchError],
) -> dict[str, V]:  # name -> value, of those that a pattern covers
    """A value for each name: that of the first pattern that names it or a module around it.

    Raises:
        AutoArchError: of the class `error`: a pattern matches no name.

    >>> match_values({"0": 0.5, "*": 0.9}, ["0.weight", "2.weight"], "scope", AutoArchError)
    {'0.weight': 0.5, '2.weight': 0.9}
    """
    found: dict[str, V] = {}
    for pattern, value in zip(compile_patterns(list(values), argument, error), values.values(), strict=True):
        matching = [name for name in names if pattern.covers(name)]
        if not matching:
            raise error(f"The pattern `{pattern}` of `{argument}` matches none of the targets.{pattern.near(names)}")
        for name in matching:
            found.setdefault(name, value)
    return {name: found[name] for name in names if name in found}


class ModuleNames:
    """Every name of every parameter and module, and which parameters a pattern stands for.

    Attributes:
        parameters: first name -> parameter, each once, in the order of registration.
        first: any name of a parameter -> its first name.
        raw: first name -> all names of the parameter as the module's state_dict has them.
        modules: path -> module, without the root.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters: dict[str, Parameter] = {}
        self.first: dict[str, str] = {}
        self.raw: dict[str, list[str]] = {}
        self.modules: dict[str, nn.Module] = {}
        known: dict[int, str] = {}
        for raw, child in module.named_modules(remove_duplicate=False):
            if path := plain_name(raw):
                self.modules[path] = child
            for leaf, parameter in child.named_parameters(recurse=False, remove_duplicate=False):
                name = joined(path, leaf)
                first = known.setdefault(id(parameter), name)
                self.add(name, first, joined(raw, leaf))
                self.parameters.setdefault(first, parameter)

    def add(self, name: str, first: str, raw: str | None = None) -> None:
        """Let a pattern find `first` under another name; `raw` is what the state_dict calls it, if it does."""
        self.first.setdefault(name, first)
        if raw is not None:
            self.raw.setdefault(first, []).append(raw)

    def matching(self, patterns: Iterable[NamePattern], argument: str, error: type[AutoArchError]) -> set[str]:
        """First names of what the patterns stand for.

        Raises:
            AutoArchError: of the class `error`: a pattern matches nothing.
        """
        found: set[str] = set()
        for pattern in patterns:
            new = self.find(pattern)
            if not new:
                near = pattern.near([*self.modules, *self.first])
                raise error(f"The pattern `{pattern}` of `{argument}` matches no parameter of the module.{near}")
            found |= new
        return found

    def find(self, pattern: NamePattern, inside: Inside | None = None) -> set[str]:
        """First names of what one pattern stands for, maybe none.

        Args:
            pattern: of parameters or of modules.
            inside: what a module stands for whose path matches; by default, every name in it.
        """
        found = {first for name, first in self.first.items() if pattern.matches(name)}
        for path, module in self.modules.items():
            if pattern.matches(path):
                found.update(self._inside(path) if inside is None else inside(path, module))
        return found

    def _inside(self, path: str) -> Iterator[str]:
        return (first for name, first in self.first.items() if name.startswith(f"{path}."))


@dataclass(frozen=True)
class Renaming:
    """A pattern, and what takes the place of the part of a name that it matches.

    A glob matches a name, or the path of a module around it; what follows stays. The stars of the replacement stand
    for those of the pattern, in turn, and an empty replacement takes the path off. A regular expression is replaced
    wherever it is found, and its replacement is one of `re.sub`.

    >>> make_renaming("backbone", "encoder", "rules", AutoArchError).apply("backbone.0.weight")
    'encoder.0.weight'
    >>> make_renaming("blocks.*.norm", "layers.*.ln", "rules", AutoArchError).apply("blocks.3.norm.bias")
    'layers.3.ln.bias'
    >>> make_renaming(re.compile(r"^h\\.(\\d+)"), r"layer.\\1", "rules", AutoArchError).apply("h.7.weight")
    'layer.7.weight'
    """

    pattern: NamePattern
    expression: re.Pattern[str]
    replacement: str

    def apply(self, name: str) -> str | None:  # None where the pattern does not match
        """The name as it becomes.

        Raises:
            re.error, IndexError: a replacement of a regular expression refers to a group that there is not.
        """
        found = self.expression.search(name)
        if found is None:
            return None
        if not isinstance(self.pattern.given, str):
            return self.expression.sub(self.replacement, name)
        parts = self.replacement.split("*")
        stars = [*found.groups(), *[""] * len(parts)]
        new = parts[0] + "".join(star + part for star, part in zip(stars, parts[1:], strict=False))
        return (new + name[found.end() :]).lstrip(".")


def make_renaming(pattern: object, replacement: object, argument: str, error: type[AutoArchError]) -> Renaming:
    """A pair of an argument, checked.

    Raises:
        AutoArchError: of the class `error`: not a pattern and a string, or more stars in the replacement.
    """
    if not isinstance(replacement, str):
        raise error(f"Expected a string as replacement in `{argument}`, got {replacement!r:.80}.")
    made = _compiled(pattern, argument, error)
    if not isinstance(made.given, str):
        return Renaming(made, made.given, replacement)
    if replacement.count("*") > made.given.count("*"):
        raise error(
            f"Expected at most as many `*` in the replacement as in the pattern of `{argument}`, got "
            f"{shown(replacement)!r} for {shown(made.given)!r}."
        )
    return Renaming(made, re.compile(_with_groups(made.given)), replacement)


def _with_groups(glob: str) -> str:
    """A glob as a regular expression from the start of a name to its end or a dot, with a group for each star."""
    return "^" + "(.*?)".join(map(_translated, glob.split("*"))) + r"(?=\.|$)"


def _translated(part: str) -> str:
    """One part of a glob without stars; `translate` wraps it into `(?s:...)\\Z`."""
    return translate(part).replace(r"\Z", "").replace(r"\z", "")


def joined(path: str, leaf: str) -> str:
    """Of two parts of a dotted name, one of which may be empty, the whole."""
    return f"{path}.{leaf}" if path and leaf else path or leaf
