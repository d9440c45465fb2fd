"""Pages agree with the code: their tables, the names and files that they list, and the code that they print."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pruning
from docs import described
from docs.described import BLOCK, PAGES, filled
from docs.run_tour import TOUR, executed
from pruning.config.groups import options
from pruning.core.errors import OutOfReachError
from pruning.core.mask import Space
from pruning.core.records import DoneResult, Point
from pruning.core.scoring import TraceLine
from pruning.published import library
from pruning.published.measure import VERDICTS
from tests.helpers import gguf_models
from tests.helpers.searches import configured
from tests.helpers.wikipedia import use_dump
from tests.house import settings

ROOT = Path(__file__).parents[2]
SLOW = ("studies.md", "measured.md")  # their tables are computed from archives


def page(name: str) -> str:
    return described.path(name).read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """The blocks of Python in a text."""
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


# -- tables that `make describe` writes


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PAGES]
)
def test_a_page_has_its_tables_as_they_are_today(name: str) -> None:
    text = page(name)
    assert {path.name for path in described.path("").glob("*.md") if BLOCK.search(page(path.name))} == {
        *PAGES
    }
    assert {match["name"] for match in BLOCK.finditer(text)} == set(PAGES[name])
    assert filled(text, PAGES[name]) == text, f"{name} is out of date: run `make describe`"


def keys(record: Any, seen: set[Any], path: str = "") -> Iterator[str]:
    """Yield the keys of a TypedDict, with a question mark if they may be absent; each nested one is listed once."""
    for name, hint in typing.get_type_hints(record, include_extras=True).items():
        optional = typing.get_origin(hint) is typing.NotRequired
        yield f"{path}{name}{'?' if optional else ''}"
        kinds = [hint, *(inner for part in typing.get_args(hint) for inner in (part, *typing.get_args(part)))]
        for kind in kinds:
            if typing.is_typeddict(kind) and kind not in seen and path.count(".") < 2:
                seen.add(kind)
                yield from keys(kind, seen, f"{path}{name}.")


@pytest.mark.parametrize(
    ("file", "record"), [("result.json", DoneResult), ("heal.jsonl", Point), ("trace.jsonl", TraceLine)]
)
def test_the_page_on_results_explains_each_key_of_a_file(file: str, record: type) -> None:
    (section,) = re.findall(rf"^## {file}\n(.*?)(?=^## )", page("results_folder.md"), re.M | re.S)
    assert ["".join(found) for found in re.findall(r"^- `([\w.]+)`(\??): ", section, re.M)] == [
        *keys(record, set())
    ]


def test_the_engine_s_tables_have_each_work_once_with_its_best_settings() -> None:
    row = {"work": "greedy", "settings": "", "cpu_seconds": 10.0, "ratio": 3.0, "at_peak": 1.5}
    row |= {"device": "Intel Xeon", "masks_equal": True}
    bounds = row | {"settings": "bounds", "ratio": 4.0}
    published = row | {"work": "as SLEB's code, k=2", "ratio": 5.0, "masks_equal": False}
    lazy = published | {"settings": "lazy rounds", "ratio": 6.0}
    said, table = described.engine([row, bounds, published, lazy]).split("\n\n")
    assert said == "On an Intel Xeon:"
    assert table.splitlines()[2:] == [
        "| greedy | 10.0 | 3.00x | 1.50 | 4.00x | \N{EN DASH} |",
        "| as SLEB's code, k=2 | 10.0 | 5.00x | 1.50 | \N{EN DASH} | lazy rounds: 6.00x |",
    ]
    assert described.engine([row]).startswith("On an Intel Xeon, with equal masks:")


# -- what a page lists


def test_the_page_on_the_architecture_has_a_row_for_every_package() -> None:
    for package in sorted(path.parent.name for path in (ROOT / "pruning").glob("*/__init__.py")):
        assert f"`{package}/`" in page("architecture.md"), package


def test_every_file_that_a_page_names_exists() -> None:
    names = re.compile(
        r"`((?:pruning|analysis|conf|tests|docs|benchmarks)/[\w/.]+\.(?:py|yaml|md|csv|ipynb|xz))`"
    )
    shown_to_be_written = {
        *(
            f"{kind}/{name}"
            for name in ("algo/deepest", "objective/disagreement")
            for kind in ("conf", "pruning")
        ),
        *("conf/launcher/ours", "conf/model/tiny_llama", "conf/model/NAME", "analysis/figures/fig11_seconds"),
    }
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    named = {(path.name, name) for path in pages for name in names.findall(path.read_text("utf-8"))}
    gone = [(path, name) for path, name in sorted(named) if not (ROOT / name).exists()]
    assert {name.rpartition(".")[0] for _, name in gone} <= shown_to_be_written, gone


PAGE_FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_link_and_picture_of_a_page_leads_somewhere() -> None:
    def anchors(path: Path) -> set[str]:
        headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    for page_file in PAGE_FILES:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page_file.read_text("utf-8")):
            name, _, anchor = target.partition("#")
            path = page_file.parent / name if name else page_file
            assert path.exists(), (page_file.name, target)
            assert not anchor or anchor in anchors(path), (page_file.name, target)


def test_every_page_is_on_the_first_one_and_pages_are_short() -> None:
    """Every sign between two spaces is a word, also the bars of tables."""
    words = {
        path.name if path.parent != ROOT else "": len(path.read_text("utf-8").split()) for path in PAGE_FILES
    }
    assert all(f"]({name})" in page("README.md") for name in words.keys() - {"", "README.md"})
    assert words[""] <= 900
    assert words["results.md"] <= 900
    assert words["settings.md"] <= 1800
    assert sum(words.values()) <= 38_000


def test_every_setting_is_named() -> None:
    text = " ".join(re.findall(r"`[^`]+`", page("settings.md")))
    assert settings() - set(re.findall(r"\w+", text)) == set()


def test_the_page_on_searches_states_their_bounds() -> None:
    row = re.compile(r"^\| `(?P<name>\w+)` \|[^|]*\| (?P<most>[\d,]+)", re.MULTILINE)
    space, algos = Space(30, 6), configured()
    bounds = {m["name"]: int(m["most"].replace(",", "")) for m in row.finditer(page("algorithms.md"))}
    assert bounds.keys() == algos.keys()
    assert bounds.pop("local_search") == 165 + 1 + 6 * 24, "its swaps have no bound"
    with pytest.raises(OutOfReachError, match=f"{bounds.pop('exhaustive'):,} masks"):
        algos["exhaustive"].evaluations(space)
    assert {name: algos[name].evaluations(space) for name in bounds} == bounds


@pytest.mark.parametrize("kind", ["algo", "objective"])
def test_every_search_and_objective_is_described_with_its_source(kind: str) -> None:
    text = page({"algo": "algorithms.md", "objective": "objectives.md"}[kind])
    for name in options(kind):
        heading = (
            rf"^\*\*{name}\.\*\*(.*?)\n\n" if kind == "algo" else rf"^## (?:\w+, )*{name}\b.*?\n(.*?)(?=^## )"
        )
        section = re.search(heading, text, re.M | re.S)
        assert section, name
        assert re.search(r"\bsource\b", section[1], re.I), name
        if kind == "objective":
            assert re.search(r"deviat|decision on a silent point", section[1], re.I), name
            assert "loss = " in section[1], name


def test_the_page_on_published_masks_names_every_paper_and_explains_every_verdict() -> None:
    for entry in library.entries():
        assert f"`{entry.paper}`" in page("published.md")
    for verdict in VERDICTS:
        assert f"| `{verdict}` |" in page("published.md")


# -- code that a page prints


def test_the_quick_start_can_be_pasted(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block, *_ = blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    assert block == blocks(page("python.md"))[0]
    use_dump(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    tiny = pruning.load_model(model_folder, dtype="float32")
    monkeypatch.setattr(pruning, "load_model", lambda _: tiny)
    exec(compile(block, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "3 of 6 blocks removed" in out
    assert "ppl/texts" in out
    assert (tmp_path / "smaller-model" / "config.json").is_file()


def outputs(notebook: Any) -> list[str]:
    """The text that each code cell printed or returned, in order."""
    texts = []
    for cell in notebook.cells:
        parts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", [])]
        texts += ["".join(parts)] if cell.cell_type == "code" else []
    return texts


@pytest.mark.slow
@pytest.mark.model
def test_the_notebook_runs_and_its_outputs_are_of_this_code() -> None:
    import nbformat

    committed = nbformat.read(TOUR, as_version=4)
    again = executed()
    assert [cell.source for cell in again.cells] == [cell.source for cell in committed.cells]
    sources = [cell.source for cell in committed.cells if cell.cell_type == "code"]
    for source, shown, now in zip(sources, outputs(committed), outputs(again), strict=True):
        # Another kind of CPU rounds bfloat16 differently: other digits, other blocks, other generated text.
        if "generate" not in source and "in common" not in source:
            assert re.sub(r"[-\d.,]+", "#", now) == re.sub(r"[-\d.,]+", "#", shown), source
    every = [output for cell in committed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in every) == 1


PREPARATION, *PAIRS = page("footguns.md").split("\n## ")


@pytest.mark.parametrize("section", PAIRS, ids=lambda text: text.partition("\n")[0].replace("`", ""))
def test_wrong_code_fails_as_stated_and_right_code_gives_the_truth(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(code: str) -> None:
        exec(compile(code, "footguns.md", "exec"), names)

    monkeypatch.chdir(tmp_path)
    gguf_models.write(tmp_path / "gguf" / "tiny.gguf", type_="Q8_0")
    names: dict[str, Any] = {}
    run(blocks(PREPARATION)[0])
    names["ids"] = names["ids"] % 60  # the vocabulary of the GGUF file is smaller
    wrong, right = blocks(section)
    assert wrong.startswith("# wrong")
    assert right.startswith("# right")
    for code in (wrong, right):
        names.pop("result", None)
        if error := re.match(r"# \w+: raises (\w+)", code):
            with pytest.raises(Exception) as raised:
                run(code)
            assert raised.type.__name__ == error[1], raised.value
        else:
            run(code)
            assert same(names["result"], names["truth"]) == (code is right)


def same(result: Any, truth: Any) -> bool:
    if isinstance(truth, torch.Tensor):
        return result.shape == truth.shape and torch.allclose(result, truth, rtol=1e-4, atol=1e-4)
    return bool(result == truth)
