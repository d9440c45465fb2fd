"""The jobs of a sweep: what is composed once for many jobs equals what Hydra composes for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from hydra_plugins.grid_launcher.sweeper import Composer
from pruning.config.app import register
from pruning.config.groups import CONF

SEEDS = [["algo=greedy", "objective=margin", "ratio=0.1", f"seed={seed}"] for seed in range(4)]
JOBS = {
    "values only": ["seed=3", "k=2"],
    "options only": ["algo=beam", "objective=margin", "model=gemma3_270m"],
    "both": ["algo=beam", "algo.width=3", "objective=margin", "seed=1", "calibration.samples=8"],
    "an option after its value": ["calibration.samples=8", "calibration=wikipedia_sample"],
    "the same value twice": ["seed=1", "seed=2", "seed=1"],
    "null, a list, quotes and a mapping": ["k=null", "eval.settings=1", "study='a,b'"],
    "a mapping for a group": ["model={path: x}", "model=local", "model.path=y"],
    "a nested mapping": ["model=local", "model.path=x", "model.resources={ranks: 2}"],
    "added": ["+model.other=1"],
    "forced": ["++seed=4", "seed=5"],
    "removed": ["~eval.items", "seed=2"],
    "an experiment": ["experiment=demo", "ratio=0.3"],
    "a launcher": ["launcher=processes", "launcher.wait=false"],
    "an unknown key": ["seed=1", "sead=2"],
    "an unknown setting of an option": ["algo=beam", "algo.widht=3"],
    "a value of the wrong type": ["seed=x"],
    "an unknown option": ["algo=none_such", "seed=1"],
    "interpolations": ["seed=7", "study=s${seed}"],
}


@pytest.fixture
def composer() -> Iterator[Composer]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


def plain(composed: Any) -> Any:
    config, choices = composed
    flags = config._metadata.flags
    return OmegaConf.to_container(config), OmegaConf.to_yaml(config), choices, flags


def outcome(compose: Any, words: list[str]) -> Any:
    """The configuration as plain data, or Hydra's error."""
    try:
        return plain(compose(words))
    except HydraException as error:
        return type(error), str(error), str(error.__cause__)


@pytest.mark.parametrize("words", JOBS.values(), ids=JOBS.keys())
def test_a_job_is_composed_as_hydra_composes_it(composer: Composer, words: list[str]) -> None:
    composer.compose(["algo=beam", "seed=9", "k=9"])  # an earlier job leaves nothing in later ones
    assert outcome(composer.compose, words) == outcome(composer.compose_alone, words)


def test_jobs_with_the_same_options_are_composed_once(
    composer: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [plain(composer.compose_alone(words)) for words in SEEDS]
    calls: list[Any] = []
    original = composer.compose_alone
    monkeypatch.setattr(composer, "compose_alone", lambda *a: (calls.append(a), original(*a))[1])
    composed = [composer.compose(words) for words in SEEDS]
    assert [plain(one) for one in composed] == alone
    assert len(calls) == 1
    composed[0][0].seed = 99
    composed[0][1]["algo"] = "changed"
    assert plain(composer.compose(SEEDS[1])) == alone[1], "jobs share nothing that can change"
