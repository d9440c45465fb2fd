"""The page of a study is self-contained and complete; in a browser, its script sorts, filters and opens entries."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import pytest

from analysis.data.load import load
from analysis.data.study import AskedStudy
from analysis.report import models_page
from analysis.report import page as report_page
from pruning.core.model_table import ModelRow, ModelTable
from pruning.core.records import SpreadRecord
from tests.analysis.report.test_sentences import check_golden
from tests.helpers.analysis_grid import ONE, SMALL, write


class ParsedPage(HTMLParser):
    """The ids, addresses, tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "srcset", "action"):
                self.addresses.append(str(value))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    keys = write(folder, SMALL)
    path = folder / keys[0] / "result.json"
    path.write_text(path.read_text().replace("k blocks were removed", "<script>alert('stop')</script>"))
    return folder


@pytest.fixture(scope="module")
def text(results: Path) -> str:
    path = report_page.write(AskedStudy(results, "small"), results / "figures")
    assert path == results / "figures" / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> ParsedPage:
    return ParsedPage(text)


def test_the_page_needs_no_other_file(text: str, page: ParsedPage) -> None:
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert sum(address.startswith("data:image/") for address in page.addresses) == 8
    assert not {"iframe", "object", "embed"} & set(page.tags)
    assert "@import" not in text
    assert not re.search(r"url\((?!data:|%23)", text)
    assert len(page.ids) == len(set(page.ids))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)


def test_the_finding_comes_first_and_every_section_is_in_the_contents(text: str) -> None:
    order = [
        text.index(f'id="{name}"')
        for name in ("finding", "table-cells", "masks", "certainty", "variance", "run")
    ]
    assert order == sorted(order)
    contents = text[text.index("<nav") : text.index("</nav>")]
    headings = re.findall(r'<section id="([^"]+)"', text)
    assert headings == [target for target in re.findall(r'href="#([^"]+)"', contents) if target != "finding"]


def test_every_cell_is_there_with_its_mask(results: Path, text: str, page: ParsedPage) -> None:
    frame = load(results, "small")
    assert [f"cell-{cell}" in page.ids for cell in frame["cell"]] == [True] * len(frame)
    done = int((frame["status"] == "done").sum())
    assert text.count('class="strip"') == 2 * done
    assert text.count('<p class="error">') == len(frame) - done
    assert "LossError: the loss is not finite" in page.words
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "calibration.source" in page.words
    assert "pruning.algo" not in page.words  # one_shot, and not pruning.algo.one_shot.OneShot


def test_the_unpruned_model_stands_above_what_is_sorted(text: str) -> None:
    for name in ("cells", "perplexity"):
        table = text[text.index(f'id="table-{name}"') :]
        above, below = re.findall(r"<tbody.*?</tbody>", table[: table.index("</table>")], re.DOTALL)
        assert "nothing removed" in above
        assert "nothing removed" not in below


def test_the_same_results_give_the_same_page(results: Path, text: str, tmp_path: Path) -> None:
    assert report_page.write(AskedStudy(results, "small"), tmp_path).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("metrics", [ONE.metrics, ()])
def test_a_study_of_one_cell_has_a_page(metrics: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, replace(ONE, metrics=metrics))
    text = report_page.write(AskedStudy(tmp_path, "small"), tmp_path / "out").read_text(encoding="utf-8")
    assert "drawing failed" not in text
    assert 'id="refused"' in text


def bare(text: str) -> str:
    """The page without pictures, style and script."""
    return re.sub(
        r"(?<=[\"'])data:[^\"']*|(?s:(?<=<style>).*?(?=</style>)|(?<=<script>).*?(?=</script>))", "", text
    )


def test_the_page_of_one_cell_is_that_of_the_golden_file(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    text = report_page.write(AskedStudy(tmp_path, "small"), tmp_path / "out").read_text("utf-8")
    check_golden("one.html", bare(text))


SPREAD: SpreadRecord = {"median": 20.0, "low": 19.0, "high": 21.0}
DENSE = ModelRow(
    name="dense",
    place="DIR",
    revision="0123456789abcdef",
    dtype="float32",
    metrics={"ppl/novel": 40.0, "ppl/novel/stderr": 2.0, "acc/heldout": 0.5, "acc/heldout/stderr": 0.05},
    changes={},
    bits={"ppl/novel": {"value": 1.2, "error": 0.02}},
    prefill=SPREAD,
    decode=SPREAD,
    parameters=1_000_000,
    disk=2_000_000,
    memory=None,
    other_tokens=[],
)


def test_the_page_of_models_is_that_of_the_golden_file(tmp_path: Path) -> None:
    other = replace(
        DENSE,
        name="<smaller>",
        changes={
            "acc/heldout": {"difference": -5.0, "error": 3.0, "text": "-5.0 ± 3.0 points (within error)"}
        },
        bits={"ppl/novel": {"value": 1.3, "error": 0.02, "difference": 0.1, "difference_error": 0.01}},
        disk=1_000_000,
        other_tokens=["ppl/novel"],
    )
    table = ModelTable([DENSE, other], {"samples": 32}, {"device": "a processor", "prompt": 256}, ["A note."])
    table.write(tmp_path)
    text = models_page.write(tmp_path).read_text("utf-8")
    assert "<smaller>" not in text
    check_golden("models.html", bare(text))


def test_names_of_models_at_one_point_do_not_overlap() -> None:
    rows = [replace(DENSE, name=f"a model with number {number}") for number in range(8)]
    figure = models_page.drawing(ModelTable(rows, {}, {}, [])).figure
    for axes in figure.axes:
        names = [text.get_window_extent() for text in axes.texts if text.get_text().startswith("a model")]
        assert len(names) == len(rows)
        assert not any(one.overlaps(other) for one, other in combinations(names, 2))


def test_a_figure_that_fails_does_not_stop_the_page(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.figures.fig7_cost.measure", lambda *_: 1 / 0)
    text = report_page.write(AskedStudy(results, "small"), tmp_path).read_text(encoding="utf-8")
    assert text.count("drawing failed") == 1
    assert "ZeroDivisionError" in text


def test_the_command(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["report", "--results", str(results), "--study", "small", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    monkeypatch.setattr(report_page, "page", lambda material: f"<p>{material.asked.study}</p>")
    report_page.main()
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "<p>small</p>"


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Runs after the page's script and writes its results to the console as one line.
PROBE = """
const table = document.getElementById("table-cells"), rows = () => Array.from(table.tBodies[1].rows);
const column = name => Array.from(table.tHead.rows[0].cells).findIndex(cell => cell.textContent === name);
const values = name => rows().map(row => row.cells[column(name)].textContent);
const press = name => table.tHead.rows[0].cells[column(name)].querySelector("button").click();
const bottom = name => document.querySelector(name).getBoundingClientRect().bottom;
const first = ["h1", ".picture", "nav ol"].map(bottom);
const found = {first, images: Array.from(document.images).map(image => image.naturalWidth)};
press("loss added"); found.up = values("loss added");
press("loss added"); found.down = values("loss added");
found.said = table.tHead.rows[0].cells[column("loss added")].getAttribute("aria-sort");
const filter = document.getElementById("filter");
filter.value = "margin greedy"; filter.dispatchEvent(new Event("input"));
found.kept = rows().filter(row => !row.hidden).map(row => row.textContent);
filter.value = ""; filter.dispatchEvent(new Event("input"));
found.all = rows().filter(row => !row.hidden).length;
const link = table.querySelector("a"), entry = document.getElementById(link.hash.slice(1));
found.shut = entry.open;
link.click();
setTimeout(() => {
  found.open = entry.open && entry.closest(".group").open;
  found.wide = document.documentElement.scrollWidth <= innerWidth;
  console.log("PROBE" + JSON.stringify(found));
}, 300);
"""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_in_a_browser_figures_are_shown_and_tables_sort_filter_and_open_entries(
    results: Path, text: str
) -> None:
    """No driver is needed, because a probe script is added to the page. Its result is the only message."""
    probed = results / "figures" / "probed.html"
    probed.write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
    plain = ["--headless", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--dump-dom"]
    plain += [
        "--virtual-time-budget=5000",
        f"--user-data-dir={results / 'profile'}",
        "--window-size=1280,900",
    ]
    plain += ["--no-sandbox"] * (os.geteuid() == 0)  # Chromium refuses to use a sandbox as root
    command = [str(CHROMIUM), *plain, probed.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (message,) = re.findall(r'CONSOLE[^"]*"(.*)", source', ended.stdout + ended.stderr)
    found = json.loads(message.removeprefix("PROBE").replace('\\"', '"'))
    assert len(found["images"]) == 8
    assert all(width > 100 for width in found["images"])
    assert found["wide"], "something sticks out at the side"
    assert all(0 < bottom <= 800 for bottom in found["first"]), "the first screen"
    absent = ("–", "")  # noqa: RUF001
    up, down = ([float(text) for text in found[way] if text not in absent] for way in ("up", "down"))
    assert (up, down) == (sorted(up), sorted(up, reverse=True))
    assert found["said"] == "descending"
    for way in ("up", "down"):  # a cell without a number comes last in both orders
        missing = [text in absent for text in found[way]]
        assert missing == sorted(missing)
    assert 0 < len(found["kept"]) < found["all"]
    assert all("margin" in row and "greedy" in row for row in found["kept"])
    assert (found["shut"], found["open"]) == (False, True)
