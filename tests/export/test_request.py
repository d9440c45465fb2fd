"""Requests for exports from words, cells and files, and exports at the end of a launch."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict

from pruning.config import app, groups
from pruning.config.app import launch_words
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.records import OPTION
from pruning.export.model_card import summary
from pruning.export.pipeline import export_cell, written
from pruning.export.request import of_cell, parse
from pruning.models.gguf import open_gguf
from pruning.models.handle import Model
from pruning.models.sublayers import masked
from tests.conftest import Command
from tests.helpers import gguf_models
from tests.helpers.architectures import logits
from tests.helpers.exports import load
from tests.helpers.results import a_result

SMALL = ("algo=one_shot", "eval=heldout", "eval.samples=2", "eval.length=16", "eval.items=2")


def test_words(model_folder: Path, tmp_path: Path) -> None:
    words = [f"out={tmp_path / 'out'}", "verify=false", "model=local"]
    wanted = parse(["--drop", "4,1", *words, f"model.path={model_folder}", "model.dtype=float16"])
    assert wanted.mask.dropped == (1, 4)
    assert wanted.model == Model(model_folder.name, "local", str(model_folder), dtype="float16")
    assert (wanted.out, wanted.force, wanted.verify) == (tmp_path / "out", False, False)
    for text in ("a4,m1,b2", "a4 m1 b2", "b2, m1, a4"):
        named = parse(["--drop", text, *words, f"model.path={model_folder}"])
        assert named.mask == Mask(6, (3, 4, 5, 8), "sublayer")


@pytest.fixture
def cell(launch: Command) -> tuple[Path, dict[str, Any]]:
    """A finished cell's folder and result."""
    ended = launch(*SMALL, "k=2", "seed=3", "model.name=little")
    assert ended.status == 0, ended.err
    return ended.results / ended.result()["cell"], ended.result()


def test_a_cell_is_exported_with_its_card(cell: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, result = cell
    wanted = parse([str(folder), "out=smaller"])
    out = summary(written(wanted), wanted.out)
    dense, start = result["evaluation"]["dense"]["ppl/heldout"], result["calibration"]["dense_loss"]
    assert out.startswith(f"quality ppl/heldout {dense:,.2f} ± ")
    card = (tmp_path / "smaller" / "README.md").read_text()
    for part in (f"went from {start:.4f} ", f"`{result['cell']}`.", f"| ppl/heldout | {dense:,.2f} ± "):
        assert part in card
    assert str(tmp_path) not in card.replace(f"model.path={result['config']['model']['path']}", "")
    assert load(tmp_path / "smaller").config.num_hidden_layers == 4
    record = json.loads((tmp_path / "smaller" / "depth_pruning.json").read_text())
    assert (record["mask"], record["cell"]) == (result["mask"], result["cell"])
    again = export_cell(folder, tmp_path / "smaller")  # an earlier export of the same cell is replaced
    assert again == out


def test_the_mask_file_of_a_cell_stands_for_the_cell(
    cell: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, result = cell
    out, path = f"out={tmp_path / 'out'}", result["config"]["model"]["path"]
    assert parse([str(folder / "mask.json"), out]).cell == result["cell"]
    elsewhere = Path(shutil.copy(folder / "mask.json", tmp_path / "mask.json"))
    words = [str(elsewhere), out, "model=local", f"model.path={path}"]
    assert (parse(words).cell, parse(words).mask.to_json()) == (None, result["mask"])
    elsewhere.write_text("{}")
    with pytest.raises(InputError, match=r"\{\} .*n_blocks .*dropped"):
        parse(words)


def test_a_cells_model_may_have_moved_but_not_changed(
    cell: tuple[Path, dict[str, Any]], model_folder: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(model_folder, tmp_path / "moved")
    words = [str(cell[0]), f"out={tmp_path / 'out'}", f"model.path={moved}"]
    assert parse(words).model.path == str(moved)
    with pytest.raises(InputError, match=r"little: .*model=.*model\.path"):
        parse([*words, "model=local"])
    (moved / "config.json").write_text("{} ")
    with pytest.raises(InputError, match=rf"model\.path={moved} .*digest"):
        parse(words)


def test_the_factors_of_a_compensated_cell_are_refused(
    cell: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, result = cell
    for factor in (1.0, 1.25):
        (folder / "result.json").write_text(json.dumps(result | {"compensation": {"1": factor}}))
        if factor == 1:
            assert of_cell(folder, tmp_path / "out").mask.to_json() == result["mask"]
            continue
        with pytest.raises(InputError, match="compensation=magnitude"):
            of_cell(folder, tmp_path / "out")


def test_a_hub_cell_pins_the_commit_it_was_run_on(tmp_path: Path) -> None:
    model = {"name": "q", "source": "hub", "path": "a/b", "revision": None}
    result = a_result(
        config={"model": model}, model={"revision": "c0ffee"}, mask={"n_blocks": 6, "dropped": [1]}
    )
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert of_cell(tmp_path, tmp_path / "out").model.revision == "c0ffee"


def test_a_configuration_is_composed_within_a_launch_too() -> None:
    app.register()
    with initialize_config_dir(str(groups.CONF), version_base="1.3"):
        running = GlobalHydra.instance().hydra
        assert (
            launch_words({"model": dict(compose("config", ["model=gemma3_270m"]).model)})[0]
            == "model=gemma3_270m"
        )
        assert GlobalHydra.instance().hydra is running
        assert compose("config").model.name == "smollm2"


COMMANDS = """
k=2 seed=3 protect.first=1
ratio=0.34 objective=margin algo=beam
ratio=0.5 calibration=wikitext2 calibration.samples=7 model=gemma3_270m
model=local "model.path='/a folder/with, comma'" model.gguf_file=a.gguf
calibration=text_file "calibration.path='/texts/a=b.txt'" calibration.samples=4 eval.items=8
eval=local "eval.texts={a: x.txt}" "eval.items={b: 'y, z.jsonl', c: /w.jsonl}" eval.window=64
eval=perplexity ~eval.corpora.c4 "+eval.corpora.mine={source: file, path: x.txt, join: null}"
eval=perplexity eval.corpora.c4.stride=512 eval.limit=3
eval=zeroshot eval.tasks=[piqa,boolq]
eval=full eval.limit=3 k=2
eval=speed eval.prompts=[3]
unit=sublayer budget=latency near_ties.most=0 latency.tokens=64
algo=greedy algo.lazy=0.05
calibration=mixed calibration.samples=6 heal=brief eval=embedded racing.delta=0.01
"""


@pytest.mark.parametrize("line", COMMANDS.strip().splitlines())
def test_the_command_in_a_card_composes_the_same_configuration(line: str) -> None:
    words = shlex.split(line)

    def composed(given: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        with initialize_config_dir(str(groups.CONF), version_base="1.3"):
            config = compose("config", given, return_hydra_config=True)
        choices = dict(config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]
        plain: Any = OmegaConf.to_container(config, resolve=True)
        return {name: plain[name] for name in plain if name not in ("tracker", "study")}, choices

    app.register()
    wanted, choices = composed(words)
    options = {name: {OPTION: choices[name], **wanted[name]} for name in wanted.keys() & choices.keys()}
    replayed = launch_words(wanted | options)
    assert composed(shlex.split(shlex.join(replayed)))[0] == wanted
    assert len(replayed) <= len(words) + 6, f"more words than needed: {replayed}"


def test_one_command_ends_with_a_model_its_card_and_three_lines(
    launch: Command, model_folder: Path, tmp_path: Path
) -> None:
    ended = launch("ratio=0.34", "export=smaller")
    assert ended.status == 0, ended.err
    result = ended.result()
    blank, quality, removed, where = ended.out.splitlines()[-4:]
    assert blank == ""
    dense, pruned = (result["evaluation"][which]["ppl/heldout"] for which in ("dense", "pruned"))
    assert re.match(rf"quality ppl/heldout {dense:,.2f} ± [\d.]+ -> {pruned:,.2f} ± ", quality)
    assert f"(2 of 6 blocks: {' '.join(map(str, result['mask']['dropped']))})" in removed
    assert where.startswith(f"model   {tmp_path / 'smaller'} (reloaded: ")
    smaller, whole = load(Path("smaller")), load(model_folder)
    with masked(whole, Mask.from_json(result["mask"])):
        assert torch.equal(logits(smaller), logits(whole))
    again = launch("ratio=0.34", "export=smaller")
    assert again.nothing_ran
    assert again.out.splitlines()[-3:] == [quality, removed, where]


GGUF = ("model.path=models/tiny.gguf", "export=new.gguf")  # a Llama in Q8_0


def test_a_cell_that_failed_is_not_exported(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("pruning.evaluation.heldout.Heldout.measure", broken)
    assert launch("k=1", "export=out").status == 1
    assert not (tmp_path / "out").exists()


def test_a_cut_file_is_replaced_if_the_finished_cell_has_its_mask(launch: Command, tmp_path: Path) -> None:
    gguf_models.write(tmp_path / "models" / "tiny.gguf", "llama", "Q8_0")
    for _ in range(2):
        ended = launch(*SMALL, *GGUF, "k=1")
        assert ended.status == 0, ended.err
    assert ended.nothing_ran
    record = open_gguf(tmp_path / "new.gguf").record()
    assert record is not None
    assert record["mask"] == ended.result()["mask"]
