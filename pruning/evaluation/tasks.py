"""Tasks of lm-eval as evaluation data. They are loaded without a model.

A task's digest covers its prompts and answers.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError, RequestError
from pruning.core.hashing import text_sha256
from pruning.evaluation.engine_answers import rows_of
from pruning.evaluation.lm_eval_quiet import quiet
from pruning.evaluation.overlap import Document, haystack, words
from pruning.evaluation.request_lengths import might_exceed, token_counts

if TYPE_CHECKING:
    from pruning.calibration.records import Item
    from pruning.calibration.samples import Row, Samples

FEWSHOT_SEED = 1234  # lm-eval's own default
METRICS = ("acc_norm", "acc")  # a task's accuracy is the first of these metrics that it has


@dataclass(frozen=True, eq=False)
class EvalTask:
    """The first `limit` documents of a task of lm-eval (None: all); `task` is lm-eval's object.

    If the documents are items of a local file, `items` and `template` say what must be asked. `fewshot` examples are
    put before each question. `scorer` says what answers the requests; see `engine_answers`.
    """

    task: Any
    source: str
    tokenizer: Any
    limit: int | None = None
    items: tuple[Item, ...] = ()
    template: str = ""
    fewshot: int = 0
    scorer: str = "lm_eval"

    @property
    def local(self) -> bool:
        """Whether the documents are items of a local file."""
        return bool(self.items)

    @property
    def metric(self) -> str | None:
        """lm-eval's name of the reported accuracy: `acc_norm` if the task has it, else `acc`, else None."""
        return next((name for name in METRICS if name in self.task.aggregation()), None)

    @cached_property
    def requests(self) -> list[dict[str, Any]]:
        """The fields of each document, its requests to the model, and its right answer. No model is needed."""
        self.task.set_config("num_fewshot", self.fewshot)
        self.task.set_fewshot_seed(FEWSHOT_SEED)
        with quiet():
            self.task.build_all_requests(limit=self.limit)
        grouped = groupby(self.task.instances, key=lambda instance: instance.doc_id)
        members = [list(group) for _, group in grouped]
        return [
            {"doc": m[0].doc, "asked": [i.arguments for i in m], "target": self._target(number, m[0].doc)}
            for number, m in enumerate(members)
        ]

    def _target(self, number: int, document: Any) -> Any:
        # For a task of several contexts, lm-eval's target is the continuation, whichever context is right.
        return self.items[number].answer if self.items else self.task.doc_to_target(document)

    @property
    def asked(self) -> list[tuple[Any, ...]]:
        """All requests, in order: contexts and continuations."""
        return [tuple(arguments) for request in self.requests for arguments in request["asked"]]

    def check_requests(self) -> None:
        """Raise RequestError if lm-eval's requests are not those that the items and the template give."""
        items = self.items[: self.limit]
        check_equal(self.asked, [pair for item in items for pair in item.pairs(self.template)], self.source)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The token rows of all requests, for the engine."""
        return rows_of(self.requests, self.tokenizer)

    @cached_property
    def sha256(self) -> str:
        """Digest of the exact prompts, all answers, the right answers, the metric and the scorer."""
        plain = [self.metric, [[r["asked"], r["target"]] for r in self.requests]]
        if self.scorer != "lm_eval":
            plain.append(self.scorer)
        return text_sha256(json.dumps(plain, default=str))

    def check_answers(self) -> None:
        """Raise InputError if an answer has no tokens of its own after its context, so that nothing can be scored."""
        for pair, (context, whole) in zip(self.asked, token_counts(self.asked, self.tokenizer), strict=True):
            if not 0 < context < whole:
                raise InputError(
                    f"{self.source}: the answer {pair[1]!r} has no tokens of its own after the prompt {pair[0]!r}: "
                    "change the item or the template."
                )

    def too_long(self, most: int) -> list[int]:
        """The numbers, from 0, of the documents with a request that a model of `most` tokens cannot read whole.

        The last token of a request is only scored and never read, so a request may have `most` + 1 tokens.
        """
        numbered = [(n, pair) for n, request in enumerate(self.requests) for pair in request["asked"]]
        long = [(n, pair) for n, pair in numbered if might_exceed(pair, most)]
        counts = token_counts([pair for _, pair in long], self.tokenizer)
        return sorted({n for (n, _), (_, whole) in zip(long, counts, strict=True) if whole > most + 1})

    @property
    def pieces(self) -> list[Hashable]:
        """The requests of each document, to find documents that occur more than once."""
        return [tuple(map(tuple, request["asked"])) for request in self.requests]

    @property
    def repeated(self) -> int:
        """The number of documents that repeat another document."""
        return len(self.pieces) - len(set(self.pieces))

    def shared(self, calibration: Samples, /) -> int:
        """The number of documents that are in the calibration data."""
        return sum(haystack(calibration, self.tokenizer).holds(document) for document in self.documents())

    def documents(self) -> Iterator[Document]:
        """Yield each document as possible questions and answers. The names of the document's fields are not used."""
        for number, request in enumerate(self.requests):
            contexts = dict.fromkeys(str(arguments[0]) for arguments in request["asked"])
            answers = dict.fromkeys(str(arguments[-1]) for arguments in request["asked"])
            texts = [v for v in request["doc"].values() if isinstance(v, str) and " " in v]
            # With examples, every context holds the same ones, so a context says nothing about its own document.
            asked = map(_question, contexts) if not self.fewshot else ()
            # If the contexts of a document differ, as in WinoGrande, the contexts contain the choices, and all
            # answers are equal. Such answers are left out.
            choices = tuple(answers) if len(contexts) == 1 else ()
            key = (self.items[number].key,) if self.items else ()
            yield Document(tuple(dict.fromkeys((*texts, *asked))), choices, key)


def _question(context: str) -> str:
    """A prompt without the words "question" and "answer" that most templates put around a question."""
    prompt = words(context)
    return " ".join(prompt[int(prompt[:1] == ("question",)) : len(prompt) - int(prompt[-1:] == ("answer",))])


def check_equal(sent: Sequence[Any], wanted: Sequence[Any], source: str) -> None:
    """Raise RequestError, which shows the first difference, if lm-eval's requests are not those that are wanted."""
    if list(sent) == list(wanted):
        return
    pairs = zip_longest(sent, wanted)
    number, (one, other) = next((n, pair) for n, pair in enumerate(pairs, start=1) if pair[0] != pair[1])
    raise RequestError(
        f"{source}: request {number} to the model would be {one!r} instead of {other!r}, so nothing was measured. "
        "Use the version of lm-eval that constraints.txt names."
    )
