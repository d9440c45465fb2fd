"""The parts of a guided run: which evaluation times the models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from pruning.config import app, groups
from pruning.study import guide
from tests.config.test_experiments import cell


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    app.register()
    with initialize_config_dir(str(groups.CONF), version_base="1.3"):
        yield


def test_the_measurement_of_the_speed_heals_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.models.model.Model.context_length", 2048)
    asked = cell("experiment=compress", f"paths.results={tmp_path}")
    timed = guide._speed_cell(asked)
    assert asked.heal.trains
    assert not timed.heal.trains
    assert timed.config["heal"] == {"option": "none", "class": "NoHealing"}
    assert timed.config["eval"]["option"] == "speed"
    assert (timed.algo, timed.compensation, timed.ratio) == (asked.algo, asked.compensation, asked.ratio)
