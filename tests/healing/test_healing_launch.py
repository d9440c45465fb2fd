"""A launch with heal=, several candidates, and the command heal on a finished cell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning.core import records
from pruning.core.errors import PruningError
from pruning.core.mask import Mask
from pruning.core.storage import file_sha256, read_json, write_json
from pruning.healing.heal_settings import Full
from pruning.healing.loop import heal
from pruning.runs import heal_cell
from pruning.runs.heal_cell import Trial, halve
from pruning.study.heal_command import cell_of, heal_folder
from pruning.tracking.client import connect
from tests.conftest import Command, Ended
from tests.helpers.mlflow_runs import runs

SEARCH = ("algo=one_shot", "k=2")
SHORT = (
    *("heal.tokens=2048", "heal.length=32", "heal.batch_tokens=256", "heal.eval_every=2", "heal.heldout=4"),
    "heal.lr=0.003",
)
HEAL = (*SEARCH, "heal=full", *SHORT)
QUICK = ("eval=speed", "eval.batch_sizes=[1]", "eval.prompts=[8]", "eval.new_tokens=2", "eval.repeats=1")
FEW = ("eval.samples=2", "eval.length=32")


def done(ended: Ended) -> dict[str, Any]:
    """The result of a launch that succeeded."""
    assert ended.status == 0, ended.err
    return ended.result()


def test_a_launch_heals_and_measures_the_healed_model(launch: Command) -> None:
    plain = launch(*SEARCH).result()
    assert "heal" not in plain
    assert "heal" not in plain["config"]
    assert "healed" not in plain["evaluation"]
    ended = launch(*SEARCH, "heal=lora", *SHORT, tracker="mlflow")
    result = done(ended)
    assert result["cell"] == plain["cell"], "healing is not part of the key"
    assert result["mask"] == plain["mask"]
    for which in ("dense", "pruned"):
        assert result["evaluation"][which] == plain["evaluation"][which]
    healed = result["evaluation"]["healed"]
    assert healed["ppl/heldout"] < result["evaluation"]["pruned"]["ppl/heldout"]
    assert set(healed) == set(plain["evaluation"]["pruned"])
    assert (result["heal"]["tokens"], result["heal"]["steps"]) == (2048, 8)
    folder = ended.results / result["cell"] / result["heal"]["folder"]
    points = records.read(folder / records.CURVE)
    assert [point["step"] for point in points] == list(range(9))
    assert "healed" in ended.out
    (run,) = runs(store := f"sqlite:///{ended.results / 'mlflow.db'}").values()
    losses = connect(store).get_metric_history(run.info.run_id, "heal/heldout_loss")
    assert [point.step for point in losses] == [0, 512, 1024, 1536, 2048], "the curve is over tokens"
    assert losses[0].value == result["heal"]["curve"]["heldout_before"]
    assert run.data.metrics["healed/ppl/heldout"] == healed["ppl/heldout"]


def test_a_healed_cell_is_done_and_a_second_evaluation_measures_it_too(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = launch(*HEAL).result()
    assert launch(*HEAL).nothing_ran
    monkeypatch.setattr("pruning.healing.loop.heal", None)  # training again would fail
    more = done(launch(*HEAL, "eval.samples=3"))
    assert more["evaluation"]["healed"] != first["evaluation"]["healed"]
    assert more["heal"] == first["heal"]


def test_a_changed_text_is_healed_on_again(launch: Command, tmp_path: Path) -> None:
    text = tmp_path / "text"
    heal = (*HEAL, "heal.source=file", f"heal.path={text}")
    text.write_text(" ".join(f"word{i} and{i * 7}" for i in range(2000)))
    first = launch(*heal).result()
    assert first["heal"]["file_sha256"] == file_sha256(text)
    assert launch(*heal).nothing_ran
    text.write_text(" ".join(f"more{i} or{i * 3}" for i in range(2000)))
    second = launch(*heal).result()
    assert second["heal"]["file_sha256"] == file_sha256(text)
    assert second["heal"]["weights_sha256"] != first["heal"]["weights_sha256"]


def test_a_second_evaluation_keeps_what_the_healed_model_reached_on_the_first(launch: Command) -> None:
    first = launch(*HEAL).result()["evaluation"]
    written = ("eval=generation", "eval.prompts=4", "eval.prompt_tokens=16", "eval.continuation_tokens=8")
    both = launch(*HEAL, *written).result()["evaluation"]
    assert both["healed"].items() >= first["healed"].items()
    assert "self_ppl/continuations" in both["healed"]
    for metric in first["healed"].keys() & first["data"].keys():
        assert both["records"][metric]["healed"] == first["records"][metric]["healed"]
    assert launch(*HEAL, *QUICK).result()["evaluation"]["healed"] == both["healed"]
    ended = launch(*HEAL, "heal.seed=1", *QUICK)
    assert "healed" not in ended.result()["evaluation"], "these weights are others"
    assert "eval=heldout" in ended.err


def passage(folder: Path, number: int) -> tuple[str, ...]:
    """An evaluation on a passage of the text that is healed on; its windows are left out of the healing."""
    documents = list(Full().text.documents("heal"))
    file = folder / f"passage{number}.txt"
    file.write_text(documents[number][1000:1600])
    return ("eval=local", f"eval.texts={{prose: {file}}}", "eval.window=32")


def test_a_second_evaluation_heals_again_only_if_it_shares_text_with_the_training(
    launch: Command, tmp_path: Path
) -> None:
    first = done(launch(*HEAL, *passage(tmp_path, 2)))
    assert first["heal"]["left_out"]
    assert first["heal"]["evaluation"] == first["config"]["eval"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pruning.healing.loop.heal", None)  # training again would fail
        for other in (QUICK, FEW):
            both = done(launch(*HEAL, *other))
            assert both["heal"] == first["heal"]
    assert both["evaluation"]["healed"].items() > first["evaluation"]["healed"].items()
    ended = launch(*HEAL, *passage(tmp_path, 4))
    second = ended.result()
    assert second["heal"]["left_out"] != first["heal"]["left_out"], (
        "these windows may not be among those trained on"
    )
    for name in (first["heal"]["folder"], second["heal"]["folder"]):
        file = ended.results / second["cell"] / name / "heal.json"
        write_json(file, {key: value for key, value in read_json(file).items() if key != "left_out"})
    again = launch(*HEAL, *FEW).result()
    assert again["heal"]["text_sha256"] != second["heal"]["text_sha256"], (
        "a text that is not known is not used"
    )


def test_an_earlier_healing_that_was_measured_needs_no_weights(launch: Command) -> None:
    first = launch(*HEAL).result()
    folder = launch(*HEAL, "heal.seed=1").results / first["cell"]
    for path in folder.rglob("weights.safetensors"):
        path.unlink()  # as in an archive
    assert done(launch(*HEAL)) == first
    assert "weights.safetensors" in launch(*HEAL, "eval.samples=3").err.partition("DamagedError: ")[2]


def test_the_command_heals_a_finished_cell_as_a_launch_does(launch: Command) -> None:
    (path,) = launch(*SEARCH).results.glob("*/result.json")
    heal_folder(cell_of([str(path.parent), "heal=lora", *SHORT, "tracker=none"]))
    by_command = read_json(path)
    launched = launch(*SEARCH, "heal=lora", *SHORT)
    assert launched.nothing_ran
    assert launched.result() == by_command
    assert by_command["evaluation"]["healed"]["ppl/heldout"] > 0
    refused = {(str(path.parent), "heal=none"): "heal=none", ("--heal=full",): "Write heal=full"}
    refused |= {(): "0 folders", ("nowhere",): "nowhere"}
    for words, named in refused.items():
        with pytest.raises(PruningError, match=named):
            cell_of(words)


def test_what_is_refused_before_the_search(launch: Command, tmp_path: Path) -> None:
    file = tmp_path / "prose.txt"
    file.write_text(" ".join(f"word{i} and{i * 7} more{i * 3}" for i in range(4000)))
    evaluation = ("eval=local", f"eval.texts={{prose: {file}}}", "eval.window=32")
    same = launch(*HEAL, *evaluation, "heal.source=file", f"heal.path={file}")
    assert "eval.allow_overlap=true" in same.err
    assert "heal.length=2" in launch(*SEARCH, "heal=full", "heal.length=2").err
    assert not list(same.results.glob("*/result.json"))


GREEDY = ("algo=greedy", "k=2")
BRIEF = (
    *("heal=full", "heal.tokens=1024", "heal.length=32", "heal.batch_tokens=128", "heal.eval_every=4"),
    *("heal.heldout=4", "heal.lr=0.01", "heal.patience=0"),
)
ROUNDS = ("heal.candidates=4", "heal.round_tokens=256")
MASKS = [Mask(9, (i,)) for i in range(8)]


def test_the_better_half_stays_in_each_round_and_the_best_of_the_last_wins() -> None:
    # Mask 6 starts worst but one and falls fastest; mask 0 starts best and hardly falls.
    speed = [0.0, 0.1, 0.2, 0.1, 0.2, 0.3, 0.9, 0.4]
    asked: list[tuple[int, int, int]] = []

    def trial(mask: Mask, tokens: int, before: int) -> Trial:
        number = mask.dropped[0]
        asked.append((number, tokens, before))
        return Trial(mask, tokens, 3.0 + 0.1 * number - speed[number] * tokens / 100, tokens - before, 1.0)

    rounds = list(halve(MASKS, 100, trial))
    assert asked[:8] == [(i, 100, 0) for i in range(8)]
    assert asked[8:] == [(i, 200, 100) for i in (6, 0, 1, 2)] + [(i, 400, 200) for i in (6, 2)]
    assert [[mask.dropped[0] for mask in left] for _, left in rounds] == [[6, 0, 1, 2], [6, 2], [6]]
    *_, (_, left) = halve(MASKS[:3], 10, lambda mask, tokens, _: Trial(mask, tokens, 3.0, 1, 0.0))
    assert left == [MASKS[0]], "of equal masks, the search's choice wins"
    assert sum(one.trained for trials, _ in rounds for one in trials) == 8 * 100 + 4 * 100 + 2 * 200


class StoppedError(Exception):
    pass


def test_trials_are_plain_healings_and_a_killed_selection_continues(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = launch(*GREEDY, *BRIEF).result()
    calls: list[tuple[Any, ...]] = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise StoppedError
        return heal(*arguments)

    monkeypatch.setattr("pruning.healing.loop.heal", counted)
    launch(*GREEDY, *BRIEF, *ROUNDS)  # the third candidate is killed
    ended = launch(*GREEDY, *BRIEF, *ROUNDS)
    assert ended.status == 0, ended.err
    result = ended.result()
    assert result["mask"] == plain["mask"]
    selection = result["heal"]["selection"]
    first, second = selection["rounds"]
    assert [len(first), len(second)] == [4, 2]
    assert first[0]["dropped"] == plain["mask"]["dropped"], "the search's choice takes part"
    assert selection["losses"][1:] == sorted(selection["losses"][1:])
    # 3 calls until the kill, 2 for the rest of the first round, 2 for the second, and perhaps the whole healing.
    assert len(calls) in (7, 8)
    model, _, text, settings, *_ = calls[0]

    def alone(dropped: list[int], tokens: int) -> float:
        return heal(model, Mask(6, tuple(dropped)), text, replace(settings, tokens=tokens)).heldout_after

    for trial in (*first, *second):
        assert trial["heldout_loss"] == alone(trial["dropped"], trial["tokens"])
    assert {t["heldout_loss"] for t in second} != {t["heldout_loss"] for t in first}
    best = min(second, key=lambda trial: float(trial["heldout_loss"]))
    assert selection["mask"]["dropped"] == best["dropped"]
    assert selection["tokens"] == 4 * 256 + 2 * (512 - 128), "the second round continues after its first step"
    assert result["heal"]["curve"]["heldout_after"] == alone(best["dropped"], 1024)
    again = launch(*GREEDY, *BRIEF, *ROUNDS)
    assert again.nothing_ran
    assert again.result() == result
    cell, changed = ended.results / result["cell"], selection["changed"]
    assert (cell / result["heal"]["folder"] / "heal.json").exists()
    assert ("/mask-" in result["heal"]["folder"]) == changed
    assert len(list((cell / heal_cell.FOLDER).glob("mask-*"))) == int(changed), "others are removed"
    (trials,) = (cell / heal_cell.FOLDER).glob("trials-*.jsonl")
    assert len([json.loads(line) for line in trials.read_text().splitlines()]) == 6
    assert launch(*GREEDY, *BRIEF).result() == plain, "one candidate is as before"


def test_another_mask_can_win_and_is_exported(launch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_wins(masks: Any, tokens: int, trial: Any) -> Any:
        def turned(mask: Mask, budget: int, before: int) -> Any:
            return trial(mask, budget, before)._replace(heldout_loss=-float(masks.index(mask)))

        return halve(masks, tokens, turned)

    monkeypatch.setattr("pruning.runs.heal_cell.halve", last_wins)
    ended = launch(*GREEDY, *BRIEF, *ROUNDS, "export=smaller")
    assert ended.status == 0, ended.err
    result = ended.result()
    selection = result["heal"]["selection"]
    assert selection["changed"]
    assert selection["mask"]["dropped"] == selection["rounds"][0][-1]["dropped"] != result["mask"]["dropped"]
    assert selection["mask"] == json.loads(Path("smaller/depth_pruning.json").read_text())["mask"]
    assert result["evaluation"]["healed"]["ppl/heldout"] > 0
    chosen = " ".join(Mask.from_json(selection["mask"]).names())
    assert f"(without {chosen})" in ended.out, "the table says which mask was healed"
    card = Path("smaller/README.md").read_text()
    own = " ".join(Mask.from_json(result["mask"]).names())
    for named in (f"own choice is {own}.", "trained 4 of", f"{selection['losses'][-1]:.4f}.", "| healed |"):
        assert named in card


def test_a_search_without_other_masks_and_a_compensation_are_refused(launch: Command) -> None:
    ended = launch("algo=one_shot", "k=2", *BRIEF, *ROUNDS)
    assert ended.status != 0
    assert "heal.candidates=4" in ended.err
    assert "algo=one_shot" in ended.err
    for words in ((*ROUNDS, "compensation=linear"), ("compensation=magnitude",)):
        ended = launch(*GREEDY, *BRIEF, *words)
        assert "compensation=none" in ended.err
    assert len(ended.all()) == 1, "refused before the search"
