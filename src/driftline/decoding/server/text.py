"""The text of a completion as it grows: never part of a character, never part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from driftline.prompts import text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WINDOW, _KEPT, _TRIES = 96, 32, 8  # tokens decoded at once; kept when that many are there; starts tried
_BROKEN = "\ufffd"  # stands for bytes that are no character yet


class TextStream:
    """What may be sent of a text so far. All that is sent, joined, is the text of the whole completion."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._longest = max(map(len, stop), default=0)
        self._ids: list[int] = []  # the last ones, which are decoded together
        self._known = ""  # their text, as far as it is settled
        self._held = ""  # settled and not sent: it may be the beginning of a stop string
        self._sent = 0  # characters

    def add(self, ids: Sequence[int]) -> str:
        """The text to send now that these tokens have come."""
        self._ids += ids
        whole = self._decoded(self._ids)
        if not whole.startswith(self._known):  # a tokenizer that changes what it has said: wait
            return ""
        new = whole[len(self._known) :].rstrip(_BROKEN)
        self._known += new
        self._held += new
        if len(self._ids) > _WINDOW and self._known == whole:
            self._shorten(whole)
        keep = self._may_be_stop()
        ready = self._held[: len(self._held) - keep]
        self._held = self._held[len(ready) :]
        self._sent += len(ready)
        return ready

    def finish(self, text: str) -> str:
        """The rest, `text` being that of the whole completion."""
        return text[self._sent :]

    def _decoded(self, ids: Sequence[int]) -> str:
        return text_of(self._tokenizer, ids, special=False)

    def _shorten(self, whole: str) -> None:
        """Decode the last tokens only from now on, if their text stands by itself."""
        first = len(self._ids) - _KEPT
        for start in range(first, first + _TRIES):
            text = self._decoded(self._ids[start:])
            if text and whole.endswith(text):
                self._ids, self._known = self._ids[start:], text
                return

    def _may_be_stop(self) -> int:
        """Characters at the end that begin a stop string."""
        for count in range(min(len(self._held), self._longest - 1), 0, -1):
            if any(stop.startswith(self._held[-count:]) for stop in self._stop):
                return count
        return 0
