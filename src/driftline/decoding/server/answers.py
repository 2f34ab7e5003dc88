"""Answers in OpenAI's form: a choice as it grows, log-probs, usage, whole and in pieces."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from driftline.decoding.sampler import Completion, Sampler
from driftline.decoding.server.bodies import Wanted, tokens_of
from driftline.decoding.server.scheduler import Step
from driftline.decoding.server.text import TextStream
from driftline.decoding.speculative import TokenScore
from driftline.prompts import text_of

_LEAST = -9999.0  # stands for the log-prob of what cannot follow: JSON has no infinity


@dataclass(frozen=True)
class Form:
    """What tells the two endpoints' answers apart."""

    prefix: str
    whole: str
    piece: str
    chat: bool


COMPLETION = Form("cmpl", "text_completion", "text_completion", False)
CHAT = Form("chatcmpl", "chat.completion", "chat.completion.chunk", True)


class Choice:
    """One row's answer in the making."""

    def __init__(self, sampler: Sampler, wanted: Wanted, place: int, form: Form) -> None:
        self._sampler, self._wanted, self._form, self.index = sampler, wanted, form, place
        self._row, self._prompt = wanted.rows[place], wanted.prompt_of(place)
        self._ids: list[int] = []
        self._scores: list[TokenScore] = []
        self.finish_reason: str | None = None
        self._stream = TextStream(sampler.tokenizer, wanted.stop)
        self._told = 0  # tokens whose ids and scores were sent
        self._offset = 0  # characters of the tokens whose scores were sent
        self._begun = False

    @property
    def tokens(self) -> int:
        return len(self._ids)

    def take(self, step: Step) -> None:
        self._ids += step.ids
        self._scores += step.scores
        self.finish_reason = step.finish_reason

    def whole(self) -> dict[str, Any]:
        """The choice when all is there."""
        text = self._begin() + self._text()
        if self._form.chat:
            said: dict[str, Any] = {"message": {"role": "assistant", "content": text, "refusal": None}}
        else:
            said = {"text": text}
        return {"index": self.index, **said, **self._particulars(first=True), "finish_reason": self.finish_reason}

    def pieces(self, step: Step) -> list[dict[str, Any]]:
        """The choices of the chunks to send after a step."""
        self.take(step)
        first, found = not self._begun, []
        text = self._begin()
        if first and self._form.chat:
            found.append(self._piece({"role": "assistant", "content": ""}, first=True))
            first = False
        text += self._stream.add(step.ids) if step.finish_reason is None else self._stream.finish(self._text())
        if self._form.chat:
            if text or (self.finish_reason and self._told < len(self._ids)):
                found.append(self._piece({"content": text}))
            if self.finish_reason:
                found.append(self._piece({}, finish_reason=self.finish_reason))
        elif text or self.finish_reason:
            found.append(self._piece(text, first=first, finish_reason=self.finish_reason))
        return found

    def _piece(
        self, said: str | dict[str, Any], *, first: bool = False, finish_reason: str | None = None
    ) -> dict[str, Any]:
        where = "delta" if self._form.chat else "text"
        quiet = self._form.chat and (first or finish_reason)  # carries no text, so no log-probs either
        more = self._particulars(first=first, tokens=not quiet)
        return {"index": self.index, where: said, **more, "finish_reason": finish_reason}

    def _begin(self) -> str:
        """The prompt where it is to be echoed, once."""
        first, self._begun = not self._begun, True
        return self._prompt.text if first and self._wanted.echo else ""

    def _text(self) -> str:
        return self._sampler.text(Completion(self._ids, self.finish_reason or ""), self._wanted.stop)

    def _particulars(self, *, first: bool, tokens: bool = True) -> dict[str, Any]:
        """Log-probs and token ids that were not sent yet."""
        ids = self._ids[self._told :] if tokens else []
        scores: list[TokenScore | None] = list(self._scores[self._told :]) if tokens else []
        found: dict[str, Any] = {"logprobs": None}
        if self._wanted.token_ids:
            found |= {"token_ids": ids, "prompt_token_ids": self._prompt.ids} if first else {"token_ids": ids}
        self._told += len(ids)
        if self._wanted.likeliest is None or not tokens:
            return found
        if first and self._wanted.echo:
            ids, scores = self._prompt.ids + ids, [None, *self._row.prompt_scores, *scores]
        if self._form.chat:
            found["logprobs"] = {"content": [self._chat_score(*pair) for pair in zip(ids, scores, strict=True)]}
        else:
            found["logprobs"] = self._completion_scores(ids, scores)
        return found

    def _completion_scores(self, ids: Sequence[int], scores: Sequence[TokenScore | None]) -> dict[str, Any]:
        """Columns of log-probs; the first token of a prompt has none."""
        tokens = [self._token(token) for token in ids]
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        tops: list[dict[str, float] | None] = []
        for token, score in zip(tokens, scores, strict=True):
            top: dict[str, float] = {}
            if score is not None:
                for other, value in score.likeliest:
                    top.setdefault(self._token(other), max(value, _LEAST))  # of tokens that read alike the likeliest
                top.setdefault(token, max(score.log_prob, _LEAST))
            tops.append(None if score is None else top)
        return {
            "tokens": tokens,
            "token_logprobs": [None if score is None else max(score.log_prob, _LEAST) for score in scores],
            "top_logprobs": tops if self._wanted.likeliest else None,
            "text_offset": offsets,
        }

    def _chat_score(self, token: int, score: TokenScore | None) -> dict[str, Any]:
        assert score is not None  # chats have no echo
        top = [self._named(other, value) for other, value in score.likeliest]
        return {**self._named(token, score.log_prob), "top_logprobs": top}

    def _named(self, token: int, value: float) -> dict[str, Any]:
        text = self._token(token)
        encoded = None if "\ufffd" in text else list(text.encode())  # part of a character has no text
        return {"token": text, "logprob": max(value, _LEAST), "bytes": encoded}

    def _token(self, token: int) -> str:
        return text_of(self._sampler.tokenizer, [token])


class Answer:
    """The frame of an answer: who, when, what it cost."""

    def __init__(self, form: Form, name: str, wanted: Wanted, choices: Sequence[Choice], fingerprint: str) -> None:
        self._form, self._wanted, self._choices = form, wanted, choices
        self._frame = {"id": f"{form.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        self._frame["system_fingerprint"] = fingerprint

    def whole(self) -> dict[str, Any]:
        choices = [choice.whole() for choice in self._choices]
        more: dict[str, Any] = {}
        if self._form.chat and self._wanted.token_ids:
            more["prompt_token_ids"] = self._wanted.prompts[0].ids
        return {**self._frame, "object": self._form.whole, "choices": choices, "usage": self.usage(), **more}

    def piece(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A chunk; without choices it is the last one, with the usage."""
        chunk = {**self._frame, "object": self._form.piece, "choices": choices}
        if self._wanted.include_usage:
            chunk["usage"] = None if choices else self.usage()
        return chunk

    def usage(self) -> dict[str, int]:
        read, drawn = tokens_of(self._wanted.prompts), sum(choice.tokens for choice in self._choices)
        return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}
