"""Evaluations from the command line: each mask once, finished cells again, overlaps, files that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruning.core.mask import Mask
from pruning.evaluation.heldout import Heldout, LocalFiles
from pruning.runs import run_cell
from tests.conftest import N_BLOCKS, Command, Ended
from tests.helpers.evaluations import items_file

pytestmark = pytest.mark.usefixtures("without_environment")

PROSE = "The quick brown fox jumps over the lazy dog, and then it sleeps near the river. "


@pytest.fixture
def local(tmp_path: Path) -> list[str]:
    """The command-line words of an evaluation on local files."""
    (tmp_path / "prose.txt").write_text(PROSE * 12)
    items_file(tmp_path / "first.jsonl", 8)
    items_file(tmp_path / "second.jsonl", 6, seed=1)
    return [
        "eval=local",
        "eval.texts={prose: prose.txt}",
        "eval.items={first: first.jsonl, second: second.jsonl}",
        "eval.window=48",
        "eval.limit=5",
    ]


METRICS = {"ppl/prose", "acc/first", "acc/second", "acc/mean"}
PLAIN = {"acc_plain/first", "acc_plain/second"}
ENDINGS = ("json", "lm_eval.json", "samples.jsonl.gz", "terms.json")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Mask]]:
    """The metric and the mask of each measurement, in order."""
    asked: list[tuple[str, Mask]] = []
    for cls in (LocalFiles, Heldout):
        original = cls.measure

        def noting(
            self: Any, forward: Any, name: str, data: Any, mask: Mask, original: Any = original
        ) -> Any:
            asked.append((name, mask))
            return original(self, forward, name, data, mask)

        monkeypatch.setattr(cls, "measure", noting)
    return asked


def names(metrics: dict[str, float]) -> set[str]:
    return {name for name in metrics if not name.endswith("/stderr")}


def test_every_cell_has_every_metric_and_each_mask_is_measured_once(
    launch: Command, local: list[str], measured: list[tuple[str, Mask]]
) -> None:
    ended = launch("-m", "objective=perplexity,block_influence", "algo=greedy,one_shot", "k=1", *local)
    assert ended.status == 0, ended.err
    results = ended.all()
    assert len(results) == 4
    for result in results:
        for which in ("dense", "pruned"):
            assert names(result["evaluation"][which]) == METRICS | PLAIN
            assert {f"{name}/stderr" for name in METRICS} < result["evaluation"][which].keys()
    masks = {Mask.from_json(result["mask"]) for result in results} | {Mask(N_BLOCKS)}
    assert len(masks) < 5, "this test needs searches that agree"
    assert len(measured) == len(set(measured)) == 3 * len(masks)
    for title in ("prose perplexity", "first accuracy", "first plain accuracy", "mean accuracy"):
        assert title in " ".join(ended.out.split())


def test_how_and_where_is_recorded(launch: Command, local: list[str]) -> None:
    ended = launch("k=2", *local)
    evaluation = ended.result()["evaluation"]
    how = evaluation["how"]
    assert how["ppl/prose"] == how["ppl/prose"] | {"source": "prose.txt", "windows": 5, "limit": 5}
    assert how["acc/second"] == how["acc/second"] | {"items": 5, "of": 6, "limit": 5}
    assert how["acc/mean"] == {"of": ["acc/first", "acc/second"]}
    assert "overlap" not in evaluation
    for name in ("ppl/prose", "acc/first"):
        for which in ("dense", "pruned"):
            record = json.loads((ended.results / evaluation["records"][name][which]).read_text())
            assert record["metrics"].items() <= evaluation[which].items()
    stem = Path(evaluation["records"]["acc/first"]["pruned"]).stem
    kept = {path.name for path in ended.results.rglob(f"{stem}.*")}
    assert kept == {f"{stem}.{end}" for end in ENDINGS}
    whole = launch("k=2", *local[:-1]).result()["evaluation"]
    assert whole["data"]["acc/first"] != evaluation["data"]["acc/first"], "all items replace a quick look"
    assert whole["how"]["ppl/prose"]["tokens_scored"] > how["ppl/prose"]["tokens_scored"]


def test_finished_cells_are_evaluated_again_without_a_search(
    launch: Command, local: list[str], measured: list[tuple[str, Mask]], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ["-m", "algo=one_shot,greedy", "k=2"]
    before = {result["cell"]: result for result in launch(*grid).all()}

    def searching(*_: Any, **__: Any) -> Any:
        raise AssertionError("a finished cell was searched again")

    monkeypatch.setattr(run_cell, "solve", searching)
    measured.clear()
    ended = launch(*grid, *local)
    assert ended.status == 0, ended.err
    assert {name for name, _ in measured} == METRICS - {"acc/mean"}, "held-out metrics are known"
    for result in ended.all():
        earlier = before[result["cell"]]
        unchanged = result.keys() - {"evaluation", "config"}
        assert {name: result[name] for name in unchanged} == {name: earlier[name] for name in unchanged}
        for which in ("dense", "pruned"):
            assert earlier["evaluation"][which].items() < result["evaluation"][which].items()
            assert names(result["evaluation"][which]) == METRICS | PLAIN | {"ppl/heldout", "acc/heldout"}
        assert result["evaluation"]["environment"]["device"] == "cpu"
        assert result["config"] == earlier["config"] | {"eval": result["config"]["eval"]}
        assert result["config"]["eval"]["class"] == "LocalFiles"
    measured.clear()
    again = launch(*grid, *local)
    assert again.nothing_ran
    back = launch(*grid)
    assert measured == []
    assert {result["config"]["eval"]["class"] for result in back.all()} == {"Heldout"}
    assert [r["evaluation"] for r in back.all()] == [r["evaluation"] for r in ended.all()]


def test_a_file_that_has_changed_is_evaluated_again(
    launch: Command, local: list[str], tmp_path: Path, measured: list[tuple[str, Mask]]
) -> None:
    before = launch("k=1", *local).result()["evaluation"]
    measured.clear()
    items_file(tmp_path / "first.jsonl", 8, seed=2)
    ended = launch("k=1", *local)
    assert {name for name, _ in measured} == {"acc/first"}
    after = ended.result()["evaluation"]
    assert after["data"]["acc/first"] != before["data"]["acc/first"]
    assert after["data"]["acc/second"] == before["data"]["acc/second"]
    with (tmp_path / "first.jsonl").open("a") as stream:  # after the limit
        stream.write(json.dumps({"question": "q", "choices": ["a", "b"], "answer": 1}) + "\n")
    assert not launch("k=1", *local).nothing_ran
    assert launch("k=1", *local).nothing_ran
    assert len(measured) == 2, "what is measured has not changed"


def test_the_mean_is_that_of_the_evaluation_that_is_asked_for(
    launch: Command, local: list[str], tmp_path: Path, measured: list[tuple[str, Mask]]
) -> None:
    items_file(tmp_path / "third.jsonl", 8, seed=3)
    third = "eval.items={second: second.jsonl, third: third.jsonl}"
    others = [third, *(word for word in local if "first" not in word)]
    once, other = (launch("k=1", *words).result()["evaluation"] for words in (local, others))
    assert other["how"]["acc/mean"] == {"of": ["acc/second", "acc/third"]}
    assert other["pruned"]["acc/mean"] != once["pruned"]["acc/mean"]
    measured.clear()
    back = launch("k=1", *local).result()["evaluation"]
    assert measured == []
    assert back["how"]["acc/mean"] == once["how"]["acc/mean"]
    for which in ("dense", "pruned"):
        assert once[which].items() < back[which].items(), "the mean, its error, and all earlier metrics"


def test_a_compensated_cell_is_evaluated_again_with_its_factors(launch: Command, local: list[str]) -> None:
    words = ["k=2", "compensation=magnitude"]
    launch(*words)
    later = launch(*words, *local).result()
    at_once = launch(*words, *local, "paths.results=other")
    folder = at_once.results.with_name("other")
    (fresh,) = Ended(0, "", "", folder).all()
    for which in ("dense", "pruned", "uncompensated"):
        known = fresh["evaluation"][which]
        assert known.items() < later["evaluation"][which].items()
    assert later["compensation"] == fresh["compensation"]
    assert later["evaluation"]["pruned"]["ppl/prose"] != later["evaluation"]["uncompensated"]["ppl/prose"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["eval=local", "eval.texts={prose: prose.txt}", "eval.window=2050"], "2050 2048 eval.window"),
        (
            ["eval=speed", "eval.prompts=[2040]", "eval.new_tokens=9"],
            "2049 2048 eval.prompts eval.new_tokens",
        ),
        (["calibration.length=2050", "calibration.samples=1"], "2050 2048 calibration.length"),
    ],
)
def test_rows_longer_than_the_model_reads_are_refused(
    launch: Command, tmp_path: Path, words: list[str], named: str
) -> None:
    (tmp_path / "prose.txt").write_text(PROSE * 300)
    ended = launch("k=1", *words)
    assert ended.status == 2
    assert all(word in ended.err for word in named.split())


def test_an_overlap_is_an_error_that_names_both_unless_it_is_allowed(
    launch: Command, local: list[str], tmp_path: Path
) -> None:
    items = [json.loads(line) for line in (tmp_path / "first.jsonl").read_text().splitlines() if line]
    del items[3]  # its choices are equal
    (tmp_path / "part.jsonl").write_text("\n".join(map(json.dumps, items)))
    words = [
        "objective=margin",
        "calibration=items_file",
        "calibration.path=part.jsonl",
        "calibration.samples=4",
    ]
    ended = launch(*words, "k=1", *local)
    assert (ended.status, ended.all()) == (2, [])
    for named in ("(part.jsonl, ", "acc/first (first.jsonl, ", "eval.allow_overlap=true"):
        assert named in " ".join(ended.err.split())
    allowed = launch(*words, "k=1", *local, "eval.allow_overlap=true")
    assert allowed.status == 0, allowed.err
    assert allowed.result()["evaluation"]["overlap"]["acc/first"] > 0
    assert allowed.result()["config"]["eval"]["allow_overlap"] is True
