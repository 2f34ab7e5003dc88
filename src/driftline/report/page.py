"""What every page is made of, rendered from `templates/`, which escape whatever they are given.

A page is one HTML file that needs nothing else: plotly's script once, `page.css`, and `page.js`, which draws
each chart from the JSON beside it. Nothing outside the templates writes a tag.
"""

from __future__ import annotations

import math
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from markupsafe import Markup

from driftline.files.atomic import replace_text
from driftline.linearity.summary import PersistenceFigures

if TYPE_CHECKING:
    import jinja2

Steps = Sequence[tuple[str, Sequence[str]]]  # what to do next: (why, words of the command, if one does it) each
NOTHING = Markup("")
PLOTLY_JS = (
    "4.1.1"  # of vendor/plotly-cartesian.min.js, which draws bar, scatter, heatmap and their like, not scattergl
)
_SMALL = 0.01  # a column of figures below this is one of lengths, slopes or rates
_HERE = Path(__file__).parent


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    found.filters["number"] = number
    found.policies["json.dumps_function"] = _json
    found.policies["json.dumps_kwargs"] = {}
    return found


def render(template: str, **values: Any) -> Markup:
    """A file of `templates/` with its values filled in, escaped unless they were rendered here before."""
    return Markup(_environment().get_template(template).render(**values))


def joined(parts: Iterable[Markup]) -> Markup:
    return NOTHING.join(parts)


def _json(value: Any) -> str:
    """Compact JSON, in which NaN and infinity are null and numpy's arrays are lists."""
    return msgspec.json.encode(value, enc_hook=lambda array: array.tolist()).decode()


def number(value: float | None, digits: int = 2) -> str:
    """A figure for reading: `digits` decimals, scientific when huge (steps, of no decimals, never), a dash when there is none.

    One that would round to nothing is told from nothing: `<0.001`, and `>-0.001` below 0.
    """
    if value is None or value != value:
        return "–"
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "-∞"
    if isinstance(value, int):
        return f"{value:,}"
    if digits and 0 < abs(value) < 0.5 * 10.0**-digits:
        return f"{'<' if value > 0 else '>-'}{10.0**-digits:.{digits}f}"
    return f"{value:.{digits}e}" if digits and abs(value) >= 1e6 else f"{value:.{digits}f}"


def quantity(value: float | None) -> str:
    """A length, a slope or the like, whose size is what is read: three significant digits."""
    return number(value) if value is None or not math.isfinite(value) else f"{value:.3g}"


def _is_figure(cell: Any) -> bool:
    return cell is None or isinstance(cell, (int, float))


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[tuple[str, bool]]]:
    """The text of each cell, and whether it is a figure; a column of nothing but small ones is of quantities."""
    listed = [list(row) for row in rows]
    small: dict[int, bool] = {}
    for row in listed:
        for place, cell in enumerate(row):
            if isinstance(cell, float) and math.isfinite(cell) and cell:
                small[place] = small.get(place, True) and abs(cell) < _SMALL
    return [
        [
            (str(cell), False)
            if not _is_figure(cell)
            else (quantity(cell) if small.get(place) and isinstance(cell, float) else number(cell, 3), True)
            for place, cell in enumerate(row)
        ]
        for row in listed
    ]


def persistence_card(life: PersistenceFigures) -> tuple[str, str, str]:
    """The card of how long a run keeps its direction."""
    low, high = life.interval
    if life.length is None:
        return number(None), "persistence length, steps", "too few checkpoints to tell"
    return (
        number(life.length, 0) + (" or more" if life.at_least else ""),
        "persistence length, steps",
        f"95 %: {number(low, 0)} to {'∞' if high is None else number(high, 0)}",
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table; cells that are numbers are set right."""
    return render("table.html", head=head, rows=_columns(rows))


def aid(sentence: str) -> Markup:
    """A sentence that helps to read what stands below it."""
    return render("aid.html", sentence=sentence)


def section(title: str, aid: str, body: Markup, behind: Markup = NOTHING) -> Markup:
    """A chart or table with a title that says what it shows, a reading aid, and the table behind it."""
    return render("section.html", title=title, aid=aid, body=body, behind=behind)


def verdict(sentence: str, good: bool | None, cards: Iterable[tuple[str, str, str]] = ()) -> Markup:
    """What the page says in one sentence, and cards behind it: figure, what it is, what chance gives.

    `good` colours the sentence, None leaves it plain.
    """
    return render("verdict.html", sentence=sentence, good=good, cards=list(cards))


def next_steps(steps: Steps) -> Markup:
    """What to do next, quoted for a shell, with a button that copies it; empty where nothing follows.

    A line breaks between words only, where they are short enough; the name of the command is one of them.
    """
    shown = [(why, words and [shlex.join(words[:2]), *map(shlex.quote, words[2:])]) for why, words in steps]
    return render("next.html", steps=shown)


def made(command: str, rows: Iterable[tuple[str, Any]]) -> Markup:
    """How the page was made: the command, then sources and times, versions, and the memory the process took."""
    versions = ", ".join(
        [*(f"{name} {metadata.version(name)}" for name in ("numpy", "numba")), f"plotly.js {PLOTLY_JS}"]
    )
    machine = [
        ("with", f"Python {platform.python_version()}, {versions}, on {platform.system()} {platform.machine()}"),
        *(("memory at its peak", f"{peak / 2**20:,.0f} MiB") for peak in _peak_memory()),
    ]
    body = render("made.html", command=command, table=table(["", ""], [*rows, *machine]))
    return section("How this page was made", "", body)


def _peak_memory() -> list[int]:
    """Peak resident bytes of this process, where the system tells."""
    try:
        import resource
    except ImportError:
        return []
    return [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)]


def switch(name: str, what: str, labels: Sequence[str], choices: dict[str, list[Any]]) -> Markup:
    """Buttons that show one of several views; `choices` has, for each chart, the view of each label (see `page.js`)."""
    return render("switch.html", name=name, what=what, labels=labels, data=embedded(f"{name}-choices", choices))


def embedded(name: str, value: Any) -> Markup:
    """Data for `page.js`, as JSON that no text in it can break out of."""
    return render("data.html", name=name, value=value)


def document(title: str, parts: Iterable[Markup]) -> Markup:
    """The whole page: verdict, what to do next, evidence, how it was made, in this order."""
    files = {"style": "page.css", "script": "page.js", "plotly": "vendor/plotly-cartesian.min.js"}
    ours = {name: Markup((_HERE / file).read_text(encoding="utf-8")) for name, file in files.items()}
    return render("page.html", title=title, parts=parts, **ours)


def write(folder: Path, title: str, parts: Iterable[Markup]) -> None:
    """`report.html` in `folder`, in one piece."""
    replace_text(folder / "report.html", document(title, parts))
