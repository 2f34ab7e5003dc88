"""The frame of a report page: the verdict, what to do next, the evidence, how it was made. All text is escaped here.

One HTML file that needs nothing else: plotly's script once, `page.css`, and `page.js`, which draws each
chart from the JSON beside it.
"""

from __future__ import annotations

import html
import json
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata, resources
from typing import Any

_HERE = resources.files(__package__)


def text(value: Any) -> str:
    return html.escape(str(value))


def number(value: float | None, digits: int = 2) -> str:
    """A figure for reading: `digits` decimals, scientific when tiny or huge, a dash when there is none."""
    if value is None or value != value:
        return "–"
    if value in (float("inf"), float("-inf")):
        return "∞"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}e}" if value and not 1e-3 <= abs(value) < 1e6 else f"{value:.{digits}f}"


def persistence_card(life: dict[str, Any]) -> tuple[str, str, str]:
    """The card of how long a run keeps its direction."""
    length, (low, high) = float(life["length"]), map(float, life["interval"])
    known = length == length
    return (
        number(length, 0) + (" or more" if known and life["at_least"] else ""),
        "persistence length, steps",
        f"95 %: {number(low, 0)} to {number(high, 0)}" if known else "too few checkpoints to tell",
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; cells that are numbers are set right."""
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="n">{number(c, 3)}</td>' if c is None or isinstance(c, (int, float)) else f"<td>{text(c)}</td>"
            for c in row
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{"".join(f"<th>{text(h)}</th>" for h in head)}</tr>{body}</table></div>'


def figures(items: Iterable[tuple[str, str, str]]) -> str:
    """A row of cards: figure, what it is, what chance gives."""
    cards = (
        f'<div class="figure"><b>{text(v)}</b>{text(name)}<br><span>{text(note)}</span></div>'
        for v, name, note in items
    )
    return f'<div class="figures">{"".join(cards)}</div>'


def section(title: str, aid: str, body: str, behind: str = "") -> str:
    """A chart or table with a title that says what it shows, a reading aid, and the table behind it."""
    fold = f"<details><summary>The numbers</summary>{behind}</details>" if behind else ""
    return f'<section><h2>{text(title)}</h2><p class="aid">{text(aid)}</p>{body}{fold}</section>'


def verdict(sentence: str, good: bool | None, cards: Iterable[tuple[str, str, str]] = ()) -> str:
    """What the page says in one sentence, and the figures behind it; `good` colours it, None leaves it plain."""
    mark = {True: " yes", False: " no", None: ""}[good]
    cards = list(cards)
    return f'<p class="verdict{mark}">{text(sentence)}</p>' + (figures(cards) if cards else "")


def next_steps(steps: Sequence[tuple[str, Sequence[str]]]) -> str:
    """What to do next: (why, words of the command) each, with a button that copies the command; empty where nothing follows."""
    commands = "".join(
        f'<p class="aid">{text(why)}</p><div class="command"><pre><code>{_whole(words)}</code></pre>'
        '<button type="button">Copy</button></div>'
        for why, words in steps
    )
    return f"<section><h2>What to do next</h2>{commands}</section>" if steps else ""


def _whole(words: Sequence[str]) -> str:
    """A command line that breaks between its words only, where they are short enough; the name is one of them."""
    parts = [shlex.join(words[:2]), *map(shlex.quote, words[2:])]
    return " ".join(f"<span>{text(part)}</span>" for part in parts)


def asked(command: str) -> tuple[list[str], str]:
    """What a command line of driftline was asked about (the words before its options), and its --out; empty where there is none."""
    try:
        words = shlex.split(command)[2:]
    except ValueError:
        return [], ""
    first = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    out = words[words.index("--out") + 1 : words.index("--out") + 2] if "--out" in words else []
    return words[:first], out[0] if out else ""


def options(command: str, *names: str) -> list[str]:
    """The words of those options of a command line, with their values: for a next command that asks about the same."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    taken: list[str] = []
    for place, word in enumerate(words):
        if word in names:
            stop = next((i for i in range(place + 1, len(words)) if words[i].startswith("--")), len(words))
            taken += words[place:stop]
    return taken


def made(command: str, rows: Iterable[tuple[str, Any]]) -> str:
    """How the page was made: the command, then sources and times, versions, and the memory the process took."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "numba", "plotly"))
    machine = [
        ("with", f"Python {platform.python_version()}, {versions}, on {platform.system()} {platform.machine()}"),
        *(("memory at its peak", f"{peak / 2**20:,.0f} MiB") for peak in _peak_memory()),
    ]
    return section(
        "How this page was made", "", f"<pre><code>{text(command)}</code></pre>" + table(["", ""], [*rows, *machine])
    )


def _peak_memory() -> list[int]:
    """Peak resident bytes of this process, where the system tells."""
    try:
        import resource
    except ImportError:
        return []
    return [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)]


def switch(name: str, what: str, labels: Sequence[str], choices: dict[str, list[Any]]) -> str:
    """Buttons that show one of several views; `choices` has, for each chart, the view of each label (see `page.js`)."""
    buttons = "".join(
        f'<button type="button" aria-pressed="{str(not place).lower()}">{text(label)}</button>'
        for place, label in enumerate(labels)
    )
    group = f'<div class="switch" role="group" aria-label="{text(what)}" data-from="{name}-choices">{buttons}</div>'
    return group + embedded(f"{name}-choices", choices)


def embedded(name: str, value: Any) -> str:
    """Data for `page.js`, as JSON that no text in it can break out of."""
    packed = json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{text(name)}">{packed}</script>'


def page(title: str, *parts: str) -> str:
    """The whole document: verdict, what to do next, evidence, how it was made, in this order."""
    from plotly.offline import get_plotlyjs

    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{style}</style><script>{get_plotlyjs()}</script></head>"
        f"<body><h1>{text(title)}</h1>{''.join(parts)}<script>{script}</script></body></html>"
    )
