"""Arguments that a LightningCLI links: `parser.link_arguments("data.batch_size", "model.batch_size")`.

The parser computes the target from its sources once, for the config as given. A candidate changes sources, so its
targets are computed again, by the same function. Otherwise a trial would train another module than `fit` builds from
the config that the search writes.

    applied on parsing          the sources are values of the config, or of the candidate where it has them
    applied on instantiation    the source is the datamodule, or an attribute of it, made with the candidate's arguments
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningDataModule

from lightning_autoarch.core.errors import SearchError, SpaceError
from lightning_autoarch.core.prefixes import prefix_of
from lightning_autoarch.search.space import Architecture
from lightning_autoarch.training.arguments import Constructor
from lightning_autoarch.training.data import split_architecture
from lightning_autoarch.training.nested import fields_of, keys_of, replaced
from lightning_autoarch.training.trainer_settings import PREFIX as TRAINER
from lightning_autoarch.training.trainer_settings import SEARCHABLE


@dataclass(frozen=True)
class Link:
    """One link between keys of a config.

    Attributes:
        sources: keys whose values it reads.
        target: the key that it sets.
        compute: computes the target's value from those of the sources; None copies that of the only source.
        late: whether it is applied on instantiation.
    """

    sources: tuple[str, ...]
    target: str
    compute: Callable[..., Any] | None = None
    late: bool = False

    def value(self, sources: Iterable[Any]) -> Any:
        """The value of the target."""
        values = list(sources)
        return values[0] if self.compute is None else self.compute(*values)


@dataclass(frozen=True)
class Links:
    """The links of a parser, and the config that it has read.

    >>> links = Links((Link(("data.batch_size",), "model.init_args.batch_size"),), {"data": {"batch_size": 16}})
    >>> links.completed({"data.batch_size": 8})
    {'data.batch_size': 8, 'batch_size': 8}
    """

    links: tuple[Link, ...] = ()
    config: Any = None

    @classmethod
    def of(cls, parser: Any, config: Any) -> Links:
        """The links of a jsonargparse parser."""
        group = getattr(parser, "_links_group", None)
        actions = [] if group is None else group._group_actions
        links = [
            Link(tuple(key for key, _ in a.source), a.target[0], a.compute_fn, a.apply_on == "instantiate")
            for a in actions
        ]
        return cls(tuple(links), config)

    def check(self, names: Iterable[str]) -> None:
        """Check before the first trial that the names of a space can be varied.

        Raises:
            SpaceError: a name is the target of a link.
            SearchError: a name is the source of a link whose target trials cannot set.
        """
        searched = list(names)
        for link in self.links:
            target = name_of(link.target)
            for name in searched:
                if target is not None and _overlap(name, target):
                    sources = " and ".join(f"`{name_of(source) or source}`" for source in link.sources)
                    raise SpaceError(
                        f"`{name}` of the space is set by the command line's link from {sources}: search that instead."
                    )
            source = next((name for name in searched if self._depends(link, [name])), None)
            if source is not None and (target is None or (link.late and not _is_of_data(link))):
                raise SearchError(
                    f"`{source}` of the space is linked to `{link.target}` by the command line, which the trials of a "
                    "search cannot follow. Leave it out of the space, or make it an argument of the model."
                )

    def completed(self, architecture: Architecture, datamodule: LightningDataModule | None = None) -> Architecture:
        """An architecture with the targets that depend on it."""
        found = dict(architecture)
        if not self.links:
            return found
        changed = self._changed_config(architecture)
        for link in self.links:
            target = name_of(link.target)
            if not link.late and target is not None and self._depends(link, architecture):
                found[target] = link.value(_at(changed, source) for source in link.sources)
        late = [link for link in self.links if link.late and self._depends(link, found)]
        if late and datamodule is not None:
            made = Constructor.of(datamodule).make(split_architecture(found)[1])
            for link in late:
                target = name_of(link.target)
                if target is not None:
                    found[target] = link.value(_attribute(made, source) for source in link.sources)
        return found

    def _depends(self, link: Link, names: Iterable[str]) -> bool:
        """Whether a link's target changes with any of these names; attributes of an object may with all of its."""
        sources = [name_of(source) or source for source in link.sources]
        if not link.late:
            return any(_overlap(name, source) for name in names for source in sources)
        if _is_of_data(link):
            return any(name.startswith("data.") for name in names)
        return any(prefix_of(name) is None for name in names)

    def _changed_config(self, architecture: Architecture) -> Any:
        config = copy.deepcopy(self.config)
        for name, value in architecture.items():
            section, _, rest = name.partition(".") if name.startswith(("data.", TRAINER)) else ("model", "", name)
            given = (fields_of(config) or {}).get(section)
            by_class = "class_path" in (fields_of(given) or {})
            keys = keys_of(f"{section}.init_args.{rest}" if by_class else f"{section}.{rest}")
            if _leads_somewhere(config, keys):
                config = replaced(config, keys, value)
        return config


def name_of(key: str) -> str | None:
    """The name in a space of a key of a config; None for a key that a space cannot vary.

    >>> name_of("model.init_args.width"), name_of("data.batch_size"), name_of("optimizer.lr")
    ('width', 'data.batch_size', None)
    """
    section, _, rest = key.partition(".")
    rest = rest.removeprefix("init_args.")
    if section == "model":
        return rest
    if section == "data":
        return f"data.{rest}".rstrip(".")
    return key if section == "trainer" and rest in SEARCHABLE else None


def _is_of_data(link: Link) -> bool:
    return all(source.partition(".")[0] == "data" for source in link.sources)


def _overlap(name: str, other: str) -> bool:
    """Whether one is the other or inside of it. Everything in the model is inside of the empty name."""
    if other == "":
        return prefix_of(name) is None
    return name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.")


def _at(config: Any, key: str) -> Any:
    for part in keys_of(key):
        config = (fields_of(config) or {}).get(part)
    return config


def _leads_somewhere(config: Any, keys: tuple[str, ...]) -> bool:
    for key in keys[:-1]:
        config = (fields_of(config) or {}).get(key)
    return fields_of(config) is not None


def _attribute(made: Mapping[str, Any] | Any, key: str) -> Any:
    """An object, or an attribute of it, by the key of a config."""
    for part in keys_of(key)[1:]:
        made = getattr(made, part)
    return made
