"""`transfer_weights`: copy what a module can use from a source, everything at once or nothing at all.

    read      read_checkpoint    ─►  names and tensors
    match     pair               ─►  which tensor of the source is which of the module
              decide             ─►  what happens to each: its value, or why it keeps the one that it has
              summarise          ─►  TransferReport
    write     check_function     ─►  proof that a widened module computes the same
              write_all          ─►  the copies

The module is not touched before everything is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lightning_autoarch.core.patterns import Patterns
from lightning_autoarch.transfer.match.decide import decide, fitter_of, writes_of
from lightning_autoarch.transfer.match.name_matching import Rule
from lightning_autoarch.transfer.match.pairing import pair
from lightning_autoarch.transfer.match.summary import summarise
from lightning_autoarch.transfer.matching import Matching, OnMismatch, TransferOptions, matching_from
from lightning_autoarch.transfer.read.checkpoint import AnySource, Source, read_checkpoint
from lightning_autoarch.transfer.transfer_report import TransferReport, check_share
from lightning_autoarch.transfer.write.commit import write_all


def transfer_weights(
    module: nn.Module,
    source: AnySource,
    *,
    rules: Sequence[Rule] = (),
    on_mismatch: OnMismatch = "skip",
    reinit: Patterns = (),
    head: Patterns = (),
    matching: Matching | Mapping[str, Any] | None = None,
) -> TransferReport:
    """Copy weights into a module in place. Its parameters stay the same objects, and keep `requires_grad`.

    Patterns are globs over dotted names of tensors, or of modules around them: `backbone`, `encoder.layers.[0-5]`,
    `*.bias`. A regular expression is given as `re.compile(...)`, or as a string `re:...`.

    Args:
        module: Any module whose tensors have memory, on any device. Weights are cast to its dtype.
        source: A path, a URL, `hf://owner/name`, a module, a mapping of names to tensors, or a `Source`, which says
            what to read of a checkpoint.
        rules: Pairs `(pattern, replacement)`, applied in turn to the names of the source: `("backbone", "encoder")`. A
            glob replaces the shortest leading path that it matches, and each `*` of the replacement is what the `*` of
            the pattern stood for. Prefixes of wrappers (`module.`, `_orig_mod.`, `model.`) and the path of a network
            within another one need no rule.
        on_mismatch: What happens to a tensor of another shape or dtype. "skip" leaves it unchanged. "slice" copies
            the part that both have. "widen" replicates channels where the module has more of them, so that it computes
            what the source's module did, and slices where it has fewer; it requires `Matching(example_inputs=...)`.
            "error" raises. Position embeddings of images and the first convolution are adapted unless it is "error";
            positions of a sequence are treated like any tensor.
        reinit: Patterns of tensors of the module that are left unchanged.
        head: Patterns of the output layer's tensors, whose rows are classes and are not sliced. Default: the last
            linear layer or convolution that is registered.
        matching: The less common options, as a `Matching` or a mapping of its arguments.

    Returns:
        What happened to every tensor of the module and of the source.

    Raises:
        TransferError: An option is wrong; a rule, pattern or grid matches nothing; the source has nothing in common
            with the module, a mismatch with "error", different values for tied weights, adapters without their
            scale, numbers that do not fit, or less than `min_share`; or "widen" cannot keep the function. The module
            is left unchanged.
        StructureError: The forward cannot be followed. The module is left unchanged.
        CheckpointError: The source cannot be read.

    >>> old = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> new = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))
    >>> report = transfer_weights(new, old)
    >>> report.counts, f"{report.share:.0%}"
    ({'loaded': 2, 'skipped': 2}, '47%')
    """
    return transfer(module, source, TransferOptions(rules, on_mismatch, reinit, head, matching_from(matching)))


def transfer(
    module: nn.Module,
    source: AnySource,
    options: TransferOptions,
    check: Callable[[TransferReport], None] | None = None,
) -> TransferReport:
    """`transfer_weights` with the options as one value; `check` is called with the report before `accept` is."""
    state = source.read() if isinstance(source, Source) else read_checkpoint(source)
    matching = options.matching
    with torch.no_grad():
        pairing = pair(module, state, options)
        fitter = fitter_of(module, pairing, options)
        decided = decide(module, fitter)
        report = summarise(pairing, decided)
        check_share(report, matching.min_share)
        for each in (check, matching.accept):
            if each is not None:
                each(report)
        writes = list(writes_of(decided))
        if fitter.coupling is not None and not matching.approximate:
            from lightning_autoarch.transfer.write.same_function import check_function

            held = source.path if isinstance(source, Source) else source
            run = held if isinstance(held, nn.Module) else None
            check_function(module, writes, run, matching.example_inputs, report, fitter.coupling)
        write_all(writes)
    return report
