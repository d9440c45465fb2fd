"""Whether documents of a task are found in calibration data, whatever the form of either."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pruning.calibration.items import Items
from pruning.calibration.samples import Samples
from pruning.calibration.text import Text
from pruning.evaluation.heldout import LocalFiles
from pruning.evaluation.lm_eval_tasks import EvalTask
from pruning.evaluation.text_overlap import Haystack, overlaps
from tests.helpers.tokens import written

QUESTION = "Which animal carries its house on its back"
ANSWERS = ("a snail", "a horse", "an owl")
PASSAGE = " ".join(f"word{i} stands here" for i in range(20))


def text_of(tokenizer: Any, folder: Path, *paragraphs: str) -> Samples:
    """One window that contains the whole text of the paragraphs."""
    path = written(folder, "text.txt", " ".join(paragraphs))
    tokens = len(tokenizer(path.read_text()).input_ids)
    return Text("file", 1, tokens, 0, str(path)).draw(tokenizer)


def items_of(tokenizer: Any, folder: Path, *items: tuple[str, tuple[str, ...], int]) -> Samples:
    rows = [{"question": q, "choices": list(c), "answer": a} for q, c, a in items]
    path = written(folder, "items.jsonl", *rows)
    return Items("file", len(items), 0, str(path)).draw(tokenizer)


def holds(samples: Samples, tokenizer: Any, question: str, *answers: str) -> bool:
    return Haystack(samples, tokenizer).holds(question, answers)


def test_an_item_is_found_whichever_answer_is_right_and_however_it_is_spelt(
    tokenizer: Any, tmp_path: Path
) -> None:
    samples = items_of(tokenizer, tmp_path, (QUESTION, ANSWERS, 2), ("Is it so", ("yes", "no"), 0))
    assert holds(samples, tokenizer, QUESTION, *ANSWERS)
    assert holds(samples, tokenizer, f"{QUESTION.upper()}?", *ANSWERS)
    assert not holds(samples, tokenizer, "Which animal carries its house on its head", *ANSWERS)


def test_text_that_holds_a_question_or_a_long_passage_of_it_is_found(tokenizer: Any, tmp_path: Path) -> None:
    quiz = text_of(tokenizer, tmp_path, f"A quiz. {QUESTION}? Nobody says.", PASSAGE, "After.")
    assert holds(quiz, tokenizer, QUESTION, *ANSWERS)
    assert not holds(quiz, tokenizer, "Nobody says", "yes", "no"), "a few words may be in any text"
    assert holds(quiz, tokenizer, f"{PASSAGE} Is it so", "yes", "no")
    assert not holds(quiz, tokenizer, f"{PASSAGE[:90]} and then something else. Is it so", "yes", "no")


@pytest.mark.parametrize(
    ("doc", "asked"),
    [
        (
            {"sentence": "The stone hit the pane so _ broke at once", "answer": "2"},
            [
                ("The stone hit the pane so the stone", " broke at once"),
                ("The stone hit the pane so it", " broke at once"),
            ],
        ),
        ({"goal": QUESTION, "sol1": "a"}, [(f"Question: {QUESTION}\nAnswer:", f" {a}") for a in ANSWERS]),
    ],
    ids=["winogrande", "piqa"],
)
def test_documents_of_several_forms_are_found(tokenizer: Any, tmp_path: Path, doc: Any, asked: Any) -> None:
    request = {"doc": doc, "asked": asked, "target": 0}
    task = EvalTask(SimpleNamespace(OUTPUT_TYPE="multiple_choice"), "somewhere", tokenizer)
    vars(task)["requests"] = [request]
    inside = text_of(
        tokenizer, tmp_path, "x", *(word for pair in asked for word in pair), " ".join(doc.values())
    )
    assert task.shared(inside) == 1
    assert task.shared(text_of(tokenizer, tmp_path, PASSAGE)) == 0


def test_tasks_and_texts_are_both_searched(tokenizer: Any, tmp_path: Path) -> None:
    items = [{"question": QUESTION, "choices": list(ANSWERS), "answer": 1}]
    items.append({"question": "What is under the stone", "choices": ["a worm", "a coin"], "answer": 0})
    evaluation = LocalFiles(
        {"prose": str(written(tmp_path, "prose.txt", PASSAGE))},
        {"quiz": str(written(tmp_path, "quiz.jsonl", *items))},
        window=64,
    )
    data = evaluation.data(tokenizer)
    shared = items_of(tokenizer, tmp_path, (QUESTION, ANSWERS, 0), ("Is it so", ("yes", "no"), 0))
    assert overlaps(shared, data) == {"acc/quiz": 1}
    both = text_of(tokenizer, tmp_path, PASSAGE, f"{QUESTION}? {', '.join(ANSWERS)}.")
    assert overlaps(both, data).keys() == {"ppl/prose", "acc/quiz"}
    assert overlaps(text_of(tokenizer, tmp_path, json.dumps({"a": "b c d e f g h i"})), data) == {}
