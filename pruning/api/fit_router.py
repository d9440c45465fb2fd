"""Fit a router between sets of units to the items of tasks, without a study."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pruning.api.model import PrunableModel, exclusive
from pruning.api.router import Router, encoder_for
from pruning.api.samples import ItemList
from pruning.calibration.item_records import read_item
from pruning.calibration.items import TEMPLATE, ItemDraw, check_fields, check_template
from pruning.calibration.records import Item
from pruning.core.errors import InputError, unknown
from pruning.core.mask import Mask
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
    check_template("template", template)
    check_fields("template", template)
    _check_sets(model, sets)
    pools = [_items(items, f"{name}, item") for name, items in tasks.items()]
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
    return Router(model, router, encoder)


def _items(items: ItemList, where: str) -> list[Item]:
    found = [one if isinstance(one, Item) else read_item(one, f"{where} {i}") for i, one in enumerate(items)]
    if any(item.continuation is not None for item in found):
        raise InputError(f"{where}: an item without a question has no prompt: give items with a question.")
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
    known = [one.name for one in dataclasses.fields(RouterSettings)]
    for name in settings:
        if name not in known:
            raise unknown("setting of a router", name, known)
    chosen = RouterSettings(**settings)
    chosen.check()
    return chosen
