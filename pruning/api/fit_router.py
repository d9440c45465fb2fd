"""Fit a router between sets of units to the items of tasks, without a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruning.api.arguments import check_settings, check_text
from pruning.api.model import PrunableModel, exclusive
from pruning.api.router import Router, encoder_for
from pruning.api.samples import ItemList, item_list
from pruning.calibration.items import TEMPLATE, ItemDraw, check_fields, check_template
from pruning.calibration.records import Item
from pruning.core.errors import InputError, shown
from pruning.core.mask import Mask
from pruning.routing.files import model_record
from pruning.routing.prompts import first_blocks
from pruning.routing.router import fit_router as fitted
from pruning.routing.scores import score_items
from pruning.routing.settings import RouterSettings
from pruning.routing.task_data import prompts
from pruning.runs.cell_model import forward_with
from pruning.runs.cell_settings import ForwardSettings


@exclusive
def fit_router(
    model: PrunableModel,
    tasks: Mapping[str, ItemList],
    sets: Mapping[str, Mask],
    *,
    template: str = TEMPLATE,
    **settings: Any,
) -> Router:
    """Fit a router to the items of tasks: it predicts the right answer's log-likelihood under each set.

    `tasks` maps names to lists of items (question, choices, answer), and `sets` names to masks; the two need not have
    the same names. `settings` are those of `router` on the command line, such as `head="mlp"`. Raises InputError if
    an item, a mask or a setting is wrong.
    """
    chosen = _settings(settings)
    for name, given in (("tasks", tasks), ("sets", sets)):
        if not isinstance(given, Mapping):
            raise InputError(f"{name} is {shown(given)}: give a mapping, {{NAME: ...}}.")
    check_text(template, "template")
    check_template("template", template)
    check_fields("template", template)
    _check_sets(model, sets)
    pools = [_items(items, str(name)) for name, items in tasks.items()]
    every = [item for pool in pools for item in pool]
    if len(every) < 2:
        raise InputError(f"{len(every)} items are given: give two or more.")
    blocks = first_blocks(list(sets.values()), chosen.blocks)
    encoder = encoder_for(model, chosen, blocks)
    samples = ItemDraw(len(every), 0, template).rows(every, model.tokenizer, "items")
    scores = score_items(forward_with(ForwardSettings(), model.language_model), samples, list(sets.values()))
    features = encoder.encode(prompts(template, every))
    made = (blocks, template)
    router = fitted(sets, features, scores.target(chosen.target), made, chosen, encoder.revision)
    return Router(model, router, encoder, model_record(model.language_model, model.settings))


def _items(items: ItemList, name: str) -> list[Item]:
    found = item_list(items, name, f"{name}, item")
    if any(item.continuation is not None for item in found):
        raise InputError(f"{name}: an item without a question has no prompt: give items with a question.")
    return found


def _check_sets(model: PrunableModel, sets: Mapping[str, Mask]) -> None:
    if not sets:
        raise InputError("sets is empty: give a mask for each set, {NAME: MASK}.")
    for name, mask in sets.items():
        model.check_mask(mask, f"the set {name}")
    if len({mask.unit for mask in sets.values()}) > 1:
        raise InputError(
            "some sets are of blocks and others of sub-layers: use `mask.as_sublayers()` for all."
        )


def _settings(settings: dict[str, Any]) -> RouterSettings:
    check_settings(RouterSettings, settings, "setting of a router")
    chosen = RouterSettings(**settings)
    chosen.check()
    return chosen
