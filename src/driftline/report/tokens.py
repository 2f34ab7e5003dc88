"""The tokens that moved most and whole responses, as text coloured by the slope of each token's log-prob."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from driftline.report import page

_SHOWN, _CONTEXT = 12, 16  # tokens with the steepest lines, and tokens of text around each
_EXAMPLES, _LONGEST = 3, 200  # responses shown whole, and tokens of each
_HOVERED = 16  # checkpoints of a trajectory


def sections(tokens: Any, sequences: Any, steps: Sequence[int]) -> list[Markup]:
    """The sections of the tables `tokens` and `sequences` of a result of log-probs at these steps."""
    found = _Tokens(tokens, steps)
    return [_most_moved(found), _examples(found, sequences, steps)]


def _most_moved(found: _Tokens) -> Markup:
    """The steepest tokens, up and down, in their text."""
    order = np.argsort(found.slope)
    groups = [
        (title, [found.in_context(row) for row in map(int, rows)])
        for title, rows in (("Rising most", order[::-1][:_SHOWN]), ("Falling most", order[:_SHOWN]))
    ]
    return page.section(
        "The tokens that moved most",
        "Underlined: the token; around it, its response. Blue tokens become likelier with training, orange ones less likely, the deeper "
        "the faster, each colour on a scale of its own; hover over any of them for its log-prob at the checkpoints.",
        page.render("moved.html", groups=groups, data=page.embedded("token-steps", found.hovered_steps)),
    )


def _examples(found: _Tokens, sequences: Any, steps: Sequence[int]) -> Markup:
    """Whole responses that the early model favours, and that the late one does."""
    total = sequences["logprob"].combine_chunks().values.to_numpy().reshape(-1, len(steps))
    change = (total[:, -1] - total[:, 0]) / sequences["tokens"].to_numpy()
    order = np.argsort(change)
    groups = []
    for title, chosen in (("Favoured late", order[::-1][:_EXAMPLES]), ("Favoured early", order[:_EXAMPLES])):
        responses = []
        for each in map(int, chosen):
            start, stop = map(int, np.searchsorted(found.sequence, [each, each + 1]))
            moved = f"{change[each]:+.3f} nats a token from step {steps[0]} to {steps[-1]}"
            responses.append(
                {
                    "about": f"Response {each}: {moved}",
                    "tokens": found.marked(range(start, min(stop, start + _LONGEST))),
                    "rest": " …" if stop - start > _LONGEST else "",
                }
            )
        groups.append((title, responses))
    return page.section(
        "What the run moves towards, and away from",
        "The responses whose mean log-prob rose most and fell most, in the same colours.",
        page.render("responses.html", groups=groups),
    )


class _Tokens:
    """Tokens of `tokens.parquet` as marked text; a row of the table each."""

    def __init__(self, tokens: Any, steps: Sequence[int]) -> None:
        self.slope, self.sequence = tokens["slope"].to_numpy(), tokens["sequence"].to_numpy()
        self.r2 = tokens["r2"].to_numpy(zero_copy_only=False)
        self._tokens = tokens
        self._hovered = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _HOVERED)).round().astype(int))
        self._steep = {up: self._steepest(up) for up in (True, False)}
        self.hovered_steps = [int(steps[place]) for place in self._hovered]

    def _steepest(self, up: bool) -> float:
        same = np.abs(self.slope[(self.slope > 0) == up])
        return (float(np.quantile(same, 0.99)) if same.size else 0.0) or 1.0

    def _series(self, row: int) -> np.ndarray:
        return np.array(self._tokens["logprob"][row].as_py())

    def in_context(self, row: int) -> dict[str, Any]:
        """A token in its response, how far it moved, and how straight."""
        first, stop = map(int, np.searchsorted(self.sequence, [self.sequence[row], self.sequence[row] + 1]))
        near = range(max(row - _CONTEXT, first), min(row + _CONTEXT + 1, stop))
        series = self._series(row)
        moved = f"{series[0]:.2f} → {series[-1]:.2f}"
        return {"tokens": self.marked(near, chosen=row), "moved": moved, "r2": float(self.r2[row])}

    def marked(self, rows: range, chosen: int | None = None) -> list[dict[str, Any]]:
        """The rows as marks: each coloured by its slope, and with its trajectory for `page.js` to show."""
        return [self._mark(row, chosen=row == chosen) for row in rows]

    def _mark(self, row: int, *, chosen: bool) -> dict[str, Any]:
        slope = self.slope[row]
        depth = min(abs(slope) / self._steep[bool(slope > 0)], 1) * 0.6
        colour = f"rgba(0,114,178,{depth:.2f})" if slope > 0 else f"rgba(213,94,0,{depth:.2f})"
        hundredths = np.clip(np.rint(100 * self._series(row)[self._hovered]), -32768, 32767).astype("<i2")
        at = base64.b64encode(hundredths.tobytes()).decode()
        return {"text": self._tokens["token"][row].as_py(), "colour": colour, "at": at, "chosen": chosen}
