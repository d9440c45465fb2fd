"""Draw calibration samples for the Python interface: from lists of texts or items, or from a named option."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from pruning.api.model import PrunableModel, list_of_texts, listed
from pruning.calibration.item_files import Item, checked_item, read_item
from pruning.calibration.items import drawn_items, items_of
from pruning.calibration.samples import Samples
from pruning.calibration.sources import NOVEL, PARTED, embedded_text
from pruning.calibration.text import SHORTEST, drawn_windows
from pruning.core.errors import InputError, check_least, unknown
from pruning.models.architecture import check_token_ids
from pruning.runs.prepare import Reader, check_calibration

ItemList: TypeAlias = Sequence[Item | Mapping[str, Any]]
Calibration: TypeAlias = str | Sequence[str] | ItemList | Samples | None  # None: the objective chooses

# Defaults, as in the options of `calibration`: 16 windows of 256 tokens (`text_file`), 64 items (`items_file`).
SAMPLES, LENGTH, ITEMS = 16, 256, 64
# The calibration option for each need of an objective; used if no data are given and the objective is an instance.
DEFAULTS = {"text": "pydoc", "any": "pydoc", "items": "commonsense", "both": "both"}


def draw_samples(
    model: PrunableModel,
    data: Calibration,
    objective: Any,
    *,
    samples: int | None = None,
    length: int | None = None,
    seed: int = 0,
    call: str = "search_mask",
) -> Samples:
    """Samples in random order, as a cell draws them. Errors name `call`, the function of the Python interface.

    If `samples` or `length` is None, the default for the kind of data is used. Raises InputError if the data are too
    few or malformed, or if `samples` or `length` would have no effect.
    """
    sizes = {name: size for name, size in (("samples", samples), ("length", length)) if size is not None}
    if isinstance(data, Samples):
        _refuse(call, sizes, "these samples were drawn already")
        drawn = data
    elif data is None or isinstance(data, str):
        option = _option(data, objective, seed)
        fields = {field.name for field in dataclasses.fields(option)}
        unused = {name: size for name, size in sizes.items() if name not in fields}
        _refuse(call, unused, f"the calibration {data or type(option).__name__} has no such setting")
        drawn = dataclasses.replace(option, **sizes).draw(model.tokenizer).shuffled()
    else:
        given = listed(data, "calibration", "texts or items")
        if not given:
            raise InputError(
                "calibration is an empty list: give texts (str) or items (question, choices, answer)."
            )
        if all(isinstance(one, str) for one in given):
            texts = list_of_texts(given, "calibration")
            if not any(text.strip() for text in texts):
                raise InputError("the texts hold nothing but white space: give text to predict.")
            asked = {"samples": SAMPLES, "length": LENGTH, "seed": seed, **sizes}
            check_least(call, asked, samples=1, length=SHORTEST, seed=0)
            draw = (asked["samples"], asked["length"], seed)
            drawn = drawn_windows(texts, model.tokenizer, "texts", draw, call).shuffled()
        else:
            _refuse(call, sizes.keys() & {"length"}, "items have the length that they have")
            drawn = item_rows(
                model, given, sizes.get("samples", min(ITEMS, len(given))), seed, call
            ).shuffled()
    check_ids(model, {"calibration": drawn})
    check_calibration(drawn, Reader.of(model.name, model.module.config, model.tokenizer), call)
    return drawn


def _refuse(call: str, names: Collection[str], why: str) -> None:
    if names:
        raise InputError(f"{call} got {' and '.join(names)}, but {why}: leave it out.")


def _option(name: str | None, objective: Any, seed: int) -> Any:
    """The calibration of the option `name`; if `name` is None, of the option that suits the objective."""
    from pruning.config.app import build_option

    if name is None and isinstance(objective, str):
        return build_option("calibration", [f"objective={objective}", f"seed={seed}"])
    option = DEFAULTS[objective.needs] if name is None else name
    return build_option("calibration", [f"calibration={option}", f"seed={seed}"])


def item_rows(model: PrunableModel, items: ItemList, samples: int, seed: int, call: str) -> Samples:
    """The rows of `samples` items drawn from `items`, in their order. An item is an `Item` or a mapping."""
    check_least(call, {"samples": samples, "seed": seed}, samples=1, seed=0)
    pool = item_list(items, "items", "item")
    return items_of(
        drawn_items(pool, "items", samples, seed, f"{call}.samples"), model.tokenizer, "items", seed
    )


def item_list(items: Any, name: str, where: str) -> list[Item]:
    """The items in a list of `Item`s and mappings. An InputError for a malformed one begins with `where`."""
    given = enumerate(listed(items, name, "items"))
    return [(checked_item if isinstance(one, Item) else read_item)(one, f"{where} {i}") for i, one in given]


def check_ids(model: PrunableModel, data: Mapping[str, Samples]) -> None:
    """Raise InputError if a token in `data` has no embedding: the tokenizer then belongs to another model."""
    rows = model.module.get_input_embeddings().num_embeddings
    check_token_ids(rows, {name: samples.largest_id for name, samples in data.items()})


def embedded_texts(name: str) -> list[str]:
    """The documents of a packaged text: the calibration part of `pydoc` or `wikipedia_sample`, or the whole `novel`.

    `pydoc` comes with Python; the other texts are fetched once. No packaged calibration uses `novel`.
    Raises InputError if there is no text of this name, and UnreachableError if it cannot be fetched.
    """
    if name not in (*PARTED, NOVEL):
        raise unknown("embedded text", name, (*PARTED, NOVEL))
    return list(embedded_text(name, "heldout" if name == NOVEL else "calibration"))
