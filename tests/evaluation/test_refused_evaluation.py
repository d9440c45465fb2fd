"""Evaluations with wrong settings or tasks are refused with the setting, its value or what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError, UnreachableError
from pruning.evaluation import lm_eval_tasks
from pruning.evaluation.corpora import Corpus, CorpusPerplexity
from pruning.evaluation.generation import Generation
from pruning.evaluation.heldout import Heldout, LocalFiles
from pruning.evaluation.lm_eval_tasks import Zeroshot
from pruning.evaluation.speed import Speed
from tests.helpers.evaluations import own_tasks, tokenizer_of, written_tasks

BATCHES, ITEMS = {"batch_sizes": [1], "prompts": [16]}, {"items": {"a": "x"}}
SHORT = {"corpora": {"x": Corpus("file", "short.txt")}}


def corpus(**settings: Any) -> dict[str, Any]:
    return {"corpora": {"x": {"path": "some/set"} | settings}}


def asking(name: str, **settings: Any) -> dict[str, Any]:
    return {"tasks": [name], "prompts": 0} | settings


# The evaluation, its settings, and what the message names.
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (Heldout, {"samples": 0}, r"eval\.samples=0 .*1"),
    (Heldout, {"length": 7}, r"eval\.length=7 .*8"),
    (Heldout, {"items": 0}, r"eval\.items=0 .*1"),
    (Heldout, {"seed": -1}, r"eval\.seed=-1 .*0"),
    (Heldout, {"texts": ["c4"]}, r"eval\.texts 'c4'"),
    (Speed, BATCHES | {"batch_sizes": []}, r"eval\.batch_sizes=\[\].* 1"),
    (Speed, BATCHES | {"prompts": [16, 0]}, r"eval\.prompts=\[16, 0\].* 1"),
    (Speed, BATCHES | {"new_tokens": 1}, r"eval\.new_tokens=1.* 2"),
    (Speed, BATCHES | {"repeats": 0}, r"eval\.repeats=0.* 1"),
    (Speed, BATCHES | {"warmup": -1}, r"eval\.warmup=-1.* 0"),
    (LocalFiles, {}, "eval=local"),
    (LocalFiles, {"items": "x.jsonl"}, r"eval\.items=x\.jsonl"),
    (LocalFiles, {"texts": {"a": 3}}, r"eval\.texts={'a': 3}"),
    (LocalFiles, {"texts": {"mean": "x.txt"}}, r"eval\.texts: 'mean'"),
    (LocalFiles, ITEMS | {"template": "Q:"}, r"eval\.template='Q:' .*{question}"),
    (LocalFiles, ITEMS | {"templates": {"b": "{question}"}}, r"eval\.templates 'b'"),
    (LocalFiles, ITEMS | {"limit": 0}, r"eval\.limit=0 .*1"),
    (LocalFiles, ITEMS | {"scorer": "hf"}, r"eval\.scorer 'hf'.*engine, lm_eval"),
    (LocalFiles, {"texts": {"a": "x"}, "window": 2}, r"eval\.window=2 .*8"),
    (LocalFiles, {"items": {"mine": "nowhere.jsonl"}}, r"eval\.items\.mine=nowhere\.jsonl"),
    (LocalFiles, {"items": {"mine": "blank.jsonl"}}, r"blank\.jsonl"),
    (CorpusPerplexity, corpus(source="hubb"), r"eval\.corpora\.x\.source 'hubb'.*hub"),
    (CorpusPerplexity, corpus(path=None), r"eval\.corpora\.x\.path .*eval\.corpora\.x\.path=NAME"),
    (CorpusPerplexity, corpus(source="pydoc"), r"eval\.corpora\.x\.source=pydoc"),
    (CorpusPerplexity, corpus(window=7), r"eval\.corpora\.x\.window=7 .*8"),
    (CorpusPerplexity, corpus(window="abc"), r"eval\.corpora\.x\.window='abc' .*int"),
    (CorpusPerplexity, corpus(stride=0), r"eval\.corpora\.x\.stride=0 .*1"),
    (CorpusPerplexity, corpus(stride=2049), r"eval\.corpora\.x\.stride=2049 .*2048"),
    (CorpusPerplexity, corpus(start="texts"), r"eval\.corpora\.x\.start 'texts'.*text"),
    (CorpusPerplexity, corpus(widow=9), r"eval\.corpora\.x 'widow'.*window"),
    (CorpusPerplexity, {"corpora": {}}, r"^eval\.corpora "),
    (CorpusPerplexity, {"corpora": {"a/b": {"path": "x"}}}, r"eval\.corpora: 'a/b'"),
    (CorpusPerplexity, {"corpora": {"a": "x.txt"}}, r"eval\.corpora\.a=x\.txt"),
    (CorpusPerplexity, SHORT, r"eval\.corpora\.x: .*short\.txt"),
    (CorpusPerplexity, SHORT | {"limit": 0}, r"eval\.limit=0"),
    (Generation, {"prompts": 0}, r"eval\.prompts=32"),
    (Generation, {"prompt_tokens": 3}, r"eval\.prompt_tokens=3 .*8"),
    (Generation, {"source": "embeded"}, r"eval\.source 'embeded'"),
    (Generation, {"source": "file"}, r"eval\.path=FILE"),
    (Generation, {"path": "x.txt"}, r"eval\.path=x\.txt .*eval\.source=pydoc"),
    (Generation, {"max_new_tokens": 0}, r"eval\.max_new_tokens=0 .*1"),
    (Generation, {"tasks": ["mean"]}, r"eval\.tasks: 'mean'"),
    (Generation, {"batch_size": 0}, r"eval\.batch_size=0 .*1"),
    (Generation, {"prompts": 1_000_000}, r"1000000 .*eval\.prompts .*eval\.prompt_tokens"),
    (Generation, asking("filterd"), "'filterd'.*filtered"),
    (Generation, asking("mixed"), "'mixed'"),
    (Generation, asking("other"), "'other' .*multiple_choice.*brier_score.*exact_match"),
    (Generation, asking("unfiltered", num_fewshot=9), r"'unfiltered' .*9 .*eval\.num_fewshot"),
    (Zeroshot, {"tasks": ["normd"]}, "'normd' .*normed"),
    (Zeroshot, {"tasks": ["other"]}, "'other' .*brier_score.*acc_norm.* acc"),
    (Zeroshot, {"tasks": ["arc_easy"]}, "arc_easy"),  # which cannot be fetched
]


@pytest.mark.parametrize(("kind", "settings", "named"), REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, settings: Any, named: str
) -> None:
    tasks = own_tasks if kind is Zeroshot else written_tasks
    monkeypatch.setattr(lm_eval_tasks, "manager", lambda: tasks(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blank.jsonl").write_text("\n\n")
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(UnreachableError if named == "arc_easy" else InputError, match=named) as caught:
        kind(**settings).data(tokenizer_of(folder))
    assert "\n" not in str(caught.value)
