"""A launch with `heal=`, and `python -m pruning.heal` on a finished cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.calibration import sources
from pruning.core import records
from pruning.core.errors import InputError
from pruning.core.storage import file_sha256, read_json, write_json
from pruning.healing.heal_settings import Full
from pruning.study.heal_command import cell_of, heal_folder
from tests.conftest import Command

SEARCH = ("algo=one_shot", "k=2")
SHORT = (
    *("heal.tokens=2048", "heal.length=32", "heal.batch_tokens=256", "heal.eval_every=2", "heal.heldout=4"),
    *("heal.checkpoint_every=2", "heal.lr=0.003"),
)


def test_a_launch_heals_and_measures_the_healed_model(launch: Command) -> None:
    plain = launch(*SEARCH).result()
    ended = launch(*SEARCH, "heal=lora", *SHORT)
    assert ended.status == 0, ended.err
    result = ended.result()
    assert result["cell"] == plain["cell"], "healing is not part of the key"
    assert result["mask"] == plain["mask"]
    for which in ("dense", "pruned"):
        assert result["evaluation"][which] == plain["evaluation"][which]
    healed = result["evaluation"]["healed"]
    assert healed["ppl/heldout"] < result["evaluation"]["pruned"]["ppl/heldout"]
    assert set(healed) == set(plain["evaluation"]["pruned"])
    assert result["heal"]["tokens"] == 2048
    assert result["heal"]["steps"] == 8
    folder = ended.results / result["cell"] / result["heal"]["folder"]
    points = records.read(folder / records.CURVE)
    assert [point["step"] for point in points] == list(range(9))
    assert "healed" in ended.out


def test_a_cell_without_healing_is_as_before(launch: Command) -> None:
    result = launch(*SEARCH).result()
    assert "heal" not in result
    assert "heal" not in result["config"]
    assert "healed" not in result["evaluation"]


def test_a_healed_cell_is_done_and_a_second_evaluation_measures_it_too(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = launch(*SEARCH, "heal=full", *SHORT).result()
    again = launch(*SEARCH, "heal=full", *SHORT)
    assert "every cell was done" in again.err
    monkeypatch.setattr("pruning.healing.loop.heal", None)  # training again would fail
    more = launch(*SEARCH, "heal=full", *SHORT, "eval.samples=3")
    assert more.status == 0, more.err
    assert more.result()["evaluation"]["healed"] != first["evaluation"]["healed"]
    assert more.result()["heal"] == first["heal"]


def test_a_changed_text_is_healed_on_again_unless_the_record_is_older(
    launch: Command, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    heal = (*SEARCH, "heal=full", *SHORT, "heal.source=file", f"heal.path={text}")
    text.write_text(" ".join(f"word{i} and{i * 7}" for i in range(2000)))
    first = launch(*heal).result()
    assert first["heal"]["file_sha256"] == file_sha256(text)
    assert "every cell was done" in launch(*heal).err
    text.write_text(" ".join(f"more{i} or{i * 3}" for i in range(2000)))
    ended = launch(*heal)
    second = ended.result()
    assert second["heal"]["file_sha256"] == file_sha256(text)
    assert second["heal"]["weights_sha256"] != first["heal"]["weights_sha256"]
    del second["heal"]["file_sha256"]
    write_json(ended.results / second["cell"] / "result.json", second)
    text.write_text("one more text")
    assert "every cell was done" in launch(*heal).err


def test_numbers_of_a_healed_model_on_other_data_are_not_kept_beside_new_ones(launch: Command) -> None:
    launch(*SEARCH, "heal=full", *SHORT)
    other = ("eval.samples=3", "eval.length=48")
    plain = launch(*SEARCH, *other).result()["evaluation"]
    assert not any(name.startswith("ppl/heldout") for name in plain["healed"])
    assert "healed" not in plain["records"]["ppl/heldout"]
    assert "acc/heldout" in plain["healed"], "its items are the same"
    healed = launch(*SEARCH, "heal=full", *SHORT, *other).result()["evaluation"]
    assert healed["healed"]["ppl/heldout"] < healed["pruned"]["ppl/heldout"]


def test_a_second_evaluation_keeps_what_the_healed_model_reached_on_the_first(launch: Command) -> None:
    heal = (*SEARCH, "heal=full", *SHORT)
    first = launch(*heal).result()["evaluation"]
    written = ("eval=generation", "eval.prompts=4", "eval.prompt_tokens=16", "eval.continuation_tokens=8")
    both = launch(*heal, *written).result()["evaluation"]
    assert both["healed"].items() >= first["healed"].items()
    assert "self_ppl/continuations" in both["healed"]
    for metric in first["healed"].keys() & first["data"].keys():
        assert both["records"][metric]["healed"] == first["records"][metric]["healed"]
    quick = ("eval=speed", "eval.batch_sizes=[1]", "eval.prompts=[8]", "eval.new_tokens=2", "eval.repeats=1")
    assert launch(*heal, *quick).result()["evaluation"]["healed"] == both["healed"]
    ended = launch(*heal, "heal.seed=1", *quick)
    assert "healed" not in ended.result()["evaluation"], "these weights are others"
    assert "the healed model is not measured by this evaluation" in ended.err


def passage(folder: Path, number: int) -> tuple[str, ...]:
    """An evaluation on a passage of the text that is healed on; its windows are left out of the healing."""
    documents = list(sources.documents(Full(), "heal"))
    file = folder / f"passage{number}.txt"
    file.write_text(documents[number][1000:1600])
    return ("eval=local", f"eval.texts={{prose: {file}}}", "eval.window=32")


def test_a_second_evaluation_heals_again_only_if_it_shares_text_with_the_training(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heal = (*SEARCH, "heal=full", *SHORT)
    ended = launch(*heal, *passage(tmp_path, 2))
    assert ended.status == 0, ended.err
    first = ended.result()
    assert first["heal"]["left_out"]
    assert first["heal"]["evaluation"] == first["config"]["eval"]
    quick = ("eval=speed", "eval.batch_sizes=[1]", "eval.prompts=[8]", "eval.new_tokens=2", "eval.repeats=1")
    with monkeypatch.context() as patch:
        patch.setattr("pruning.healing.loop.heal", None)  # training again would fail
        for other in (quick, ("eval.samples=2", "eval.length=32")):
            ended = launch(*heal, *other)
            assert ended.status == 0, ended.err
            assert ended.result()["heal"] == first["heal"]
    both = ended.result()["evaluation"]["healed"]
    assert both.items() > first["evaluation"]["healed"].items()
    second = launch(*heal, *passage(tmp_path, 4)).result()
    assert second["heal"]["left_out"] != first["heal"]["left_out"]
    assert second["heal"]["weights_sha256"] != first["heal"]["weights_sha256"]


def test_a_healing_whose_text_is_not_known_is_repeated(launch: Command, tmp_path: Path) -> None:
    heal = (*SEARCH, "heal=full", *SHORT)
    ended = launch(*heal, *passage(tmp_path, 2))
    first = ended.result()
    file = ended.results / first["cell"] / first["heal"]["folder"] / "heal.json"
    write_json(file, {name: value for name, value in read_json(file).items() if name != "left_out"})
    again = launch(*heal, "eval.samples=2", "eval.length=32").result()
    assert again["heal"]["text_sha256"] != first["heal"]["text_sha256"]


def test_an_earlier_healing_that_was_measured_needs_no_weights(launch: Command) -> None:
    first = launch(*SEARCH, "heal=full", *SHORT).result()
    folder = launch(*SEARCH, "heal=full", *SHORT, "heal.seed=1").results / first["cell"]
    for path in folder.rglob("weights.safetensors"):
        path.unlink()  # as in an archive
    again = launch(*SEARCH, "heal=full", *SHORT)
    assert again.status == 0, again.err
    assert again.result() == first
    missing = launch(*SEARCH, "heal=full", *SHORT, "eval.samples=3")
    assert "weights.safetensors is damaged" in missing.err


def test_the_command_heals_a_finished_cell_as_a_launch_does(launch: Command) -> None:
    cell = launch(*SEARCH).results
    (folder,) = cell.glob("*/result.json")
    words = [str(folder.parent), "heal=lora", *SHORT]
    heal_folder(cell_of(words))
    by_command = read_json(folder)
    launched = launch(*SEARCH, "heal=lora", *SHORT)
    assert "every cell was done" in launched.err
    assert launched.result() == by_command
    assert by_command["evaluation"]["healed"]["ppl/heldout"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "0 folders"),
        (("nowhere",), "holds no finished result.json"),
        (("nowhere", "algo=greedy"), "algo=greedy is no setting of a healing"),
    ],
)
def test_the_command_names_what_is_wrong(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        cell_of(words)


def test_text_of_the_evaluation_is_refused(launch: Command, tmp_path: Path) -> None:
    file = tmp_path / "prose.txt"
    file.write_text(" ".join(f"word{i} and{i * 7} more{i * 3}" for i in range(4000)))
    evaluation = ("eval=local", f"eval.texts={{prose: {file}}}", "eval.window=32")
    ended = launch(*SEARCH, *evaluation, "heal=full", *SHORT, "heal.source=file", f"heal.path={file}")
    assert ended.status != 0
    assert "a model must not be trained on the data that it is judged by" in ended.err
    assert not list(ended.results.glob("*/result.json")), "refused before the search"


def test_a_bad_setting_and_a_missing_package_are_named_before_anything_runs(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "heal.length=2 is too small: choose 8 or more" in launch(*SEARCH, "heal=full", "heal.length=2").err
    monkeypatch.setattr("pruning.healing.heal_settings.find_spec", lambda _: None)
    ended = launch(*SEARCH, "heal=lora")
    assert "pip install peft" in ended.err
    assert not list(ended.results.glob("*/result.json"))
    assert launch(*SEARCH, "heal=full", *SHORT).status == 0
