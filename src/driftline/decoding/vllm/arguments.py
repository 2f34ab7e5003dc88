"""What may follow `--` of `driftline serve --backend vllm`: vLLM's own options, save those that are set or cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from driftline.errors import InputError

_OURS = {
    "--model": "name the model with --late",
    "--served-model-name": "name it with driftline's --name",
    "--host": "give driftline's --host, before the --",
    "--port": "give driftline's --port, before the --",
    "--uds": "give driftline's --host and --port",
    "--api-key": "give driftline's --key, before the --",
    "--dtype": "give driftline's --dtype, before the --",
    "--config": "write out what is in that file",
    "--headless": "leave it out",
    "--omni": "leave it out",
}
_NOT_OF_A_PAIR = {
    "--hf-overrides": "driftline says there what the two models are; change their config.json",
    "--hf-config-path": "the configuration is that in the late model's folder; change it there",
    "--logits-processors": "driftline's own reads alpha there; leave others out",
    "--speculative-config": "a pair is not sped up by drafts; leave it out",
    "--spec-method": "a pair is not sped up by drafts; leave it out",
    "--spec-model": "a pair is not sped up by drafts; leave it out",
    "--spec-tokens": "a pair is not sped up by drafts; leave it out",
    "--quantization": "a pair is not quantised; leave it out",
    "--load-format": "weights are read from safetensors; leave it out",
    "--enable-lora": "vLLM's LoRA cannot tell the two models apart; give adapters as --late and --early",
    "--lora-modules": "vLLM's LoRA cannot tell the two models apart; give adapters as --late and --early",
    "--enable-prompt-embeds": "two models have no embeddings in common; send text or tokens",
    "--runner": "a pair draws tokens and nothing else; leave it out",
    "--convert": "a pair draws tokens and nothing else; leave it out",
    "--model-impl": "a pair is made of vLLM's own models; leave it out",
    "--trust-remote-code": "code that comes with a model is never run; leave it out",
    "--tokenizer": "the tokenizer is the late model's; leave it out",
    "--revision": "give a model's folder at that revision as --late",
    "--pipeline-parallel-size": "two models are not split into stages; use --tensor-parallel-size",
}
_SHORT = {"-pp": "--pipeline-parallel-size", "-q": "--quantization", "-sc": "--speculative-config"}
_ONE_STAGE = "--pipeline-parallel-size"


def refuse_options(given: Sequence[str], *, pair: bool) -> None:
    """Refuse options that driftline sets itself, or that cannot be had.

    Args:
        given: what follows `--`.
        pair: two models are served.

    Raises:
        InputError: names the first such option, and what to do instead.
    """
    refused = _OURS | (_NOT_OF_A_PAIR if pair else {})
    if given and not given[0].startswith("-"):
        raise InputError(f"{given[0]!r} after -- is no option of vllm serve: name the model with --late")
    for option, value in options(given):
        full = _refused(option, refused)
        if full is not None and not (full == _ONE_STAGE and value == "1"):
            raise InputError(f"{option} cannot be given after --: {refused[full]}")


def value_of(given: Sequence[str], name: str) -> str | None:
    """The value of an option, the last one; None where it is not given."""
    return next((value for option, value in reversed(list(options(given))) if option == name), None)


def options(given: Sequence[str]) -> list[tuple[str, str]]:
    """(option, value) as vLLM reads them: `_` for `-`, `--name=value`, `--name.key value`; the value may be empty."""
    found = []
    for word, after in pairwise([*given, ""]):
        if word.startswith("-") and not word.lstrip("-")[:1].isdigit():
            name, equals, value = word.partition("=")
            name = name.split(".")[0].rstrip("+")
            found.append((name.replace("_", "-"), value if equals else after))
    return found


def _refused(option: str, refused: dict[str, str]) -> str | None:
    """The refused option that is meant: by its name, its short form, or a beginning of it, as argparse takes."""
    whole = _SHORT.get(option, option)
    if whole in refused:
        return whole
    return next((full for full in refused if option.startswith("--") and full.startswith(option)), None)
