"""The request for an export (a mask, its model and a directory), parsed from the words of a command."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pruning.config.app import build_option
from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, unknown
from pruning.core.mask import Mask, unit_names
from pruning.core.records import (
    CLASS,
    MASK,
    NAME,
    OPTION,
    DoneResult,
    is_repaired,
    read_result,
    same_settings,
)
from pruning.export import output_dir
from pruning.models.gguf import open_gguf
from pruning.models.model import Model
from pruning.models.model_files import find_files
from pruning.runs.cell import Cell

if TYPE_CHECKING:
    from pruning.models.output_maps import Repair


SETTINGS = ("out", "force", "verify", "max_shard_size", "form", "healed", "model")
USAGE = """python -m pruning.export CELL_OR_MASK out=DIR [model=NAME] [model.SETTING=VALUE ...]
       python -m pruning.export --drop 3,7,12 out=DIR [model=NAME] [model.SETTING=VALUE ...]
       python -m pruning.export --drop "a3 m7 b12" out=DIR [model=NAME] [model.SETTING=VALUE ...]
       python -m pruning.export ... out=FILE.gguf [...]"""
MORE = """CELL_OR_MASK is the folder of a finished cell, or a mask.json. model=NAME is an option of conf/model
(default smollm2); for any other directory or a GGUF file, give model=local model.path=PATH. For a cell, leave the
model out. out=FILE.gguf cuts the blocks out of the GGUF file of a model, without dequantising it. --drop a3,m7,b12
removes the attention of block 3, the MLP of block 7, and block 12; parts of blocks become zeros (form=zeros), whole
blocks are cut out. healed=true writes the weights of the cell's healing (`python -m pruning.heal`). verify=false
skips the comparison with the masked model; max_shard_size=5GB. An export replaces an earlier export of the same
model and mask; force=true replaces it even if its precision, compensation or healing differs. A directory that holds
anything else, or a changed file, is never replaced."""


@dataclass(frozen=True)
class Request:
    """What to export: a model, the mask that cuts it, and the directory to write.

    `result` is the result of the cell, or None if the mask comes from elsewhere; `scales` are the factors of the
    compensation, one for each unit of the model; `repair` are maps that are folded into weights. `form` is `smaller`
    or `zeros`; None leaves it to the mask (`settle.py`).
    """

    model: Model
    mask: Mask
    out: Path
    result: DoneResult | None = None
    scales: Sequence[float] | None = None
    repair: Repair | None = None
    force: bool = False
    verify: bool = True
    max_shard_size: str = "5GB"
    form: str | None = None
    healed: Path | None = None  # the folder of the cell whose healed weights are written
    launched: bool = False  # a launch may replace what its own cell exported with another healing
    in_memory: str | None = None  # the name of a model whose files exist for this export only

    @property
    def cell(self) -> str | None:
        """The key of the cell that found the mask."""
        return None if self.result is None else str(self.result["cell"])


def parse(arguments: Sequence[str]) -> Request:
    """The request of a command line. Raises an InputError of one sentence if the command line is invalid."""
    parser = argparse.ArgumentParser("pruning.export", usage=USAGE, epilog=MORE)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--drop", metavar="BLOCKS", help="what to remove: 3,7,12 or a3,m7,b12")
    options = parser.parse_intermixed_args(list(arguments))
    settings = dict(word.split("=", 1) for word in options.words if "=" in word)
    paths = [word for word in options.words if "=" not in word]
    for name in settings:
        if name.partition(".")[0] not in SETTINGS or (
            name.partition(".")[2] and not name.startswith("model.")
        ):
            raise unknown("setting", name, SETTINGS)
    if len(paths) + (options.drop is not None) != 1:
        drops = "no --drop" if options.drop is None else "--drop"
        raise InputError(
            f"{len(paths)} paths and {drops} are given: give one cell folder or mask.json, or --drop."
        )
    if not settings.get("out"):
        raise InputError(
            "out=DIR is missing: give the directory to write the smaller model to, or a GGUF file, out=FILE.gguf."
        )
    out = output_dir.directory(settings["out"])
    if options.drop is not None:
        model = _model(settings)
        wanted = Request(model, Mask.parse(_n_blocks(model), options.drop), out)
    else:
        wanted = _recorded(Path(paths[0]).expanduser(), settings, out)
    if _truth("healed", settings, False):
        wanted = of_healed(Path(paths[0]).expanduser() if paths else None, wanted)
    return dataclasses.replace(
        wanted,
        force=_truth("force", settings, wanted.force),
        verify=_truth("verify", settings, wanted.verify),
        max_shard_size=settings.get("max_shard_size", wanted.max_shard_size),
        form=settings.get("form"),
    )


def _n_blocks(model: Model) -> int:
    """The number of blocks; of a GGUF file, from the file itself, because transformers does not know all of them."""
    file = find_files(model.path, model.gguf_file).gguf if model.in_directory else None
    return model.n_blocks if file is None else open_gguf(file).n_blocks


def reference(wanted: Request) -> str:
    """What the written model must equal: the masked model, or the masked one with what was done to it."""
    done = [
        word for word, part in (("repaired", wanted.repair), ("healed", wanted.healed)) if part is not None
    ]
    return f"{', '.join(['masked', *done[:-1]])} and {done[-1]} model" if done else "masked model"


def of_healed(cell: Path | None, wanted: Request) -> Request:
    """The request with the healed weights of a cell and the mask that was healed, from its path or that of its mask.

    Raises InputError if the cell has no healing.
    """
    if cell is None or wanted.result is None or "heal" not in wanted.result:
        raise InputError(
            "healed=true needs a cell that was healed: give its folder, and heal it first with "
            "`python -m pruning.heal CELL`."
        )
    selection = wanted.result["heal"].get("selection")
    mask = wanted.mask if selection is None else Mask.from_json(selection["mask"])
    return dataclasses.replace(wanted, healed=cell if cell.is_dir() else cell.parent, mask=mask)


def _recorded(path: Path, settings: Mapping[str, str], out: Path) -> Request:
    """The request for a cell folder or a mask file."""
    if path.is_dir():
        return of_cell(path, out, settings)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a cell folder or a mask file.")
    if (path.parent / NAME).is_file() and "model" not in settings:
        return of_cell(path.parent, out, settings, path)
    return Request(_model(settings), Mask.from_json(_json(path)), out)


def of_cell(
    folder: Path, out: Path, settings: Mapping[str, str] | None = None, mask_file: Path | None = None
) -> Request:
    """The request for the folder of a finished cell; `settings` may give a new `model.path` if the model has moved.

    Raises InputError if the cell is not done, was run on another model, or has found another mask than `mask_file`
    (by default its own `mask.json`) holds. Raises DamagedError if the cell's result is damaged.
    """
    if (result := read_result(folder)) is None:
        raise InputError(f"{folder} holds no {NAME}: it is not a cell, or the cell has not ended.")
    if result["status"] != "done":
        raise InputError(f"cell {folder} is not done ({result['status']}): run it again first.")
    try:
        settings_of_model = result["config"]["model"].items()
        # The command gives the folder for offloaded weights: a record can come from somebody else.
        left_out = (CLASS, OPTION, "offload")
        recorded = {name: value for name, value in settings_of_model if name not in left_out}
        model, revision = Model(**recorded), str(result["model"]["revision"])
        mask, factors = Mask.from_json(result["mask"]), result.get("compensation") or {}
        scales = [float(factors.get(str(unit), 1.0)) for unit in range(mask.n_units)] if factors else None
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{folder / NAME} is damaged (it is not a result): run the cell again.") from error
    _check_mask_file(folder / MASK if mask_file is None else mask_file, mask)
    names = (model.name, result["config"]["model"].get(OPTION))
    changed = _changed(model, revision, names, settings or {})
    if changed.in_directory:
        changed.check_same_weights(revision)
    repair = None
    if (record := result.get("repair")) is not None and is_repaired(record):
        from pruning.models.output_maps import read_repair

        repair = read_repair(folder, record["sha256"])
    return Request(changed, mask, out, result, scales, repair)


def _check_mask_file(path: Path, found: Mask) -> None:
    """Raise InputError if a file beside a result holds another mask than the result: it would be ignored."""
    if path.is_file() and (given := Mask.from_json(_json(path))) != found:
        raise InputError(
            f"{path} removes {given.described()}, and the cell found {found.described()} ({NAME}): restore the file, "
            "or give it with its model (model=NAME) to export what it says."
        )


def _changed(model: Model, revision: str, names: Sequence[str | None], settings: Mapping[str, str]) -> Model:
    """A cell's model, with the settings that a command changes.

    `names` are the model's name and the name of its option. Raises InputError if the command names another model.
    """
    if settings.get("model", model.name) not in names:
        raise InputError(
            f"model={settings['model']} is not the model of the cell, {model.name}: leave model= out."
        )
    fields = _fields(settings)
    if model.source == "packaged" and fields.get("path", model.path) != model.path:
        raise InputError(
            f"model.path={fields['path']} is not the model of the cell, {model.name}: leave model.path out."
        )
    if str(fields.get("path", "")).lower().endswith(".gguf"):
        fields = {"gguf_file": None, **fields}  # the file can have moved under another name
    model = dataclasses.replace(model, **fields)
    if model.source == "hub" and not model.in_directory and model.revision is None and revision != "main":
        return dataclasses.replace(model, revision=revision)  # the commit that the cell was run on
    return model


def _fields(settings: Mapping[str, str]) -> dict[str, Any]:
    """The values of the words `model.SETTING=VALUE`, by setting. Raises InputError if a setting is unknown."""
    known = [item.name for item in dataclasses.fields(Model)]
    fields = {
        name[6:]: yaml.safe_load(value) for name, value in settings.items() if name.startswith("model.")
    }
    for name in fields:
        if name not in known:
            raise unknown("setting", f"model.{name}", [f"model.{other}" for other in known])
    return fields


def _model(settings: Mapping[str, str]) -> Model:
    """The model that the words `model=NAME model.SETTING=VALUE` describe, composed as a launch composes it."""
    _fields(settings)
    words = [f"{name}={value}" for name, value in settings.items() if name.partition(".")[0] == "model"]
    model: Model = build_option("model", words)
    return model


def _truth(name: str, settings: Mapping[str, str], default: bool) -> bool:
    text = settings.get(name, str(default))
    if text.lower() not in ("true", "false"):
        raise InputError(f"{name}={text} is not valid: choose true or false.")
    return text.lower() == "true"


def _json(path: Path) -> dict[str, Any]:
    data = storage.read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no JSON object, so it is neither a mask nor a result.")
    return data


# What the export of a cell will record, as far as it is known before the cell is searched and trained.

UNKNOWN = "not known yet"  # differs from every recorded value


def expected_record(cell: Cell, own: bool) -> dict[str, Any]:
    """The known entries of the record, and `UNKNOWN` for a mask or a healing that can still become another one.

    `own` says whether the earlier export is one of this cell. Searching the cell again gives its mask again, so
    without a result the mask is left out.
    """
    result = finished(cell)
    known: dict[str, Any] = {"precision": cell.model.dtype, "healed": _healed(cell, result)}
    if cell.model.source != "hub":  # the commit of a hub model is known only when it is loaded
        known["model"] = {"source": cell.model.source, "revision": cell.model.recorded_revision}
    if result is not None or not own:
        known["mask"] = UNKNOWN if result is None else _mask(cell, result)
    return known


def finished(cell: Cell) -> DoneResult | None:
    """The result of a cell whose search is finished."""
    result = cell.result()
    return result if result is not None and result["status"] == "done" else None


def exported(record: Any) -> Mask:
    """A recorded mask as an export records it: over blocks, if it removes whole blocks."""
    mask = Mask.from_json(record)
    return mask.as_blocks() or mask


def _mask(cell: Cell, result: DoneResult) -> Any:
    """The mask in the form of an export's record."""
    found: Any = result["mask"]
    if getattr(cell.heal, "candidates", 1) > 1:
        # The selection does not depend on the budget of the healing that follows it.
        selected = result["heal"].get("selection") if "heal" in result else None
        if selected is None or not _same_healing(cell, result, tokens=None):
            return UNKNOWN
        found = selected["mask"]
    return exported(found).to_json()


def _healed(cell: Cell, result: DoneResult | None) -> str | None:
    """The digest of the healed weights; None without a healing."""
    if not cell.heal.trains:
        return None
    if result is None or "heal" not in result or not _same_healing(cell, result):
        return UNKNOWN
    return result["heal"]["weights_sha256"]


def _same_healing(cell: Cell, result: DoneResult, **ignored: None) -> bool:
    """Whether a result was healed with the settings of the cell, apart from those that are `ignored`."""
    before, wanted = ({**config.get("heal", {}), **ignored} for config in (result["config"], cell.config))
    return same_settings(before, wanted)


# Settle the form of an export: whole blocks are cut out, and single sub-layers become zeros.

FORMS = ("smaller", "zeros")


def settled(wanted: Request) -> Request:
    """The same request with a mask over blocks if it removes whole blocks only, and with the form of the output.

    Raises InputError if the form does not suit the mask, or if a compensation cannot be exported with it.
    """
    scales, blocks = wanted.scales, wanted.mask.as_blocks()
    if wanted.form is not None and wanted.form not in FORMS:
        raise InputError(f"form={wanted.form} is unknown: choose from {', '.join(FORMS)}, or leave it out.")
    if wanted.mask.unit == "sublayer" and scales is not None:
        _check_scales(wanted.mask, scales)
        scales = None
    if blocks is None:
        if wanted.form == "smaller":
            raise InputError(
                f"form=smaller is not possible for {' '.join(wanted.mask.names())}: no architecture of transformers "
                "has blocks without attention or without MLP. Leave form out (form=zeros), or remove whole blocks."
            )
        return dataclasses.replace(wanted, scales=scales, form="zeros")
    if wanted.form == "zeros":
        raise InputError("form=zeros is for masks that remove a part of a block: whole blocks are cut out.")
    return dataclasses.replace(wanted, mask=blocks, scales=scales, form="smaller")


def _check_scales(mask: Mask, scales: Sequence[float]) -> None:
    if wrong := [unit for unit in mask.dropped if scales[unit] != 1.0]:
        factors = ", ".join(f"{unit_names(mask.unit, [unit])[0]}: {scales[unit]:.4g}" for unit in wrong)
        raise InputError(
            f"the compensation of sub-layers cannot be exported ({factors}): it would have to be folded into the "
            "output weights of every later sub-layer, which is done for whole blocks only. Search with "
            "compensation=none, or with unit=block."
        )
