"""A checkpoint's chat template is a program of somebody else's."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))

from tiny_models import tokenizer

from driftline.errors import InputError
from driftline.prompts import encode

CHAT = {"messages": [{"role": "user", "content": "w5 w7"}]}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes more than 1 s"),
        ("{{ 'a' * 10**9 }}", "takes more than 512 MiB of memory"),
        ("{{ '%1000000000d' % 1 }}", "takes more than 512 MiB of memory"),
        ("{{ messages | tojson(indent=10**9) }}", "takes more than 512 MiB of memory"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "maximum recursion depth"),
        ("{{ 1 // 0 }}", "integer division or modulo by zero"),
        ("{{ messages[0].content.no.such }}", "no attribute"),
        ("{{ raise_exception('no chat here') }}", "no chat here"),
        ("{% for", "unexpected"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ 7 ** (10 ** 9) }}", "takes more than 1 s"),
    ],
)
def test_it_ends_within_bounds_and_in_a_sentence(template: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftline.prompts._SECONDS", 1.0)
    model = tokenizer()
    model.chat_template = template
    started = time.monotonic()
    with pytest.raises(InputError, match=r"the request .*chat template") as told:
        encode(CHAT, model, "the request")
    assert said in str(told.value)
    assert "\n" not in str(told.value)
    assert time.monotonic() - started < 20
    model.chat_template = "{{ messages[0].content }}"  # mended, it is used
    assert encode(CHAT, model, "the request").ids == [5, 7]


def test_a_text_that_is_half_a_character_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"the request has a text that the tokenizer refuses .half of a surrogate pair stands alone"
    ):
        encode({"prompt": "w5 \ud800"}, tokenizer(), "the request")


def test_a_template_that_hangs_over_a_short_chat_is_not_tried_again_and_holds_up_no_plain_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("driftline.prompts._SECONDS", 1.0)
    model = tokenizer(template="{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    with ThreadPoolExecutor(1) as pool:
        chat = pool.submit(encode, CHAT, model, "the request")
        time.sleep(0.2)
        assert encode({"prompt": "w5"}, model, "the request").ids == [5]
        assert not chat.done()
        with pytest.raises(InputError, match="takes more than 1 s"):
            chat.result()
    monkeypatch.setattr("driftline.prompts._apart", None)
    with pytest.raises(InputError, match="takes more than 1 s"):
        encode(CHAT, model, "the request")


@pytest.mark.parametrize("depth", [70, 400, 900, 980, 990])
def test_a_chat_that_is_nested_deeply_is_its_own_fault(depth: int) -> None:
    model = tokenizer(template="{{ messages | tojson }}{{ messages | string }}")
    deep: object = "w5"
    for _ in range(depth):
        deep = [deep]
    for key in ("tool_calls", "name"):
        with pytest.raises(InputError, match="the request has a chat that is nested more than 64 deep: mend"):
            encode({"messages": [{"role": "user", "content": "w5", key: deep}]}, model, "the request")
    assert encode(CHAT, model, "the request").ids


def test_a_long_chat_over_which_a_template_takes_long_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftline.prompts._SECONDS", 1.0)
    model = tokenizer(
        template="{% if messages | length > 1 %}{% for a in range(99999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
        "{% endif %}w9"
    )
    long = {"messages": [{"role": "user", "content": "w5 " * 10_000}] * 3}
    with pytest.raises(InputError, match="takes more than 1 s"):
        encode(long, model, "the request")
    assert encode(CHAT, model, "the request").ids == [9]
