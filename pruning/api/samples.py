"""Calibration samples for the Python interface: from lists of texts or items, or from a named option."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from pruning.api.arguments import check_text, check_types, listed
from pruning.api.model import PrunableModel
from pruning.calibration.item_records import checked_item, read_item
from pruning.calibration.items import ItemDraw
from pruning.calibration.records import Item
from pruning.calibration.samples import Samples
from pruning.calibration.text import WindowDraw
from pruning.core.errors import InputError
from pruning.models import preflight

Texts: TypeAlias = Sequence[str]
ItemList: TypeAlias = Sequence[Item | Mapping[str, Any]]
Calibration: TypeAlias = str | Texts | ItemList | Samples | None  # None: the objective chooses

# Defaults, as in the options of `calibration`: 16 windows of 256 tokens (`text_file`), 64 items (`items_file`).
SAMPLES, LENGTH, ITEMS = 16, 256, 64
# The calibration option for each kind of data; used if no data are given and the objective is an instance.
DEFAULTS = {"text": "pydoc", "any": "pydoc", "items": "commonsense", "both": "both"}


@dataclasses.dataclass(frozen=True)
class Draw:
    """How many samples are drawn, how long each is, and the seed; None means the default for the kind of data.

    Error messages put `prefix`, the name of the function, before a setting's name.
    """

    samples: int | None
    length: int | None
    seed: int
    prefix: str = "search_mask"


def draw_samples(model: PrunableModel, data: Calibration, draw: Draw, objective: Any) -> Samples:
    """Samples in random order, as a cell draws them. Raises InputError if the data are too few or malformed."""
    check_types(draw, ("samples", "length", "seed"))
    drawn = _drawn(model, data, draw, objective)
    check_ids(model, {"calibration": drawn})
    return drawn


def _drawn(model: PrunableModel, data: Calibration, draw: Draw, objective: Any) -> Samples:
    if isinstance(data, Samples):
        _refuse(draw, ("samples", "length"), "these samples were drawn already")
        return data
    if data is None or isinstance(data, str):
        drawn: Samples = _option(data, draw, objective).draw(model.tokenizer)
        return drawn.shuffled()
    given = listed(data, "calibration", "texts or items")
    if not given:
        raise InputError(
            "calibration is an empty list: give texts (str) or items (question, choices, answer)."
        )
    if all(isinstance(one, str) for one in given):
        for number, text in enumerate(given):
            check_text(text, f"calibration[{number}]")
        return text_windows(model, cast(Texts, given), draw).shuffled()
    _refuse(draw, ("length",), "items have the length that they have")
    return item_rows(model, cast(ItemList, given), draw).shuffled()


def _refuse(draw: Draw, names: Sequence[str], why: str) -> None:
    """Raise InputError if a size is given that would change nothing."""
    for name in names:
        if (value := getattr(draw, name)) is not None:
            raise InputError(f"{draw.prefix} got {name}={value}, but {why}: leave it out.")


def text_windows(model: PrunableModel, texts: Texts, draw: Draw) -> Samples:
    """Windows of some texts, in the order of the texts."""
    if not any(text.strip() for text in texts):
        raise InputError("the texts hold nothing but white space: give text to predict.")
    windows = WindowDraw(_given(draw.samples, SAMPLES), _given(draw.length, LENGTH), draw.seed, draw.prefix)
    windows.check()
    return windows.windows(texts, model.tokenizer, "texts")


def item_rows(model: PrunableModel, items: ItemList, draw: Draw) -> Samples:
    """Rows of multiple-choice items, in the order of the list; an item is an `Item` or a mapping of its fields."""
    pool = item_list(items, "items", "item")
    rows = ItemDraw(_given(draw.samples, min(ITEMS, len(pool))), draw.seed, setting=f"{draw.prefix}.samples")
    rows.check()
    return rows.rows(pool, model.tokenizer, "items")


def item_list(items: Any, name: str, where: str) -> list[Item]:
    """Items from a list of `Item`s and mappings. Raises InputError, which begins with `where`, if one is wrong."""
    given = enumerate(listed(items, name, "items"))
    return [(checked_item if isinstance(one, Item) else read_item)(one, f"{where} {i}") for i, one in given]


def check_ids(model: PrunableModel, data: Mapping[str, Samples]) -> None:
    """Raise InputError if a token of some data has no embedding: the tokenizer then belongs to another model."""
    rows = model.module.get_input_embeddings().num_embeddings
    preflight.check_ids(rows, {name: samples.largest_id for name, samples in data.items()})


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _option(name: str | None, draw: Draw, objective: Any) -> Any:
    """Build an option of `conf/calibration` with the given sizes; if `name` is None, the objective chooses."""
    from pruning.hydra_app.build_option import build_named, build_option

    seed = f"seed={draw.seed}"
    if name is None and isinstance(objective, str):
        calibration = build_option("calibration", [f"objective={objective}", seed])
    else:
        chosen = DEFAULTS[objective.needs] if name is None else name
        calibration = build_named("calibration", chosen, seed)
    fields = {field.name for field in dataclasses.fields(calibration)}
    sizes = {"samples": draw.samples, "length": draw.length}
    wanted = {key: value for key, value in sizes.items() if value is not None}
    if missing := sorted(wanted.keys() - fields):
        raise InputError(
            f"the calibration {name or type(calibration).__name__} has no {' and no '.join(missing)}: leave it out, "
            "or give a list of texts or items."
        )
    return dataclasses.replace(calibration, **wanted)
