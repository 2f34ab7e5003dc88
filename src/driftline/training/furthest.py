"""What a trainer's command left behind: its furthest complete checkpoint."""

from __future__ import annotations

from pathlib import Path

from driftline.checkpoints.discovery import find_steps
from driftline.checkpoints.layouts import huggingface
from driftline.checkpoints.places import layouts_in
from driftline.errors import InputError, UnreadableCheckpoint


def furthest_checkpoint(output: Path, m: int) -> tuple[int, Path]:
    """Step and folder of the furthest complete checkpoint in `output`.

    The model that a trainer leaves in `output` itself when it ends is at step `m`.

    Raises:
        InputError: there is none, or one lies beyond `m`.
    """
    if not output.is_dir():
        raise InputError(f"the command left nothing at {output}: let it save its checkpoints to {{output}}")
    try:
        numbered = find_steps([output]).steps
    except InputError:
        numbered = {}
    found = {step: place for step, folder in numbered.items() if (place := _model_in(folder)) is not None}
    if m not in found and (place := _model_in(output)) is not None:
        found[m] = place
    found.pop(0, None)
    if not found:
        shards = next((folder for folder in numbered.values() if any(folder.glob("actor/model_world_size_*"))), None)
        if shards is not None:
            raise InputError(
                f"{shards} holds shards only: let the command save Hugging Face weights too, with "
                "actor_rollout_ref.actor.checkpoint.save_contents=[model,hf_model]"
            )
        raise InputError(f"the command left no complete checkpoint in {output}: let it save one at its last step")
    if max(found) > m:
        raise InputError(
            f"the command left a checkpoint of step {max(found)} in {output}, although {{steps}} was {m}: let it stop there"
        )
    return max(found), found[max(found)]


def _model_in(folder: Path) -> Path | None:
    """The complete model in a checkpoint's folder, or None."""
    try:
        there = layouts_in(folder) if folder.is_dir() else []
        place = next((place for layout, place in there if layout.NAME == huggingface.NAME), None)
        return huggingface.open(place).path if place is not None else None
    except UnreadableCheckpoint:
        return None
