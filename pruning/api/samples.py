"""Calibration samples for the Python interface: from lists of texts or items, or from a named option."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from pruning.api.model import PrunableModel
from pruning.calibration.items import ItemDraw
from pruning.calibration.records import Item, item
from pruning.calibration.samples import Samples
from pruning.calibration.text import WindowDraw
from pruning.core.errors import InputError

Texts: TypeAlias = Sequence[str]
ItemList: TypeAlias = Sequence[Item | Mapping[str, Any]]
Calibration: TypeAlias = str | Texts | ItemList | Samples | None

# Defaults, as in the options of `calibration`: 16 windows of 256 tokens (`text_file`), 64 items (`items_file`).
SAMPLES, LENGTH, ITEMS = 16, 256, 64


@dataclasses.dataclass(frozen=True)
class Draw:
    """How many samples are drawn, how long, and with which seed; None means the default for the kind of data."""

    samples: int | None
    length: int | None
    seed: int


def draw_samples(model: PrunableModel, data: Calibration, draw: Draw) -> Samples:
    """Samples in random order, as a cell draws them. Raises InputError if the data are too few or malformed."""
    if isinstance(data, Samples):
        return data
    if data is None or isinstance(data, str):
        drawn: Samples = _option(data or "pydoc", draw).draw(model.tokenizer)
        return drawn.shuffled()
    if not data:
        raise InputError(
            "calibration is an empty list: give texts (str) or items (question, choices, answer)."
        )
    if all(isinstance(one, str) for one in data):
        return text_windows(model, cast(Texts, data), draw).shuffled()
    return item_rows(model, cast(ItemList, data), draw).shuffled()


def text_windows(model: PrunableModel, texts: Texts, draw: Draw) -> Samples:
    """Windows of some texts, in the order of the texts."""
    if not any(text.strip() for text in texts):
        raise InputError("the texts hold nothing but white space: give text to predict.")
    windows = WindowDraw(draw.samples or SAMPLES, draw.length or LENGTH, draw.seed)
    windows.check()
    return windows.windows(texts, model.tokenizer, "texts")


def item_rows(model: PrunableModel, items: ItemList, draw: Draw) -> Samples:
    """Rows of multiple-choice items, in the order of the list; an item is an `Item` or a mapping of its fields."""
    pool = [one if isinstance(one, Item) else item(dict(one), f"item {i}") for i, one in enumerate(items)]
    rows = ItemDraw(min(ITEMS, len(pool)) if draw.samples is None else draw.samples, draw.seed)
    rows.check()
    return rows.rows(pool, model.tokenizer, "items")


def _option(name: str, draw: Draw) -> Any:
    """An option of `conf/calibration` with the given sizes."""
    from pruning.config.groups import options
    from pruning.core.errors import unknown
    from pruning.hydra_app.build_option import build_option

    if name not in options("calibration"):
        raise unknown("calibration", name, options("calibration"))
    sizes = {"samples": draw.samples, "length": draw.length, "seed": draw.seed}
    calibration = build_option("calibration", [f"calibration={name}"])
    own = {field.name for field in dataclasses.fields(calibration)}
    return dataclasses.replace(
        calibration, **{key: value for key, value in sizes.items() if key in own and value is not None}
    )
