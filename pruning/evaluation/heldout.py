"""Evaluations without downloads: on held-out parts of the packaged data, and on local files (`eval=local`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pruning.calibration.item_files import existing, read_items
from pruning.calibration.items import EMBEDDED, TEMPLATE, check_template, drawn_items, items_of
from pruning.calibration.samples import Samples
from pruning.calibration.sources import NOVEL, PARTED, embedded_items, embedded_text
from pruning.calibration.text import SHORTEST, drawn_windows
from pruning.core.errors import InputError, check_least, unknown
from pruning.core.records import right_share, with_error
from pruning.core.scoring import mean, standard_error
from pruning.evaluation import Data, Measured, check_names, terms_file
from pruning.evaluation.corpora import Corpus, perplexity
from pruning.evaluation.lm_eval_tasks import EvalTask, check_asking, item_task, measure_task

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward


@dataclass(frozen=True)
class Heldout:
    """Evaluate on held-out packaged data: `samples` windows of `length` tokens, and `items` items.

    The metric `ppl/heldout` is the exponential of the mean negative log-likelihood per token, on `pydoc`. `texts` can
    name the other packaged texts, `wikipedia_sample` and `novel`; each of them gives a metric `ppl/<name>`. Nothing
    is calibrated, repaired or trained on `novel`. The metric `acc/heldout` is the fraction of items whose right
    answer has the highest mean log-likelihood per token (lm-eval's acc_norm divides by characters instead).
    `<metric>/stderr` is a metric's standard error, estimated over the windows or items.
    """

    samples: int = 16
    length: int = 256
    items: int = 200
    seed: int = 0
    allow_overlap: bool = False
    texts: list[str] | None = None

    def __post_init__(self) -> None:
        check_least("eval", self, samples=1, length=SHORTEST, items=1, seed=0)
        for name in self.texts or ():
            if name not in (further := (*PARTED[1:], NOVEL)):
                raise unknown("text in eval.texts", name, further)

    def data(self, tokenizer: Any) -> dict[str, Samples]:
        """Map each metric's name to its samples. Raises InputError if there are too few windows or items."""
        # The novel's metric comes first here, and therefore in every table.
        names = {"pydoc": "heldout"} | {name: name for name in self.texts or ()}
        data = {}
        for name in sorted(names, key=lambda name: name != NOVEL):
            text, draw = embedded_text(name, "heldout"), (self.samples, self.length, self.seed)
            data[f"ppl/{names[name]}"] = drawn_windows(text, tokenizer, name, draw, "eval")
        items = drawn_items(embedded_items("heldout"), EMBEDDED, self.items, self.seed, "eval.items")
        data["acc/heldout"] = items_of(items, tokenizer, EMBEDDED, self.seed)
        return data

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity on text, or the accuracy on items."""
        samples = cast(Samples, data)
        measure = perplexity if samples.kind == "text" else item_accuracy
        return measure(name, forward, samples, mask)


def item_accuracy(name: str, forward: Forward, samples: Samples, mask: Mask) -> Measured:
    """The share of items whose right answer has the highest mean token log-likelihood, and its standard error.

    A tie for the highest counts as a fraction of a right answer (`right_share`). All log-likelihoods are kept.
    """
    ((_, logliks, _),) = forward.loglikelihoods(samples.rows, [mask])
    answers = list(samples.answers(logliks))
    hits = [right_share(scores, right) for scores, right in answers]
    how = {"source": samples.source, "items": samples.count, "metric": "mean token log-likelihood"}
    kept = {
        "loglikelihoods": [[float(f"{score:.7g}") for score in scores] for scores, _ in answers],
        "right": [right for _, right in answers],
    }
    metrics = with_error(name, mean(hits), standard_error(hits), len(hits))
    return Measured(metrics, how, terms_file(kept))


@dataclass(frozen=True)
class LocalFiles:
    """Measures `ppl/<name>` on each file of `texts` and `acc/<name>` on each file of `items`.

    If there are several files of items, `acc/mean` is a metric too. Texts are `.txt`, `.jsonl` or `.parquet`
    files, cut into windows as in `Corpus`. Files of items contain JSON lines or a JSON array, in the forms of
    `calibration.item_files`. Each choice is scored after the filled-in template, with a space between the
    two; `templates` maps a name in `items` to the template of that file. `acc/<name>` is lm-eval's `acc_norm`,
    and `acc_plain/<name>` its `acc`. `limit` bounds the numbers of windows and items. `scorer` is as in `EvalTask`.
    """

    texts: Any = None  # `Any` and None, so that the command line can set a dictionary
    items: Any = None
    window: int = 1024
    stride: int | None = None
    join: str | None = None
    column: str = "text"
    template: str = TEMPLATE
    templates: Any = None  # `Any` and None as for `texts`
    limit: int | None = None
    batch_size: int = 16
    scorer: str = "lm_eval"
    allow_overlap: bool = False

    FILES: ClassVar[tuple[str, ...]] = ("texts", "items")

    def __post_init__(self) -> None:
        for group, value in (("texts", "FILE"), ("items", "FILE"), ("templates", "TEMPLATE")):
            object.__setattr__(self, group, _by_name(group, getattr(self, group), value))
        if not self.texts and not self.items:
            raise InputError(
                "eval=local needs a file: give 'eval.texts={NAME: FILE}' or 'eval.items={NAME: FILE}'."
            )
        check_names("eval.texts", self.texts)
        check_names("eval.items", self.items)
        check_asking(self)
        check_template("eval.template", self.template)
        for name, template in self.templates.items():
            if name not in self.items:
                raise unknown("name in eval.templates", name, self.items)
            check_template(f"eval.templates.{name}", template)
        for name in self.texts:
            self._corpus(name).check("eval")

    def data(self, tokenizer: Any) -> dict[str, Data]:
        """The windows of each text and the items of each file."""
        data: dict[str, Data] = {}
        for name in self.texts:
            data[f"ppl/{name}"] = self._corpus(name).draw(tokenizer, f"eval.texts.{name}", self.limit)
        for name, path in self.items.items():
            # Items of ARC can have equal choices, and lm-eval accepts them.
            pool = read_items(existing(path, f"eval.items.{name}"), equal_choices=True)
            template = self.templates.get(name, self.template)
            options = {"tokenizer": tokenizer, "limit": self.limit, "scorer": self.scorer}
            data[f"acc/{name}"] = item_task(name, pool, template, path, **options)
        return data

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity on a text, or the accuracy on items."""
        if isinstance(data, EvalTask):
            return measure_task(name, forward, data, mask, self.batch_size)
        how = {"limit": self.limit, "corpus": asdict(self._corpus(name.partition("/")[2]))}
        return perplexity(name, forward, cast(Samples, data), mask, **how)

    def _corpus(self, name: str) -> Corpus:
        cut: dict[str, Any] = {"join": self.join, "window": self.window, "stride": self.stride}
        return Corpus("file", self.texts[name], column=self.column, **cut)


def _by_name(group: str, value: Any, wanted: str) -> dict[str, str]:
    """The files or templates of a setting, by name. Raises InputError if `value` does not map names to strings."""
    texts = {} if value is None else value
    if not isinstance(texts, Mapping) or not all(isinstance(text, str) for text in texts.values()):
        raise InputError(f"eval.{group}={value}: give 'eval.{group}={{NAME: {wanted}}}'.")
    return {str(name): text for name, text in texts.items()}
