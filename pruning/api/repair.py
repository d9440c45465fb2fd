"""Repair a mask without training: fold linear maps into the weights before its removed runs."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from pruning.api.arguments import check_settings
from pruning.api.model import PrunableModel, exclusive, wrap_model
from pruning.api.samples import Calibration, Draw, draw_samples
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.engine.map_settings import Linear
from pruning.objective.perplexity import Perplexity
from pruning.runs.cell_model import forward_with
from pruning.runs.cell_settings import ForwardSettings
from pruning.runs.check_data import Reader, check_calibration


@exclusive
def repair_mask(
    model: PrunableModel,
    mask: Mask,
    calibration: Calibration = None,
    *,
    how: str = "linear",
    samples: int | None = None,
    length: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> PrunableModel:
    """Let linear maps stand in for the removed runs of a mask (ReplaceMe, arXiv 2505.02819).

    Returns a copy of the dense model in which the maps are folded into its weights. A map that does not help on
    samples that were held out is left out, and the log says so. Run, measure, heal or export the
    copy with the same mask. `calibration`, `samples`, `length` and `seed` are as in `search_mask`, and
    `found.samples` are the samples of a search. `how` is `linear` or `diagonal`, and `settings` are the settings of
    this option of `compensation`, such as `sequential=False`. The model itself is not changed. Raises InputError if a
    setting is wrong, or if the model takes no maps.
    """
    from pruning.engine.repair import check, measure
    from pruning.models.repaired_weights import folded_weights

    fit = _settings(how, settings)
    model.check_mask(mask)
    if not mask.dropped:
        raise InputError(
            "the mask removes nothing, so there is nothing to repair: give one that removes some."
        )
    drawn = draw_samples(model, calibration, Draw(samples, length, seed, "repair_mask"), Perplexity())
    reader = Reader.of(model.name, model.module.config, model.tokenizer)
    check_calibration(drawn, reader, "repair_mask")
    check(model.module, fit.form, mask.unit, drawn)
    repair, _ = measure(forward_with(ForwardSettings(), model.language_model), drawn, mask, fit)
    weights = folded_weights(model.module, repair)
    module = copy.deepcopy(model.module)
    for name, values in weights.items():
        module.get_parameter(name).data.copy_(values)
    return wrap_model(module, model.tokenizer, model.name)


def _settings(how: str, settings: dict[str, Any]) -> Linear:
    """The settings of a repair. Raises InputError if the option is no repair, or if a setting does not exist."""
    from pruning.hydra_app.build_option import build_named

    option = build_named("compensation", how)
    if not isinstance(option, Linear):
        raise InputError(f"how={how!r} measures no maps: choose linear or diagonal.")
    check_settings(type(option), settings, "setting of a repair")
    return dataclasses.replace(option, **settings)
