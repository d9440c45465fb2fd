"""The requirements on every objective of `conf/objective`. A new objective is tested automatically."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from pruning.config.app import register
from pruning.config.groups import CONF, members, options
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.scoring import Score
from pruning.objective import Objective
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import DENSE, MASKS, SINGLES, bound, idle, model, samples, scores

COUNT = 4  # windows; there is one item more
# Losses that compare with the dense model, or sum over removed blocks. They are 0 if no block is removed.
RELATIVE = [
    "angular",
    "block_influence",
    "divergence",
    "mutual_information",
    "relative_magnitude",
    "taylor",
    "taylor_plus",
    "uncertainty",
]


@pytest.fixture(scope="module")
def configs() -> Iterator[dict[str, DictConfig]]:
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield {name: compose("config", [f"objective={name}"]) for name in options("objective")}


@pytest.fixture(params=options("objective"))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def objective(name: str, configs: dict[str, DictConfig]) -> Objective:
    built: Objective = instantiate(configs[name].objective)
    return built


def kinds(objective: Objective) -> tuple[str, ...]:
    return ("text", "items") if objective.needs == "any" else (objective.needs,)


@cache
def whole(objective: Objective, kind: str, dtype: torch.dtype = torch.float64) -> dict[Mask, Score]:
    return scores(bound(objective, model(dtype=dtype), samples(kind, COUNT)), MASKS)


def test_the_default_calibration_has_the_needed_kind(name: str, configs: dict[str, DictConfig]) -> None:
    objective, calibration = instantiate(configs[name].objective), instantiate(configs[name].calibration)
    assert calibration.kind in kinds(objective)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_are_finite_means_of_a_term_for_each_sample(objective: Objective, dtype: torch.dtype) -> None:
    for kind in kinds(objective):
        data = samples(kind, COUNT)
        loss = bound(objective, model(dtype=dtype), data)
        assert loss.estimate.count == data.count
        for score in whole(objective, kind, dtype).values():
            assert math.isfinite(score.loss)
            assert len(score.samples) == data.count
            assert all(map(math.isfinite, score.samples))
            assert score.loss == loss.estimate.mean(score.samples)
            assert score.seconds > 0


def test_nothing_is_computed_before_it_is_asked_for(objective: Objective) -> None:
    for kind in kinds(objective):
        module = model()
        module.forward = None
        bound(objective, module, samples(kind))


def test_a_loss_does_not_depend_on_the_other_masks_of_a_call(objective: Objective) -> None:
    """The losses must be equal to the last bit, in the precision in which branches are merged."""
    dtype = torch.float32
    for kind in kinds(objective):
        for mask in (MASKS[0], MASKS[3], MASKS[-1]):
            alone = scores(bound(objective, model(dtype=dtype), samples(kind, COUNT)), [mask])
            assert alone[mask].samples == whole(objective, kind, dtype)[mask].samples


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (1, 2), (2, 5)])
def test_the_terms_of_a_part_of_the_samples_are_a_part_of_the_terms(
    objective: Objective, start: int, stop: int
) -> None:
    """So a race or a staged search never computes a term twice."""
    for kind in kinds(objective):
        loss = bound(objective, model(), samples(kind, COUNT).part(start, stop))
        for mask, terms, _ in loss.terms(MASKS):
            expected = whole(objective, kind)[mask].samples[start:stop]
            assert list(terms) == pytest.approx(list(expected), rel=1e-9, abs=1e-9)


def test_a_loss_does_not_depend_on_how_samples_are_batched(objective: Objective) -> None:
    for kind in kinds(objective):
        other = bound(objective, model(), samples(kind, COUNT), batch_tokens=1)
        for mask, score in scores(other, MASKS).items():
            assert score.loss == pytest.approx(whole(objective, kind)[mask].loss, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", RELATIVE)
def test_the_loss_of_the_dense_model_is_0(name: str, objective: Objective) -> None:
    for kind in kinds(objective):
        for dtype in (torch.float32, torch.float64):
            assert whole(objective, kind, dtype)[DENSE].loss == pytest.approx(0, abs=1e-6)


def test_removing_a_block_that_does_nothing_is_never_worse(name: str, objective: Objective) -> None:
    """Such a block is the cheapest by any criterion, and its removal changes no prediction."""
    for kind in kinds(objective):
        loss = bound(objective, idle(model(), 3), samples(kind, COUNT))
        results = scores(loss, MASKS)
        changes = {mask: results[mask].loss - results[DENSE].loss for mask in SINGLES}
        cheapest = min(changes, key=changes.__getitem__) == Mask(N_BLOCKS, (3,))
        assert cheapest or changes[Mask(N_BLOCKS, (3,))] == pytest.approx(0, abs=1e-9)
        assert cheapest or name not in RELATIVE


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *((kind, {"by": "runs"}, "by 'runs'") for kind in ("Angular", "BlockInfluence", "MutualInformation")),
    ("RelativeMagnitude", {"norm": 3}, "norm=3"),
    *(("MutualInformation", {name: 0}, f"{name}=0") for name in ("projections", "neighbors", "tokens")),
    ("MutualInformation", {"seed": -1}, "seed=-1"),
    ("Weighted", {"first": "perplexty"}, "first 'perplexty'"),
    ("Weighted", {"second": "weighted"}, "second 'weighted'"),
    ("Weighted", {"weight": 1.5}, "weight=1.5"),
]
KINDS = {cls.__name__: cls for _, cls in members("objective")}


@pytest.mark.parametrize(("kind", "settings", "named"), REFUSED)
def test_invalid_settings_are_refused(kind: str, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as caught:
        KINDS[kind](**settings)
    assert f"objective.{named}" in str(caught.value)
