"""Collect what the texts of an export say: its name, its origin, and the commands that make it again."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

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
            ["python", "launch.py", *launch_words(portable(one))] for one in _evaluated(wanted.result)
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


def _evaluated(result: DoneResult) -> list[Mapping[str, Any]]:
    """For each evaluation that added metrics, the result's configuration with that evaluation; the latest is last."""
    config = result["config"]
    settings = [*result["evaluation"].get("settings", {}).values(), config["eval"]]
    distinct = {json.dumps(evaluation, sort_keys=True): evaluation for evaluation in reversed(settings)}
    return [{**config, "eval": evaluation} for evaluation in reversed(distinct.values())]
