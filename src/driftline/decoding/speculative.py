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

Shapes: B rows, K drafts, S slots of a cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from driftline.decoding.distribution import SamplingParams, combine_logits, draw, probabilities

if TYPE_CHECKING:
    import torch

MOST_DRAFTS = 16


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


@dataclass
class OpenCompletion:
    """One completion in the making."""

    prompt: list[int]
    seed: int
    limit: int  # most new tokens
    ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def take(self, tokens: list[int], end_ids: frozenset[int], stops: Callable[[list[int]], bool]) -> None:
        """Append tokens up to the one that ends the completion."""
        for token in tokens:
            self.ids.append(token)
            if token in end_ids or stops(self.ids):
                self.finish_reason = "stop"
                return
            if len(self.ids) == self.limit:
                self.finish_reason = "length"
                return


class Reader:
    """A model and the keys and values of what it has read, in slots that can be dropped."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self.model, self.cache = model, DynamicCache()  # without a configuration: no layer forgets old slots

    def read(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, keep: int = 0) -> torch.Tensor:
        """Logits [B, K, V] after each of `ids` [B, K], or of the last `keep` only; `mask` [B, S + K] marks the slots in use."""
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits

    def crop(self, slots: int) -> None:
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, :slots], layer.values[:, :, :slots]

    def pack(self, rows: torch.Tensor, slots: torch.Tensor) -> None:
        """Keep the given rows [R], of each the given slots [R, S]."""
        for layer in self.cache.layers:
            index = slots[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys = layer.keys.index_select(0, rows).gather(2, index)
            index = slots[:, None, :, None].expand(-1, layer.values.shape[1], -1, layer.values.shape[3])
            layer.values = layer.values.index_select(0, rows).gather(2, index)


class Batch:
    """Rows that are decoded together; `round` extends each by 1 to K tokens and forgets the finished."""

    mask: torch.Tensor  # [B, S]: the slots that hold a row's tokens
    last: torch.Tensor  # [B]: each row's last token, which neither model has read
    lengths: torch.Tensor  # [B]: tokens read, which is the position of the last

    def __init__(
        self,
        late: Any,
        early: Any,
        rows: Sequence[OpenCompletion],
        *,
        alpha: float,
        params: SamplingParams,
        context: int | None,
    ) -> None:
        import torch

        self.rows, self.alpha, self.params = list(rows), alpha, params
        self.late, self.early = Reader(late), None if early is None else Reader(early)
        self.device = late.device
        self.last_position = 2**62 if context is None else context - 1
        numbers = torch.nn.utils.rnn.pad_sequence([_numbers(row) for row in rows], batch_first=True)
        self.numbers = numbers.to(self.device)  # [B, most new tokens, 3]
        self._read_prompts()

    @property
    def finished(self) -> bool:
        return all(row.finish_reason for row in self.rows)

    def round(self, lookahead: int, acceptance: Acceptance) -> list[tuple[OpenCompletion, list[int]]]:
        """Draft up to `lookahead` tokens for every row and judge them; each row with its new tokens."""
        import torch

        self._pack()
        depth = min(lookahead, max(row.limit - len(row.ids) for row in self.rows))
        slots, ahead = self.mask.shape[1], torch.arange(depth, device=self.device)
        positions = (self.lengths[:, None] + ahead).clamp(max=self.last_position)
        uniform = self._numbers_for(ahead)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), depth)], 1)
        ids, late, q = [self.last], [], []
        for k in range(depth):
            logits = self.late.read(ids[k][:, None], self.mask[:, : slots + k + 1], positions[:, k : k + 1])[:, 0]
            late.append(logits)
            q.append(probabilities(logits, self.params))
            ids.append(draw(q[k], uniform[:, k, 0]))
        tokens, kept = torch.stack(ids[1:], 1), torch.full_like(self.lengths, depth)
        if self.early is not None:
            early = self.early.read(torch.stack(ids[:-1], 1), self.mask, positions)
            p = probabilities(combine_logits(early, torch.stack(late, 1), self.alpha), self.params)
            tokens, kept = verify_drafts(tokens, torch.stack(q, 1), p, uniform[..., 1], uniform[..., 2])
        new = (kept + 1).clamp(max=depth)  # a refused draft is replaced, so every judged draft leaves a token

        self.mask[:, slots:] = ahead < new[:, None]
        self.lengths = self.lengths + new
        self.last = tokens.gather(1, new[:, None] - 1)[:, 0]
        if self.early is not None:
            acceptance.add(int(kept.sum()), int(new.sum()), len(self.rows))
        rows = zip(self.rows, tokens.tolist(), new.tolist(), strict=True)
        return [(row, drawn[:count]) for row, drawn, count in rows]

    def _read_prompts(self) -> None:
        """All of each prompt but its last token, padded on the left; equal prompts are read once."""
        import torch

        prompts = [tuple(row.prompt) for row in self.rows]
        unique = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        width = max(map(len, unique))
        ids = torch.tensor([(0,) * (width - len(prompt)) + prompt for prompt in unique], device=self.device)
        lengths = torch.tensor([len(prompt) for prompt in unique], device=self.device)
        mask = (torch.arange(width, device=self.device) >= width - lengths[:, None]).long()
        which = torch.tensor([unique[prompt] for prompt in prompts], device=self.device)
        self.mask, self.last, self.lengths = mask[which, :-1], ids[which, -1], lengths[which] - 1
        if width > 1:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            slots = torch.arange(width - 1, device=self.device).expand(len(which), -1)
            for reader in self._readers:
                reader.read(ids[:, :-1], mask[:, :-1], positions[:, :-1], keep=1)
                reader.pack(which, slots)

    def _numbers_for(self, ahead: torch.Tensor) -> torch.Tensor:
        """The numbers [B, K, 3] that draft, keep and replace each row's next tokens."""
        import torch

        done = torch.tensor([len(row.ids) for row in self.rows], device=self.device)
        place = (done[:, None] + ahead).clamp(max=self.numbers.shape[1] - 1)
        return self.numbers.gather(1, place[..., None].expand(-1, -1, 3))

    def _pack(self) -> None:
        """Drop finished rows and unused slots; rows end up padded on the left."""
        import torch

        live = [index for index, row in enumerate(self.rows) if row.finish_reason is None]
        rows, needed = torch.tensor(live, device=self.device), int(self.lengths[live].max())
        padded_left = bool((self.mask[:, :needed].diff(dim=1) >= 0).all()) and not self.mask[:, needed:].any()
        if len(live) == len(self.rows) and padded_left:  # as always in a batch of one: nothing has to be moved
            self.mask = self.mask[:, :needed]
            for reader in self._readers:
                reader.crop(needed)
            return
        slots = self.mask[rows].argsort(dim=1, stable=True)[:, self.mask.shape[1] - needed :]
        self.rows = [self.rows[index] for index in live]
        self.mask, self.last, self.lengths = self.mask[rows].gather(1, slots), self.last[rows], self.lengths[rows]
        self.numbers = self.numbers[rows]
        for reader in self._readers:
            reader.pack(rows, slots)

    @property
    def _readers(self) -> list[Reader]:
        return [self.late] if self.early is None else [self.late, self.early]


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


def _numbers(row: OpenCompletion) -> torch.Tensor:
    """Three numbers in [0, 1) for each place of a row, from its seed: [limit, 3]."""
    import torch

    return torch.rand(row.limit, 3, generator=torch.Generator().manual_seed(row.seed), dtype=torch.float64)
