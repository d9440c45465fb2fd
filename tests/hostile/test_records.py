"""Files that a stranger recorded: no reader of them runs, resolves or imports what a value names."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pruning.config.app import build_option, composed, launch_words
from pruning.config.compose import cell_of, recorded_cell
from pruning.core.errors import InputError, PruningError
from pruning.core.records import read_result
from pruning.core.storage import file_sha256, sealed
from pruning.export.request import of_cell
from pruning.healing.loop import read_record
from pruning.launcher.job import Job
from pruning.routing.fitted_router import read_router
from pruning.runs.cell import NoTracker
from pruning.study import heal_command
from tests.conftest import Command
from tests.helpers.results import a_result

SECRET = "a secret of this machine"
NAMES = {"objective": "perplexity", "calibration": "mixed", "algo": "beam"}
TEXTS = (
    "${oc.create:{_target_: planted.run, word: ran}}",
    "before ${oc.env:PLANTED_SECRET}",
    "${seed}",
)
MAPPINGS: tuple[dict[str, Any], ...] = (
    {"_target_": "planted.run", "word": "ran"},
    {"_target_": "planted.run", "_partial_": True},
    {"_target_": "planted.run", "_args_": ["ran"]},
    {"class": "run", "word": "ran"},
)


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module that nothing may import, and a secret that nothing may read."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "planted.py").write_text(
        "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\n"
        "def run(*words, **named): Path(__file__).with_suffix('.ran').touch(); return 'ran'\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("PLANTED_SECRET", SECRET)
    yield
    assert [path.name for path in (tmp_path / "modules").glob("planted.*")] == ["planted.py"]
    assert "planted" not in sys.modules


def edits(data: Any, whole: Any = None, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any, bool]]:
    """Yield (place, edited copy, whether it holds `${`) for each hostile value at each place of a record."""
    whole = data if whole is None else whole
    if isinstance(data, dict):
        for extra in ({"_target_": "planted.run"}, {"_args_": ["ran"]}, {"_partial_": True}):
            yield f"{path}", changed(whole, path, {**data, **extra}), False
        yield f"{path}", changed(whole, path, {**data, TEXTS[0]: 1}), True
        for name, value in data.items():
            yield from edits(value, whole, (*path, name))
    elif isinstance(data, list) and data:
        for number, value in enumerate(data):
            yield from edits(value, whole, (*path, number))
    for text in TEXTS[:2] if path else ():
        yield f"{path}", changed(whole, path, text), True
    for mapping in MAPPINGS if path else ():
        yield f"{path}", changed(whole, path, mapping), False


def changed(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copied = copy.deepcopy(whole)
    inner = copied
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return copied


def refused(read: Callable[[], Any], place: str, literal: bool) -> None:
    """Read a record: an expression is refused, and anything else may be read but not acted upon."""
    try:
        said, kept = repr(read()), True
    except PruningError as error:
        said, kept = str(error), False
    assert SECRET not in said, place
    assert not (literal and kept), place


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The recorded configuration of a cell with classes within classes."""
    words = ["algo=beam", "k=2", "calibration=mixed", "tracker=none", "heal=distill"]
    return dict(cell_of(composed(words), {**NAMES, "model": "smollm2"}).config)


def result_of(config: Any) -> dict[str, Any]:
    return {**a_result(cell="a", model={"revision": "0"}), "config": config}


def write(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data) if path.suffix == ".yaml" else json.dumps(data))
    return path


def test_cells_of_recorded_configurations(config: dict[str, Any]) -> None:
    assert recorded_cell(config, {}).config["algo"] == config["algo"]
    for place, edited, literal in edits(config):
        refused(lambda edited=edited: recorded_cell(edited, NAMES), place, literal)


def test_results_and_their_configurations(config: dict[str, Any], tmp_path: Path) -> None:
    def read(edited: Any) -> Any:
        write(tmp_path / "a" / "result.json", result_of(edited))
        result = read_result(tmp_path / "a")
        assert result is not None
        return recorded_cell(result["config"], {}), of_cell(tmp_path / "a", tmp_path / "out")

    for place, edited, literal in islice(edits(config), None, None, 3):
        refused(lambda edited=edited: read(edited), place, literal)


# A few places at all depths, for readers that take long or that only pass a configuration on.
def some(config: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    for path in (("seed",), ("model", "revision"), ("calibration", "first", "path"), ("eval", "texts")):
        for value in (*TEXTS, *MAPPINGS):
            yield f"{path}", changed(config, path, value), isinstance(value, str)


@pytest.mark.parametrize("text", TEXTS)
def test_the_command_of_a_card(config: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=r"calibration\.first\.source"):
        launch_words(changed(config, ("calibration", "first", "source"), text))


def test_jobs(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _, edited, literal in some(config):
        if literal:
            with pytest.raises(PruningError):
                Job("a", edited, str(tmp_path))()


def test_routers_and_healings(tmp_path: Path) -> None:
    record = {
        "sets": {"a": {"n_blocks": 4, "dropped": [1]}, "b": {"n_blocks": 4, "dropped": [2]}},
        **{"blocks": 1, "template": "{question}", "target": "margin"},
        "model": {
            "settings": None,
            "revision": "0",
            "n_blocks": 4,
            "dtype": "float32",
            "weights_sha256": "0",
        },
    }
    layer = {"center": np.zeros(2), "scale": np.ones(2), "strength": np.array(1.0)}
    layer |= {"weight": np.zeros((2, 2)), "bias": np.zeros(2)}
    one = layer | {"weight": np.zeros((2, 1)), "bias": np.zeros(1)}  # the level that all sets share
    parts = {"common": one, "relative": layer}
    arrays = {f"{part}_{name}": value for part, layers in parts.items() for name, value in layers.items()}
    np.savez(tmp_path / "router.npz", **arrays)
    record |= {"order": ["a", "b"], "head_sha256": file_sha256(tmp_path / "router.npz")}
    write(tmp_path / "router.json", sealed(record))
    assert read_router(tmp_path)[0].template == "{question}"
    for place, edited, _ in edits(record):
        write(tmp_path / "router.json", sealed(edited) if isinstance(edited, dict) else edited)
        refused(lambda: read_router(tmp_path), place, False)
        write(tmp_path / "heal.json", edited)
        refused(lambda: read_record(tmp_path), place, False)


@pytest.mark.parametrize("name", ["a${seed}", "${oc.env:PLANTED_SECRET}"])
def test_a_path_that_a_record_could_not_hold_is_refused_before_a_cell_starts(
    name: str, tmp_path: Path, launch: Command
) -> None:
    text = tmp_path / name / "text.txt"
    text.parent.mkdir()
    text.write_text("some words. " * 900)
    path = str(text).replace("${", "\\${")
    ended = launch("calibration=text_file", f"calibration.path='{path}'", "algo=one_shot", "k=1")
    assert ended.status == 2
    assert f"calibration.path={text}" in ended.err
    assert not list(ended.results.glob("*/config.yaml"))
    with pytest.raises(InputError, match=r"model\.path="):
        build_option("model", ["model=local", f"model.path='{path}'"])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("tracker",), {"class": "MLflow", "uri": "http://far:1"}),
        (("model", "offload"), "/planted"),
        (("export",), "/planted"),
        (("paths", "results"), "/planted"),
    ],
)
def test_healing_a_copied_cell_writes_only_where_the_command_says(
    place: tuple[str, ...], value: Any, config: dict[str, Any], tmp_path: Path, launch: Command
) -> None:
    folder = tmp_path / recorded_cell(config, {}).key
    write(folder / "result.json", result_of(changed(config, place, value)))
    cell = heal_command.cell_of([str(folder), "heal=full", "tracker=none"])
    assert (cell.folder, cell.export, cell.model.offload) == (folder, None, None)
    assert isinstance(cell.tracker, NoTracker)
    given = heal_command.cell_of([str(folder), "heal=full", "model.offload=here"])
    assert given.model.offload == "here"
