"""The frame of a report page: text, tables and charts in one HTML file. All text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --fg: #1b1f24; --bg: #ffffff; --dim: #57606a; --line: #d0d7de; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --fg: #e6edf3; --bg: #0d1117; --dim: #9198a1; --line: #30363d; --card: #161b22; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--fg); background: var(--bg);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.2rem; margin: 0; color: var(--dim); font-weight: 600; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .25rem; }
.verdict { font-size: 1.35rem; line-height: 1.35; border-left: .35rem solid var(--line); padding: .25rem 0 .25rem 1rem; margin: 1rem 0; }
.verdict.yes { border-color: #0072b2; } .verdict.no { border-color: #d55e00; }
.aid { color: var(--dim); margin: 0 0 .5rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
.figure b { display: block; font-size: 1.4rem; } .figure span { color: var(--dim); font-size: .85rem; }
.chart { width: 100%; min-height: 22rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; } th, td { text-align: left; padding: .25rem .8rem .25rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
mark { color: inherit; border-radius: .2rem; } mark.up { background: #0072b255; } mark.down { background: #d55e0055; }
code { white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .25rem 0 0; } summary { color: var(--dim); cursor: pointer; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; overflow-x: auto; }
@media print { body { max-width: none; } details { display: none; } .chart { break-inside: avoid; } }
"""


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


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; cells that are numbers are set right."""
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="n">{number(c, 3)}</td>' if isinstance(c, (int, float)) else f"<td>{text(c)}</td>" for c in row
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


def page(title: str, body: str) -> str:
    """The whole document. plotly's script is embedded once; charts in `body` use it."""
    from plotly.offline import get_plotlyjs

    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f"<body><h1>{text(title)}</h1>{body}</body></html>"
    )
