"""The page in a browser: no error on the console, and its script sorts, filters and opens entries.

Debian's `chromium` is enough. No driver is needed, because a probe script is added to the page.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from analysis.data.study import AskedStudy
from analysis.report.page import write as write_page
from tests.helpers.analysis_grid import SMALL, write

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]

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


def browse(page: Path, *flags: str) -> str:
    """The output of Chromium, which includes the page's console."""
    assert CHROMIUM is not None
    profile = page.parent / "profile"
    plain = ["--headless", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    plain += ["--virtual-time-budget=5000", f"--user-data-dir={profile}"]
    if os.geteuid() == 0:
        plain.append("--no-sandbox")  # Chromium refuses to use a sandbox as root
    command = [CHROMIUM, *plain, *flags, page.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def console(output: str) -> list[str]:
    """The messages on the console."""
    return re.findall(r'CONSOLE[^"]*"(.*)", source', output)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write(folder, SMALL)
    return write_page(AskedStudy(folder, "small"), folder / "figures")


@pytest.fixture(scope="module")
def probed_page(page: Path) -> dict[str, Any]:
    """The results of the probe."""
    probed = page.with_name("probed.html")
    text = page.read_text(encoding="utf-8")
    probed.write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
    (message,) = console(browse(probed, "--window-size=1280,900", "--dump-dom"))
    result: dict[str, Any] = json.loads(message.removeprefix("PROBE").replace('\\"', '"'))
    return result


def test_figures_are_shown_and_the_top_of_the_page_is_on_the_first_screen(
    probed_page: dict[str, Any],
) -> None:
    assert len(probed_page["images"]) == 8
    assert all(width > 100 for width in probed_page["images"])
    assert probed_page["wide"], "something sticks out at the side"
    assert all(0 < bottom <= 800 for bottom in probed_page["first"])


def test_a_table_sorts_by_its_numbers_and_back(probed_page: dict[str, Any]) -> None:
    absent = ("–", "")  # noqa: RUF001
    numbers = [[float(text) for text in probed_page[way] if text not in absent] for way in ("up", "down")]
    assert numbers[0] == sorted(numbers[0])
    assert numbers[1] == sorted(numbers[0], reverse=True)
    assert probed_page["said"] == "descending"
    for way in ("up", "down"):  # a cell without a number comes last in both orders
        missing = [text in absent for text in probed_page[way]]
        assert missing == sorted(missing)


def test_rows_are_filtered_by_words_and_a_link_opens_the_entry_of_its_cell(
    probed_page: dict[str, Any],
) -> None:
    assert 0 < len(probed_page["kept"]) < probed_page["all"]
    assert all("margin" in row and "greedy" in row for row in probed_page["kept"])
    assert (probed_page["shut"], probed_page["open"]) == (False, True)
