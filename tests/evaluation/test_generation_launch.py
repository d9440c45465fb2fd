"""`eval=generation` from the command line: every model of a cell is measured, shown, kept and tracked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.data.study import AskedStudy
from analysis.report import page
from pruning.core.records import METRIC, read_continuations
from pruning.evaluation.generation import Generation
from tests.conftest import Command
from tests.helpers.evaluations import written_tasks

WORDS = (
    *("eval=generation", "eval.prompts=3", "eval.prompt_tokens=10", "eval.continuation_tokens=6"),
    *("eval.tasks=[unfiltered]", "eval.max_new_tokens=4", "eval.limit=4"),
)
NAMES = {METRIC, "same/continuations", "repeated/continuations", "exact/unfiltered"}
SHORT = (
    *("heal=lora", "heal.tokens=1024", "heal.length=32", "heal.batch_tokens=256", "heal.eval_every=2"),
    "heal.heldout=4",
)


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, without_environment: None) -> None:
    index = written_tasks(tmp_path)
    monkeypatch.setattr("pruning.evaluation.lm_eval_tasks.manager", lambda: index)


def names(metrics: dict[str, float]) -> set[str]:
    return {name for name in metrics if not name.endswith("/stderr")}


def test_a_cell_is_measured_shown_and_not_measured_again(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = launch("k=2", "algo=one_shot").result()
    ended = launch("k=2", "algo=one_shot", *WORDS)
    assert ended.status == 0, ended.err
    assert ended.result()["mask"] == plain["mask"]
    evaluation = ended.result()["evaluation"]
    for which in ("dense", "pruned"):
        assert names(evaluation[which]) == NAMES | {"ppl/heldout", "acc/heldout"}
    assert evaluation["pruned"][METRIC] > evaluation["dense"][METRIC]
    said = " ".join(ended.out.split())
    for title in ("perplexity of dense continuations", "unfiltered exact answers", "repeated 4-grams"):
        assert title in said
    monkeypatch.setattr(Generation, "measure", None)  # measuring again would fail
    assert launch("k=2", "algo=one_shot", *WORDS).nothing_ran


@pytest.mark.parametrize("words", ["k=2 compensation=linear", "unit=sublayer ratio=0.2"])
def test_repaired_and_partly_pruned_models_write(launch: Command, words: str) -> None:
    ended = launch("algo=one_shot", *words.split(), *WORDS)
    assert ended.status == 0, ended.err
    evaluation = ended.result()["evaluation"]
    assert names(evaluation["pruned"]) == NAMES
    if "compensation" in words:
        assert names(evaluation["uncompensated"]) == NAMES
        assert evaluation["uncompensated"][METRIC] != evaluation["pruned"][METRIC]
        kept = [_written(ended.results, evaluation, which) for which in ("uncompensated", "pruned")]
        assert kept[0] != kept[1], "what was repaired writes something else"


def test_factors_on_the_hidden_state_are_refused(launch: Command) -> None:
    ended = launch("k=2", "compensation=magnitude", *WORDS)
    assert (ended.status, ended.all()) == (2, [])
    assert "compensation=magnitude" in ended.err


def test_a_healed_model_is_compared_with_the_dense_one_and_tracked(launch: Command) -> None:
    from mlflow import MlflowClient

    ended = launch("k=2", "algo=one_shot", *SHORT, *WORDS, tracker="mlflow")
    assert ended.status == 0, ended.err
    result = ended.result()
    evaluation = result["evaluation"]
    assert names(evaluation["healed"]) == NAMES
    assert evaluation["healed"][METRIC] != evaluation["pruned"][METRIC]
    client = MlflowClient(tracking_uri=f"sqlite:///{ended.results / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "depth-pruning"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics[f"pruned/{METRIC}"] == pytest.approx(evaluation["pruned"][METRIC])
    shown = page.write(AskedStudy(ended.results, None), ended.results / "figures").read_text()
    for which, head in (("dense", "nothing removed"), ("pruned", "pruned"), ("healed", "healed")):
        assert f'<th scope="col">{head}</th>' in shown
        assert len(_written(ended.results, evaluation, which)) == 3


def _written(results: Path, evaluation: Any, which: str) -> list[str]:
    kept = read_continuations(results / evaluation["records"][METRIC][which])
    assert kept is not None
    return kept["texts"]
