"""The types of the top level of a configuration.

The dataclass of an algorithm, objective, calibration, ... is the schema of its YAML files, so a typo in a key fails
while the configuration is composed; these are the types of everything else.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from omegaconf import MISSING

from pruning.runs.cell import ForwardSettings, Protect
from pruning.search.racing import Racing


@dataclasses.dataclass
class Paths:
    """Where results go; relative to the folder in which the command is given."""

    results: str = "results"


@dataclasses.dataclass
class ScoreSettings:
    """`share=false` times an algorithm alone: losses that other cells paid for are not used."""

    share: bool = True


@dataclasses.dataclass
class Config:
    """The top level. Groups are checked by the schemas of their own options."""

    model: Any = MISSING
    objective: Any = MISSING
    calibration: Any = MISSING
    algo: Any = MISSING
    compensation: Any = MISSING
    eval: Any = MISSING
    tracker: Any = MISSING
    launcher: Any = MISSING
    ratio: float | None = None
    k: int | None = None
    seed: int = 0
    protect: Protect = dataclasses.field(default_factory=Protect)
    export: str | None = None
    study: str = "default"
    paths: Paths = dataclasses.field(default_factory=Paths)
    forward: ForwardSettings = dataclasses.field(default_factory=ForwardSettings)
    racing: Racing = dataclasses.field(default_factory=Racing)
    scores: ScoreSettings = dataclasses.field(default_factory=ScoreSettings)
