"""Text that is sent in pieces is the text of the whole, and no piece holds what it must not."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from driftline.decoding.server.text import TextStream


@pytest.fixture(scope="module")
def in_bytes() -> PreTrainedTokenizerFast:
    """A token for each byte, and one that is not shown."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<end>", clean_up_tokenization_spaces=False)


TEXT = "naïve Ωμέγα 漢字 🙂🙂 and so on: the end, \n\nor not \ufffd? " * 12


def sent(tokenizer: PreTrainedTokenizerFast, ids: list[int], stop: list[str], whole: str, seed: int) -> list[str]:
    """Pieces of tokens that come in numbers of 1 to 5."""
    stream, draw, pieces, at = TextStream(tokenizer, stop), random.Random(seed), [], 0
    while at < len(ids):
        count = draw.randint(1, 5)
        last = at + count >= len(ids)
        pieces.append(stream.finish(whole) if last else stream.add(ids[at : at + count]))
        at += count
    return pieces


@pytest.mark.parametrize("seed", range(5))
def test_characters_are_sent_whole(in_bytes, seed):
    ids = in_bytes(TEXT, add_special_tokens=False).input_ids
    draw = random.Random(seed)
    for _ in range(20):
        ids.insert(draw.randrange(len(ids)), in_bytes.eos_token_id)
    whole = in_bytes.decode(ids, skip_special_tokens=True)
    pieces = sent(in_bytes, ids, [], whole, seed)
    assert "".join(pieces) == whole
    assert sum("\ufffd" in piece for piece in pieces) <= whole.count("\ufffd")
    assert sum(map(bool, pieces)) > len(pieces) // 2  # they are not all kept for the end


@pytest.mark.parametrize("cut", range(1, 6))
def test_bytes_that_never_become_a_character_are_sent_at_the_end(in_bytes, cut):
    ids = in_bytes("ok 🙂", add_special_tokens=False).input_ids[:-1][: 3 + cut]
    whole = in_bytes.decode(ids, skip_special_tokens=True)
    assert "".join(sent(in_bytes, ids, [], whole, 0)) == whole


@pytest.mark.parametrize("seed", range(5))
def test_no_part_of_a_stop_string_is_sent(in_bytes, seed):
    stop = ["the end, \n\nor never", "漢字 🙂🙂 or", "\n\nor not \ufffd? naïve Ω"]
    ids = in_bytes(TEXT, add_special_tokens=False).input_ids
    text, count = "", 0
    while not any(end in text for end in stop):
        count += 1
        text = in_bytes.decode(ids[:count], skip_special_tokens=True)
    whole = text[: min(text.index(end) for end in stop if end in text)]
    pieces = sent(in_bytes, ids[:count], stop, whole, seed)
    assert "".join(pieces) == whole
    for end in range(1, len(pieces)):
        assert whole.startswith("".join(pieces[:end]))


def test_long_texts_are_not_decoded_whole_for_each_piece(in_bytes):
    stream = TextStream(in_bytes, [])
    for token in in_bytes(TEXT, add_special_tokens=False).input_ids:
        stream.add([token])
        assert len(stream._ids) < 120
