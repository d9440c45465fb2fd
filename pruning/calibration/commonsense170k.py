"""The items of Commonsense 170k (LLM-Adapters) that the paper uses. Their answers are labels such as "answer2".

Source: github.com/AGI-Edgerunners/LLM-Adapters, ft-training_set/commonsense_170k.json. The instruction ends in
"Answer format: answer1/answer2/..." (or true/false, solution1/..., ending1/..., option1/...). The wrong choices are
the other labels of this list. So the labels are scored, not the texts of the answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pruning.calibration import records
from pruning.calibration.records import Item
from pruning.calibration.source_settings import Source, hub_errors, is_local
from pruning.core.errors import InputError, UnreachableError, first_line
from pruning.core.hub import check_no_folder, use_hub

FORMAT = re.compile(r"answer format:\s*(?P<labels>\S+)\s*$", re.IGNORECASE)


def load(settings: Source, prefix: str) -> list[Item]:
    """Load all items from a local copy of the JSON file or from the hub.

    Raises InputError if an item is malformed. Raises UnreachableError if the hub cannot be read.
    """
    if is_local(settings):
        path = records.existing(settings.path, f"{prefix}.path")
        try:
            data = json.loads(records.read_text(path))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {error.lineno}: this is not JSON ({error.msg}).") from error
        return _items(data, path)
    return _items(_hub(settings, prefix), Path(str(settings.path)))


def _items(data: Any, path: Path) -> list[Item]:
    if not isinstance(data, Iterable) or isinstance(data, dict):
        raise InputError(f"{path}: the file must contain a list of items, as commonsense_170k.json does.")
    return [labelled_item(record, f"{path}, item {number}") for number, record in enumerate(data, start=1)]


def labelled_item(record: Any, where: str) -> Item:
    """The item in a record of Commonsense 170k. Raises InputError if the record is malformed."""
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: an item must be an object with 'instruction' and 'answer'.")
    instruction, answer = str(record.get("instruction", "")), str(record.get("answer", "")).strip()
    match = FORMAT.search(instruction)
    if not match:
        raise InputError(f"{where}: the instruction does not end in 'Answer format: label1/label2'.")
    labels = tuple(match["labels"].split("/"))
    if len(labels) < 2 or answer not in labels:
        raise InputError(f"{where}: the answer '{answer}' is not one of the labels {', '.join(labels)}.")
    return Item(instruction, labels, labels.index(answer))


def _hub(settings: Source, prefix: str) -> Any:
    import datasets

    check_no_folder(str(settings.path), f"{prefix}.path")
    use_hub()
    try:
        return datasets.load_dataset(settings.path, split=settings.split, revision=settings.revision)
    except hub_errors() as error:
        raise UnreachableError(
            f"the data set {settings.path} cannot be read ({first_line(error)}): check its name and the network, or "
            f"give a local copy of commonsense_170k.json: {prefix}.path=FILE."
        ) from error
