"""Replaces Python in the jobs of `benchmarks.cluster`. It copies the files of a finished cell and computes nothing.

Called as `instant.py TEMPLATE -u -m submitit.core._submit FOLDER`. The benchmark times the submission and the
collection of cells, not their computation.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":
    template, submission = Path(sys.argv[1]), Path(sys.argv[-1]) / "submission.json"
    task = json.loads(submission.read_text())["tasks"][int(os.environ["SLURM_ARRAY_TASK_ID"])]
    cell = Path(task["config"]["paths"]["results"]) / task["key"]
    cell.mkdir(parents=True)
    for file in ("trace.jsonl", "mask.json", "launch.log", "config.yaml"):
        shutil.copyfile(template / file, cell / file)
    result = json.loads((template / "result.json").read_text())
    (cell / "partial").write_text(json.dumps(result | {"cell": task["key"], "config": task["config"]}))
    (cell / "partial").rename(cell / "result.json")
