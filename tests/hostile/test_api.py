"""The Python interface refuses what it cannot do right, and leaves the model as it was."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import pruning
from pruning.calibration.sources import pydoc
from pruning.core.errors import DamagedError, ForeignError, InputError
from pruning.core.storage import file_sha256, read_json, write_json
from pruning.export import request
from pruning.routing import fitted_router
from tests.conftest import Command
from tests.helpers.damage import edit_json, half
from tests.helpers.task_files import items_of

TEXTS = list(pydoc("calibration"))[:6]
MASK, OTHER = pruning.Mask(6, (2, 4)), pruning.Mask(6, (1,))
FEW = {"samples": 2, "length": 16}
HEAL = {"texts": TEXTS, "how": "full", "tokens": 512, "length": 16, "batch_tokens": 64, "heldout": 2}
TASKS: dict[str, Any] = {"animals": items_of("animals", 4), "tools": items_of("tools", 4)}
SETS = {"first": MASK, "second": pruning.Mask(6, (3, 5))}
IDS = torch.arange(5, 21)[None]


@pytest.fixture(scope="module")
def loaded(model_folder: Path) -> pruning.PrunableModel:
    return pruning.load_model(model_folder, dtype="float32")


@pytest.fixture
def model(loaded: pruning.PrunableModel) -> pruning.PrunableModel:
    """A model of its own for a test that changes it."""
    return pruning.wrap_model(copy.deepcopy(loaded.module), loaded.tokenizer, "mine")


@pytest.fixture(scope="module")
def router(loaded: pruning.PrunableModel) -> pruning.Router:
    return pruning.fit_router(loaded, TASKS, SETS)


def search(model: pruning.PrunableModel, **settings: Any) -> pruning.SearchResult:
    return pruning.search_mask(model, TEXTS, **{"k": 1, "progress": False, **FEW, **settings})


def logits(module: Any) -> Any:
    with torch.no_grad():
        return module(IDS).logits


def replaced(module: Any) -> list[str]:
    """The modules with a method of their own."""
    return [name for name, part in module.named_modules() if "forward" in vars(part)]


# What uses a model: name -> call(model, folder)
USES: dict[str, Callable[[pruning.PrunableModel, Path], Any]] = {
    "search_mask": lambda model, _: search(model),
    "measure_mask": lambda model, _: pruning.measure_mask(model, MASK, texts=TEXTS[:1], limit=1),
    "repair_mask": lambda model, _: pruning.repair_mask(model, MASK, TEXTS, **FEW),
    "heal_mask": lambda model, _: pruning.heal_mask(model, MASK, **HEAL),
    "export_model": lambda model, folder: pruning.export_model(model, MASK, folder / "out"),
    "fit_router": lambda model, _: pruning.fit_router(model, TASKS, SETS),
    "masked": lambda model, _: model.masked(OTHER).__enter__(),
    "wrap_model": lambda model, _: pruning.wrap_model(model.module, model.tokenizer),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("threads", [False, True])
def test_nothing_else_uses_a_masked_model(
    loaded: pruning.PrunableModel, tmp_path: Path, use: str, threads: bool
) -> None:
    before = logits(loaded.module)
    with ThreadPoolExecutor() as pool, loaded.masked(MASK) as module:
        masked, changed = logits(module), replaced(module)
        call = (lambda *given: pool.submit(USES[use], *given).result(timeout=5)) if threads else USES[use]
        with pytest.raises(InputError, match=rf"{use} .*masked"):
            call(loaded, tmp_path)
        assert torch.equal(logits(module), masked), "the context goes on"
        assert replaced(module) == changed
    assert not replaced(loaded.module)
    assert torch.equal(logits(loaded.module), before)
    assert not list(tmp_path.iterdir())


def test_nor_two_calls_in_two_threads(loaded: pruning.PrunableModel) -> None:
    wanted, started, go_on = search(loaded).loss, threading.Event(), threading.Event()
    found = SimpleNamespace(model=loaded, mask=MASK, samples=None)

    def slow() -> Iterator[str]:
        started.set()
        assert go_on.wait(20)
        yield TEXTS[0]

    with ThreadPoolExecutor() as pool:
        other = pool.submit(pruning.measure_mask, loaded, MASK, texts=slow(), limit=1)  # type: ignore[arg-type]
        assert started.wait(20)
        with pytest.raises(InputError, match=r"search_mask .*measure_mask"):
            search(loaded)
        with pytest.raises(InputError, match=r"measure .*measure_mask"):
            pruning.SearchResult.measure(found, texts=TEXTS[:1])  # type: ignore[arg-type]
        go_on.set()
        assert other.result().pruned == pruning.measure_mask(loaded, MASK, texts=TEXTS[:1], limit=1).pruned
    assert search(loaded).loss == wanted
    assert not replaced(loaded.module)


@pytest.mark.parametrize("use", [use for use in USES if use not in ("masked", "wrap_model")])
def test_a_model_in_training_is_used_without_dropout_and_stays_in_training(
    loaded: pruning.PrunableModel, model: pruning.PrunableModel, tmp_path: Path, use: str
) -> None:
    wanted = USES[use](loaded, tmp_path / "a")
    for layer in model.module.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.module.train()
    model.module.model.layers[3].eval()
    modes = [module.training for module in model.module.modules()]
    model.module.lm_head.requires_grad_(False)
    gradients = [weight.requires_grad for weight in model.module.parameters()]
    found = USES[use](model, tmp_path / "b")
    assert [module.training for module in model.module.modules()] == modes
    assert [weight.requires_grad for weight in model.module.parameters()] == gradients
    if use == "search_mask":
        assert (found.mask, found.loss, found.dense_loss) == (wanted.mask, wanted.loss, wanted.dense_loss)
    elif use == "measure_mask":
        assert found == wanted
    elif use == "fit_router":
        first, second = (one.generate("Why is it?", max_new_tokens=4) for one in (found, wanted))
        assert first == second
        assert found.route("Why is it?").predicted == wanted.route("Why is it?").predicted
        assert [module.training for module in model.module.modules()] == modes
    elif use == "repair_mask":
        assert all(map(torch.equal, found.module.parameters(), wanted.module.parameters()))


def test_a_masked_model_refuses_a_cache(loaded: pruning.PrunableModel) -> None:
    from transformers import DynamicCache

    with torch.no_grad(), loaded.masked(pruning.Mask(6, (0, 3))) as module:
        wanted = module(IDS).logits
        first = module(IDS[:, :8], use_cache=True)
        assert first.past_key_values is None
        with pytest.raises(InputError, match="past_key_values"):
            module(IDS[:, 8:], past_key_values=DynamicCache(config=module.config))
        with pytest.raises(InputError, match="past_key_values"):
            module.model(IDS[:, 8:], past_key_values=DynamicCache(config=module.config))
        with pytest.raises(InputError, match="use_cache"):
            module.generate(IDS, max_new_tokens=2, do_sample=False, use_cache=True, pad_token_id=0)
        assert torch.equal(module(IDS).logits, wanted)
    cache = loaded.module(IDS[:, :8], use_cache=True).past_key_values
    assert cache is not None, "afterwards the model has its cache again"


def test_a_changed_tokenizer_is_not_that_of_a_later_load(model_folder: Path) -> None:
    first = pruning.load_model(model_folder, dtype="float32")
    plain = first.tokenizer("Hello World").input_ids
    first.tokenizer.add_tokens(["Hello World"])
    assert first.tokenizer("Hello World").input_ids != plain
    assert pruning.load_model(model_folder, dtype="float32").tokenizer("Hello World").input_ids == plain


def test_a_model_whose_precision_changed_is_refused(model: pruning.PrunableModel) -> None:
    model.module.to(torch.bfloat16)
    with pytest.raises(InputError, match=r"bfloat16 .*float32 .*dtype='bfloat16'"):
        search(model)


def test_autocast_changes_no_loss(loaded: pruning.PrunableModel) -> None:
    plain = search(loaded)
    with torch.autocast("cpu", torch.bfloat16):
        assert search(loaded).loss == plain.loss


def test_weights_that_changed_since_they_were_loaded_are_not_exported(
    model_folder: Path, tmp_path: Path
) -> None:
    model = pruning.load_model(model_folder, dtype="bfloat16")
    pruning.export_model(model, MASK, tmp_path / "before")
    name, weight = next(iter(model.module.model.layers[1].named_parameters()))
    with torch.no_grad():
        weight.view(-1)[-1] += 1
    for verify in (True, False):
        with pytest.raises(InputError, match=rf"layers\.1\.{name}"):
            pruning.export_model(model, MASK, tmp_path / "after", verify=verify)
    assert not (tmp_path / "after").exists()
    wrapped = pruning.wrap_model(model.module, model.tokenizer, "changed")
    out = pruning.load_model(pruning.export_model(wrapped, MASK, tmp_path / "after"), dtype="bfloat16")
    assert torch.equal(out.module.model.layers[1].get_parameter(name), weight)


def test_a_router_is_for_the_weights_that_it_was_fitted_to(
    router: pruning.Router, model: pruning.PrunableModel, model_folder: Path, tmp_path: Path
) -> None:
    folder = router.save(tmp_path / "router")
    assert pruning.Router.load(folder, model).route("Why?").predicted == router.route("Why?").predicted
    half = pruning.load_model(model_folder, dtype="bfloat16")
    assert pruning.Router.load(folder, half), "the same files in another precision"
    wrapped = pruning.wrap_model(half.module, half.tokenizer)
    with pytest.raises(ForeignError, match="bfloat16"):
        pruning.Router.load(folder, wrapped)
    model.module.model.layers[5].mlp.up_proj.weight.data[0, 0] += 1
    with pytest.raises(ForeignError, match="mine"):
        pruning.Router.load(folder, model)


def _record(**changes: Any) -> Callable[[Path], None]:
    """A function that changes entries of a router's record."""
    return lambda folder: edit_json(folder / fitted_router.ROUTER, **changes)


def _unsealed(folder: Path) -> None:
    write_json(path := folder / fitted_router.ROUTER, read_json(path))


def _arrays(folder: Path) -> None:
    """Change a number, and give the record the new digest."""
    arrays = fitted_router.read_arrays(head := folder / fitted_router.HEAD)
    arrays["common_weight"][0, 0] += 1
    fitted_router.save_arrays(head, arrays)
    _record(head_sha256=file_sha256(head))(folder)


EDITS: dict[str, Callable[[Path], None]] = {
    "number": _arrays,
    "no file": lambda folder: (folder / fitted_router.HEAD).unlink(),
    "no json": lambda folder: half(folder / fitted_router.ROUTER),
    "no seal": _unsealed,
    "blocks": _record(blocks=0),
    "template": _record(template="Q: {question}"),
    "model": _record(model={}),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_router_is_refused(
    router: pruning.Router, tmp_path: Path, edit: Callable[[Path], None]
) -> None:
    folder = router.save(tmp_path / "router")
    edit(folder)
    with pytest.raises(DamagedError, match=str(folder)):
        pruning.Router.load(folder, router.model)


NO_MASKS: list[tuple[Any, ...]] = [(5, one) for one in ((1.7,), ("1",), (True,), "12", None, (5,))]
NO_MASKS += [*((number, ()) for number in (-1, 0, 2.0, "5")), (5, (), "head"), (5, (), None)]


@pytest.mark.parametrize("wrong", NO_MASKS)
def test_what_is_no_mask_cannot_be_made(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(InputError):
        pruning.Mask(*wrong)
    assert pruning.Mask(np.int64(5), np.array([3, 1])) == pruning.Mask(5, {1, 3})  # type: ignore[arg-type]


def test_an_edited_mask_of_a_cell_is_not_ignored(launch: Command, tmp_path: Path) -> None:
    assert not launch("k=2", "algo=one_shot").status
    (folder,) = (path.parent for path in (tmp_path / "results").glob("*/result.json"))
    found, own = pruning.Mask.from_json(read_json(folder / "mask.json")), folder / "mine.json"
    out = f"out={tmp_path / 'out'}"
    for path in (folder, folder / "mask.json"):
        assert request.parse([str(path), out]).mask == found
    edited = found.drop(next(iter(found.kept)))
    write_json(own, edited.to_json())
    with pytest.raises(InputError, match=r"mine\.json"):
        request.parse([str(own), out])
    write_json(folder / "mask.json", edited.to_json())
    for path in (folder, folder / "mask.json"):
        with pytest.raises(InputError, match=r"mask\.json"):
            request.parse([str(path), out])


SURROGATE = "a \ud800 b"
NEVER: Any = object()
MASKED = ("measure_mask", "heal_mask", "repair_mask", "export_model")
# The call and its argument -> wrong values; each refusal names the argument.
WRONG: dict[tuple[str, str], list[Any]] = {
    ("wrap_model", "module"): [None, "gpt2", torch.nn.Linear(2, 2), "meta"],
    ("wrap_model", "tokenizer"): [None, "gpt2", NEVER],
    ("wrap_model", "name"): [None, 3, "", "a/b", "a\0", "x" * 200],
    ("load_model", "name"): [None, b"x", "", "a\0b", SURROGATE],
    ("load_model", "dtype"): [torch.float32, None, "int8"],
    ("load_model", "path"): [3, "a\0b", SURROGATE, ""],
    ("load_model", "device_map"): [{"": 0}],
    ("load_model", "resources"): [{"nodes": 2}],
    **{(call, "model"): ["smollm2"] for call in (*MASKED, "search_mask", "fit_router")},
    **{(call, "mask"): [[2, 3], pruning.Mask(4, (1,))] for call in MASKED},
    ("search_mask", "k"): [2.0, "2", True],
    ("search_mask", "racing"): [0.01],
    ("search_mask", "calibration"): [3, b"x", {"a": 1}, [SURROGATE] * 3, Path("x")],
    ("search_mask", "algo"): [None, 3, NEVER],
    ("search_mask", "objective"): [None, 3, NEVER],
    ("search_mask", "ratio"): ["0.2", True, [0.2]],
    ("measure_mask", "texts"): [3, "one", b"x", [SURROGATE], [None], torch.ones(2)],
    ("measure_mask", "items"): [3, "one", {"a": 3}, [3], torch.ones(2), [pruning.Item(None, ("a", "b"), 0)]],  # type: ignore[arg-type]
    ("measure_mask", "window"): ["8", 8.5, True, None, 0],
    ("measure_mask", "limit"): ["8", 8.5, True, 0, -1],
    ("heal_mask", "how"): [None, 3, []],
    ("heal_mask", "folder"): [3, b"x", "", "a\0b", SURROGATE],
    ("heal_mask", "tokens"): ["9", 9.5, None],
    ("heal_mask", "texts"): [3, "one", [SURROGATE]],
    ("heal_mask", "lr"): ["1e-4", True, float("nan")],
    ("repair_mask", "ridge"): [0.1, None, ["a"], [], [-1.0], "0.1"],
    ("repair_mask", "heldout"): [None, "4", 1],
    ("export_model", "out"): [None, 3, b"x", "", ".", "/", "a\0b", SURROGATE],
    ("export_model", "verify"): ["no", 1, None],
    ("fit_router", "tasks"): [[1], None, "animals", {"a": 3}, {"a": "x"}],
    ("fit_router", "sets"): [[MASK], None],
    ("fit_router", "template"): [None, 3, "Answer:", SURROGATE],
    ("fit_router", "target"): [None, 3, "tree"],
    ("load", "folder"): [None, 3, "", "a\0b"],
    ("load", "model"): [3, "smollm2"],
    ("save", "folder"): [None, 3, "", "a\0b", SURROGATE],
    ("route", "prompt"): [None, 3, ["Why?"], SURROGATE],
    ("route", "question"): ["no", 0, None],
    ("generate", "max_new_tokens"): [None, 0, -1, "4", 1.5],
}


@pytest.mark.parametrize(("name", "argument"), WRONG, ids=[" ".join(key) for key in WRONG])
def test_each_wrong_argument_is_named_before_anything_is_computed(
    loaded: pruning.PrunableModel,
    router: pruning.Router,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    argument: str,
) -> None:
    usual: dict[str, dict[str, Any]] = {
        "wrap_model": {"module": loaded.module, "tokenizer": loaded.tokenizer},
        "load_model": {"name": loaded.settings.path if loaded.settings else ""},
        "search_mask": {"model": loaded, "calibration": TEXTS, "k": 1, "progress": False, **FEW},
        "measure_mask": {"model": loaded, "mask": MASK, "texts": TEXTS[:1]},
        "heal_mask": {"model": loaded, "mask": MASK, **HEAL},
        "repair_mask": {"model": loaded, "mask": MASK, "calibration": TEXTS, **FEW},
        "export_model": {"model": loaded, "mask": MASK, "out": tmp_path / "out"},
        "fit_router": {"model": loaded, "tasks": TASKS, "sets": SETS},
        "load": {"folder": router.save(tmp_path / "router"), "model": loaded},
        "save": {},
        "route": {"prompt": "Why is it?"},
        "generate": {"prompt": "Why is it?"},
    }
    owner: Any = {"load": pruning.Router, **dict.fromkeys(("save", "route", "generate"), router)}
    call = getattr(owner.get(name, pruning), name)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for value in WRONG[name, argument]:
        given = copy.deepcopy(loaded.module).to("meta") if value == "meta" else value
        with pytest.raises(InputError) as refused:
            call(**usual[name] | {argument: given})
        text = str(refused.value)
        named = {"items": "item", "tasks": "a", "name": "", "text": "", "out": ""}.get(argument, argument)
        assert named in text, text
        assert 20 < len(text) < 700
        assert "\n" not in text
        assert "0x" not in text or value is NEVER
    assert sorted(tmp_path.rglob("*")) == before
    assert not replaced(loaded.module)
