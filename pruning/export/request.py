"""The request for an export (mask, model and output), from command-line arguments or from a cell."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pruning.config.app import build_option, check_settings
from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, unknown
from pruning.core.mask import Mask
from pruning.core.records import CLASS, MASK, NAME, OPTION, DoneResult, HealRecord, is_repaired, read_result
from pruning.export import output_dir
from pruning.models.gguf import open_gguf
from pruning.models.handle import Model
from pruning.models.model_files import find_files

if TYPE_CHECKING:
    from pruning.models.output_maps import Repair

SETTINGS = ("out", "force", "verify", "healed", "model")
FLAGS = ("force", "verify", "healed")
USAGE = """depth-pruning export CELL_OR_MASK out=DIR [model=NAME] [model.SETTING=VALUE ...]
       depth-pruning export --drop 3,7,12 out=DIR [model=NAME] [model.SETTING=VALUE ...]
       depth-pruning export ... out=FILE.gguf [...]"""
MORE = """CELL_OR_MASK is the folder of a finished cell, or a mask.json. model=NAME is an option of the group model
(default smollm2); for any other directory or a GGUF file, give model=local model.path=PATH. For a cell, leave the
model out. out=FILE.gguf cuts the blocks out of the GGUF file of a model, without dequantising it. --drop a3,m7,b12
removes the attention of block 3, the MLP of block 7, and block 12; parts of blocks become zeros, whole
blocks are cut out. Further settings, with their defaults: healed=false (true writes the weights of the cell's
healing), verify=true (false skips the comparison with the masked model), force=false (true replaces any earlier
export; otherwise, only one of the same model and mask is replaced). A directory with anything else in it, or with a
changed file, is never replaced."""
FACTORS = (
    "the factors of compensation=magnitude multiply the hidden state, which no standard checkpoint can do: choose "
    "compensation=none or linear."
)


@dataclass(frozen=True)
class Request:
    """What to export: a model, the mask that cuts it, and the directory or GGUF file to write.

    `result` is the result of the cell, or None if the mask comes from elsewhere; `repair` is folded into the weights.
    """

    model: Model
    mask: Mask
    out: Path
    result: DoneResult | None = None
    folder: Path | None = None  # of the cell
    repair: Repair | None = None
    force: bool = False
    verify: bool = True
    healed: bool = False  # whether the cell's healed weights are written
    in_memory: str | None = None  # the name of a model whose files exist for this export only

    @property
    def cell(self) -> str | None:
        """The key of the cell that found the mask."""
        return None if self.result is None else str(self.result["cell"])

    @property
    def heal_record(self) -> HealRecord | None:
        """The record of how the written weights were healed; None if they were not healed."""
        return self.result["heal"] if self.healed and self.result is not None else None


def is_gguf(out: Path) -> bool:
    """Whether an export to this path writes a GGUF file instead of a directory."""
    return out.suffix.lower() == ".gguf"


def settled(wanted: Request) -> Request:
    """The same request, but a mask that removes only whole blocks becomes a mask over blocks.

    For any other mask, the export zeroes the removed sub-layers. Raises InputError if nothing or all is removed.
    """
    mask = wanted.mask.as_blocks() or wanted.mask
    if not mask.dropped or not mask.kept:
        raise InputError(
            f"{mask} removed leaves nothing to export: remove at least one and keep at least one."
        )
    return dataclasses.replace(wanted, mask=mask)


# From command-line arguments.


def parse(arguments: Sequence[str]) -> Request:
    """The request of a command line. Raises InputError if it is invalid."""
    parser = argparse.ArgumentParser("depth-pruning export", usage=USAGE, epilog=MORE)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--drop", metavar="BLOCKS", help="what to remove: 3,7,12 or a3,m7,b12")
    options = parser.parse_intermixed_args(list(arguments))
    settings = dict(word.split("=", 1) for word in options.words if "=" in word)
    paths = [Path(word).expanduser() for word in options.words if "=" not in word]
    for name in settings:
        group, dot, _ = name.partition(".")
        if group not in SETTINGS or (dot and group != "model"):
            raise unknown("setting", name, SETTINGS)
    for name in FLAGS:
        if (text := settings.get(name, "true")).lower() not in ("true", "false"):
            raise InputError(f"{name}={text} is not valid: choose true or false.")
    flags = {name: settings[name].lower() == "true" for name in FLAGS if name in settings}
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
        # The number of blocks of a GGUF file is read from the file: transformers does not support every architecture.
        file = find_files(model.path, model.gguf_file).gguf if model.in_directory else None
        count = model.n_blocks if file is None else open_gguf(file).n_blocks
        wanted = Request(model, Mask.parse(count, options.drop), out)
    elif (path := paths[0]).is_dir():
        wanted = of_cell(path, out, settings)
    elif not path.is_file():
        raise InputError(f"{path} does not exist: give a cell folder or a mask file.")
    elif (path.parent / NAME).is_file() and "model" not in settings:
        if path.name != MASK:
            raise InputError(
                f"{path} is not the {MASK} of the cell there: give its model as well (model=NAME)."
            )
        wanted = of_cell(path.parent, out, settings)
    else:
        wanted = Request(_model(settings), _mask(path), out)
    return dataclasses.replace(of_healed(wanted) if flags.get("healed") else wanted, **flags)


def _model(settings: Mapping[str, str]) -> Model:
    """The model that the arguments `model=NAME model.SETTING=VALUE` describe, composed as in a launch."""
    words = [f"{name}={value}" for name, value in settings.items() if name.partition(".")[0] == "model"]
    model: Model = build_option("model", words)
    return model


def _mask(path: Path) -> Mask:
    if not isinstance(data := storage.read_json(path), dict):
        raise InputError(f"{path} holds no JSON object, so it is not a mask.")
    return Mask.from_json(data)


# From the folder of a cell.


def of_cell(folder: Path, out: Path, settings: Mapping[str, str] | None = None) -> Request:
    """The request for the folder of a finished cell; `settings` may give a new `model.path` if the model has moved.

    Raises InputError if the cell is not done, if it was run on another model, or if the cell's `mask.json` is not the
    mask that it found. Raises DamagedError if the cell's result is damaged.
    """
    from pruning.models.output_maps import read_repair

    if (result := read_result(folder)) is None:
        raise InputError(f"{folder} holds no {NAME}: it is not a cell, or the cell has not ended.")
    if result["status"] != "done":
        raise InputError(f"cell {folder} is not done ({result['status']}): run it again first.")
    try:
        recorded = result["config"]["model"]
        known = {name: value for name, value in recorded.items() if name not in (OPTION, CLASS)}
        model, revision = Model(**known), str(result["model"]["revision"])
        mask, factors = Mask.from_json(result["mask"]), dict(result.get("compensation") or {})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedError(f"{folder / NAME} is damaged (it is not a result): run the cell again.") from error
    if any(factor != 1 for factor in factors.values()):
        raise InputError(f"{folder}: {FACTORS}")
    if (beside := folder / MASK).is_file() and (given := _mask(beside)) != mask:
        raise InputError(
            f"{beside} removes {given.described()}, and the cell found {mask.described()} ({NAME}): restore the "
            "file, or give it with its model (model=NAME) to export what it says."
        )
    model = _moved(model, revision, settings or {})
    if model.in_directory:
        model.check_same_weights(revision)
    record = result.get("repair")
    repair = read_repair(folder, record["sha256"]) if record is not None and is_repaired(record) else None
    return Request(model, mask, out, result, folder, repair)


def _moved(model: Model, revision: str, settings: Mapping[str, str]) -> Model:
    """A cell's model with the settings that a command changes, at the commit that the cell's run used.

    Raises InputError if the command names another model.
    """
    given = {name: value for name, value in settings.items() if name.startswith("model.")}
    fields = {name.removeprefix("model."): yaml.safe_load(value) for name, value in given.items()}
    check_settings({"model": {CLASS: Model.__name__, **fields}}, {"model": model.name})
    if "model" in settings or (model.source == "packaged" and "path" in fields):
        raise InputError(
            f"the cell in the command has a model, {model.name}: leave out model=, and give model.path only if the "
            "directory of that model has moved."
        )
    if str(fields.get("path", "")).lower().endswith(".gguf"):
        fields = {"gguf_file": None, **fields}  # the file may have been renamed
    model = dataclasses.replace(model, **fields)
    if model.source == "hub" and not model.in_directory and model.revision is None and revision != "main":
        return dataclasses.replace(model, revision=revision)
    return model


def of_healed(wanted: Request) -> Request:
    """The request with the healed weights of its cell and the mask that was healed.

    Raises InputError if there is no cell, or if the cell was not healed.
    """
    if wanted.result is None or "heal" not in wanted.result:
        raise InputError(
            "healed=true needs a cell that was healed: give its folder, and heal it first with "
            "`depth-pruning heal CELL`."
        )
    selection = wanted.result["heal"].get("selection")
    mask = wanted.mask if selection is None else Mask.from_json(selection["mask"])
    return dataclasses.replace(wanted, healed=True, mask=mask)
