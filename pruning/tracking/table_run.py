"""Write the table of published masks as one MLflow run: a metric for each measurement, and the files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pruning.core.atomic_files import read_json

TAG = "table"  # the tag of such a run; the runs of cells have the tag `cell`
TABLES = "published"  # the folder of the table in a results folder
FILES = ("table.json", "table.csv")


def record_table(client: Any, experiment: str, folder: Path) -> None:
    """Record the table in `folder` as one run and delete the run of an earlier table of the same folder."""
    from mlflow.entities import Metric, Param, RunTag

    data = read_json(folder / FILES[0])
    earlier = client.search_runs([experiment], f"tags.{TAG} = 'published'")
    for run in earlier:
        if run.data.tags.get("folder") == str(folder):
            client.delete_run(run.info.run_id)
    run = client.create_run(
        experiment, run_name="published masks", tags={TAG: "published", "folder": str(folder)}
    )
    ended = run.info.start_time
    params = [Param("tolerance", str(data["tolerance"])), Param("rows", str(len(data["rows"])))]
    metrics = [Metric(name, value, ended, 0) for name, value in _metrics(data["rows"])]
    tags = [RunTag(f"verdict {name}", str(count)) for name, count in _verdicts(data["rows"]).items()]
    client.log_batch(run.info.run_id, params=params, tags=tags)
    for start in range(0, len(metrics), 1000):  # MLflow's limit for one batch
        client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
    for name in FILES:
        client.log_artifact(run.info.run_id, str(folder / name))
    client.set_terminated(run.info.run_id, "FINISHED")


def _metrics(rows: list[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """The numbers of each row. A name in MLflow has no characters but letters, digits and a few signs."""
    for row in rows:
        for kind in ("published", "one", "own"):
            if row[kind] is not None:
                yield re.sub(r"[^\w./ -]", "_", f"{row['mask']}/{row['text']}/{kind}"), float(row[kind])


def _verdicts(rows: list[Mapping[str, Any]]) -> dict[str, int]:
    names = [str(row["verdict"]) for row in rows]
    return {name: names.count(name) for name in dict.fromkeys(names)}
