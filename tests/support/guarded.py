"""Runs a function on hostile inputs in a child process, and says what became of each.

    with Guard() as guard:
        outcome = guard.run(read, path, folder=tmp_path, size=path.stat().st_size)
        assert outcome.kind == "refused" and outcome.problems() == [], outcome

`read` is a plain function at the top level of a module under tests/. It is found again by its file and name in the
child, so it cannot be a lambda or a method, and its arguments are strings, paths, numbers, or lists and dicts of them.
What it returns comes back as `outcome.value` if it is JSON, otherwise as None. Where the module has a function
`warm_up`, it is called once beforehand, to import what is imported late.

`Guard` starts one process that has imported torch and lightning_autoarch. `run` forks it; `run_all` gives many calls to
one fork, which takes a tenth of the time. Each call

    - is ended after 10 seconds of CPU time, or 60 seconds in all where it only waits;
    - cannot map more than 2 GiB beyond what the child began with, and a refused allocation counts as a broken promise;
    - has its peak of resident memory measured: at most 64 MiB + 3 times `size` above what the child began with;
    - has an audit hook, which records files opened outside of `folder` (the interpreter's and the packages' own aside),
      mapped files there, code that is compiled or run and is none of the interpreter's or the packages', processes,
      sockets, changes of files, and imports of the modules in `STRANGE`, which hostile files name. With `writes`,
      files and folders within `folder` may be made and changed.

Where a call ends the child, the calls after it go on in another one. What an earlier call has left in memory counts
against a later one, so a call that seems to take too much is run once more in a child of its own.

Put a hostile name into a pickle from `STRANGE`: modules of the standard library that nothing else imports.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import inspect
import json
import os
import resource
import select
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

STRANGE = frozenset({"antigravity", "this", "turtledemo", "idlelib", "pydoc_data", "stranger"})
CPU_SECONDS = 10
WALL_SECONDS = 60
SLACK = 64 << 20  # bytes of memory that any file may take
TIMES = 3  # its size, beyond
ADDRESS_SPACE = 2 << 30

Kind = Literal["returned", "refused", "raised", "crashed", "timeout"]


@dataclass(frozen=True)
class Outcome:
    """What became of one call.

    Attributes:
        kind: "returned"; "refused" with an AutoArchError; "raised" anything else; "crashed" by a signal; "timeout".
        value: what was returned, where it is JSON.
        error: name of the error's class, or of the signal.
        message: the first 2000 characters of the error's text.
        length: characters of the error's text.
        seconds: of CPU time.
        peak: bytes of resident memory above what the process began with.
        size: bytes of the input, as given.
        events: what the audit hook has seen that no reader may do.
    """

    kind: Kind
    value: Any = None
    error: str = ""
    message: str = ""
    length: int = 0
    seconds: float = 0.0
    peak: int = 0
    size: int = 0
    events: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """How the promise about files of strangers is broken; empty where it is kept."""
        found = [f"audit: {event}" for event in self.events]
        if self.kind not in ("returned", "refused"):
            found.append(f"{self.kind}: {self.error}: {self.message}")
        if self.is_too_large():
            found.append(f"{self.peak >> 20} MiB of memory for {self.size} bytes")
        if self.length > 10_000:
            found.append(f"a message of {self.length} characters")
        if any(not (c.isprintable() or c in "\n\t") for c in self.message):
            found.append(f"control characters in {self.message!r}")
        return found

    def is_too_large(self) -> bool:
        """Whether it took more memory than is in proportion to its input."""
        return self.peak > SLACK + TIMES * self.size


@dataclass(frozen=True)
class Case:
    """One call: its arguments, the folder that it may read, and the bytes of its input."""

    arguments: tuple[Any, ...]
    folder: Path
    size: int = 0


class Guard:
    """The process whose forks run the calls; a context manager."""

    def __enter__(self) -> Guard:
        paths = [path for path in sys.path if path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def run(
        self, function: Callable[..., Any], *arguments: Any, folder: Path, size: int = 0, writes: bool = False
    ) -> Outcome:
        """Call a function in a child.

        Args:
            function: at the top level of a file.
            *arguments: strings, paths, numbers, or lists and dicts of them; paths arrive as strings.
            folder: that may be read; it is the child's working directory.
            size: bytes of the input, to which memory is in proportion.
            writes: whether files in the folder may be made and changed.
        """
        return self._asked(function, [Case(arguments, folder, size)], writes)[0]

    def run_all(self, function: Callable[..., Any], cases: Sequence[Case], *, writes: bool = False) -> list[Outcome]:
        """Call a function once for each case, one after another in one child."""
        outcomes = self._asked(function, cases, writes)
        for i, outcome in enumerate(outcomes):
            if outcome.is_too_large():
                [outcomes[i]] = self._asked(function, [cases[i]], writes)
        return outcomes

    def _asked(self, function: Callable[..., Any], cases: Sequence[Case], writes: bool) -> list[Outcome]:
        asked = {
            "file": inspect.getsourcefile(function), "name": function.__name__, "writes": writes,
            "cases": [[case.arguments, os.path.realpath(case.folder)] for case in cases],
        }  # fmt: skip
        assert self._server.stdin is not None and self._server.stdout is not None
        print(json.dumps(asked, default=os.fspath), file=self._server.stdin, flush=True)
        answers = [self._server.stdout.readline() for _ in cases]
        assert all(answers), "the guarded server has ended"
        return [Outcome(**json.loads(answer), size=case.size) for answer, case in zip(answers, cases, strict=True)]


def serve() -> None:
    """Answer requests, a line each, until there are no more."""
    _warm()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed does not get between the answers
    functions: dict[tuple[str, str], Callable[..., Any]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        key = (asked["file"], asked["name"])
        if key not in functions:
            functions[key] = _function(*key)
            gc.collect()
            gc.freeze()  # a collection in a child looks at what is new there
        cases, done = asked["cases"], 0
        while done < len(cases):
            found = _forked(functions[key], cases[done:], writes=asked["writes"])
            done += len(found)
            print(*found, sep="\n", file=answers, flush=True)


def _warm() -> None:
    """Import what readers import, so that a fork has it already, and only what a file names is imported there."""
    import lightning.pytorch  # noqa: F401
    import torch
    import torch.distributed.checkpoint as dcp

    from lightning_autoarch.training.sparse_file import save_sparse
    from lightning_autoarch.transfer.transfer_weights import transfer_weights

    module = torch.nn.Linear(2, 2)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group
        folder = Path(name)
        torch.save(module.state_dict(), folder / "zip.pt")
        torch.save(module.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
        save_sparse(module.state_dict(), folder / "x.safetensors")
        dcp.save(module.state_dict(), checkpoint_id=folder / "dcp", no_dist=True)
        for file in folder.iterdir():
            str(transfer_weights(module, file))


def _function(file: str, name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(f"guarded_{abs(hash(file))}", file)
    assert spec is not None and spec.loader is not None
    known = [module for module in sys.modules.values() if getattr(module, "__file__", None) == file]
    module = known[0] if known else importlib.util.module_from_spec(spec)
    if not known:
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    if not known and hasattr(module, "warm_up"):
        module.warm_up()
    function: Callable[..., Any] = getattr(module, name)
    return function


def _forked(function: Callable[..., Any], cases: list[Any], *, writes: bool) -> list[str]:
    """Call in one child. A line of JSON for each outcome, up to that of a call that has ended the child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(function, cases, write, writes)
    os.close(write)
    written = _drained(read, child)
    os.close(read)
    _, status, _ = os.wait4(child, 0)
    lines = [line.decode() for line in written.split(b"\n")[:-1]]
    return lines if len(lines) == len(cases) else [*lines, json.dumps(_ended(status))]


def _ended(status: int) -> dict[str, str]:
    """What has become of a call that did not answer."""
    if not os.WIFSIGNALED(status):
        return {"kind": "crashed", "error": f"exit {os.waitstatus_to_exitcode(status)}"}
    number = os.WTERMSIG(status)
    kind = "timeout" if number in (signal.SIGXCPU, signal.SIGKILL) else "crashed"
    return {"kind": kind, "error": signal.Signals(number).name}


def _drained(pipe: int, child: int) -> bytes:
    """All that the child writes; it is killed where it takes too long for one call."""
    data = b""
    while select.select([pipe], [], [], WALL_SECONDS)[0]:
        block = os.read(pipe, 1 << 16)
        if not block:
            return data
        data += block
    os.kill(child, signal.SIGKILL)
    return data


def _child(function: Callable[..., Any], cases: list[Any], write: int, writes: bool) -> None:
    """Does not return."""
    watch = _Watch(writes=writes)
    try:
        _limit()
        before, start = _mapped(), _status("VmRSS")
        sys.addaudithook(watch)
        for arguments, folder in cases:
            watch.begin(folder)
            begun = time.process_time()
            answer = _called(function, arguments)
            watch.off = True
            peak = max(0, _status("VmHWM") - start)
            mapped = _mapped()
            strange = [f"mapped {name}" for name in sorted(mapped - before) if watch.is_outside(name)]
            before |= mapped
            answer = {
                **answer,
                "peak": peak,
                "seconds": time.process_time() - begun,
                "events": [*watch.events, *strange],
            }
            _write_all(write, json.dumps(answer).encode() + b"\n")
            gc.collect()
    finally:
        os._exit(0)


def _called(function: Callable[..., Any], arguments: list[Any]) -> dict[str, Any]:
    from lightning_autoarch.core.errors import AutoArchError

    try:
        value = function(*arguments)
    except BaseException as error:
        message = str(error)
        kind = "refused" if isinstance(error, AutoArchError) else "raised"
        if any(_is_denied(link) for link in _chain(error)):
            kind = "raised"  # an error of the package that is none of its own care: it asked for all that memory
        return {"kind": kind, "error": type(error).__name__, "message": message[:2000], "length": len(message)}
    with contextlib.suppress(TypeError, ValueError):
        json.dumps(value)
        return {"kind": "returned", "value": value}
    return {"kind": "returned"}


def _chain(error: BaseException) -> Iterator[BaseException]:
    links: list[BaseException] = []
    after: BaseException | None = error
    while after is not None and after not in links:
        links.append(after)
        after = after.__cause__ or after.__context__
    return iter(links)


def _is_denied(error: BaseException) -> bool:
    text = str(error)[:2000].lower()
    return isinstance(error, MemoryError) or "allocate memory" in text or "not enough memory" in text


def _limit() -> None:
    """Of the whole child; the time and the peak of memory are those of each call."""
    limit = _status("VmSize") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.set_blocking(sink, True)


def _begin_clocks() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _mapped() -> set[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if line.count(" /")}


def _write_all(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


class _Watch:
    """The audit hook."""

    FORBIDDEN = (
        "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.",
        "ctypes.", "os.kill", "webbrowser.", "urllib.", "http.", "ftplib.", "smtplib.", "sqlite3.load_extension",
        "sqlite3.enable_load_extension",
    )  # fmt: skip
    CHANGES = (
        "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink",
        "os.truncate", "shutil.",
    )  # fmt: skip
    HARMLESS = frozenset({"socket.gethostname"})

    def __init__(self, *, writes: bool) -> None:
        self.events: list[str] = []
        self.off = True
        self._writes = writes
        self._folder = ""
        packages = [*site.getsitepackages(), *sysconfig.get_paths().values(), sys.prefix, sys.base_prefix]
        self._own = tuple({os.path.realpath(path) for path in [*packages, *_packages()]})
        self._files = ("/dev/null", "/dev/urandom", "/proc/self/", "/sys/devices/system/cpu", "/proc/cpuinfo")

    def begin(self, folder: str) -> None:
        """Watch the next call, which may read a folder."""
        self.off = True
        os.chdir(folder)
        tempfile.tempdir = folder  # for what a library writes aside first
        _begin_clocks()
        self._files = (*self._files, f"/proc/{os.getpid()}/")
        self.events, self._folder, self.off = [], folder, False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.off:
            return
        self.off = True  # what it does itself is not of interest
        try:
            found = self._seen(event, arguments)
            if found is not None and len(self.events) < 20:
                self.events.append(found[:200])
        finally:
            self.off = False

    def _seen(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            name = os.fsdecode(arguments[0])
            return f"open {name}" if self.is_outside(name) else None
        if event == "exec":
            name = getattr(arguments[0], "co_filename", "?")
            return f"exec {name}" if self._is_foreign(name) else None
        if event == "compile":
            name = os.fsdecode(arguments[1]) if arguments[1] is not None else "?"
            return f"compile {name}" if self._is_foreign(name) else None
        if event == "import":
            return f"import {arguments[0]}" if str(arguments[0]).partition(".")[0] in STRANGE else None
        if event == "sqlite3.connect":
            name = os.fsdecode(arguments[0])
            return f"sqlite3.connect {name}" if name != ":memory:" and self.is_outside(name) else None
        if event.startswith(self.CHANGES) and self._writes and self._is_within(arguments):
            return None
        if event in self.HARMLESS or not event.startswith(self.FORBIDDEN + self.CHANGES):
            return None
        return f"{event} {arguments!r:.150}"

    def _is_within(self, arguments: tuple[Any, ...]) -> bool:
        """Whether all paths among the arguments of an event are in the folder."""
        paths = [os.fsdecode(each) for each in arguments if isinstance(each, str | bytes | os.PathLike)]
        real = [os.path.realpath(path) for path in paths]
        return all(path == self._folder or path.startswith(f"{self._folder}/") for path in real)

    def is_outside(self, name: str) -> bool:
        """Whether a file is neither in the folder nor one of the interpreter's or the packages'."""
        if name.startswith(self._files):
            return False
        real = os.path.realpath(name)
        return not any(real == root or real.startswith(f"{root}/") for root in (self._folder, *self._own))

    def _is_foreign(self, name: str) -> bool:
        """Code of a library says in which file it stands; dataclasses and named tuples compile some of their own."""
        if name.startswith("<frozen "):
            return False
        return name.startswith("<") or not any(os.path.realpath(name).startswith(f"{root}/") for root in self._own)


def _packages() -> list[str]:
    """Where the packages lie that have been imported, an editable one among them."""
    import torch

    import lightning_autoarch

    return [os.path.dirname(module.__file__) for module in (lightning_autoarch, torch)]


if __name__ == "__main__":
    serve()
