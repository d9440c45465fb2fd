"""Records that a stranger made or that were changed by hand: nothing that they name is run, and none is believed."""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.config.app import build_option, composed, launch_words
from pruning.config.compose import cell_of, recorded_cell
from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, PruningError
from pruning.core.records import read_result
from pruning.core.storage import file_sha256, sealed
from pruning.export.request import of_cell
from pruning.healing.loop import read_record
from pruning.launcher.job import Job
from pruning.routing.fitted_router import read_router, save_arrays
from pruning.runs.cell import NoTracker
from pruning.study import heal_command
from tests.conftest import Command
from tests.helpers.damage import edit_json
from tests.helpers.results import a_result

SECRET = "a secret of this machine"
NAMES = {"objective": "perplexity", "calibration": "mixed", "algo": "beam"}
TEXTS = ("${oc.create:{_target_: planted.run, word: ran}}", "before ${oc.env:PLANTED_SECRET}")
MAPPINGS: tuple[dict[str, Any], ...] = (
    {"_target_": "planted.run", "word": "ran"},
    {"_target_": "planted.run", "_partial_": True, "_args_": ["ran"]},
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


def edits(data: Any, edit: Callable[[Any], Any] = lambda value: value) -> Iterator[tuple[Any, bool]]:
    """Yield (edited copy, whether it holds `${`) for each hostile value at each place of a record."""
    values = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    if isinstance(data, dict):
        yield edit({**data, **MAPPINGS[1]}), False
        yield edit({**data, TEXTS[0]: 1}), True
    for text in TEXTS:
        yield edit(text), True
    for mapping in MAPPINGS:
        yield edit(mapping), False
    for name, value in values:
        yield from edits(value, lambda new, name=name: edit(changed(data, name, new)))


def changed(data: Any, name: Any, value: Any) -> Any:
    copied = copy.copy(data)
    copied[name] = value
    return copied


def refused(read: Callable[[Any], Any], edited: Any, literal: bool) -> None:
    """Read a record: an expression is refused, and anything else may be read but not acted upon."""
    try:
        said, kept = repr(read(edited)), True
    except PruningError as error:
        said, kept = str(error), False
    assert SECRET not in said, edited
    assert not (literal and kept), edited


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The recorded configuration of a cell with classes within classes."""
    words = ["algo=beam", "k=2", "calibration=mixed", "tracker=none", "heal=distill"]
    return dict(cell_of(composed(words), {**NAMES, "model": "smollm2"}).config)


def result_of(config: Any) -> dict[str, Any]:
    return {**a_result(cell="a", model={"revision": "0"}), "config": config}


def write(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def test_cells_of_recorded_configurations(config: dict[str, Any]) -> None:
    assert recorded_cell(config).config["algo"] == config["algo"]
    for edited, literal in edits(config):
        refused(lambda edited: recorded_cell(edited), edited, literal)


def test_results_and_their_configurations(config: dict[str, Any], tmp_path: Path) -> None:
    def read(edited: Any) -> Any:
        write(tmp_path / "a" / "result.json", result_of(edited))
        result = read_result(tmp_path / "a")
        assert result is not None
        return recorded_cell(result["config"]), of_cell(tmp_path / "a", tmp_path / "out")

    for edited, literal in islice(edits(config), None, None, 3):
        refused(read, edited, literal)


@pytest.mark.parametrize("text", TEXTS)
def test_the_command_of_a_card_and_jobs(
    config: dict[str, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    edited = changed(config, "eval", changed(config["eval"], "texts", text))
    with pytest.raises(InputError, match=r"eval\.texts"):
        launch_words(edited)
    with pytest.raises(PruningError, match=r"eval\.texts"):
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
    save_arrays(tmp_path / "router.npz", arrays)
    record |= {"order": ["a", "b"], "head_sha256": file_sha256(tmp_path / "router.npz")}
    write(tmp_path / "router.json", sealed(record))
    assert read_router(tmp_path)[0].template == "{question}"
    for edited, _ in edits(record):
        write(tmp_path / "router.json", sealed(edited) if isinstance(edited, dict) else edited)
        refused(lambda _: read_router(tmp_path), edited, False)
        write(tmp_path / "heal.json", edited)
        refused(lambda _: read_record(tmp_path), edited, False)


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
    folder = f"paths.results={text.parent}".replace("${", "\\${")
    ended = launch("algo=one_shot", "k=1", folder)
    assert ended.status == 2
    assert f"paths.results={text.parent}" in ended.err
    assert not list(tmp_path.rglob("config.yaml"))
    with pytest.raises(InputError, match=r"model\.path="):
        build_option("model", ["model=local", f"model.path='{path}'"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tracker", {"class": "MLflow", "uri": "http://far:1"}),
        ("export", "/planted"),
        ("paths", {"results": "/planted"}),
    ],
)
def test_healing_a_copied_cell_writes_only_where_the_command_says(
    name: str, value: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / recorded_cell(config).key
    write(folder / "result.json", result_of(changed(config, name, value)))
    cell = heal_command.cell_of([str(folder), "heal=full", "tracker=none"])
    assert (cell.folder, cell.command.export) == (folder, None)
    assert isinstance(cell.command.tracker, NoTracker)


SEARCH = ("k=2", "algo=greedy")
HEAL = (
    *("heal=full", "heal.tokens=2048", "heal.length=32", "heal.batch_tokens=256", "heal.heldout=4"),
    "heal.eval_every=4",
)


def stopped(launch: Command, path: Path, *words: str) -> None:
    ended = launch(*words)
    assert ended.status != 0, ended.out
    assert path.name in ended.out + ended.err


@pytest.fixture
def cell(launch: Command) -> Path:
    """The folder of a finished cell."""
    (path,) = launch(*SEARCH).results.glob("*/result.json")
    return path.parent


def test_an_edited_result_is_not_shown(launch: Command, cell: Path) -> None:
    whole = (path := cell / "result.json").read_text()
    changes: list[Callable[[Any], object]] = [
        lambda data: data["mask"].update(dropped=[0, 1]),
        lambda data: data["calibration"].update(loss=1.5),
        lambda data: data["evaluation"]["pruned"].update({"ppl/heldout": 3.25}),
        lambda data: data["search"].update(evaluations_paid=1),
    ]
    for change in changes:
        path.write_text(whole)
        edit_json(path, change)
        with pytest.raises(DamagedError, match=path.name):
            read_result(cell)
    stopped(launch, path, *SEARCH)


@pytest.mark.parametrize("what", ["metrics", "mask", "terms"])
def test_an_edited_measurement_is_not_taken_by_another_cell(launch: Command, cell: Path, what: str) -> None:
    record = storage.read_json(cell / "result.json")["evaluation"]["records"]["ppl/heldout"]["pruned"]
    path = cell.parent / record
    if what == "terms":
        path = path.with_name(f"{path.stem}.terms.json")
        edit_json(path, lambda data: data["losses"].__setitem__(0, 0.5))
        with pytest.raises(DamagedError, match=path.name):
            storage.read_json(path)
        return
    if what == "metrics":
        edit_json(path, lambda data: data["metrics"].update({"ppl/heldout": 2.5}))
    else:
        data = json.loads(path.read_text())
        del data[storage.SEAL]
        data["mask"]["dropped"] = [0, 1]
        storage.write_record(path, data)
    stopped(launch, path, "k=2", "algo=beam")


@pytest.mark.slow
def test_an_edited_healing_or_trial_is_not_continued(launch: Command) -> None:
    ended = launch(*SEARCH, *HEAL)
    assert ended.status == 0, ended.err
    folder = ended.results / ended.result()["cell"]
    (trials,) = folder.glob("healed/rates-*.jsonl")
    lines = [json.loads(line) for line in trials.read_text().splitlines()]
    lines[-1]["heldout_loss"] = 0.1
    kept = trials.read_text()
    trials.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stopped(launch, trials, *SEARCH, *HEAL, "eval.samples=3")
    trials.write_text(kept)
    record = folder / ended.result()["heal"]["folder"] / "heal.json"
    edit_json(record, lambda data: data["curve"].update(heldout_after=0.1))
    stopped(launch, record, *SEARCH, *HEAL, "eval.samples=3")


def test_a_record_without_a_seal_is_read(tmp_path: Path) -> None:
    storage.write_json(path := tmp_path / "plain.json", {"a": 1})
    assert storage.read_json(path) == {"a": 1}
    storage.write_record(path, {"b": 0.1, "ä": [1e-300, None]})
    assert storage.read_json(path) == {"b": 0.1, "ä": [1e-300, None]}


def test_a_journal_of_nobody_knows_whom_is_not_continued(launch: Command, cell: Path) -> None:
    (cell / "result.json").unlink()
    shutil.rmtree(cell.parent / "scores")
    stopped(launch, cell / "trace.jsonl", *SEARCH)


def test_a_recorded_path_stays_in_the_folder(cell: Path) -> None:
    path = cell / "result.json"
    for where in ("/etc/passwd", "../outside.json", "evaluation/../../outside.json", 3, ""):
        edits: list[Callable[[Any], object]] = [
            lambda data, where=where: data["evaluation"]["records"]["ppl/heldout"].update(pruned=where),
            lambda data, where=where: data.update(heal={"folder": where}),
        ]
        for edit in edits:
            edit(data := storage.read_json(path))
            storage.write_record(path.with_name("other") / path.name, data)
            with pytest.raises(DamagedError, match=re.escape(repr(where))):
                read_result(path.with_name("other"))


def test_a_record_of_healing_names_its_own_folder(tmp_path: Path) -> None:
    for folder in ("../../outside", "healed/other", "/healed/key", "healed/../key"):
        storage.write_record(tmp_path / "key" / "heal.json", {"folder": folder})
        with pytest.raises(DamagedError, match=r"heal\.json"):
            read_record(tmp_path / "key")
