"""Every report page in a real Chromium: silent, offline, drawn, usable, and inert where a run supplied text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samples import make_pages
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from browser import CHROMIUM, DRIVER, WIDTHS, chromium, console, requests, show

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver"),
]
KINDS = ("analysis", "regrounded", "backtest", "logprobs", "activations", "sweep", "comparison", "study")

# Of every chart: its id, its size, and how many marks of some size it has drawn.
_DRAWN = """
return [...document.querySelectorAll(".chart")].map((chart) => {
  const marks = [...chart.querySelectorAll(".cartesianlayer .trace path, .cartesianlayer .hm image")];
  const { width, height } = chart.getBoundingClientRect();
  const seen = marks.filter((mark) => { const box = mark.getBoundingClientRect(); return box.width > 1 || box.height > 1; });
  return { id: chart.id, width, height, marks: seen.length };
});
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_silent_offline_drawn_and_inert(
    driver: Chrome, pages: dict[str, Path], kind: str, width: int
) -> None:
    console(driver), requests(driver)
    show(driver, pages[kind], width)
    drawn = driver.execute_script(_DRAWN)
    assert console(driver) == []
    assert [url for url in requests(driver) if not url.startswith(("file:", "data:"))] == []
    assert drawn
    for chart in drawn:
        assert chart["marks"] > 0, chart
        assert 150 < chart["width"] <= width, chart
        assert chart["height"] > 150, chart
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script("return typeof planted") == "undefined"
    assert driver.find_elements(By.CSS_SELECTOR, "img, a, svg a") == []
    assert "<script>planted=1" in str(driver.find_element(By.TAG_NAME, "body").get_property("textContent"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_drawn_within_a_second(driver: Chrome, pages: dict[str, Path], kind: str) -> None:
    """By the processor time of the thread that draws, the least of three: the clock tells of other work too."""
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    spent = []
    for _ in range(3):
        show(driver, pages[kind], 1280)
        driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        spent += [metric["value"] for metric in metrics if metric["name"] == "TaskDuration"]
    driver.execute_cdp_cmd("Performance.disable", {})
    assert len(spent) == 3
    assert 0 < min(spent) < 1


@pytest.mark.parametrize("width", WIDTHS)
def test_the_switch_changes_what_the_map_shows(driver: Chrome, pages: dict[str, Path], width: int) -> None:
    show(driver, pages["analysis"], width)

    def shown() -> Any:
        return driver.execute_script("""return ["heat-map", "outside"].map((id) => {
          const chart = document.getElementById(id);
          return [chart.data[0].z.flat(), chart._fullLayout.coloraxis.colorbar.title.text, chart.querySelector(".hm image").getAttribute("href")];
        })""")

    first = shown()
    for label in ("skill", "norm of the update"):
        driver.find_element(By.XPATH, f"//button[text()='{label}']").click()
        now = shown()
        for before, after in zip(first, now, strict=True):
            assert before[:2] != after[:2]
            assert before[2] != after[2], "the colours were not redrawn"
        pressed = driver.find_elements(By.CSS_SELECTOR, ".switch [aria-pressed=true]")
        assert [button.text for button in pressed] == [label]
    driver.find_element(By.XPATH, "//button[text()='median R²']").click()
    assert [view[:2] for view in shown()] == [view[:2] for view in first]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_click_on_a_cell_shows_its_tensor(driver: Chrome, pages: dict[str, Path], width: int) -> None:
    show(driver, pages["analysis"], width)
    points = "return ['r2', 'samples', 'cosines'].map((name) => JSON.stringify(document.getElementById(`tensor-${name}`).data))"
    before = driver.execute_script(points)
    chart = driver.find_element(By.ID, "heat-map")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    x, y = driver.execute_script("""const { xaxis, yaxis } = document.getElementById("heat-map")._fullLayout;
      return [xaxis._offset + xaxis.d2p("up_proj"), yaxis._offset + yaxis.d2p("2")];""")
    size = chart.size
    ActionChains(driver).move_to_element_with_offset(
        chart, round(x - size["width"] / 2), round(y - size["height"] / 2)
    ).click().perform()
    chosen = driver.execute_script("const s = document.getElementById('tensor-choice'); return s.options[s.value].text")
    assert chosen == "model.layers.2.up_proj.weight"
    after = driver.execute_script(points)
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert all(c["marks"] for c in driver.execute_script(_DRAWN) if c["id"].startswith("tensor-"))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_copy_button_copies_the_command(driver: Chrome, pages: dict[str, Path], width: int) -> None:
    show(driver, pages["backtest"], width)
    command = str(driver.find_element(By.CSS_SELECTOR, ".command code").get_property("textContent"))
    assert command.startswith("driftline ")
    button = driver.find_element(By.CSS_SELECTOR, ".command button")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    WebDriverWait(driver, 30, 0.1).until(lambda _: button.text == "Copied")  # the browser writes when it comes to it
    driver.execute_script("document.body.prepend(document.createElement('textarea'))")
    driver.find_element(By.TAG_NAME, "textarea").send_keys(Keys.CONTROL, "v")
    assert driver.execute_script("return document.querySelector('textarea').value") == command


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_take_the_colours_of_the_page(driver: Chrome, pages: dict[str, Path], scheme: str) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    show(driver, pages["backtest"], 1280)
    fill, text, ground = driver.execute_script("""const body = getComputedStyle(document.body);
      return [getComputedStyle(document.querySelector("#skill .xtick text")).fill, body.color, body.backgroundColor];""")
    assert fill == text
    lightness = [sum(map(int, colour[colour.index("(") + 1 : -1].split(",")[:3])) for colour in (text, ground)]
    assert (
        (lightness[0] < 150 and lightness[1] > 700)
        if scheme == "light"
        else (lightness[0] > 600 and lightness[1] < 100)
    )


def test_charts_narrow_for_paper_and_widen_again(driver: Chrome, pages: dict[str, Path]) -> None:
    show(driver, pages["backtest"], 1280)
    widths = """dispatchEvent(new Event(arguments[0]));
      return [...document.querySelectorAll(".chart .main-svg:first-child")].map((svg) => svg.getBoundingClientRect().width);"""
    assert max(driver.execute_script(widths, "beforeprint")) <= 640
    assert min(driver.execute_script(widths, "afterprint")) > 900


def test_a_token_says_its_trajectory_when_pointed_at(driver: Chrome, pages: dict[str, Path]) -> None:
    show(driver, pages["logprobs"], 1280)
    said = driver.execute_script("""const mark = document.querySelector("mark[data-at]");
      mark.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
      return mark.title;""")
    assert re.fullmatch(r"0: -?\d+\.\d\d(, \d+: -?\d+\.\d\d)+, 110: -?\d+\.\d\d", said)


def test_the_chosen_tensor_has_its_numbers(driver: Chrome, pages: dict[str, Path]) -> None:
    show(driver, pages["analysis"], 1280)
    about, listed, diagonal = driver.execute_script("""return [document.getElementById("tensor-about").textContent,
      document.querySelectorAll("#tensor-table tr").length,
      document.getElementById("tensor-cosines").data[0].z.map((row, place) => row[place])];""")
    assert about == "30 parameters, 30 of them measured"
    assert listed == 1 + 11
    assert diagonal == [1] * 11
