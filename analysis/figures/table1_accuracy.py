"""Table 1: zero-shot accuracy of the masks, by objective and algorithm; mean and standard deviation over draws.

python -m analysis.table1_accuracy --results results --study small

Source: table 1 of arXiv 2604.24938, which has only masks pruned for margin. If the paper has numbers for a model
and k, they are in the column after the study's own. The CSV also has each individual metric and the calibration loss.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..data.metrics import choose
from ..data.study import AskedStudy
from .cli import arguments, run
from .outcome_tables import aggregate, typeset
from .style import save


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    metric = choose(frame, "acc", given.accuracy)
    rows = aggregate(frame, metric, "table1_accuracy", "margin")
    return save(typeset(rows, metric, title, 1), rows, given.out, "table1_accuracy")


def main() -> None:
    """Draw the table for a results folder."""
    run("table1_accuracy", arguments("Accuracy of the masks.", metrics=True), _write)
