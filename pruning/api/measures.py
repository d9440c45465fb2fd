"""Measure perplexity on texts and accuracy on items, for the dense and for the pruned model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from pruning.api.arguments import check_type, list_of_texts, listed
from pruning.api.calibration_data import ItemList, check_ids, item_rows
from pruning.api.model import PrunableModel, exclusive
from pruning.calibration.samples import Samples
from pruning.calibration.text import SHORTEST, start_tokens
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.records import error_of, metrics_among
from pruning.evaluation.corpora import perplexity, strided
from pruning.evaluation.heldout import item_accuracy
from pruning.runs.cell import ForwardSettings
from pruning.runs.check_data import Reader, check_evaluation
from pruning.runs.loaded_cell import forward_with

TextSets: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]
ItemSets: TypeAlias = ItemList | Mapping[str, ItemList]


@dataclass(frozen=True)
class Measurements:
    """Metrics by name, `ppl/NAME` and `acc/NAME`, of the dense and of the pruned model.

    `NAME/stderr` is the standard error of a metric over windows or items; one window or item has none.
    """

    dense: dict[str, float]
    pruned: dict[str, float]

    def __str__(self) -> str:
        def shown(values: Mapping[str, float], name: str) -> str:
            error = values.get(error_of(name))
            return f"{values[name]:,.3f}" + ("" if error is None else f" ± {error:,.3f}")

        return "\n".join(
            f"{name:<20} {shown(self.dense, name):>18} -> {shown(self.pruned, name)}"
            for name in metrics_among(self.pruned)
        )


@exclusive
def measure_mask(
    model: PrunableModel,
    mask: Mask,
    *,
    texts: TextSets | None = None,
    items: ItemSets | None = None,
    window: int = 1024,
    limit: int | None = None,
) -> Measurements:
    """Perplexity on texts and accuracy on items, of the dense model and of the model without the dropped blocks.

    `texts` and `items` are lists, or mappings from names to lists. Each text is cut into windows of `window` tokens,
    without overlap; at most `limit` windows or items of each set are used. Accuracy is the share of items whose
    right answer has the highest mean token log-likelihood among the choices.

    Raises InputError if there is nothing to measure, or a set is malformed. `SearchResult.measure` also refuses data
    that share text or items with the calibration samples.
    """
    return measured(model, mask, draw_data(model, texts, items, window, limit))


def measured(model: PrunableModel, mask: Mask, data: Mapping[str, Samples]) -> Measurements:
    """The metrics of a mask and of the dense model on data that `draw_data` has drawn."""
    model.check_mask(mask)
    forward = forward_with(ForwardSettings(), model.language_model)
    found = Measurements({}, {})
    for name, samples in data.items():
        measure = perplexity if samples.kind == "text" else item_accuracy
        found.dense.update(measure(name, forward, samples, Mask(model.n_blocks)).metrics)
        found.pruned.update(measure(name, forward, samples, mask).metrics)
    return found


def draw_data(
    model: PrunableModel,
    texts: TextSets | None = None,
    items: ItemSets | None = None,
    window: int = 1024,
    limit: int | None = None,
) -> dict[str, Samples]:
    """The samples of each metric. Raises InputError if there is nothing to measure, or a set is malformed."""
    check_type("window", window, int)
    check_type("limit", limit, int | None)
    if window < SHORTEST:
        raise InputError(f"window={window} is too short: give at least {SHORTEST} tokens.")
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit}: give at least 1, or leave it out.")
    named_texts, named_items = _named(texts, "texts"), _named(items, "items")
    if not named_texts and not named_items:
        raise InputError("there is nothing to measure on: give texts=[...], items=[...], or both.")
    data: dict[str, Samples] = {}
    first = start_tokens(model.tokenizer)
    for name, members in named_texts.items():
        given = list_of_texts(members, "texts" if name == "texts" else f"texts['{name}']")
        ids = (model.tokenizer(text, add_special_tokens=False, verbose=False).input_ids for text in given)
        windows = (row for text in ids for row in strided(text, first, window, None))
        rows = tuple(islice(windows, None if limit is None else min(limit, sys.maxsize)))
        if not rows:
            raise InputError(f"the texts of '{name}' hold nothing to predict: give at least two tokens.")
        data[f"ppl/{name}"] = Samples("text", name, rows, 0)
    for name, pool in named_items.items():
        chosen = listed(pool, "items" if name == "items" else f"items['{name}']", "items")[:limit]
        data[f"acc/{name}"] = item_rows(model, chosen, len(chosen), 0, "measure_mask")
    check_ids(model, data)
    check_evaluation(data, Reader.of(model.name, model.module.config, model.tokenizer))
    return data


def _named(sets: Any, name: str) -> dict[str, Any]:
    """Sets by name; a plain list gets the name of its argument, and there are none in an empty list."""
    if sets is None or (isinstance(sets, Sized) and not len(sets)):
        return {}
    return {str(key): value for key, value in sets.items()} if isinstance(sets, Mapping) else {name: sets}
