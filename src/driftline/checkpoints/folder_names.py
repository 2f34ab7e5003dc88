"""What the name of a folder says: the step of a checkpoint, or why it is none, in the trainers' many spellings.

    checkpoint-30  ckpt_30  Step_30  iter_0000030  30 (slime)           step 30
    global_step_30  global_step30_hf  checkpoint-30-merged              step 30, the last two of series of their own
    step1000-tokens4B (OLMo)  epoch_1_step_30  epoch=1-step=30          step 1000, step 30
    epoch0epochstep4globalstep30 (AReaL)                                step 30
    epoch_3                                                             epoch 3
    best  latest  checkpoint-final  checkpoint-20-v2  step-0.1          no step, for a reason that `why_not` gives

Letters may be of either case, and zeros may stand before a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SERIES = "hf|huggingface|merged|full|fp32|bf16|fp16|consolidated|unsharded|safetensors|converted|exported|export|lora"
_SEP = "[-_=]?"
_NAME = re.compile(
    rf"^(?P<front>stage\d+[-_](?:ingredient\d+[-_])?|(?:checkpoint|ckpt)[-_])?"
    rf"(?P<word>checkpoint|ckpt|global{_SEP}steps?|step|iteration|iter|epoch){_SEP}(?P<step>\d{{1,12}})"
    rf"(?:[-_]tokens\d+[bmt])?(?P<series>(?:[-_](?:{_SERIES}))*)$",
    re.ASCII | re.IGNORECASE,
)
_IN_EPOCH = re.compile(
    rf"^(?P<front>(?:checkpoint|ckpt)[-_])?epoch{_SEP}(?P<epoch>\d{{1,6}})[-_](?:global{_SEP})?step{_SEP}(?P<step>\d{{1,12}})"
    rf"(?P<series>(?:[-_](?:{_SERIES}))*)$",
    re.ASCII | re.IGNORECASE,
)
_AREAL = re.compile(r"^epoch\d{1,6}epochstep\d{1,9}globalstep(?P<step>\d{1,12})$", re.ASCII | re.IGNORECASE)
_BARE = re.compile(r"^\d{1,12}$", re.ASCII)

BARE, EPOCH, TAGGED = "N", "epoch", "globalstep"  # families: bare numbers, epochs, and those that DeepSpeed's tags name

_COUNTING = {"checkpoint", "checkpoints", "ckpt", "step", "steps", "globalstep", "iter", "iteration", "epoch"}
_STANDING = {"best", "last", "latest", "final", "merged", "model", "main", "end"}
_USE = "give it as STEP=PATH to use it"


@dataclass(frozen=True)
class StepName:
    """A name that says a step.

    Attributes:
        family: what is counted; names of one family count alike.
        series: what follows the number, such as `hf`: another copy of the same steps.
        epoch: of names that say both.
    """

    step: int
    family: str
    series: str = ""
    epoch: int | None = None


def step_name(name: str) -> StepName | None:
    """What a folder's name says of its step, or None."""
    if match := _NAME.match(name):
        word = re.sub("[-_]", "", match["word"].lower()).removesuffix("s")
        family = (match["front"] or "").lower() + {"ckpt": "checkpoint", "iteration": "iter"}.get(word, word)
        return StepName(int(match["step"]), family, match["series"].lower().strip("-_"))
    if match := _IN_EPOCH.match(name):
        return StepName(int(match["step"]), "epoch step", match["series"].lower().strip("-_"), int(match["epoch"]))
    if match := _AREAL.match(name):
        return StepName(int(match["step"]), TAGGED)
    return StepName(int(name), BARE) if _BARE.match(name) else None


def is_epoch(family: str) -> bool:
    return family.endswith(EPOCH)


def looks_like_one(name: str) -> bool:
    """Whether a name without a step is that of a checkpoint all the same, whatever the folder holds."""
    return bool(_COUNTING & _words(name))


def may_look_like_one(name: str) -> bool:
    """Whether it may be, if weights are in it."""
    return bool((_COUNTING | _STANDING) & _words(name))


def why_not(name: str) -> str:
    """Why a folder that looks like a checkpoint is not taken as one, and what to do."""
    words = _words(name)
    if words & {"tmp", "temp", "partial", "incomplete"}:
        reason = "named as a save that was not finished"
    elif words & {"old", "bak", "backup", "prev", "previous"}:
        reason = "named as an older save that was put aside"
    elif "best" in words:
        reason = "named as the best by some score, not as a step of its own"
    elif re.search(r"\d\.\d", name) and looks_like_one(name):
        reason = "its number is not a whole one"
    elif re.search(r"\d", name) and looks_like_one(name):
        reason = "its name says more than a step"
    else:
        reason = "its name says no step"
    return f"{reason}; {_USE}"


def _words(name: str) -> set[str]:
    return set(re.findall("[a-z]+", name.lower()))
