"""The cells that each study asks for, as tags of an MLflow experiment.

A cell that has not started has no run, so the runs alone do not show which cells are missing. A tag holds up to 5,000
characters, so a long list is split over several tags: `study NAME 0`, `study NAME 1`, ...
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.core import study_list
from pruning.core.errors import DamagedError

log = logging.getLogger(__name__)

FIRST = "study"  # the first word of such a tag
LONGEST = 4900  # characters in the value of one tag


def record_studies(client: Any, experiment: str, results: Path) -> None:
    """Record the studies of a results folder; keep the cells that another folder has added to the same studies."""
    for tag, line in wanted_tags(client.get_experiment(experiment).tags, results).items():
        client.set_experiment_tag(experiment, tag, line)


def wanted_tags(tags: Mapping[str, str], results: Path) -> dict[str, str]:
    """The tags of the studies of a results folder, for an experiment that has `tags`. A damaged list is reported."""
    known, wanted = read_studies(tags), dict[str, str]()
    for name in study_list.names(results):
        try:
            listed = study_list.read_study(results, name)
        except DamagedError as error:
            log.warning("the study '%s' is not recorded: %s", name, error)
            continue
        cells = dict.fromkeys([*known.get(name, ()), *listed])
        lines = textwrap.wrap(" ".join(cells), LONGEST, break_long_words=False, break_on_hyphens=False)
        wanted |= {f"{FIRST} {name} {number}": line for number, line in enumerate(lines)}
    return wanted


def read_studies(tags: Mapping[str, str]) -> dict[str, list[str]]:
    """The cells of each study, from the tags of an experiment."""
    studies: dict[str, dict[int, str]] = {}
    for tag, line in tags.items():
        word, _, rest = tag.partition(" ")
        name, _, number = rest.rpartition(" ")
        if word == FIRST and number.isdigit():
            studies.setdefault(name, {})[int(number)] = line
    return {name: " ".join(lines[n] for n in sorted(lines)).split() for name, lines in studies.items()}
