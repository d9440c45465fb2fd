"""The front door for Python gives what the command line gives, and works on models that are in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import pruning
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.calibration.sources import embedded_items, pydoc
from pruning.objective.margin import Margin
from pruning.runs.cell import ForwardSettings
from tests.conftest import N_BLOCKS, Command

TEXTS = list(pydoc("calibration"))[:40]
ITEMS = [
    {"question": item.question, "choices": list(item.choices), "answer": item.answer}
    for item in embedded_items("calibration")[:30]
]
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model(model_folder: Path) -> pruning.PrunableModel:
    return pruning.load_model(model_folder, dtype="float32")


@pytest.fixture(scope="module")
def wrapped(model_folder: Path) -> pruning.PrunableModel:
    module = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    return pruning.wrap_model(module, AutoTokenizer.from_pretrained(model_folder), name="mine")


def lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_a_lazy_search_warns_on_items_only(
    wrapped: pruning.PrunableModel, caplog: pytest.LogCaptureFixture
) -> None:
    for data, objective, warned in ((TEXTS, "perplexity", False), (ITEMS, "margin", True)):
        caplog.clear()
        found = pruning.search_mask(
            wrapped, data, k=2, objective=objective, algo=Greedy(lazy=0.05), samples=3, **QUIET
        )
        assert len(found.mask.dropped) == 2
        assert ("algo.lazy is meant for losses on text" in caplog.text) is warned


def test_sub_layers_are_those_of_the_command_line(
    launch: Command, wrapped: pruning.PrunableModel, tmp_path: Path
) -> None:
    path = lines(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    data = (
        "calibration=text_file",
        f"calibration.path={path}",
        "calibration.samples=3",
        "calibration.length=32",
    )
    words = ("unit=sublayer", "ratio=0.34", *data)
    cell = launch(*words, calibrated=False).result()
    found = pruning.search_mask(wrapped, TEXTS, ratio=0.34, unit="sublayer", samples=3, length=32, **QUIET)
    assert found.mask.to_json() == cell["mask"]
    assert found.loss == cell["calibration"]["loss"]
    assert found.margins == cell["margins"]
    assert "sub-layers removed" in str(found)
    assert all(tie.unit == "sublayer" for tie in found.ties)


@pytest.mark.parametrize("algo", ["greedy", "bayesian"])
def test_texts_give_the_mask_and_losses_of_the_command_line(
    launch: Command, wrapped: pruning.PrunableModel, tmp_path: Path, algo: str
) -> None:
    path = lines(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    words = (
        "calibration=text_file",
        f"calibration.path={path}",
        "calibration.samples=5",
        "calibration.length=32",
    )
    cell = launch(f"algo={algo}", "k=2", "seed=3", *words, calibrated=False).result()
    found = pruning.search_mask(wrapped, TEXTS, k=2, algo=algo, seed=3, samples=5, length=32, **QUIET)
    assert list(found.dropped) == cell["mask"]["dropped"]
    assert found.loss == cell["calibration"]["loss"]
    assert found.dense_loss == cell["calibration"]["dense_loss"]
    assert found.samples.sha256 == cell["calibration"]["sha256"]
    assert found.margins == cell["margins"]


def test_items_give_the_mask_and_losses_of_the_command_line(
    launch: Command, model: pruning.PrunableModel, tmp_path: Path
) -> None:
    path = lines(tmp_path / "items.jsonl", ITEMS)
    words = ("calibration=items_file", f"calibration.path={path}", "calibration.samples=9")
    cell = launch("objective=margin", "algo=beam", "k=2", *words, calibrated=False).result()
    found = pruning.search_mask(model, ITEMS, k=2, objective=Margin(), algo=Beam, samples=9, **QUIET)
    assert list(found.dropped) == cell["mask"]["dropped"]
    assert (found.loss, found.dense_loss) == (cell["calibration"]["loss"], cell["calibration"]["dense_loss"])


def test_a_named_calibration_is_that_of_the_command_line(
    launch: Command, model: pruning.PrunableModel
) -> None:
    cell = launch("algo=one_shot", "k=1", "calibration=pydoc").result()
    found = pruning.search_mask(model, "pydoc", k=1, algo="one_shot", samples=4, length=24, **QUIET)
    assert (found.loss, list(found.dropped)) == (cell["calibration"]["loss"], cell["mask"]["dropped"])


def test_without_data_the_calibration_is_the_one_of_the_objective(
    launch: Command, model: pruning.PrunableModel
) -> None:
    cell = launch(
        "algo=one_shot", "k=1", "objective=margin", "calibration.samples=5", calibrated=False
    ).result()
    found = pruning.search_mask(model, k=1, algo="one_shot", objective="margin", samples=5, **QUIET)
    assert (found.loss, list(found.dropped)) == (cell["calibration"]["loss"], cell["mask"]["dropped"])


def test_both_kinds_of_samples_follow_the_seed_as_on_the_command_line(
    launch: Command, model: pruning.PrunableModel
) -> None:
    words = ("objective=weighted", "calibration=both", "seed=3")
    cell = launch("algo=one_shot", "k=1", *words, calibrated=False).result()
    found = pruning.search_mask(model, k=1, algo="one_shot", objective="weighted", seed=3, **QUIET)
    assert found.samples.sha256 == cell["calibration"]["sha256"]
    assert found.loss == cell["calibration"]["loss"]
    with pytest.raises(pruning.InputError, match="has no samples"):
        pruning.search_mask(model, k=1, objective="weighted", samples=3, **QUIET)


def test_an_instance_of_an_objective_gets_data_that_it_reads(model: pruning.PrunableModel) -> None:
    found = pruning.search_mask(model, k=1, algo="one_shot", objective=Margin, samples=5, **QUIET)
    assert found.samples.kind == "items"


def test_tf32_is_on_for_the_search_that_asks_for_it(model: pruning.PrunableModel) -> None:
    for tf32 in (True, False):
        settings = ForwardSettings(tf32=tf32)
        pruning.search_mask(
            model, TEXTS, k=1, algo="one_shot", samples=2, length=16, forward=settings, **QUIET
        )
        assert torch.backends.cuda.matmul.allow_tf32 == tf32


def test_what_a_search_shows(model: pruning.PrunableModel) -> None:
    found = pruning.search_mask(model, TEXTS, k=2, samples=6, length=32, **QUIET)
    assert len(found.scores) == 1 + N_BLOCKS + N_BLOCKS - 1
    assert all(len(mask.dropped) == 2 for mask in found.ties)
    assert len(found.ties) == found.margins["tied"]
    assert f"2 of {N_BLOCKS} blocks removed" in str(found)
    assert "runner-up" in str(found)


def test_the_masked_model_runs_and_is_whole_again_afterwards(wrapped: pruning.PrunableModel) -> None:
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        whole = wrapped.module(ids).logits
        with wrapped.masked(pruning.Mask(N_BLOCKS, (1, 4))) as module:
            less = module(ids).logits
        assert torch.equal(wrapped.module(ids).logits, whole)
    assert not torch.allclose(less, whole)


def test_measurements_of_a_mask_stand_beside_those_of_the_dense_model(model: pruning.PrunableModel) -> None:
    texts = {"reference": list(pydoc("heldout"))[:4]}
    found = pruning.measure_mask(
        model, pruning.Mask(N_BLOCKS, (2,)), texts=texts, items=ITEMS, window=64, limit=5
    )
    assert set(found.dense) == set(found.pruned) == {
        "ppl/reference", "ppl/reference/stderr", "acc/items", "acc/items/stderr",
    }  # fmt: skip
    nothing = pruning.measure_mask(model, pruning.Mask(N_BLOCKS), texts=texts, window=64, limit=5)
    assert nothing.pruned == nothing.dense
    assert "->" in str(found)


def test_a_mask_is_not_judged_on_its_calibration_data(model: pruning.PrunableModel) -> None:
    found = pruning.search_mask(model, ITEMS, k=1, objective="margin", samples=30, **QUIET)
    with pytest.raises(pruning.InputError, match="share 30 items"):
        found.measure(items=ITEMS)


def test_a_wrapped_model_is_exported_as_the_masked_model(
    wrapped: pruning.PrunableModel, tmp_path: Path
) -> None:
    mask = pruning.Mask(N_BLOCKS, (0, 3))
    folder = pruning.export_model(wrapped, mask, tmp_path / "smaller")
    smaller = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad(), wrapped.masked(mask) as module:
        assert torch.equal(smaller(ids).logits, module(ids).logits)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---")
    assert "mine-4-of-6-blocks" in card
    written = "".join(
        path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".md", ".yaml")
    )
    assert "/tmp" not in written, "no path of the temporary folder is left"
    with pytest.raises(pruning.InputError, match="holds another export"):
        pruning.export_model(wrapped, pruning.Mask(N_BLOCKS, (1,)), folder)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "algo": ({"algo": "greedi"}, "Did you mean greedy"),
    "objective": ({"objective": "perplexit"}, "Did you mean perplexity"),
    "class": ({"algo": Margin()}, "give the name of an option, or an instance"),
    "setting": ({"sample": 3}, "Did you mean samples"),
    "size": ({"k": None}, "neither is given"),
    "both sizes": ({"ratio": 0.2}, "both are given"),
    "too many": ({"k": N_BLOCKS}, "cannot be removed"),
    "too short": ({"samples": 10_000_000}, "lower search_mask.samples"),
    "kind": ({"objective": "margin"}, "needs items"),
    "k": ({"k": 2.0}, r"k=2\.0 has the wrong type: give a whole number or None"),
    "k as text": ({"k": "2"}, "k='2' has the wrong type"),
    "ratio": ({"k": None, "ratio": "0.2"}, "ratio='0.2' has the wrong type: give a number or None"),
    "samples": ({"samples": "4"}, "samples='4' has the wrong type"),
    "seed": ({"seed": 1.5}, r"seed=1\.5 has the wrong type: give a whole number"),
    "truth": ({"seed": True}, "seed=True has the wrong type"),
    "racing": ({"racing": 0.01}, r"racing=0\.01 has the wrong type: give a Racing"),
    "forward": ({"forward": ForwardSettings(memory="many")}, "memory='many' has the wrong type"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("settings", "text"), WRONG.values(), ids=WRONG.keys())
def test_bad_input_is_refused_before_anything_is_computed(
    model: pruning.PrunableModel, settings: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruning.api.search.solve", lambda *_: pytest.fail("the search was started"))
    with pytest.raises(pruning.InputError, match=text):
        pruning.search_mask(model, TEXTS, **({"k": 2} | settings | QUIET))


def test_one_text_is_no_list_of_texts(model: pruning.PrunableModel) -> None:
    mask = pruning.Mask(N_BLOCKS, (1,))
    for texts in (TEXTS[0], {"a": TEXTS[0]}):
        with pytest.raises(pruning.InputError, match="is one text: give a list of texts"):
            pruning.measure_mask(model, mask, texts=texts)  # type: ignore[arg-type]
    with pytest.raises(pruning.InputError, match="texts is one text"):
        pruning.heal_mask(model, mask, texts=TEXTS[0])
    with pytest.raises(pruning.InputError, match=r"texts\[1\] is 3"):
        pruning.measure_mask(model, mask, texts=["a text", 3])  # type: ignore[list-item]


def test_texts_and_items_can_be_any_iterable(model: pruning.PrunableModel) -> None:
    mask = pruning.Mask(N_BLOCKS, (1,))
    given: dict[str, Any] = {"texts": TEXTS[:5], "items": ITEMS[:4]}
    once: dict[str, Any] = {name: iter(values) for name, values in given.items()}
    assert pruning.measure_mask(model, mask, **once) == pruning.measure_mask(model, mask, **given)
    found = pruning.search_mask(model, iter(TEXTS), k=1, algo="one_shot", samples=2, length=16, **QUIET)  # type: ignore[arg-type]
    assert found.samples.count == 2


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    mask: Any = pruning.Mask(N_BLOCKS, (1,))
    name: Any = "smollm2"
    for use in (
        lambda: pruning.search_mask(name, TEXTS, k=1),
        lambda: pruning.measure_mask(name, mask, texts=TEXTS),
        lambda: pruning.heal_mask(name, mask),
        lambda: pruning.repair_mask(name, mask),
        lambda: pruning.export_model(name, mask, tmp_path / "out"),
        lambda: pruning.fit_router(name, {"a": ITEMS}, {"a": mask}),
    ):
        with pytest.raises(pruning.InputError, match=r"model is 'smollm2': give what pruning\.load_model"):
            use()


def test_what_is_no_mask_is_refused(model: pruning.PrunableModel, tmp_path: Path) -> None:
    for use in (
        lambda: pruning.measure_mask(model, [2, 3], texts=TEXTS[:2]),  # type: ignore[arg-type]
        lambda: pruning.export_model(model, [2, 3], tmp_path / "out"),  # type: ignore[arg-type]
        lambda: model.masked([2, 3]).__enter__(),  # type: ignore[arg-type]
    ):
        with pytest.raises(
            pruning.InputError, match=r"the mask is \[2, 3\]: give a mask, such as pruning.Mask"
        ):
            use()


def test_sizes_that_would_change_nothing_are_refused(model: pruning.PrunableModel) -> None:
    found = pruning.search_mask(model, TEXTS, k=1, algo="one_shot", samples=2, length=16, **QUIET)
    with pytest.raises(pruning.InputError, match="samples=1, but these samples were drawn already"):
        pruning.search_mask(model, found.samples, k=1, samples=1, **QUIET)
    with pytest.raises(pruning.InputError, match="repair_mask got length=8, but these samples"):
        pruning.repair_mask(model, found.mask, found.samples, length=8)
    with pytest.raises(pruning.InputError, match="length=8, but items have the length that they have"):
        pruning.search_mask(model, ITEMS, k=1, objective="margin", length=8, **QUIET)


def test_a_tokenizer_of_another_model_is_refused(wrapped: pruning.PrunableModel, model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.add_tokens(["garden"])
    other = pruning.wrap_model(wrapped.module, tokenizer)
    with pytest.raises(pruning.InputError, match="ppl/texts has the token id 512, and the model's"):
        pruning.measure_mask(other, pruning.Mask(N_BLOCKS, (1,)), texts=["a garden"])
    with pytest.raises(pruning.InputError, match="calibration has the token id 512"):
        pruning.search_mask(other, ["a garden " * 50], k=1, samples=1, length=16, **QUIET)


@pytest.mark.parametrize("data", [[], [" ", "\n"], [{"question": "?", "choices": ["a"], "answer": 0}]])
def test_bad_calibration_data_are_refused(model: pruning.PrunableModel, data: list[Any]) -> None:
    with pytest.raises(pruning.InputError):
        pruning.search_mask(model, data, k=1, **QUIET)


def test_an_unknown_model_or_setting_is_refused(model_folder: Path) -> None:
    with pytest.raises(pruning.InputError, match=r"no model 'smolm'.*smollm2"):
        pruning.load_model("smolm")
    with pytest.raises(pruning.InputError, match=r"dtpye.* Did you mean dtype"):
        pruning.load_model(model_folder, dtpye="float32")


def test_unknown_names_of_the_package_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'serch_mask'"):
        pruning.serch_mask  # type: ignore[attr-defined]  # noqa: B018
    assert {"load_model", "search_mask", "export_model"} <= set(dir(pruning))
