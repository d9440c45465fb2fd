"""Table 2: perplexity of the masks, by objective and algorithm: geometric mean, and spread over draws as a factor.

python -m analysis.table2_perplexity --results results --study small

Source: table 2 of arXiv 2604.24938, which has only masks pruned for perplexity. If the paper has numbers for a model
and k, they are in the column after the study's own; these are arithmetic. The CSV also has the arithmetic mean and
standard deviation, each individual metric and the calibration loss.
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
    metric = choose(frame, "ppl", given.perplexity)
    rows = aggregate(frame, metric, "table2_perplexity", "perplexity")
    return save(typeset(rows, metric, title, 2), rows, given.out, "table2_perplexity")


def main() -> None:
    """Draw the table for a results folder."""
    run("table2_perplexity", arguments("Perplexity of the masks.", metrics=True), _write)
