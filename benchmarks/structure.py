"""How the package is built: the sizes of its files and functions, what an import brings, what stands twice.

    python benchmarks/structure.py                        # of the checkout that this file lies in
    python benchmarks/structure.py --json structure.json  # the figures, to compare two commits
    python benchmarks/structure.py --list                 # every place that a figure counts

Read from the source, except for the imports, which are counted in an interpreter of their own. Style is not gated; the
figures show where a change of structure pays.

A private touch is an attribute with one leading underscore that Lightning or Optuna defines, and torch's modules,
tensors and optimizers do not; such an attribute or method of a class that is derived from one of theirs; an import of
such a name or module; or a look at a frame of the interpreter where one of the two libraries is imported.

Two runs of six lines are near-identical if they are equal after every name that is assigned in them has been renamed in
the order of its appearance.
"""

from __future__ import annotations

import argparse
import ast
import collections
import graphlib
import importlib.util
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "lightning_autoarch"
RUN = 6  # lines of code that stand twice are one idea that has no place of its own
PARAMETERS = 7
SEAM = "seam"
Places = dict[str, list[str]]


def sources() -> dict[str, Path]:
    """Each module's dotted name below the package, and its file."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """The lines of a body that are code: neither blank, nor a comment, nor the docstring."""
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    if not body:
        return 0
    inside = lines[body[0].lineno - 1 : function.end_lineno]
    return sum(1 for line in inside if line.strip() and not line.lstrip().startswith("#"))


def parameter_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return sum(1 for argument in every if argument.arg not in ("self", "cls"))


def sizes(modules: dict[str, Path]) -> tuple[dict[str, float], Places]:
    file_lengths, bodies, long_lists, long_bodies, long_files = [], [], [], [], []
    for name, path in modules.items():
        lines = path.read_text("utf-8").splitlines()
        file_lengths.append(len(lines))
        if len(lines) > 450:
            long_files.append(f"{name}: {len(lines)}")
        for function in functions(ast.parse("\n".join(lines))):
            length = body_lines(function, lines)
            bodies.append(length)
            if length > 60:
                long_bodies.append(f"{name}.{function.name}: {length}")
            if parameter_count(function) > PARAMETERS:
                long_lists.append(f"{name}.{function.name}: {parameter_count(function)}")
    figures = {
        "modules": len(modules),
        "lines": sum(file_lengths),
        "file length, median": statistics.median(file_lengths),
        "file length, maximum": max(file_lengths),
        "function body, median": statistics.median(bodies),
        "function body, 90th percentile": sorted(bodies)[int(0.9 * len(bodies))],
        "function body, maximum": max(bodies),
        f"functions with over {PARAMETERS} parameters": len(long_lists),
    }
    return figures, {"long files": long_files, "long bodies": long_bodies, "long parameter lists": long_lists}


def imported(name: str, modules: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a module imports, at any depth of its source."""
    package = [PACKAGE, *filter(None, name.split("."))]
    if modules[name].name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(modules[name].read_text("utf-8"))):
        dotted: list[str] = []
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            dotted = [f"{base}.{alias.name}" for alias in node.names]
        for target in dotted:
            head, _, rest = target.partition(".")
            if head == PACKAGE and rest.partition(".")[0] != "_C":
                while rest and rest not in modules:
                    rest = rest.rpartition(".")[0]
                yield rest


def circles(modules: dict[str, Path]) -> list[str]:
    graph = {name: set(imported(name, modules)) - {name} for name in modules}
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def homonyms(modules: dict[str, Path]) -> Places:
    classes, files = collections.defaultdict(list), collections.defaultdict(list)
    for name, path in modules.items():
        if path.name != "__init__.py":
            files[path.stem].append(name)
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(name)
    return {
        "class homonyms": [f"{name}: {', '.join(where)}" for name, where in sorted(classes.items()) if len(where) > 1],
        "file homonyms": [f"{name}: {', '.join(where)}" for name, where in sorted(files.items()) if len(where) > 1],
    }


def statements(path: Path) -> list[tuple[int, str]]:
    """The lines of code that say something: no imports, docstrings, comments, blanks or lone brackets."""
    text = path.read_text("utf-8")
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or isinstance(node, ast.Import | ast.ImportFrom):
            skipped.update(range(node.lineno, node.end_lineno + 1))
    return [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if number not in skipped and re.search(r"\w", line) and not line.lstrip().startswith("#")
    ]


def alike(lines: Iterable[str]) -> str:
    """A run of lines, with the names that it assigns renamed in the order of their appearance."""
    text = "\n".join(lines)
    assigned = dict.fromkeys(re.findall(r"^(?:for )?(\w+)(?: =|: | in )", text, flags=re.MULTILINE))
    for number, name in enumerate(assigned):
        text = re.sub(rf"\b{name}\b", f"name{number}", text)
    return text


def repeated_runs(modules: dict[str, Path]) -> list[str]:
    runs = collections.defaultdict(list)
    for name, path in modules.items():
        lines = statements(path)
        for start in range(len(lines) - RUN + 1):
            window = lines[start : start + RUN]
            runs[alike(text for _, text in window)].append((name, window[0][0]))
    found = []
    last: dict[tuple[str, str], tuple[int, int]] = {}
    for where in runs.values():
        if len(where) < 2:
            continue
        (first, line), (second, other) = where[0], where[1]
        before = last.get((first, second))
        last[first, second] = line, other
        if before is None or line - before[0] > RUN or other - before[1] > RUN:  # else it goes on from the run before
            found.append(f"{first}:{line} and {second}:{other}")
    return found


def private_names(package: str) -> set[str]:
    """The attributes with one leading underscore that a library defines."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return set()
    found: set[str] = set()
    for path in Path(spec.submodule_search_locations[0]).rglob("*.py"):
        found |= own_private_names(ast.parse(path.read_text("utf-8")))
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_private_names(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and is_private(node.name):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_private(node.attr):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and is_private(node.id):
            found.add(node.id)
    return found


def names_of_torch() -> set[str]:
    """The private attributes of torch's modules, tensors and optimizers, which Lightning's share."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    kinds = (torch.nn.Module(), torch.Tensor, torch.optim.SGD([parameter], lr=0.1))
    return {name for kind in kinds for name in dir(kind) if is_private(name)}


def bases_of(names: Iterable[str], everywhere: dict[str, ast.ClassDef]) -> set[str]:
    """The names of classes, and of all that ours among them are derived from."""
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name not in found and name in everywhere:
            ahead += base_names(everywhere[name])
        found.add(name)
    return found


def base_names(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).rpartition(".")[2].partition("[")[0] for base in node.bases]


def classes_of(package: str) -> dict[str, set[str]]:
    """Each public class of a library: the private names that its body, or that of a base of it there, defines."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    trees = [ast.parse(path.read_text("utf-8")) for folder in folders for path in Path(folder).rglob("*.py")]
    nodes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    own = {name: own_private_names(node) for name, node in nodes.items()}
    return {name: set().union(*(own.get(base, set()) for base in bases_of([name], nodes))) for name in nodes}


def private_touches(modules: dict[str, Path]) -> list[str]:
    theirs = (private_names("lightning") | private_names("optuna")) - names_of_torch()
    inherited = {**classes_of("optuna"), **classes_of("lightning")}
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in modules.items()}
    ours = {node.name: node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    found = []
    for name, tree in trees.items():
        if name.partition(".")[0] != SEAM:
            found += [f"{name}:{place}" for place in touches_of(tree, theirs)]
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    of_bases = set().union(*(inherited.get(base, set()) for base in bases_of(base_names(node), ours)))
                    found += [f"{name}:{place}" for place in touches_of_class(node, of_bases - names_of_torch())]
    return found


OWN = ("self", "cls", "super()")
FRAMES = ("_getframe", "f_back", "f_locals", "currentframe")


def touches_of(tree: ast.Module, theirs: set[str]) -> Iterator[str]:
    """Where a module touches private names of the libraries, other than by `self`."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    of_libraries = [node for node in imports if str(node.module).partition(".")[0] in ("lightning", "optuna")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            base = node.value
            is_ours = isinstance(base, ast.Name) and (base.id in ("self", "cls") or base.id in defined)
            is_theirs = is_private(node.attr) and node.attr in theirs and not is_ours
            if is_theirs or (node.attr in FRAMES and of_libraries):
                yield f"{node.lineno} .{node.attr}"
    for node in of_libraries:
        parts = [*str(node.module).split("."), *(alias.name for alias in node.names)]
        yield from (f"{node.lineno} {part}" for part in parts if is_private(part))


def touches_of_class(node: ast.ClassDef, theirs: set[str]) -> Iterator[str]:
    """Where a class uses, or overrides, private names of a class of the libraries that it is derived from."""
    for inside in ast.walk(node):
        if isinstance(inside, ast.FunctionDef) and inside.name in theirs:
            yield f"{inside.lineno} def {inside.name}"
        elif isinstance(inside, ast.Attribute) and inside.attr in theirs and ast.unparse(inside.value) in OWN:
            yield f"{inside.lineno} self.{inside.attr}"


def public_any(modules: dict[str, Path]) -> list[str]:
    """Functions whose name and class have no underscore, and whose signature says Any."""

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from visit(node.body, f"{prefix}.{node.name}")
            elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
                annotations = [a.annotation for a in [*node.args.args, *node.args.kwonlyargs] if a.annotation]
                if any("Any" in ast.unparse(a) for a in [*annotations, *filter(None, [node.returns])]):
                    yield f"{prefix}.{node.name}"

    return [place for name, path in modules.items() for place in visit(ast.parse(path.read_text("utf-8")).body, name)]


def count(modules: dict[str, Path], pattern: str) -> int:
    return sum(len(re.findall(pattern, path.read_text("utf-8"))) for path in modules.values())


def brought(name: str) -> int:
    """The modules of the package that are loaded by `from lightning_autoarch import name`."""
    return int(
        python(f"from {PACKAGE} import {name}\nprint(sum(key.startswith({PACKAGE + '.'!r}) for key in sys.modules))")
    )


def import_seconds(repeats: int) -> float:
    code = f"import time; start = time.process_time(); import {PACKAGE}; print(time.process_time() - start)"
    return statistics.median(float(python(code)) for _ in range(repeats))


def python(code: str) -> str:
    command = [sys.executable, "-P", "-W", "ignore", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Figures of the package's structure.")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--list", action="store_true", help="print every place that a figure counts")
    parser.add_argument("--repeats", type=int, default=5, help="how often the import is timed (default: 5)")
    options = parser.parse_args()

    modules = sources()
    figures, places = sizes(modules)
    places |= {"import circles": circles(modules), **homonyms(modules), "repeated runs": repeated_runs(modules)}
    places |= {"private touches": private_touches(modules), "Any in public signatures": public_any(modules)}
    figures |= {name: len(places[name]) for name in list(places)[3:]}
    figures |= {"Any": count(modules, r"\bAny\b"), "type: ignore": count(modules, r"# type: ignore")}
    for name in ("MagnitudePruning", "TransferLearning", "ArchitectureSearch"):
        figures[f"modules that {name} brings"] = brought(name)
    figures["import, CPU seconds (median)"] = round(import_seconds(options.repeats), 2)

    for name, value in figures.items():
        print(f"{name:45} {value}")
    if options.list:
        for name, where in places.items():
            print(f"\n{name}", *where, sep="\n  ")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
