"""Extrapolated decoding as a model of lm-evaluation-harness.

    lm_eval.simple_evaluate(model=ExtrapolatedLM(load_sampler("late", early="early", alpha=1.5)), tasks=[...])

Importing this module also registers it under the name `driftline`, with late=, early=, alpha= and dtype= as
model arguments. As the harness does elsewhere, what is too long for the model's context loses its beginning.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from driftline.decoding.likelihood import log_probs
from driftline.decoding.sampler import Sampler, row_seed
from driftline.decoding.sources import load_sampler
from driftline.errors import InputError
from driftline.prompts import render, token_ids

try:
    import torch
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as missing:
    raise InputError(f"lm-evaluation-harness needs {missing.name}: pip install 'driftline[lm-eval]'") from missing

_WITHOUT_CONTEXT = 2048  # tokens read at once, where the model names no context


@register_model("driftline")
class ExtrapolatedLM(TemplateLM):
    """Scores and samples by early + alpha (late - early), or by one model."""

    def __init__(
        self,
        sampler: Sampler | None = None,
        *,
        late: str | None = None,
        early: str | None = None,
        alpha: float | None = None,
        dtype: str = "auto",
        batch_size: int | str = 16,
        seed: int = 0,
        device: str | None = None,
        max_batch_size: int | None = None,  # the harness passes it to every model; batches here do not grow
    ) -> None:
        super().__init__()
        if sampler is None and late is None:
            raise InputError("the model driftline needs late=: give the folder of a model")
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            device = None  # the harness's command line says cuda to every model, unless it is told otherwise
        self.sampler = sampler or load_sampler(str(late), early=early, alpha=alpha, dtype=dtype, device=device)
        self.tokenizer = self.sampler.tokenizer
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 16
        self.seed = seed
        self.longest = self.sampler.context or _WITHOUT_CONTEXT

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        go_on = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return render(self.tokenizer, chat_history, "a problem of the harness", **go_on)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        begun = bool(self.tokenizer.bos_token) and string.startswith(self.tokenizer.bos_token)
        special = not begun if add_special_tokens is None else add_special_tokens
        return token_ids(self.tokenizer, string, "a problem of the harness", special=special)

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        pairs = [self._fitted(context, continuation) for _, context, continuation in requests]
        results = [(sum(values), greedy) for values, greedy in self._log_probs(pairs)]
        for (strings, _, _), result in zip(requests, results, strict=True):
            if strings is not None:
                self.cache_hook.add_partial("loglikelihood", strings, result)
        return results

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        totals = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                self.tok_encode(text, add_special_tokens=False), self.prefix_token_id, self.longest, 1
            )
            values = self._log_probs([make_disjoint_window(window) for window in windows])
            totals.append(sum(sum(tokens) for tokens, _ in values))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        groups: dict[tuple, list[int]] = defaultdict(list)  # places of the requests that ask for the same
        for place, request in enumerate(requests):
            asked = normalize_gen_kwargs(request.args[1])
            temperature = asked.get("temperature", 1.0) if asked["do_sample"] else 0.0
            settings = (temperature, asked.get("top_p", 1.0), asked.get("top_k", 0), asked["max_gen_toks"])
            groups[settings, tuple(filter(None, asked["until"]))].append(place)
        texts: dict[int, str] = {}
        for ((temperature, top_p, top_k, limit), until), places in groups.items():
            room = max(self.longest - limit, 1)
            for start in range(0, len(places), self.batch_size):
                batch = places[start : start + self.batch_size]
                completions = self.sampler.sample(
                    [self.tok_encode(requests[place].args[0])[-room:] for place in batch],
                    temperature=temperature,
                    top_p=top_p,
                    top_k=top_k,
                    max_new_tokens=limit,
                    seeds=[row_seed(self.seed, place, 0) for place in batch],
                    stop=until,
                )
                for place, completion in zip(batch, completions, strict=True):
                    texts[place] = self.sampler.text(completion, until)
                    self.cache_hook.add_partial("generate_until", requests[place].args, texts[place])
        return [texts[place] for place in range(len(requests))]

    def _log_probs(self, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[list[float], bool]]:
        return log_probs(self.sampler, pairs, batch_size=self.batch_size)

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """The end of both that the model can read; at least a token of context stays."""
        continuation = continuation[-self.longest :]
        return context[-max(self.longest + 1 - len(continuation), 1) :], continuation
