"""Every error ends with what to do; every sentence that the documentation explains is one that is really raised."""

from __future__ import annotations

import re
from pathlib import Path

from error_sentences import sentences

PAGES = Path(__file__).parents[2] / "docs" / "errors"

# What a reader can do, as these sentences say it.
_DO = "|".join(
    """
    add aim analyze ask begin check choose continue copy drop end evaluate give install leave let load lower
    make mend merge mount move name names pip put raise remove repeat resume sample save say score set shorten
    start train unfreeze use write
    """.split()  # noqa: SIM905
)
_DOES = re.compile(rf"\b({_DO})\b|must be|still being written|it must|needs? (either|at least)")


def test_every_error_ends_with_what_to_do() -> None:
    """An unreadable checkpoint is a reason that others quote; all else is said to someone who has to act.

    (A clause that is nothing but a value is a hint put together just before.)
    """
    silent = []
    for sentence in sentences():
        last = re.split(r"[:;,(]\s", sentence.text)[1:]
        if sentence.kind == "InputError" and not any(_DOES.search(clause) or clause == "{}" for clause in last[-3:]):
            silent.append(f"{sentence.where}: {sentence.text}")
    assert not silent, "say what to do, after a colon:\n" + "\n".join(silent)


def test_every_error_with_a_page_is_raised_somewhere() -> None:
    raised = [sentence.text.replace("{}", "…") for sentence in sentences()]
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    pages = sorted(page for page in PAGES.glob("*.md") if page.name != "index.md")
    assert len(pages) > 30
    gone = []
    for page in pages:
        heading = page.read_text(encoding="utf-8").split("\n", 1)[0]
        text = heading.removeprefix("# `").removesuffix("`")
        assert f"- [`{text}`]({page.name})" in index, f"{page.name} is not in the list"
        if not any(text in sentence for sentence in raised):
            gone.append(text)
    assert not gone, "no longer raised as they stand there:\n" + "\n".join(gone)
