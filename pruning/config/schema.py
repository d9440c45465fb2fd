"""The types of the top level of a configuration.

The dataclass of an algorithm, objective, calibration, ... is the schema of its YAML files, so a misspelt key fails
while the configuration is composed. This module has the types of everything else.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from omegaconf import MISSING

from pruning.routing.settings import RouterSettings, TaskStudy
from pruning.runs.cell_settings import ForwardSettings, Protect
from pruning.runs.removal import Latency
from pruning.search.near_ties import NearTies
from pruning.search.racing import Racing


@dataclasses.dataclass
class Paths:
    """Where results go; a relative path starts from the current folder."""

    results: str = "results"


@dataclasses.dataclass
class ScoreSettings:
    """Give `share=false` to time an algorithm: the cell then uses no losses that other cells computed."""

    share: bool = True


@dataclasses.dataclass
class PublishedSettings:
    """Score the masks that papers print (`experiment=published`); docs/published.md.

    `only` names papers, models or masks. `models` maps models to directories, and `texts` texts to files. `standin`
    is a directory or a packaged model that stands in for every model with its number of blocks, on the text
    `standin_text`. `tolerance` is the relative difference up to which two perplexities agree.
    """

    run: bool = False
    only: Any = None
    dry_run: bool = False
    steps: bool = True
    tolerance: float = 0.01
    models: Any = None
    texts: Any = None
    standin: str | None = None
    standin_text: str = "pydoc"


@dataclasses.dataclass
class Config:
    """The top level of a configuration. Each group is checked by the schema of its option."""

    model: Any = MISSING
    objective: Any = MISSING
    calibration: Any = MISSING
    algo: Any = MISSING
    compensation: Any = MISSING
    heal: Any = MISSING
    eval: Any = MISSING
    tracker: Any = MISSING
    launcher: Any = MISSING
    ratio: float | None = None
    k: int | None = None
    unit: str = "block"
    budget: str = "parameters"
    seed: int = 0
    protect: Protect = dataclasses.field(default_factory=Protect)
    export: str | None = None
    guide: bool = False
    study: str = "default"
    paths: Paths = dataclasses.field(default_factory=Paths)
    latency: Latency = dataclasses.field(default_factory=Latency)
    forward: ForwardSettings = dataclasses.field(default_factory=ForwardSettings)
    racing: Racing = dataclasses.field(default_factory=Racing)
    near_ties: NearTies = dataclasses.field(default_factory=NearTies)
    published: PublishedSettings = dataclasses.field(default_factory=PublishedSettings)
    scores: ScoreSettings = dataclasses.field(default_factory=ScoreSettings)
    tasks: TaskStudy = dataclasses.field(default_factory=TaskStudy)
    router: RouterSettings = dataclasses.field(default_factory=RouterSettings)
