"""The settings of healing, one class per choice in the configuration group `heal`. This module does not use torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pruning.calibration import file_of
from pruning.calibration.item_files import existing
from pruning.calibration.sources import TextSource
from pruning.core.errors import InputError, check_known, check_least
from pruning.core.storage import digest, file_sha256

# These settings change only the rounding of a result, so they do not change the folder of a healed model.
RUNNING = ("micro_tokens", "gradient_checkpointing")
# These settings choose the mask that is healed; how it is healed does not depend on them.
SELECTING = ("candidates", "round_tokens")
# The rates that `lr=None` chooses among, largest first. Training all weights needs a smaller rate than training
# adapters. How small it must be depends on the model: 1e-4 heals SmolLM2 135M and ruins Qwen2.5-Coder 0.5B.
ADAPTER_RATES = (5e-4, 1.5e-4, 5e-5)
WEIGHT_RATES = (1e-4, 3e-5, 1e-5)
TRIAL_STEPS = 8  # the steps of a learning-rate trial
AT_LEAST_1 = ("tokens", "batch_tokens", "micro_tokens", "heldout", "eval_every", "candidates", "round_tokens")


@dataclass(frozen=True)
class NoHealing:
    """The pruned model is not trained."""

    trains: ClassVar[bool] = False

    def check(self) -> None:
        """Do nothing: there are no settings to check."""


@dataclass(frozen=True)
class LossWeights:
    """The weights of cross entropy and of KL(teacher || student). The teacher runs only if `kl` is above 0."""

    ce: float = 1.0
    kl: float = 0.0


@dataclass(frozen=True)
class Training:
    """The settings that all kinds of healing share.

    `tokens` is the number of tokens to train on, the budget. Text is packed into windows of `length` tokens. A
    step trains on `batch_tokens` tokens, at most `micro_tokens` of them at a time. `warmup` and `eval_every` are
    numbers of steps. The learning rate falls in the last steps; `decay` is their share of all steps. `heldout`
    windows are kept for the held-out loss. Training stops early after `patience` evaluations in a row without a new
    minimum of this loss (0: never).

    If `lr` is None, short trials choose the learning rate (`rate.py`). If `candidates` is above 1, that many masks of
    the search are healed in rounds of successive halving, on `round_tokens` tokens in the first round. The mask with
    the lowest held-out loss is then healed on the whole budget.
    """

    tokens: int = 200_000
    length: int = 256
    batch_tokens: int = 2048
    lr: float | None = None
    warmup: int = 5
    decay: float = 0.2
    seed: int = 0
    source: str = "pydoc"
    path: str | None = None
    name: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    stream: bool = False
    heldout: int = 16
    eval_every: int = 10
    patience: int = 3
    micro_tokens: int = 1024
    gradient_checkpointing: bool = False
    candidates: int = 1
    round_tokens: int = 8192

    trains: ClassVar[bool] = True
    part: ClassVar[str] = "calibration"  # held-out parts of packaged text are for evaluations only

    def check(self) -> None:
        """Raise InputError if a setting is out of range, or if a file is missing."""
        least = {**dict.fromkeys(AT_LEAST_1, 1), "warmup": 0, "patience": 0, "seed": 0, "length": 8}
        check_least("heal", self, **least | ({"rank": 1} if hasattr(self, "rank") else {}))
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise InputError(f"heal.lr={self.lr:g} is out of range: choose a number above 0.")
        if not 0 <= self.decay <= 1:
            raise InputError(f"heal.decay={self.decay:g} is out of range: choose 0 to 1.")
        self.text.check("heal")
        if (file := file_of(self)) is not None:
            existing(file, "heal.path")
        if self.candidates > 1:
            self._check_rounds()

    def _check_rounds(self) -> None:
        """Raise InputError if rounds would heal on fewer tokens than a step, or on more than the budget."""
        step, rounds = self.windows * self.length, budgets(self.candidates, self.round_tokens)
        if self.round_tokens < step:
            raise InputError(
                f"heal.round_tokens={self.round_tokens} is less than the {step} tokens of one step: choose more, or "
                "lower heal.batch_tokens."
            )
        if rounds[-1] > self.tokens:
            raise InputError(
                f"heal.candidates={self.candidates} needs {len(rounds)} rounds, and the last one heals on "
                f"{rounds[-1]} tokens, which is more than heal.tokens={self.tokens}: lower heal.round_tokens, or "
                "raise heal.tokens."
            )

    @property
    def text(self) -> TextSource:
        """The source of the text."""
        return TextSource.of(self)

    @property
    def adapter(self) -> bool:
        """Whether LoRA adapters are trained instead of the weights themselves."""
        return getattr(self, "weights", "lora" if hasattr(self, "rank") else "full") == "lora"

    @property
    def losses(self) -> LossWeights:
        """The weights of the losses: without a teacher, only the cross entropy of the text counts."""
        return LossWeights()

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates to choose among, largest first: only `lr` if it is given."""
        return (ADAPTER_RATES if self.adapter else WEIGHT_RATES) if self.lr is None else (self.lr,)

    @property
    def trial_tokens(self) -> int:
        """The tokens of a learning-rate trial: `TRIAL_STEPS` steps, or the whole budget if that is smaller."""
        return min(TRIAL_STEPS, self.steps) * self.windows * self.length

    @property
    def windows(self) -> int:
        """The number of windows of one step."""
        return max(1, self.batch_tokens // self.length)

    @property
    def steps(self) -> int:
        """The number of steps that the budget allows; at least one."""
        return max(1, self.tokens // (self.windows * self.length))

    @property
    def stable(self) -> int:
        """The number of steps before the learning rate falls. Runs with a larger budget share these steps."""
        return self.steps - min(self.steps, math.ceil(self.decay * self.steps))

    def factor(self, step: int) -> float:
        """The learning rate of a step, counted from 0, as a fraction of the full rate; in (0, 1].

        It rises, stays constant, and falls linearly (WSD, arXiv 2404.06395). Until it falls, it is the same for all
        budgets. So a run can continue from the step at which the rate of a run with a smaller budget begins to fall.
        """
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        if step < self.stable:
            return rising
        return rising * (self.steps - step) / (self.steps - self.stable + 1)

    def identity(self) -> dict[str, Any]:
        """The settings that the healed weights depend on. A text file's path is replaced by the file's digest."""
        fields = {name: value for name, value in self.recorded().items() if name not in RUNNING}
        if (file := file_of(self)) is not None:
            fields["path"] = file_sha256(Path(file).expanduser())
        return {"type": fields.pop("class"), **fields}

    def recorded(self) -> dict[str, Any]:
        """The settings as a record stores them."""
        fields = dataclasses.asdict(self).items()
        return {"class": type(self).__name__} | {n: value for n, value in fields if n not in SELECTING}

    def key(self, text: str) -> str:
        """The name of the folder of a training run on a text with the digest `text`."""
        return digest({**self.identity(), "text": text})

    def line(self, text: str) -> str:
        """A name shared by training runs that differ only in `tokens` and `decay`; their first steps are equal."""
        own = {name: value for name, value in self.identity().items() if name not in ("tokens", "decay")}
        return digest({**own, "text": text})


@dataclass(frozen=True)
class Lora(Training):
    """Low-rank adapters on all linear layers of the blocks, merged into them at the end (LoRA, arXiv 2106.09685).

    An adapter adds (alpha / rank) B A to a weight; B is (out, rank), A is (rank, in).
    """

    rank: int = 16
    alpha: float = 32.0


@dataclass(frozen=True)
class Full(Training):
    """All weights of the blocks are trained."""


@dataclass(frozen=True)
class Distill(Training):
    """The smaller model learns the next-token distributions of the dense model, its teacher.

    The loss is ce * cross entropy + kl * KL(teacher || student). `weights` says what is trained: `lora` or `full`.
    """

    weights: str = "lora"
    rank: int = 16
    alpha: float = 32.0
    kl: float = 1.0
    ce: float = 0.5

    def check(self) -> None:
        """Raise InputError as `Training.check` does, or if a loss weight is negative or all are 0."""
        check_known("heal", self, weights=("lora", "full"))
        if min(self.kl, self.ce) < 0 or self.kl + self.ce == 0:
            raise InputError(
                f"heal.kl={self.kl:g} and heal.ce={self.ce:g} are weights of a loss: choose 0 or more, and at least "
                "one above 0."
            )
        super().check()

    @property
    def losses(self) -> LossWeights:
        """The weights of the two losses."""
        return LossWeights(self.ce, self.kl)


def budgets(count: int, tokens: int) -> list[int]:
    """The tokens of each round of halving among `count` masks: `tokens`, doubled in every further round."""
    return [tokens * 2**number for number in range((count - 1).bit_length())]
