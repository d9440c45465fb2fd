"""Draw the prompts that models continue: windows of held-out text, or of a text file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pruning.calibration import sources
from pruning.calibration.drawn import check_seed
from pruning.calibration.records import existing
from pruning.calibration.text import SHORTEST, WindowDraw
from pruning.core.errors import InputError, unknown
from pruning.evaluation.continuations import Prompts

SOURCES = (*sources.PARTED, "file")


@dataclass(frozen=True)
class PromptDraw:
    """`prompts` windows of `length` tokens, to be continued by up to `new_tokens` tokens.

    `source` is an embedded text, whose held-out part is used, or `file`: the `.txt`, `.jsonl` or `.parquet` file
    `path`.
    """

    prompts: int
    length: int
    new_tokens: int
    source: str
    path: str | None
    column: str
    seed: int

    # `sources.documents` reads these attributes besides the settings.
    part: ClassVar[str] = "heldout"
    name: ClassVar[str | None] = None
    split: ClassVar[str] = ""
    revision: ClassVar[str | None] = None
    stream: ClassVar[bool] = False

    def check(self) -> None:
        """Raise InputError if a setting is invalid."""
        if self.prompts < 0:
            raise InputError(f"eval.prompts={self.prompts}: give at least 1, or 0 for no continuations.")
        if self.length < SHORTEST:
            raise InputError(
                f"eval.prompt_tokens={self.length} is too short: give at least {SHORTEST} tokens."
            )
        if self.new_tokens < 1:
            raise InputError(f"eval.continuation_tokens={self.new_tokens}: give at least 1.")
        check_seed(self.seed, "eval")
        if self.source not in SOURCES:
            raise unknown("eval.source", self.source, SOURCES)
        if self.path is not None and self.source != "file":
            raise InputError(f"eval.path={self.path} is used with eval.source=file only: give both.")
        if self.source == "file" and not self.path:
            raise InputError("eval.source=file needs a file: give eval.path=FILE.")

    def draw(self, tokenizer: Any) -> Prompts:
        """The prompts. Raises InputError if the text is too short for them."""
        if self.source == "file":
            existing(self.path, "eval.path")
        label = str(Path(self.path)) if self.path else self.source
        documents = sources.documents(self, "eval")
        names = ("prompts", "prompt_tokens")
        draw = WindowDraw(self.prompts, self.length, self.seed, "eval", names=names)
        return Prompts(draw.windows(documents, tokenizer, label), self.new_tokens, tokenizer)
