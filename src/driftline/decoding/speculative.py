"""Lossless speculative decoding of extrapolated logits: two models at little more than the price of one.

Early and late differ little, so the late model drafts K tokens from its own distribution q, one pass
each, and the early model reads them all in one pass. Then both models' logits are known at every drafted
position, and with them the extrapolated distribution p. Each draft d is kept with probability
min(1, p(d)/q(d)); the first that is not is replaced by a draw from max(p - q, 0), normalised, and the rest
are dropped. What comes out has exactly the distribution p (Leviathan, Kalman and Matias 2023; Chen et al.
2023), and with temperature 0 it is greedy decoding of p. Usually the *small* model drafts and a last token
is drawn free; here that token would cost a late pass like any other, so it is simply the next round's draft.

The uniform numbers of a token (draft, keep, replace) belong to its place in the row. So a row is a function
of its prompt and seed: how far is drafted, and beside which rows, changes the speed only.

Rows accept different numbers of drafts. After a round the caches are packed: what a row refused and rows
that are finished go, and rows are padded on the left again. (Growing a cache by one token copies it anyway.)
Between rounds rows may join: their prompts are read beside the batch (`Arrivals`), at once or a piece at a
time, and put under it. Each row has its own settings, alpha too.

Shapes: B rows, K drafts, S slots of a cache, U prompts that differ, W tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from driftline.decoding.distribution import SamplingParams, combine_logits, draw, must_be_numbers, probabilities
from driftline.decoding.reader import Reader

if TYPE_CHECKING:
    import torch

MOST_DRAFTS = 16
_NUMBERS = 64  # places of a row whose numbers are made at once


@dataclass
class Acceptance:
    """How many drafts were kept; decides how far ahead to draft."""

    kept: int = 0
    judged: int = 0  # also the number of tokens that came out: each is a draft kept or replaced
    early_passes: int = 0  # per row: a pass over B rows counts B times
    _recent: tuple[float, float] = (29.0, 30.0)  # kept and judged, old rounds fading

    def add(self, kept: int, judged: int, rows: int) -> None:
        """One round of `rows` rows."""
        self.kept, self.judged, self.early_passes = self.kept + kept, self.judged + judged, self.early_passes + rows
        fade = 0.5 ** (judged / 256)  # half the weight is on the last few hundred drafts
        self._recent = (fade * self._recent[0] + kept, fade * self._recent[1] + judged)

    @property
    def rate(self) -> float:
        """Share of the judged drafts that were kept."""
        return self.kept / self.judged if self.judged else float("nan")

    @property
    def tokens_per_early_pass(self) -> float:
        return self.judged / self.early_passes if self.early_passes else float("nan")

    def lookahead(self) -> int:
        """The K with the most tokens per pass: (1 - a^K) / (1 - a) tokens for K late passes and an early one."""
        a = min(self._recent[0] / self._recent[1], 1 - 1e-6)
        return max(range(1, MOST_DRAFTS + 1), key=lambda k: (1 - a**k) / (k + 1))


class TokenScore(NamedTuple):
    """The log-prob in nats of a token under the logits it is drawn from, at temperature 1 and not truncated."""

    log_prob: float
    likeliest: list[tuple[int, float]]  # token and log-prob of as many as the row asks for, the likeliest first


@dataclass(eq=False)
class OpenCompletion:
    """One completion in the making."""

    prompt: list[int]
    seed: int
    limit: int  # most new tokens
    params: SamplingParams = field(default_factory=SamplingParams)
    alpha: float = 1.0  # of early + alpha (late - early), where there is an early model
    likeliest: int | None = None  # score every token, and this many of the likeliest in its place; None: no scores
    score_prompt: bool = False  # score the prompt's tokens too, all but the first
    ids: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)  # of `ids`
    prompt_scores: list[TokenScore] = field(default_factory=list)  # of `prompt[1:]`
    finish_reason: str | None = None

    def __post_init__(self) -> None:
        import torch

        self._generator = torch.Generator().manual_seed(self.seed)
        self._numbers, self._first = torch.empty(0, 3, dtype=torch.float64), 0

    def take(
        self,
        tokens: list[int],
        end_ids: frozenset[int],
        stops: Callable[[list[int]], bool],
        scores: Sequence[TokenScore] = (),
    ) -> None:
        """Append tokens, and their scores, up to the one that ends the completion."""
        for place, token in enumerate(tokens):
            self.ids.append(token)
            self.scores += scores[place : place + 1]
            if token in end_ids or stops(self.ids):
                self.finish_reason = "stop"
                return
            if len(self.ids) == self.limit:
                self.finish_reason = "length"
                return

    def numbers(self, count: int) -> torch.Tensor:
        """Three numbers in [0, 1) for each of the next `count` places [count, 3], from the seed."""
        import torch

        place = len(self.ids)
        while place + count > self._first + len(self._numbers):
            more = torch.rand(_NUMBERS, 3, generator=self._generator, dtype=torch.float64)
            self._numbers, self._first = torch.cat([self._numbers[place - self._first :], more]), place
        return self._numbers[place - self._first :][:count]


class Arrivals:
    """Rows whose prompts are being read: all of each but its last token, padded on the left, equal ones once."""

    def __init__(self, late: Any, early: Any, rows: Sequence[OpenCompletion]) -> None:
        import torch

        self.rows = list(rows)
        self.models, self.late, self.early = (late, early), Reader(late), None if early is None else Reader(early)
        self.scored = {
            row for row in self.rows if row.score_prompt and not row.prompt_scores
        }  # those not scored before
        wanted = [(tuple(row.prompt + row.ids), row.alpha if row in self.scored else None) for row in self.rows]
        unique = {prompt: index for index, prompt in enumerate(dict.fromkeys(wanted))}
        self.width = max(len(prompt) for prompt, _ in unique)
        device, width = late.device, self.width
        ids = [(0,) * (width - len(prompt)) + prompt for prompt, _ in unique]
        self.ids = torch.tensor(ids, device=device)  # [U, W]
        lengths = torch.tensor([len(prompt) for prompt, _ in unique], device=device)
        self.mask = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
        self.which = torch.tensor([unique[prompt] for prompt in wanted], device=device)  # [B], of U
        self.lengths = lengths[self.which] - 1
        self.done = 0  # columns that are read

    @property
    def left(self) -> int:
        """Columns that are still to be read."""
        return self.width - 1 - self.done

    def read(self, columns: int) -> None:
        """Read the next columns, as many as there are; score them where rows ask for it."""
        start, stop = self.done, min(self.done + columns, self.width - 1)
        if start == stop:
            return
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, start:stop]
        logits = [
            reader.read(self.ids[:, start:stop], self.mask[:, :stop], positions, keep=0 if self.scored else 1)
            for reader in _readers(self)
        ]
        self.done = stop
        for row, place in zip(self.rows, self.which.tolist(), strict=True):
            if row in self.scored:
                late, *early = (x[place] for x in logits)
                combined = combine_logits(early[0], late, row.alpha) if early else late
                must_be_numbers(combined, (model for model in self.models if model is not None))
                real = max(self.width - len(row.prompt) - start, 0)  # padding of this piece
                found = _scores(combined[real:], self.ids[place, start + 1 : stop + 1][real:], row.likeliest or 0)
                row.prompt_scores += found


def _readers(owner: Arrivals | Batch) -> list[Reader]:
    return [owner.late] if owner.early is None else [owner.late, owner.early]


class Batch:
    """Rows that are decoded together; `round` extends each by 1 to K tokens and forgets the finished."""

    rows: list[OpenCompletion]
    mask: torch.Tensor  # [B, S]: the slots that hold a row's tokens
    last: torch.Tensor  # [B]: each row's last token, which neither model has read
    lengths: torch.Tensor  # [B]: tokens read, which is the position of the last

    def __init__(self, late: Any, early: Any, *, context: int | None) -> None:
        self.models, self.device = (late, early), late.device
        self.last_position = 2**62 if context is None else context - 1
        self._empty()

    @property
    def finished(self) -> bool:
        return all(row.finish_reason for row in self.rows)

    def arrivals(self, rows: Sequence[OpenCompletion]) -> Arrivals:
        """Rows that may `join`, now or when more of their prompts is read."""
        return Arrivals(*self.models, rows)

    def join(self, arrivals: Arrivals) -> None:
        """Take rows in; what is left of their prompts is read first."""
        import torch

        arrivals.read(arrivals.left)
        self._pack()
        which, pad = arrivals.which, torch.nn.functional.pad
        slots = torch.arange(arrivals.width - 1, device=self.device).expand(len(which), -1)
        mask, last = arrivals.mask[which, :-1], arrivals.ids[which, -1]
        for mine, theirs in zip(_readers(self), _readers(arrivals), strict=True):
            theirs.pack(which, slots)
            mine.join(theirs, len(self.rows), len(which))
        width = max(self.mask.shape[1], mask.shape[1])
        self.mask = torch.cat([pad(x, (width - x.shape[1], 0)) for x in (self.mask, mask)])
        self.last, self.lengths = torch.cat([self.last, last]), torch.cat([self.lengths, arrivals.lengths])
        self.rows += arrivals.rows

    def round(self, lookahead: int, acceptance: Acceptance) -> list[tuple[OpenCompletion, list[int], list[TokenScore]]]:
        """Draft up to `lookahead` tokens for every row and judge them; each row with its new tokens, and their scores."""
        import torch

        self._pack()
        if not self.rows:
            return []
        depth = min(lookahead, max(row.limit - len(row.ids) for row in self.rows))
        slots, ahead = self.mask.shape[1], torch.arange(depth, device=self.device)
        positions = (self.lengths[:, None] + ahead).clamp(max=self.last_position)
        uniform = torch.stack([row.numbers(depth) for row in self.rows]).to(self.device)  # draft, keep, replace
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), depth)], 1)
        ids, drafted, q = [self.last], [], []
        for k in range(depth):
            logits = self.late.read(ids[k][:, None], self.mask[:, : slots + k + 1], positions[:, k : k + 1])[:, 0]
            drafted.append(logits)
            q.append(self._probabilities(logits))
            ids.append(draw(q[k], uniform[:, k, 0]))
        tokens, kept = torch.stack(ids[1:], 1), torch.full_like(self.lengths, depth)
        combined = torch.stack(drafted, 1)
        if self.early is not None:
            early = self.early.read(torch.stack(ids[:-1], 1), self.mask, positions)
            combined = combine_logits(early, combined, self._alpha())
            p = self._probabilities(combined)
            tokens, kept = verify_drafts(tokens, torch.stack(q, 1), p, uniform[..., 1], uniform[..., 2])
        must_be_numbers(combined, (model for model in self.models if model is not None))
        new = (kept + 1).clamp(max=depth)  # a refused draft is replaced, so every judged draft leaves a token

        self.mask[:, slots:] = ahead < new[:, None]
        self.lengths = self.lengths + new
        self.last = tokens.gather(1, new[:, None] - 1)[:, 0]
        if self.early is not None:
            acceptance.add(int(kept.sum()), int(new.sum()), len(self.rows))
        found: list[tuple[OpenCompletion, list[int], list[TokenScore]]] = []
        counts, listed = new.tolist(), tokens.tolist()
        for place, (row, count) in enumerate(zip(self.rows, counts, strict=True)):
            wanted = row.likeliest is not None
            scores = _scores(combined[place, :count], tokens[place, :count], row.likeliest or 0) if wanted else []
            found.append((row, listed[place][:count], scores))
        return found

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """The distribution [B, ..., V] of each row, by its own settings."""
        import torch

        groups: dict[SamplingParams, list[int]] = {}
        for place, row in enumerate(self.rows):
            groups.setdefault(row.params, []).append(place)
        if len(groups) == 1:
            return probabilities(logits, self.rows[0].params)
        found = torch.empty_like(logits, dtype=torch.float32)
        for params, places in groups.items():
            found[places] = probabilities(logits[places], params)
        return found

    def _alpha(self) -> float | torch.Tensor:
        """Of all rows, or of each [B, 1, 1] where they differ."""
        import torch

        alphas = [row.alpha for row in self.rows]
        if len(set(alphas)) == 1:
            return alphas[0]
        return torch.tensor(alphas, dtype=torch.float32, device=self.device)[:, None, None]

    def leave(self, rows: Iterable[OpenCompletion]) -> None:
        """Let rows go that are not finished; each may join again, and goes on where it was."""
        self._pack(frozenset(rows))

    def _pack(self, leaving: frozenset[OpenCompletion] = frozenset()) -> None:
        """Drop finished rows and unused slots; rows end up padded on the left."""
        import torch

        live = [i for i, row in enumerate(self.rows) if row.finish_reason is None and row not in leaving]
        if not live:
            self._empty()
            return
        rows, needed = torch.tensor(live, device=self.device), int(self.lengths[live].max())
        padded_left = bool((self.mask[:, :needed].diff(dim=1) >= 0).all()) and not self.mask[:, needed:].any()
        if len(live) == len(self.rows) and padded_left:  # as always in a batch of one: nothing has to be moved
            self.mask = self.mask[:, :needed]
            for reader in _readers(self):
                reader.crop(needed)
            return
        slots = self.mask[rows].argsort(dim=1, stable=True)[:, self.mask.shape[1] - needed :]
        self.rows = [self.rows[index] for index in live]
        self.mask, self.last, self.lengths = self.mask[rows].gather(1, slots), self.last[rows], self.lengths[rows]
        for reader in _readers(self):
            reader.pack(rows, slots)

    def _empty(self) -> None:
        import torch

        late, early = self.models
        self.rows = []
        self.late, self.early = Reader(late), None if early is None else Reader(early)
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=self.device)
        self.last = self.lengths = torch.zeros(0, dtype=torch.long, device=self.device)


def verify_drafts(
    drafts: torch.Tensor, q: torch.Tensor, p: torch.Tensor, keep: torch.Tensor, replace: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which drafts stand: tokens [B, K] with the first refused one replaced, and how many were kept [B].

    Args:
        drafts: tokens [B, K] drawn from `q` [B, K, V].
        p: the distribution [B, K, V] that the outcome must have.
        keep, replace: uniform numbers [B, K] in [0, 1).
    """
    import torch

    p_draft, q_draft = (x.gather(-1, drafts[..., None])[..., 0] for x in (p, q))
    refused = keep * q_draft >= p_draft
    kept = torch.where(refused.any(1), refused.int().argmax(1), drafts.shape[1])
    rows, at = torch.arange(len(drafts), device=drafts.device), kept.clamp(max=drafts.shape[1] - 1)
    wanted = p[rows, at]
    missing = (wanted - q[rows, at]).clamp(min=0)
    missing = torch.where(missing.sum(-1, keepdim=True) > 0, missing, wanted)  # p and q equal but for rounding
    tokens = drafts.clone()
    tokens[rows, at] = torch.where(kept < drafts.shape[1], draw(missing, replace[rows, at]), tokens[rows, at])
    return tokens, kept


def _scores(logits: torch.Tensor, tokens: torch.Tensor, likeliest: int) -> list[TokenScore]:
    """Of tokens [K] under logits [K, V], each with its place's likeliest."""
    log_p = logits.float().log_softmax(-1)
    values = log_p.gather(1, tokens[:, None])[:, 0].tolist()
    most = log_p.topk(min(likeliest, log_p.shape[1]))
    tops = zip(most.indices.tolist(), most.values.tolist(), strict=True)
    return [TokenScore(value, list(zip(*top, strict=True))) for value, top in zip(values, tops, strict=True)]
