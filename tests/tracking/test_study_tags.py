"""The cells of studies as tags of an experiment."""

from __future__ import annotations

import json
from pathlib import Path

from pruning.core import records


class Experiment:
    """A fake client that stores tags with MLflow's limit on their length."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}

    def get_experiment(self, _: str) -> Experiment:
        return self

    def set_experiment_tag(self, _: str, tag: str, value: str) -> None:
        assert len(value) <= 5000  # MLflow's limit
        self.tags[tag] = value


def test_a_long_list_of_cells_is_recorded_in_several_tags_and_grows(tmp_path: Path) -> None:
    client = Experiment()
    cells = [f"smollm2-perplexity-fast_block_select-r0.1-s{i}-{i:08x}" for i in range(600)]
    path = tmp_path / "studies" / "a study.of-mine.json"
    path.parent.mkdir()
    for part in (cells[:300], cells[200:]):  # another folder lists another part of the cells
        path.write_text(json.dumps({"cells": part}), encoding="utf-8")
        records.record_studies(client, "1", tmp_path)
    found = records.read_studies(client.tags | {"mlflow.note": "text", "study": "plain"})
    assert found == {"a study.of-mine": cells}
    assert len(client.tags) > 5
