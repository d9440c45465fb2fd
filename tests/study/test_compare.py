"""`depth-pruning compare`: other models in one table, measured as `eval=` measures them."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from analysis.report import models_page
from pruning.calibration.samples import Row, Samples
from pruning.calibration.sources import embedded_text
from pruning.core.errors import PruningError
from pruning.core.mask import Mask
from pruning.core.model_table import ModelRow, ModelTable
from pruning.evaluation.bits_per_byte import read_anew, window_costs
from pruning.evaluation.heldout import Heldout
from pruning.evaluation.speed import Speed
from pruning.export.pipeline import export_cell
from pruning.models.handle import Model
from pruning.study import guide
from pruning.study.compare import compare
from pruning.tracking.client import connect
from tests.conftest import Command
from tests.helpers.architectures import saved_llama
from tests.helpers.damage import edit_config, edit_weights
from tests.helpers.evaluations import items_file

QUICK = ("eval=speed", "eval.batch_sizes=[1]", "eval.new_tokens=2", "eval.repeats=1", "eval.warmup=0")
SMALL = ("eval.samples=4", "eval.length=32", "eval.items=6", "eval.texts=null")
PPL, ACC = "ppl/heldout", "acc/heldout"
TABLES = ("model.embed_tokens.weight", "lm_head.weight")  # a row for each token
Compare = Callable[..., ModelTable]


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """The table that the command makes in the folder `compared`, on little data unless the words name others."""
    monkeypatch.setattr(guide, "SPEED", QUICK)

    def run(*words: object) -> ModelTable:
        given = [*map(str, words)]
        given += [] if any(word.startswith("eval=") for word in given) else SMALL
        given += [] if any(word.startswith("tracker=") for word in given) else ["tracker=none"]
        results = tmp_path / "compared"
        folder = compare([*given, "model.dtype=float32", f"paths.results={results}"], models_page.write)
        return ModelTable.read(folder)

    return run


@pytest.fixture
def other(tmp_path: Path, tokenizer: Any) -> Path:
    """A model of four blocks with the same tokenizer."""
    return saved_llama(tmp_path / "other", tokenizer, num_hidden_layers=4)


def bits(row: ModelRow) -> float:
    return float(row.bits[PPL]["value"])


def written_gguf(folder: Path, path: Path) -> Path:
    """A saved Llama and its tokenizer as a GGUF file in float32."""
    config = json.loads((folder / "config.json").read_text())
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        parts = heads if "q_proj" in name else kv if "k_proj" in name else None
        if parts is not None:  # llama.cpp turns pairs of neighbours, and transformers two halves
            tensor = tensor.view(parts, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.slow
def test_a_cell_its_directory_and_a_gguf_file_give_one_row_and_that_of_eval(
    compared: Compare, launch: Command, model_folder: Path, tmp_path: Path
) -> None:
    ended = launch("k=2", "algo=one_shot", "eval=embedded", *SMALL)
    assert ended.status == 0, ended.err
    result = ended.result()
    folder = ended.results / result["cell"]
    before = (folder / "result.json").read_bytes()
    export_cell(folder, tmp_path / "out", healed=False)
    file = written_gguf(tmp_path / "out", tmp_path / "file.gguf")
    table = compared(model_folder, folder, tmp_path / "out", file)
    dense, cell, directory, read = table.rows
    assert (dense.metrics, cell.metrics) == (result["evaluation"]["dense"], result["evaluation"]["pruned"])
    assert (cell.name, directory.name, read.name) == (result["cell"], "out", "file")
    for row in (directory, read):
        assert row.metrics == pytest.approx(cell.metrics, rel=1e-5)
        assert bits(row) == pytest.approx(bits(cell), rel=1e-6)
        assert row.changes[PPL]["amount"] == pytest.approx(cell.changes[PPL]["amount"], rel=1e-4)
        assert row.changes[ACC] == cell.changes[ACC]
        assert (row.parameters, row.other_tokens) == (cell.parameters, [])
    weights = sum(tensor.numel() for tensor in load_file(tmp_path / "out" / "model.safetensors").values())
    assert dense.parameters > cell.parameters == weights
    assert directory.disk == (tmp_path / "out" / "model.safetensors").stat().st_size > 4 * weights
    assert cell.disk == 4 * weights, "the file of an export has a header, too"
    assert read.disk == file.stat().st_size
    assert dense.changes == {}
    assert (folder / "result.json").read_bytes() == before, "nothing is written to a cell's folder"
    assert len(table.notes) == 2
    with pytest.raises(PruningError, match=f"^{folder} "):
        compared(folder, model_folder)
    # The cell's own change, with its paired error, as the guide prints it.
    text = str(guide.changes(result, ended.results)[PPL])
    assert cell.changes[PPL]["text"] == text


@pytest.mark.slow
def test_repair_and_training_are_in_a_cell_s_row(
    compared: Compare, launch: Command, model_folder: Path, every_map_is_kept: None
) -> None:
    healing = ("heal=full", "heal.tokens=1024", "heal.length=32", "heal.batch_tokens=256", "heal.heldout=4")
    words = ("k=1", "algo=one_shot", "eval=embedded", *SMALL, "calibration.samples=8", "heal.source=pydoc")
    for compensation, heal in (("magnitude", ()), ("linear", (*healing, "heal.lr=0.003"))):
        ended = launch(*(words if heal else words[:-1]), f"compensation={compensation}", *heal)
        assert ended.status == 0, ended.err
    assert len(ended.all()) == 2
    folders = [ended.results / f"cell{number}" for number in range(2)]
    results = ended.all()
    for folder, result in zip(folders, results, strict=True):
        (ended.results / result["cell"]).rename(folder)
    table = compared(model_folder, *folders)
    assert [row.name for row in table.rows[1:]] == ["cell0", "cell1"]
    for row, result in zip(table.rows[1:], results, strict=True):
        evaluation = result["evaluation"]
        assert row.metrics == evaluation.get("healed", evaluation["pruned"])
        # If no map helps, there is no model without it.
        assert row.metrics[PPL] != evaluation.get("uncompensated", evaluation["dense"])[PPL]


class Loads:
    """Counts the models that are loaded and what is measured of each, and can stop before a measurement."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.loaded: list[str] = []
        self.measured: Counter[tuple[str, str]] = Counter()
        self.stop: tuple[str, str] | None = None
        load = Model.load_anew
        patch.setattr(Model, "load_anew", lambda model: (self.loaded.append(model.name), load(model))[1])
        for kind in (Heldout, Speed):
            patch.setattr(kind, "measure", self.counting(kind.measure))

    def counting(self, plain: Any) -> Any:
        def measure(evaluation: Any, forward: Any, name: str, data: Any, mask: Mask) -> Any:
            what = (forward.model.info.name, name)
            if what == self.stop:
                raise KeyboardInterrupt
            self.measured[what] += 1
            return plain(evaluation, forward, name, data, mask)

        return measure


@pytest.mark.slow
def test_a_stopped_command_continues_and_measures_nothing_twice(
    compared: Compare, model_folder: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(monkeypatch)
    loads.stop = ("other", ACC)
    with pytest.raises(KeyboardInterrupt):
        compared(model_folder, other)
    loads.stop, before = None, len(loads.loaded)
    table = compared(model_folder, other)
    assert loads.loaded[before:] in ([], ["other"]), "the first model is not loaded again"
    names = [row.name for row in table.rows]
    assert loads.measured == {(name, metric): 1 for name in names for metric in (PPL, ACC, "speed")}
    loads.loaded.clear()
    assert compared(model_folder, other) == table
    assert loads.loaded == []
    compared(other, model_folder)
    assert max(loads.measured.values()) == 1, "a measurement belongs to no comparison"


def plain_bits(folder: Path, rows: Sequence[tuple[list[int], int]], count: int) -> float:
    """Bits per byte by transformers alone: rows of ids with the first predicted position, over `count` bytes."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total = 0.0
    for ids, start in rows:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        total -= sum(float(logits[at - 1, ids[at]]) for at in range(start, len(ids)))
    return total / math.log(2) / count


def test_bits_per_byte_are_those_of_a_plain_computation(
    compared: Compare, model_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """The second model reads bytes: there, each predicted token is one byte."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    state["model"] |= {"vocab": {token: number for number, token in enumerate(alphabet)}, "merges": []}
    copy = shutil.copytree(model_folder, tmp_path / "bytes")
    by_byte = PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(state)))
    by_byte.save_pretrained(copy)
    table = compared(model_folder, copy)
    assert (table.rows[1].other_tokens, [*table.rows[1].changes]) == ([PPL], [ACC])
    assert table.columns()["heldout perplexity"][1] == "-"
    assert "bytes" in table.notes[0]
    rows = Heldout(samples=4, length=32, items=6).data(tokenizer)[PPL].rows
    texts = [tokenizer.decode(row.input_ids) for row in rows]
    assert all(text.isascii() for text in texts)
    heads = [len(tokenizer.decode(row.input_ids[:1])) for row in rows]
    count = sum(map(len, texts)) - sum(heads)
    own = plain_bits(model_folder, [([*row.input_ids], 1) for row in rows], count)
    theirs = [(by_byte(text).input_ids, head) for text, head in zip(texts, heads, strict=True)]
    assert bits(table.rows[0]) == pytest.approx(own, rel=1e-5)
    assert bits(table.rows[1]) == pytest.approx(plain_bits(copy, theirs, count), rel=1e-5)
    tokens = [row.span[1] - row.span[0] for row in rows]
    nats = math.log(table.rows[0].metrics[PPL]) * sum(tokens)
    assert bits(table.rows[0]) == pytest.approx(nats / math.log(2) / count)


def test_bytes_of_tokens_that_are_parts_of_characters_and_of_marked_spaces(tokenizer: Any) -> None:
    pieces = ["<s>", *(f"<0x{n:02X}>" for n in range(256)), "\u2581", "a", "\u00e9", "\u2581a"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("\u2581", "a")], byte_fallback=True))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="never")
    steps = [tokenizers.decoders.Replace("\u2581", " "), tokenizers.decoders.ByteFallback()]
    bpe.decoder = tokenizers.decoders.Sequence([*steps, tokenizers.decoders.Fuse()])
    marked = PreTrainedTokenizerFast(tokenizer_object=bpe)
    text = "a \u00e9\u20ac a"  # one, two and three bytes a character
    for one in (marked, tokenizer):
        ids = one(text).input_ids
        cut = Samples("text", "text", (Row(tuple(ids), (1, len(ids))),), 0)
        terms = {"losses": [1.0], "tokens": [len(ids) - 1]}
        assert window_costs(terms, cut, one)[1].weights == (len(text.encode()) - 1,)
        half = next(n for n in range(2, len(ids)) if "\ufffd" in one.decode(ids[:n]))
        part = Samples("text", "text", (Row(tuple(ids[:half]), (1, half)),), 0)
        (anew,) = read_anew(part, one, marked).rows
        assert "\ufffd" not in marked.decode(anew.input_ids), "a part of a character is left out"


REFUSED: dict[str, tuple[Callable[[Path, Path], list[object]], str]] = {
    "one model": (lambda model, _: [model], "1 models"),
    "a missing path": (lambda model, tmp: [model, tmp / "nowhere"], "nowhere"),
    "no causal model": (lambda model, tmp: [model, changed(model, tmp, model_type="vit")], "vit|causal"),
    "remote code": (
        lambda model, tmp: [model, changed(model, tmp, model_type="new", auto_map={"AutoConfig": "a.B"})],
        "code",
    ),
    "one name twice": (
        lambda model, tmp: [model, changed(model, tmp / "second" / model.name)],
        "model0 .*/second/model0 .* model0:",
    ),
    "a setting of cells": (lambda model, _: [model, model, "ratio=0.2"], "ratio=0.2"),
    "speed": (lambda model, tmp: [model, changed(model, tmp), "eval=speed"], "eval=speed"),
    "continuations": (lambda model, tmp: [model, changed(model, tmp), "eval=generation"], "eval=generation"),
    "perplexity alone": (
        lambda model, tmp: [model, other_words(model, tmp), "eval=embedded_windows", "eval.limit=2"],
        "changed reads .* model0",
    ),
    "an unfinished cell": (lambda model, tmp: [model, unfinished(tmp)], "finished"),
}


def changed(model: Path, folder: Path, **settings: Any) -> Path:
    copy = folder if folder.name == model.name else folder / "changed"
    shutil.copytree(model, copy)
    edit_config(copy, **settings)
    return copy


def other_words(model: Path, folder: Path) -> Path:
    copy = changed(model, folder)
    own = AutoTokenizer.from_pretrained(copy)
    own.add_tokens(["the"])
    own.save_pretrained(copy)
    edit_config(copy, vocab_size=513)
    new = torch.zeros(1, 32)
    edit_weights(copy, lambda w: {n: torch.cat([v, new]) if n in TABLES else v for n, v in w.items()})
    return copy


def unfinished(folder: Path) -> Path:
    (folder / "cell").mkdir()
    (folder / "cell" / "result.json").write_text('{"cell": "cell", "status": "failed", "config": {}}')
    return folder / "cell"


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compared_is_refused_before_a_model_is_loaded(
    name: str, compared: Compare, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(monkeypatch)
    words, says = REFUSED[name]
    model = tmp_path / "model0"
    shutil.copytree(model_folder, model)
    with pytest.raises(PruningError, match=says):
        compared(*words(model, tmp_path))
    assert (loads.loaded, loads.measured) == ([], {})


def test_table_page_figure_and_runs(
    compared: Compare, model_folder: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an evaluation by lm-eval, on files."""
    text, *files = tmp_path / "t.txt", *(items_file(tmp_path / f"{n}.jsonl", 5, n) for n in range(2))
    text.write_text("".join(embedded_text("pydoc", "heldout"))[:900])
    local = (f"eval.texts={{t: {text}}}", "eval.window=64", f"eval.items={{q: {files[0]}, r: {files[1]}}}")
    words = (model_folder, other, "tracker=mlflow", "eval=local", *local)
    table = compared(*words)
    assert {*table.rows[1].changes} == {"ppl/t", "acc/q", "acc/r", "acc/mean"}
    shown = capsys.readouterr().out
    lines = shown.partition("\npage")[0].splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.strip().startswith("other ") for line in lines) >= 1
    assert all(heading in shown for heading in table.columns())
    (folder,) = (tmp_path / "compared" / "compared").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        *("compared.json", "models.csv", "models.html", "models.pdf", "models.png")
    }
    page = (folder / "models.html").read_text()
    assert str(folder / "models.html") in shown
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert page.count("better") >= 2, "the better corner is marked in both panels"
    assert all(f">{entry}<" in page for column in table.columns().values() for entry in column)

    def runs() -> dict[str, Any]:
        client = connect(f"sqlite:///{tmp_path / 'compared' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("depth-pruning").experiment_id
        return {run.info.run_id: run for run in client.search_runs([experiment])}

    first = runs()
    by_name = {run.data.tags["model"]: run for run in first.values()}
    assert {*by_name} == {row.name for row in table.rows}
    for row in table.rows:
        numbers = by_name[row.name].data.metrics
        assert row.metrics.items() <= numbers.items()
        assert numbers["bits_per_byte/t"] == row.bits["ppl/t"]["value"]
    compared(*words)
    assert runs().keys() == first.keys(), "recorded once"
