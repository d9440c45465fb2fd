"""Find the text of a finished healing, so that a second evaluation does not train again.

Embedded text is drawn without the windows that repeat a phrase of the evaluation, so another evaluation would give
another text. But a healing need not be repeated if what it was trained on has nothing in common with the new data.
"""

from __future__ import annotations

from collections.abc import Mapping

from pruning.core import atomic_files
from pruning.core.heal_record import FOLDER, RECORD, HealRecord
from pruning.distributed import collectives
from pruning.evaluation import Data
from pruning.healing.apart import repeated
from pruning.healing.rate import known, settled
from pruning.healing.text import HealingText
from pruning.runs.cell import Cell


def trained_text(cell: Cell, drawn: HealingText, data: Mapping[str, Data]) -> HealingText | None:
    """The text of a finished healing with the settings of a cell, if it shares no run of tokens with `data`.

    `drawn` is the text before anything was left out because of an evaluation. None if there is no such healing, or if
    its text is not known: older versions did not record what was left out.
    """
    for record in _finished(cell):
        text = drawn.without(record.get("left_out", ()))
        heal = settled(cell.heal, known(cell.heal, text, cell.folder / FOLDER))
        if heal is None or record["folder"].rpartition("/")[2] != heal.key(record["text_sha256"]):
            continue
        if text.sha256 == record["text_sha256"] and not repeated(text, data):
            return text
    return None


def _finished(cell: Cell) -> list[HealRecord]:
    """The records of the finished healings in a cell's folder; the one that its result has comes first."""

    def read() -> list[HealRecord]:
        places = [FOLDER, *([f"{FOLDER}/mask-*"] if cell.heal.candidates > 1 else ())]
        paths = [path for place in places for path in sorted(cell.folder.glob(f"{place}/*/{RECORD}"))]
        records: list[HealRecord] = [atomic_files.read_json(path) for path in paths]
        result = cell.result()
        last = (
            result["heal"]["folder"] if result and result["status"] == "done" and "heal" in result else None
        )
        return sorted(records, key=lambda record: record["folder"] != last)

    return collectives.on_first(read)
