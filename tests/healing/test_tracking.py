"""Trackers get the curve of a healing: while it runs, and from the cell's folder."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.tracking.client import connect
from tests.conftest import Command
from tests.healing.test_launch import SEARCH, SHORT
from tests.helpers.mlflow_runs import runs


def test_the_curve_is_recorded_over_tokens(launch: Command) -> None:
    ended = launch(*SEARCH, "heal=full", *SHORT, tracker="mlflow")
    assert ended.status == 0, ended.err
    store = f"sqlite:///{ended.results / 'mlflow.db'}"
    (run,) = runs(store).values()
    history = {
        name: [
            (point.step, point.value) for point in connect(store).get_metric_history(run.info.run_id, name)
        ]
        for name in ("heal/loss", "heal/heldout_loss")
    }
    assert [step for step, _ in history["heal/loss"]] == [256 * i for i in range(1, 9)]
    assert [step for step, _ in history["heal/heldout_loss"]] == [0, 512, 1024, 1536, 2048]
    assert history["heal/heldout_loss"][0][1] == ended.result()["heal"]["curve"]["heldout_before"]
    assert run.data.metrics["healed/ppl/heldout"] == ended.result()["evaluation"]["healed"]["ppl/heldout"]
    assert run.data.params["heal.tokens"] == "2048"


def test_the_curve_is_sent_while_it_runs(launch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    from pruning.runs.cell import NoTracker

    sent: list[tuple[Any, ...]] = []

    @contextmanager
    def live(_: Any, _cell: Any) -> Any:
        yield lambda *point: sent.append(point)

    monkeypatch.setattr(NoTracker, "live", live)
    assert launch(*SEARCH, "heal=full", *SHORT).status == 0
    assert [step for step, _, name in (p for p in sent if len(p) == 3) if name == "heal/loss"] == [
        256 * i for i in range(1, 9)
    ]
