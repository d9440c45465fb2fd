"""Collect what the texts of an export say: its name, its origin, and the commands that make it again."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from pruning.calibration.sources import EMBEDDED
from pruning.core.heal_record import HealRecord
from pruning.core.recorded import CLASS
from pruning.core.result import DoneResult
from pruning.export import model_card
from pruning.export.model_card import Facts
from pruning.export.parts_text import noun
from pruning.export.portable import portable
from pruning.export.request import Request
from pruning.hydra_app.replay_command import launch_words
from pruning.models import model_name


def facts(wanted: Request, **known: Any) -> Facts:
    """The facts of an export; `known` are those fields of `Facts` that do not follow from the request."""
    mask, base = wanted.mask, _base(wanted)
    return Facts(
        name=f"{base.rpartition('/')[2]}-{len(mask.kept)}-of-{mask.n_units}-{noun(mask).replace('-', '')}",
        base=base,
        mask=mask,
        commands=list(_commands(wanted)),
        result=wanted.result,
        scales=wanted.scales,
        repair=None if wanted.repair is None else wanted.repair.names(),
        healed=None if wanted.healed is None else heal_record(wanted),
        **known,
    )


def heal_record(wanted: Request) -> HealRecord:
    """How the cell of a request was healed; `request.py` has checked that it was."""
    assert wanted.result is not None
    return wanted.result["heal"]


def _base(wanted: Request) -> str:
    """The hub name of the original model, or the name of its directory."""
    settings = wanted.model
    hub = {"hub": settings.path, "packaged": model_card.PACKAGED.get(settings.path, ("",))[0]}.get(
        settings.source
    )
    if wanted.in_memory:
        return wanted.in_memory
    return hub if hub and not settings.in_directory else model_name.directory_name(settings.location)


def _commands(wanted: Request) -> Iterator[str]:
    """Commands that search, evaluate and export again, and one that makes the same cut without a search."""
    if wanted.in_memory is not None:
        yield f"pruning.export_model(model, {wanted.mask!r}, DIR)  # in Python"
        return
    out = "DIR" if wanted.out.suffix.lower() != ".gguf" else "FILE.gguf"
    if wanted.result is not None:
        launches = [
            ["python", "launch.py", *launch_words(portable(one))]
            for one in launched(wanted.result, wanted.healed is not None)
        ]
        if wanted.healed is not None:
            yield from map(shlex.join, launches)
            yield f"python -m pruning.export CELL out={out} healed=true"
            return
        yield from map(shlex.join, launches[:-1])
        yield shlex.join([*launches[-1], f"export={out}"])
    if wanted.scales is None and wanted.repair is None and wanted.healed is None:
        model = {CLASS: "Model", **portable(dataclasses.asdict(wanted.model))}
        words = ["--drop", ",".join(wanted.mask.names()), *launch_words({"model": model}), f"out={out}"]
        yield shlex.join(["python", "-m", "pruning.export", *words])


def launched(result: DoneResult, healed: bool) -> Iterator[Mapping[str, Any]]:
    """The configurations whose launches give a result, in order: one for each evaluation, the latest last.

    The first one that heals has the evaluation for whose sake windows of the healing's text were left out. The later
    ones find the healing finished. Evaluations that measured no healed model heal nothing.
    """
    config = result["config"]
    plain = {name: value for name, value in config.items() if name != "heal"}
    *earlier, latest = _evaluations(result)
    measured = [one for one in earlier if healed and _measured_healed(result, one)]
    first = [result["heal"]["evaluation"]] if healed and "evaluation" in result["heal"] else []
    if first == [latest] and not measured:
        first = []  # the last launch heals
    yield from ({**plain, "eval": one} for one in earlier if one not in (*first, *measured))
    again = [one for one in measured if one not in first]
    yield from ({**config, "eval": one} for one in (*first, *again))
    yield {**(config if healed else plain), "eval": latest}


def _evaluations(result: DoneResult) -> list[Any]:
    """The settings of each evaluation that added metrics; the latest is last."""
    settings = [*result["evaluation"].get("settings", {}).values(), result["config"]["eval"]]
    distinct = {json.dumps(evaluation, sort_keys=True): evaluation for evaluation in reversed(settings)}
    return list(reversed(distinct.values()))


def _measured_healed(result: DoneResult, evaluation: Any) -> bool:
    """Whether an evaluation measured the healed model, and a healing with this evaluation would be the same."""
    heal, records = result["heal"], result["evaluation"].get("records", {})
    if heal["settings"]["source"] in EMBEDDED and "evaluation" not in heal:
        return False  # of an older version, so it is not known for which evaluation windows were left out
    settings = result["evaluation"].get("settings", {})
    return any(one == evaluation and "healed" in records.get(metric, {}) for metric, one in settings.items())
