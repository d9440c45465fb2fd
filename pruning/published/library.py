"""Read the files of published masks, and choose among their entries.

Each file of `papers/` belongs to one paper: its sources, the protocols of its numbers, and its masks. A mistake in a
file is an InputError that names the file and the entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pruning.core.errors import InputError, PruningError, unknown
from pruning.core.mask import Mask
from pruning.published.protocol import Protocol
from pruning.published.records import PAIRINGS, Entry, ModelFacts, Number, Source, Theirs

FOLDER = Path(__file__).parent
OURS = "ours"  # the file of this project's own masks
NOTES = ("corpus", "stated", "not_reproduced", "from")  # keys of a protocol that are not settings
COMPARED = ("documents", "windows")  # `all` in a file means no limit; null means that the source does not say


@cache
def entries() -> tuple[Entry, ...]:
    """All published masks, in the order of the files. Raises InputError if a file is wrong."""
    found = [entry for path in sorted((FOLDER / "papers").glob("*.yaml")) for entry in _paper(path)]
    names = [entry.name for entry in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two published masks have the name {twice[0]}: give each its own.")
    return tuple(found)


def chosen(only: Sequence[str] | None) -> tuple[Entry, ...]:
    """The entries whose paper, model or own name is in `only`, in the order of the files; None: all.

    Raises InputError, with similar names, if a name is unknown.
    """
    if only is None:
        return entries()
    known = {word for entry in entries() for word in _names(entry)}
    for name in only:
        if name not in known:
            papers = {entry.paper for entry in entries()} | {entry.model.name for entry in entries()}
            near = unknown("published mask, paper or model", name, known)
            raise InputError(
                f"published.only: {str(near).partition(' Available:')[0]} Papers and models: "
                f"{', '.join(sorted(papers))}; each mask has a name, which published.dry_run=true lists."
            )
    return tuple(entry for entry in entries() if {*_names(entry)} & {*only})


def _names(entry: Entry) -> tuple[str, ...]:
    return entry.name, entry.paper, entry.model.name


@cache
def models() -> Mapping[str, ModelFacts]:
    """The models of published masks, by their names."""
    data = _read(FOLDER / "models.yaml")
    return {
        name: ModelFacts(name, m["source"], m["path"], int(m["blocks"]), float(m["parameters"]))
        for name, m in data.items()
    }


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _paper(path: Path) -> Iterator[Entry]:
    data = _read(path)
    sources = {name: Source(**settings) for name, settings in data["sources"].items()}
    protocols = {name: theirs(settings) for name, settings in data["protocols"].items()}
    for raw in data["entries"]:
        try:
            yield _entry(path.stem, raw, sources, protocols)
        except (PruningError, KeyError, TypeError) as error:
            raise InputError(f"{path.name}, {raw.get('name', raw)}: {error}") from error


def _entry(
    paper: str, raw: Mapping[str, Any], sources: Mapping[str, Source], protocols: Mapping[str, Theirs]
) -> Entry:
    model = models()[raw["model"]]
    removed = raw["removed"]
    text = removed if isinstance(removed, str) else " ".join(map(str, removed))
    return Entry(
        name=raw["name"],
        paper=paper,
        model=model,
        method=raw["method"],
        mask=Mask.parse(model.blocks, text),
        mask_source=sources[raw["mask"]],
        stated=raw.get("stated", {}).get("blocks"),
        numbers=tuple(_number(number, sources, protocols) for number in raw.get("numbers", ())),
        note=raw.get("note"),
    )


def _number(raw: Mapping[str, Any], sources: Mapping[str, Source], protocols: Mapping[str, Theirs]) -> Number:
    protocol = protocols[raw["protocol"]]
    if raw["corpus"] != protocol.corpus:
        raise InputError(f"a number on {raw['corpus']} has a protocol for {protocol.corpus}.")
    if raw["pairing"] not in PAIRINGS:
        raise unknown("pairing", raw["pairing"], PAIRINGS)
    return Number(float(raw["value"]), protocol, sources[raw["source"]], raw["pairing"])


def theirs(raw: Mapping[str, Any]) -> Theirs:
    """A protocol from a file. A setting that is null there is unknown, and has the default of `Protocol`."""
    settings = {name: value for name, value in raw.items() if name not in NOTES}
    missing = tuple(
        name for name, value in settings.items() if value is None and name not in ("join", "name")
    )
    known = {name: None if value == "all" and name in COMPARED else value for name, value in settings.items()}
    if "from" in raw:
        known["source"] = raw["from"]
    kept: dict[str, Any] = {name: value for name, value in known.items() if name not in missing}
    return Theirs(raw["corpus"], Protocol(**kept), missing, raw.get("not_reproduced"))
