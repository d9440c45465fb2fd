"""The folder of a finished healing: its weights and its record. The record is written last."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from pruning.core import storage
from pruning.core.errors import DamagedError, first_line
from pruning.core.records import EVALUATION, FOLDER, RECORD, HealRecord, check_inside
from pruning.core.storage import file_sha256, temporary_file
from pruning.engine import collectives
from pruning.healing.heal_settings import Training
from pruning.healing.loop import CHECKPOINTS, Healed
from pruning.healing.training_text import HealingText

WEIGHTS = "weights.safetensors"


def write_healed(
    folder: Path,
    healed: Healed,
    text: HealingText,
    settings: Training,
    inside: str = FOLDER,
    evaluation: Mapping[str, Any] | None = None,
) -> HealRecord:
    """Write the changed weights and the record, and remove checkpoints. The first rank does this.

    `inside` is the path in the cell's folder of the folder that this folder is in. `evaluation` are the settings of
    the evaluation for whose sake windows were left out.
    """

    def write() -> HealRecord:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in healed.tensors.items()}
        with storage.naming(folder / WEIGHTS), temporary_file(folder / WEIGHTS) as (_, temporary):
            mode = temporary.stat().st_mode
            save_file(tensors, temporary)
            temporary.chmod(mode)  # safetensors makes files that only their owner can read
            temporary.replace(folder / WEIGHTS)
        last = healed.curve[-1]
        record: HealRecord = {
            "folder": f"{inside}/{folder.name}",
            "settings": settings.recorded(),
            "source": text.source,
            "text_sha256": text.sha256,
            "tokens": last["tokens"],
            "steps": last["step"],
            "epochs": round(healed.epochs, 4),
            "seconds": last["seconds"],
            "trained": healed.trained,
            "best_step": healed.best_step,
            "stopped_early": healed.stopped_early,
            "curve": healed.summary(),
            "weights_sha256": file_sha256(folder / WEIGHTS),
            "tensors": len(tensors),
        }
        if text.file_sha256 is not None:
            record["file_sha256"] = text.file_sha256
        if text.left_out is not None:
            record["left_out"] = list(text.left_out)
            if evaluation is not None:
                record["evaluation"] = dict(evaluation)
        storage.write_record(folder / RECORD, record)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return record

    return collectives.on_first(write)


def read_record(folder: Path) -> HealRecord | None:
    """The record of a finished healing; None if it is not finished. All ranks get the same answer."""

    def read() -> HealRecord | None:
        path = folder / RECORD
        if not path.exists():
            return None
        record = storage.read_json(path)
        if not isinstance(record, dict) or Path(str(record.get("folder"))).name != folder.name:
            raise DamagedError(
                f"{path} is damaged (it is not of this folder): remove {folder} and heal again."
            )
        check_inside(record["folder"], f"{path}")
        return cast(HealRecord, record)

    return collectives.on_first(read)


def read_weights(folder: Path, record: Mapping[str, object]) -> dict[str, Tensor]:
    """The changed weights of a finished healing, by dense name.

    Raises DamagedError if the file cannot be read or is not the one that the record describes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    try:
        if file_sha256(path) == record["weights_sha256"]:
            return dict(load_file(path))
        reason = "its contents do not have the digest that heal.json names"
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
    raise DamagedError(f"{path} is damaged ({reason}): remove the folder {folder} and heal again.")


def write_evaluation(folder: Path, metrics: Mapping[str, float], records: Mapping[str, str]) -> None:
    """Add metrics of the healed model, and the file of each measurement, to those that the folder has."""

    def write() -> None:
        path = folder / EVALUATION
        old = storage.read_json(path) if path.exists() else {"metrics": {}, "records": {}}
        new = {"metrics": {**old["metrics"], **metrics}, "records": {**old["records"], **records}}
        if new != old:
            storage.write_record(path, new)

    collectives.on_first(write)
