"""Tasks of lm-eval to which a model writes the answer (`generate_until`), as evaluation data."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError
from pruning.core.hashing import text_sha256
from pruning.evaluation.overlap import Document, haystack
from pruning.evaluation.request_lengths import might_exceed, token_counts
from pruning.evaluation.tasks import EvalTask, check_equal

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.evaluation.questions import Question

METRIC = "exact_match"  # lm-eval's name of the share of right answers
NEW_TOKENS = 256  # lm-eval's default
# The names that lm-eval knows for the number of new tokens; the first that is given counts.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True, eq=False)
class GenerationTask:
    """The documents of a task; `plain` builds its requests. `questions` are those of a local file, if it is one."""

    plain: EvalTask
    questions: tuple[Question, ...] = ()

    @property
    def local(self) -> bool:
        """Whether the documents are those of a local file."""
        return bool(self.questions)

    @property
    def task(self) -> Any:
        """lm-eval's object."""
        return self.plain.task

    @property
    def source(self) -> str:
        """The origin of the documents."""
        return self.plain.source

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.plain.tokenizer

    @property
    def limit(self) -> int | None:
        """At most this many documents are asked; None: all."""
        return self.plain.limit

    @property
    def fewshot(self) -> int:
        """The number of examples that lm-eval puts before each question."""
        return self.plain.fewshot

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The fields of each document, its requests to the model, and its right answer."""
        return self.plain.requests

    @property
    def asked(self) -> list[tuple[Any, ...]]:
        """All requests, in order, as often as lm-eval sends each: prompts and settings of the generation."""
        times = self.task.config.repeats or 1
        return [request for request in self.plain.asked for _ in range(times)]

    @property
    def new_tokens(self) -> int:
        """At most this many tokens are generated."""
        settings = self.task.config.generation_kwargs or {}
        return int(next((settings[name] for name in LENGTHS if settings.get(name) is not None), NEW_TOKENS))

    @cached_property
    def sha256(self) -> str:
        """Digest of the exact prompts, the settings of the generation, and the right answers."""
        right = [[question.answers, question.pattern] for question in self.questions]
        return text_sha256(json.dumps([METRIC, self.plain.sha256, right]))

    @property
    def pieces(self) -> list[Hashable]:
        """The prompts of each document, to find documents that occur more than once."""
        return [tuple(str(arguments[0]) for arguments in request["asked"]) for request in self.requests]

    @property
    def repeated(self) -> int:
        """The number of documents that repeat another document."""
        return len(self.pieces) - len(set(self.pieces))

    def check_requests(self, prompts: Sequence[str], settings: dict[str, Any]) -> None:
        """Raise RequestError if lm-eval's requests are not these prompts with these settings."""
        check_equal(self.asked, [(prompt, settings) for prompt in prompts], self.source)

    def check_length(self, name: str, most: int) -> None:
        """Raise InputError if a model of `most` tokens has no room for a prompt beside the new tokens."""
        if self.new_tokens >= most:
            raise InputError(
                f"{name} ({self.source}): up to {self.new_tokens} tokens are generated, and the model reads at most "
                f"{most}: lower eval.max_new_tokens."
            )

    def too_long(self, most: int) -> list[int]:
        """The numbers, from 0, of the documents whose prompt and answer may exceed `most` tokens."""
        room = most - self.new_tokens
        numbered = [(n, (str(pair[0]), "")) for n, r in enumerate(self.requests) for pair in r["asked"]]
        long = [(n, pair) for n, pair in numbered if might_exceed(pair, room)]
        counts = token_counts([pair for _, pair in long], self.tokenizer)
        return sorted({n for (n, _), (_, whole) in zip(long, counts, strict=True) if whole > room})

    def shared(self, calibration: Samples, /) -> int:
        """The number of documents that are in the calibration data."""
        known = haystack(calibration, self.tokenizer)
        return sum(any(map(known.holds, forms)) for forms in self.documents())

    def documents(self) -> Iterator[tuple[Document, ...]]:
        """Yield each document as possible questions, once without an answer and once with each right answer.

        Without an answer, only a long question is found. Prompts are left out, because they hold examples too.
        """
        for number, request in enumerate(self.requests):
            if self.questions:
                texts = [self.questions[number].question]
                answers: tuple[str, ...] = self.questions[number].answers
            else:
                texts = [v for v in request["doc"].values() if isinstance(v, str) and " " in v]
                answers = (request["target"],) if isinstance(request["target"], str) else ()
            yield tuple(Document(tuple(texts), known) for known in ((), *((one,) for one in answers)))
