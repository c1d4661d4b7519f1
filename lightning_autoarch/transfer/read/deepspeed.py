"""A folder that DeepSpeed wrote: its weights, where one file has them all.

latest                                    the tag, which names the folder below; Lightning's tag is `checkpoint`
<tag>/mp_rank_00_model_states.pt          ZeRO 1 and 2: "module" is the state_dict, in the precision of training
<tag>/zero_pp_rank_*_model_states.pt      ZeRO 3: each rank has a part of each tensor; to be put together first
<tag>/*_optim_states.pt                   not read
"""

from __future__ import annotations

from pathlib import Path

from lightning_autoarch.core.errors import CheckpointError, shown
from lightning_autoarch.transfer.read.sharded import inside

LATEST = "latest"
STATES = "*model_states.pt"
LONGEST_TAG = 200  # bytes
REMEDY = (
    "put it together with DeepSpeed first: `python zero_to_fp32.py . weights.pt` in that folder, or "
    "`lightning.pytorch.utilities.deepspeed.convert_zero_checkpoint_to_fp32_state_dict`, and give that file"
)


def deepspeed_file(folder: Path) -> Path | None:
    """The file with the weights in a folder of DeepSpeed; None where it is no such folder.

    Raises:
        CheckpointError: the weights lie in parts, or in a place outside of the folder.
    """
    tagged = _tagged(folder)
    found = sorted(path.name for path in tagged.glob(STATES)) if tagged is not None else []
    if tagged is None or not found:
        return None
    if any(name.startswith("zero_pp_rank") for name in found):
        raise CheckpointError(
            f"Expected whole weights in {folder}, got those of ZeRO 3, a part for each rank; {REMEDY}."
        )
    if len(found) > 1:
        raise CheckpointError(
            f"Expected whole weights in {folder}, got {len(found)} parts of a model that was trained in parallel, the "
            f"first `{shown(found[0])}`; {REMEDY}."
        )
    return inside(folder, str(tagged.relative_to(folder) / found[0]))


def _tagged(folder: Path) -> Path | None:
    """The folder of the files: as `latest` says, Lightning's, or the one that was given."""
    if (folder / LATEST).is_file():
        with inside(folder, LATEST).open("rb") as file:
            tag = file.read(LONGEST_TAG).decode("utf-8", "replace").strip()
        known = tag.isprintable() and len(tag.encode()) <= LONGEST_TAG  # what replaces a broken byte has three
        if not tag or not known or Path(tag).name != tag:
            raise CheckpointError(f"Expected the name of a folder in {folder / LATEST}, got '{shown(tag)}'.")
        if (folder / tag).is_symlink():
            raise CheckpointError(f"Expected a folder '{shown(tag)}' in {folder}, got a link: not followed.")
        return folder / tag
    for place in (folder, folder / "checkpoint"):
        if any(place.glob(STATES)):
            return place
    return None
