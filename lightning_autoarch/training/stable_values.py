"""Leave out of a value what may differ between two runs of the same script without any effect on the scores.

names       `num_workers`, `run_name`, `log_dir`, `download`, ...: where and how it runs, and what it is called
the time    of the start, as a number or in a text: `run_2026-01-31_12-00-00`
texts       UUIDs and memory addresses, `<function f at 0x7f...>`
paths       all but their last part, and temporary directories entirely
"""

from __future__ import annotations

import datetime
import math
import os
import re
import tempfile
import time

# Arguments that change how fast or where a trial trains, or what it is called, but not what it learns.
NAMES = frozenset(
    [
        *("num_workers", "workers", "n_workers", "pin_memory", "pin_memory_device", "persistent_workers"),
        *("prefetch_factor", "timeout", "multiprocessing_context", "worker_init_fn"),
        *("accelerator", "devices", "device", "gpus", "num_nodes"),
        *("profiler", "benchmark", "deterministic", "detect_anomaly", "barebones", "logger", "verbose", "progress"),
        *("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "enable_autolog_hparams"),
        *("log_every_n_steps", "num_sanity_val_steps", "default_root_dir"),
        *("download", "force_download", "cache_dir", "fingerprint", "timestamp"),
        *("run_name", "run_id", "experiment_name", "exp_name", "experiment_id", "job_id"),
        *("log_dir", "logdir", "save_dir", "output_dir", "out_dir", "checkpoint_dir", "ckpt_dir", "dirpath"),
    ]
)

_DAY = 86_400.0  # seconds
_DATE = re.compile(r"(?<!\d)(\d{4})([-_/.]?)(\d{2})\2(\d{2})(?:[T_ -]+\d{2}(?:[-:_.h]?\d{2}){1,2}(?:[.,]\d+)?)?(?!\d)")
_CLOCK = re.compile(r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\d{2}_\d{2}-\d{2}-\d{2}")  # of TensorBoard
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_UUID = re.compile(
    r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|(?<![0-9a-f])[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}(?![0-9a-f])"
)
_TEMPORARY = ("TMPDIR", "TMP", "TEMP", "SLURM_TMPDIR", "PBS_JOBDIR", "JOB_SCRATCH_DIR")  # environment variables


def is_of_machine(name: object) -> bool:
    """Whether an argument of this name is left out.

    >>> is_of_machine("num_workers"), is_of_machine("NUM_WORKERS"), is_of_machine("width")
    (True, True, False)
    """
    return str(name).lower() in NAMES


def stable_number(value: int | float) -> int | float | str:
    """A number; as text if it is not finite, or the present time in (nano-, milli-)seconds since 1970."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    now = time.time()
    is_time = any(abs(value - now * unit) < _DAY * unit for unit in (1, 1e3, 1e9))
    return "the present time" if is_time else value


def stable_text(text: str) -> str:
    """A text without the parts that differ between two runs.

    >>> stable_text("/home/me/data/digits"), stable_text("<function f at 0x7f0123456789>")
    ('digits', '<function f at 0x>')
    """
    if os.path.isabs(text) or text.startswith(("./", "../")) or text.endswith("/"):
        text = _last_part(text)
    for pattern, word in ((_CLOCK, "{time}"), (_ADDRESS, "0x"), (_UUID, "{uuid}")):
        text = pattern.sub(word, text)
    return _DATE.sub(_unless_present, text)


def _last_part(path: str) -> str:
    path = os.path.normpath(path)
    of_job = [os.path.normpath(place) for name in _TEMPORARY if (place := os.environ.get(name))]
    if path in of_job or os.path.dirname(path) in {os.path.normpath(tempfile.gettempdir()), *of_job}:
        return "{temporary}"
    return os.path.basename(path)


def _unless_present(found: re.Match[str]) -> str:
    """Replace a date within a day of today, when the script was started; other dates may be a range of the data."""
    try:
        date = datetime.date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:  # digits that are no date
        return found[0]
    return "{time}" if abs((date - datetime.date.today()).days) <= 1 else found[0]
