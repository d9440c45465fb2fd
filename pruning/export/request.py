"""What an export is asked to do: a mask, the model that it belongs to, and a directory, from a command's words."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pruning.core import atomic_files
from pruning.core.errors import DamagedError, InputError, unknown
from pruning.core.mask import Mask
from pruning.core.recorded import CLASS, OPTION
from pruning.core.result import NAME, DoneResult, read_result
from pruning.models import directory, loader, spec

SETTINGS = ("out", "force", "verify", "max_shard_size", "model")
USAGE = """python -m pruning.export CELL_OR_MASK out=DIR [model=NAME] [model.SETTING=VALUE ...]
       python -m pruning.export --drop 3,7,12 out=DIR [model=NAME] [model.SETTING=VALUE ...]"""
MORE = """CELL_OR_MASK is the folder of a finished cell, or a mask.json. model=NAME is an option of conf/model
(default smollm2), model=local model.path=DIR any directory; a cell knows its own model. Further settings:
verify=false skips the comparison with the masked model, force=true replaces another export, max_shard_size=5GB."""


@dataclass(frozen=True)
class Request:
    """An export.

    `result` is the finished cell's, or None for a mask that comes from elsewhere; `scales` are the factors of its
    compensation, one for each of the model's blocks.
    """

    model: spec.Model
    mask: Mask
    out: Path
    result: DoneResult | None = None
    scales: Sequence[float] | None = None
    force: bool = False
    verify: bool = True
    max_shard_size: str = "5GB"

    @property
    def cell(self) -> str | None:
        """The key of the cell that found the mask."""
        return None if self.result is None else str(self.result["cell"])


def parse(arguments: Sequence[str]) -> Request:
    """The request that a command line makes. Raises InputError in one sentence for what is wrong with it."""
    parser = argparse.ArgumentParser("pruning.export", usage=USAGE, epilog=MORE)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--drop", metavar="BLOCKS", help="blocks to remove, counted from 0, as in 3,7,12")
    found = parser.parse_intermixed_args(list(arguments))
    settings = dict(word.split("=", 1) for word in found.words if "=" in word)
    places = [word for word in found.words if "=" not in word]
    for name in settings:
        if name.partition(".")[0] not in SETTINGS or (
            name.partition(".")[2] and not name.startswith("model.")
        ):
            raise unknown("setting", name, SETTINGS)
    if len(places) + (found.drop is not None) != 1:
        raise InputError(f"give one cell folder or mask.json, or --drop, not {len(places)} and {found.drop}.")
    if not settings.get("out"):
        raise InputError("out=DIR is missing: the directory that the smaller model is written to.")
    out = Path(settings["out"]).expanduser().resolve()
    if found.drop is not None:
        model = _model(settings)
        wanted = Request(model, Mask(loader.n_blocks(model), _numbers(found.drop)), out)
    else:
        wanted = _recorded(Path(places[0]).expanduser(), settings, out)
    return dataclasses.replace(
        wanted,
        force=_truth("force", settings, wanted.force),
        verify=_truth("verify", settings, wanted.verify),
        max_shard_size=settings.get("max_shard_size", wanted.max_shard_size),
    )


def _recorded(place: Path, settings: Mapping[str, str], out: Path) -> Request:
    """The request for a cell folder or a mask file."""
    if place.is_dir():
        return of_cell(place, out, settings)
    if not place.is_file():
        raise InputError(f"{place}: there is no such cell folder or mask file.")
    if (place.parent / NAME).is_file() and "model" not in settings:
        return of_cell(place.parent, out, settings)
    return Request(_model(settings), Mask.from_json(_json(place)), out)


def of_cell(folder: Path, out: Path, settings: Mapping[str, str] | None = None) -> Request:
    """The request for the folder of a finished cell; `settings` may say where its model lies now (`model.path`).

    Raises InputError where the cell is not done or the model is not the one that it was run on.
    """
    if (result := read_result(folder)) is None:
        raise InputError(f"{folder} holds no {NAME}: it is no cell, or none that has ended.")
    if result["status"] != "done":
        raise InputError(f"cell {folder} is not done ({result['status']}): run it again first.")
    try:
        settings_of_model = result["config"]["model"].items()
        recorded = {name: value for name, value in settings_of_model if name not in (CLASS, OPTION)}
        model, revision = spec.Model(**recorded), str(result["model"]["revision"])
        mask, factors = Mask.from_json(result["mask"]), result.get("compensation") or {}
        scales = [float(factors.get(str(block), 1.0)) for block in range(mask.n_blocks)] if factors else None
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{folder / NAME} is damaged (it is no result): run the cell again.") from error
    return Request(_same_model(model, revision, settings or {}), mask, out, result, scales)


def _same_model(model: spec.Model, revision: str, settings: Mapping[str, str]) -> spec.Model:
    """A cell's model with the settings that a command changes; the weights must be those of the cell."""
    if settings.get("model", model.name) != model.name:
        raise InputError(
            f"model={settings['model']}: the cell has a model of its own, {model.name}; leave it out."
        )
    model = dataclasses.replace(model, **_fields(settings))
    if model.source == "hub" and model.revision is None and revision != "main":
        return dataclasses.replace(model, revision=revision)  # the very commit that was searched
    if model.source == "local" and (found := directory.fingerprint(model.path)) != revision:
        raise InputError(
            f"model.path={model.path} does not hold the model that the cell was run on (its files have the digest "
            f"{found[:12]}, not {revision[:12]}): give the directory of that one, model.path=DIR."
        )
    return model


def _fields(settings: Mapping[str, str]) -> dict[str, Any]:
    """The `model.SETTING=VALUE` words, for a model that is known already."""
    known = [item.name for item in dataclasses.fields(spec.Model)]
    fields = {
        name[6:]: yaml.safe_load(value) for name, value in settings.items() if name.startswith("model.")
    }
    for name in fields:
        if name not in known:
            raise unknown("setting", f"model.{name}", [f"model.{other}" for other in known])
    return fields


def _model(settings: Mapping[str, str]) -> spec.Model:
    """The model of `model=NAME model.SETTING=VALUE`, composed as a launch composes it."""
    from hydra.errors import HydraException
    from hydra.utils import instantiate
    from omegaconf.errors import OmegaConfBaseException

    from pruning.config import compose
    from pruning.core.errors import PruningError, first_line
    from pruning.hydra_app.replay_command import composed

    _fields(settings)
    words = [f"{name}={value}" for name, value in settings.items() if name.partition(".")[0] == "model"]
    compose.check_choices(words)
    try:
        chosen = composed(words).model
        if missing := [name for name in chosen if str(chosen._get_node(name)) == "???"]:
            raise InputError(f"model={settings.get('model')} needs a value: give model.{missing[0]}=...")
        model: spec.Model = instantiate(chosen)
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(cause := error.__cause__, PruningError):  # what the constructor raised
            raise cause from None
        raise InputError(f"{first_line(error)}.") from error
    return model


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise InputError(
            f"--drop {text}: give block numbers with commas between them, as in 3,7,12."
        ) from None


def _truth(name: str, settings: Mapping[str, str], default: bool) -> bool:
    text = settings.get(name, str(default))
    if text.lower() not in ("true", "false"):
        raise InputError(f"{name}={text}: true or false is wanted.")
    return text.lower() == "true"


def _json(path: Path) -> dict[str, Any]:
    data = atomic_files.read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no JSON object, so neither a mask nor a result.")
    return data
