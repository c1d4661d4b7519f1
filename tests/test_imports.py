"""Who may import whom, read from the source; and what importing the package does not do.

cli, demo, report -> callbacks -> training -> search | prune | transfer -> structure | reading -> core

Inside of callbacks/:  search*, choose -> prune | transfer | joint -> base and the other files that all of them share

`seam` is beside these: it imports only core, Lightning and Optuna, and `search` may import its part for Optuna.
"""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_autoarch

PACKAGE = "lightning_autoarch"
ROOT = Path(lightning_autoarch.__file__).parent

# Each part of the package and the parts that it may import. A part is a folder, or a file beside __init__.py.
BELOW_CALLBACKS = {"execution", "training", "seam", "search", "prune", "transfer", "structure", "reading", "core"}
PARTS = {
    "core": set(),
    "seam": {"core"},
    "structure": {"core"},
    "reading": {"core"},
    "search": {"seam", "core"},  # needs no structure
    "prune": {"structure", "reading", "core"},
    "transfer": {"structure", "reading", "core"},
    "training": {"seam", "search", "prune", "transfer", "structure", "reading", "core"},
    "execution": {"training", "seam", "search", "prune", "transfer", "structure", "reading", "core"},
    "callbacks": BELOW_CALLBACKS,
    "report": {"callbacks"} | BELOW_CALLBACKS,
    "demo": {"callbacks", "report", ""} | BELOW_CALLBACKS,
    "cli": {"callbacks", "report", "demo", ""} | BELOW_CALLBACKS,
    "__main__": {"prune", "core"},
    "": {"callbacks"} | BELOW_CALLBACKS,  # lightning_autoarch/__init__.py
    "_version": set(),
}

# Libraries and the compiled extension, and the only places that may import them, with all that is in a place.
PLACES = {
    "lightning": {"callbacks", "execution", "training", "cli", "demo", "seam.lightning", "seam.lightning_cli"},
    "pytorch_lightning": set(),
    "botorch": {"search.surrogate", "search.acquisition"},
    "gpytorch": {"search.surrogate", "search.acquisition"},
    "linear_operator": {"search.surrogate", "search.acquisition"},
    "optuna": {
        "search",
        "training",
        "execution",
        "callbacks.search",
        "callbacks.search_config",
        "callbacks.search_study",
        "report",
        "seam.optuna",
    },
    "peft": {"callbacks.transfer.lora", "callbacks.transfer.merged"},
    "lightning_autoarch._C": {"prune._ops"},
    "lightning_autoarch.seam.lightning": {"training", "callbacks", "cli", "seam"},
    "lightning_autoarch.seam.lightning_cli": {"cli"},
    "lightning_autoarch.seam.optuna": {"execution", "training", "search", "callbacks", "cli", "report"},
}

STRUCTURE = Path(__file__).parent.parent / "benchmarks" / "structure.py"
HEAVY = ("botorch", "gpytorch", "sklearn", "plotly", "pandas")


def module_name(path: Path) -> str:
    """What a file is called here: "search.space"; a package is its folder, and the root is ""."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in ROOT.rglob("*.py")}


def imported(name: str) -> Iterator[str]:
    """Every dotted name that a module imports, at any depth: "torch", "lightning_autoarch.search.space"."""
    path = SOURCES[name]
    package = [PACKAGE, *filter(None, name.split("."))]
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own(name: str) -> Iterator[str]:
    """The modules of this package that a module imports."""
    for dotted in imported(name):
        head, _, rest = dotted.partition(".")
        if head == PACKAGE:
            while rest and rest not in SOURCES:  # from a module down to what stands in it
                rest = rest.rpartition(".")[0]
            yield "" if dotted == f"{PACKAGE}._C" else rest


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def part(name: str) -> str:
    return name.partition(".")[0]


def test_every_part_has_a_place_in_the_diagram() -> None:
    assert {part(name) for name in SOURCES} <= PARTS.keys()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_imports_point_down(name: str) -> None:
    allowed = PARTS[part(name)] | {part(name), "_version"}
    if name == "prune._ops":
        allowed = allowed | {""}  # `from lightning_autoarch import _C`
    assert {target for target in own(name) if part(target) not in allowed} == set()


SIBLINGS = {"prune", "transfer", "joint"}  # folders in callbacks/ that never import one another
ABOVE = ("choose", "search")  # what names in callbacks/ begin with that may import all of them


def callbacks_allowed(name: str) -> set[str]:
    """What a module of callbacks/ may import of callbacks/, by the first name below it."""
    own_part = name.split(".")[1]
    everything = {other.split(".")[1] for other in SOURCES if other.startswith("callbacks.")}
    if own_part.startswith(ABOVE):
        return everything
    floor = {other for other in everything - SIBLINGS if not other.startswith(ABOVE)}
    return floor | ({own_part} & SIBLINGS)


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if name.startswith("callbacks.")))
def test_imports_inside_of_callbacks_point_down(name: str) -> None:
    targets = {target for target in own(name) if target.startswith("callbacks.")}
    assert {target for target in targets if target.split(".")[1] not in callbacks_allowed(name)} == set()


def test_there_is_no_circle() -> None:
    graph = {name: set(own(name)) - {name} for name in SOURCES}
    graph["prune._ops"].discard("")  # the extension lies in the root, but is not the root
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which shows the circle


@pytest.mark.parametrize("library", sorted(PLACES))
def test_library_is_imported_only_in_its_places(library: str) -> None:
    users = {name for name in SOURCES if any(within(dotted, library) for dotted in imported(name))}
    assert {name for name in users if not any(within(name, place) for place in PLACES[library])} == set()


def test_private_names_of_lightning_and_optuna_are_used_in_the_seam_alone() -> None:
    """As `benchmarks/structure.py` finds them."""
    if not STRUCTURE.is_file():
        pytest.skip("the tests run without the benchmarks")
    spec = importlib.util.spec_from_file_location("structure", STRUCTURE)
    assert spec is not None
    assert spec.loader is not None
    structure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(structure)
    assert structure.private_touches(SOURCES) == []
    study = ast.parse("from optuna import x\nstudy._storage\nself._storage")
    assert list(structure.touches_of(study, {"_storage"})) == ["2 ._storage"]
    trainer = ast.parse("import lightning\nclass Mine(Callback):\n    def f(self): return self._x").body[1]
    assert list(structure.touches_of_class(trainer, {"_x"})) == ["3 self._x"]


def run_python(code: str, tmp_path: Path) -> dict[str, object]:
    """What `code` prints as JSON, in an interpreter of its own."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


EVERYTHING = f"import {PACKAGE}; every = [getattr({PACKAGE}, name) for name in {PACKAGE}.__all__]"


def test_importing_is_light(tmp_path: Path) -> None:
    code = f"""
import json, sys
{EVERYTHING}
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    assert run_python(code, tmp_path) == []


SNAPSHOT = """
import json, logging, os, random, signal, sys, threading, warnings
import lightning, numpy, optuna, torch

def snapshot():
    loggers = [logging.getLogger(), *map(logging.getLogger, sorted(logging.root.manager.loggerDict))]
    set_up = [x for x in loggers if x.handlers or x.level]
    return {
        "logging": {x.name: [x.level, x.propagate, list(map(repr, x.handlers))] for x in set_up},
        "environment": dict(os.environ),
        "random": repr(random.getstate()),
        "numpy random": repr(numpy.random.get_state()),
        "torch random": torch.get_rng_state().tolist(),
        "torch": [
            str(torch.get_default_dtype()),
            str(torch.get_default_device()),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.cuda.is_initialized(),
        ],
        "warnings": list(map(repr, warnings.filters)),
        "signals": [repr(signal.getsignal(s)) for s in signal.valid_signals()],
        "threads": [t.name for t in threading.enumerate()],
        "hooks": [repr(sys.excepthook), repr(sys.meta_path), sys.path],
        "files": sorted(os.listdir()),
    }

before = snapshot()
EVERYTHING
after = snapshot()
print(json.dumps([name for name in before if before[name] != after[name]]))
"""


def test_importing_changes_nothing(tmp_path: Path) -> None:
    assert run_python(SNAPSHOT.replace("EVERYTHING", EVERYTHING), tmp_path) == []


def test_public_names_are_declared_once_for_people_tools_and_python() -> None:
    """What type checkers read, what `__getattr__` finds, and `__all__` are the same names of the same modules."""
    tree = ast.parse(SOURCES[""].read_text("utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    for_checkers = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert for_checkers == lightning_autoarch._MODULE_OF
    assert {*for_checkers, "__version__"} == set(lightning_autoarch.__all__)
    for name, module in for_checkers.items():
        assert getattr(lightning_autoarch, name).__module__ == module, name


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'lightning_autoarch' has no attribute 'ArchitectureSerch'"):
        lightning_autoarch.ArchitectureSerch  # noqa: B018
    assert set(lightning_autoarch.__all__) <= set(dir(lightning_autoarch))
