"""The settings of healing, one class per option of `heal`. This module does not use torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pruning.calibration.sources import TEXTS, check_named, check_path
from pruning.core.errors import InputError, unknown
from pruning.core.mask import Mask
from pruning.core.storage import digest, file_sha256

SCHEDULES = ("wsd", "cosine")
WEIGHTS = ("lora", "full")
# These settings change no more than the rounding of a result, so a healing keeps its folder if they change.
RUNNING = ("micro_tokens", "gradient_checkpointing", "checkpoint_every")
# The rates that `lr=None` chooses among, largest first. All weights need a smaller one than adapters, and how small
# depends on the model: 1e-4 heals SmolLM2 135M and ruins Qwen2.5-Coder 0.5B.
ADAPTER_RATES = (5e-4, 1.5e-4, 5e-5)
WEIGHT_RATES = (1e-4, 3e-5, 1e-5)
TRIAL_STEPS = 8  # the steps of a trial of a rate
# These settings choose the mask that is healed; how it is healed does not depend on them.
SELECTING = ("candidates", "round_tokens")


@dataclass(frozen=True)
class NoHealing:
    """The pruned model is not trained."""

    trains: ClassVar[bool] = False

    def check(self) -> None:
        """Nothing to check."""

    def files(self) -> tuple[str, ...]:
        """No file is read."""
        return ()


@dataclass(frozen=True)
class Training:
    """What all kinds of healing have in common.

    `tokens` is the budget. Text is packed into windows of `length` tokens. A step trains on `batch_tokens` tokens, at
    most `micro_tokens` of them at a time. `warmup`, `eval_every` and `checkpoint_every` are counted in steps, and
    `decay` is the share of the steps at the end in which the rate falls. `heldout` windows of the text are kept for
    the held-out loss. If this loss has not fallen in `patience` evaluations, training stops (0: never).

    If `lr` is None, short trials choose the learning rate among `rates` (`pruning/healing/rate.py`).

    With `candidates` above 1, that many masks of the search are healed in rounds of successive halving, on
    `round_tokens` tokens in the first round, and the one that heals best is healed on the whole budget.
    """

    tokens: int = 200_000
    length: int = 256
    batch_tokens: int = 2048
    lr: float | None = None
    schedule: str = "wsd"
    warmup: int = 5
    decay: float = 0.2
    weight_decay: float = 0.0
    clip: float = 1.0
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
    checkpoint_every: int = 10
    micro_tokens: int = 2048
    gradient_checkpointing: bool = False
    candidates: int = 1
    round_tokens: int = 8192

    trains: ClassVar[bool] = True
    part: ClassVar[str] = "calibration"  # held-out parts of embedded text are for evaluations only

    def check(self) -> None:
        """Raise InputError if a setting is out of range, or if a package or a file is missing."""
        check_numbers(self)
        if self.source not in TEXTS:
            raise unknown("source of text", self.source, TEXTS)
        if self.schedule not in SCHEDULES:
            raise unknown("heal.schedule", self.schedule, SCHEDULES)
        check_named(self.source, self.path, "heal")
        check_path(self.source, self.path, "heal")
        if (file := self.file()) is not None:
            from pruning.calibration.item_files import existing

            existing(file, "heal.path")
        check_rounds(self)
        if self.adapter:
            check_peft()

    @property
    def adapter(self) -> bool:
        """Whether LoRA adapters are trained, not the weights themselves."""
        return False

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates to choose among, largest first: only `lr` if it is given."""
        return (ADAPTER_RATES if self.adapter else WEIGHT_RATES) if self.lr is None else (self.lr,)

    @property
    def rate(self) -> float:
        """The learning rate, which must have been chosen."""
        assert self.lr is not None, "a trial chooses the rate before anything is trained"
        return self.lr

    @property
    def trial_tokens(self) -> int:
        """The tokens of a trial of a rate: `TRIAL_STEPS` steps, or the whole budget if it is smaller."""
        return min(TRIAL_STEPS, self.steps) * self.windows * self.length

    @property
    def windows(self) -> int:
        """The number of windows of one step."""
        return max(1, self.batch_tokens // self.length)

    @property
    def steps(self) -> int:
        """The number of steps that the budget allows; at least one."""
        return max(1, self.tokens // (self.windows * self.length))

    def file(self) -> str | None:
        """The local file that is read, if any."""
        return (self.path or "") if self.source == "file" else None

    def files(self) -> tuple[str, ...]:
        """The local file that is read, or none."""
        return () if (file := self.file()) is None else (file,)

    def identity(self) -> dict[str, Any]:
        """The settings that the healed weights depend on. A file is represented by its digest."""
        left_out = (*RUNNING, *SELECTING)
        fields = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        if (file := self.file()) is not None:
            fields["path"] = file_sha256(Path(file).expanduser())
        return {"type": type(self).__name__, **fields}

    def recorded(self) -> dict[str, Any]:
        """The settings of a record: as versions without candidates wrote them."""
        fields = dataclasses.asdict(self).items()
        return {"class": type(self).__name__} | {name: v for name, v in fields if name not in SELECTING}

    def key(self, text: str) -> str:
        """The name of the folder of a healing on a text with this digest."""
        return digest({**self.identity(), "text": text})

    def line(self, text: str) -> str:
        """A name that budgets share whose training begins in the same way."""
        own = self.identity()
        if self.schedule == "wsd":
            own = {name: value for name, value in own.items() if name not in ("tokens", "decay")}
        return digest({**own, "text": text})


@dataclass(frozen=True)
class Lora(Training):
    """Low-rank adapters on all linear layers of the blocks, merged at the end (LoRA, arXiv 2106.09685).

    An adapter adds (alpha / rank) B A to a weight; B is (out, rank), A is (rank, in).
    """

    rank: int = 16
    alpha: float = 32.0

    @property
    def adapter(self) -> bool:
        """Adapters are trained."""
        return True


@dataclass(frozen=True)
class Full(Training):
    """All weights of the blocks are trained."""


@dataclass(frozen=True)
class Distill(Training):
    """The dense model is the teacher: its next-token distributions, and optionally its hidden states, are learnt.

    The loss is ce * cross entropy + kl * temperature^2 * KL(teacher || student) + hidden * relative squared error of
    the states after the kept blocks. `weights` says what is trained: `lora` or `full`.
    """

    weights: str = "lora"
    rank: int = 16
    alpha: float = 32.0
    kl: float = 1.0
    ce: float = 0.5
    hidden: float = 0.0
    temperature: float = 1.0

    def check(self) -> None:
        """Raise InputError as `Training.check` does, or if a weight is negative or all are 0."""
        if self.weights not in WEIGHTS:
            raise unknown("heal.weights", self.weights, WEIGHTS)
        if min(self.kl, self.ce, self.hidden) < 0 or self.kl + self.ce + self.hidden == 0:
            raise InputError(
                f"heal.kl={self.kl:g}, heal.ce={self.ce:g} and heal.hidden={self.hidden:g} are weights of a loss: "
                "choose 0 or more, and at least one above 0."
            )
        if not 0 < self.temperature < math.inf:
            raise InputError(
                f"heal.temperature={self.temperature:g} is out of range: choose a number above 0."
            )
        super().check()

    @property
    def adapter(self) -> bool:
        """Whether adapters are trained."""
        return self.weights == "lora"


# Check the numbers in the settings of healing, and that the package for LoRA is installed.

LEAST = {"tokens": 1, "length": 8, "batch_tokens": 1, "micro_tokens": 1, "heldout": 1, "eval_every": 1}
LEAST |= {"candidates": 1, "round_tokens": 1, "checkpoint_every": 1, "warmup": 0, "patience": 0, "seed": 0}


def check_peft() -> None:
    """Raise InputError if the package for LoRA is not installed."""
    if find_spec("peft") is None:
        raise InputError(
            "healing with LoRA needs the package peft, which is not installed: run `pip install peft`, or "
            "train all weights with heal=full."
        )


def check_numbers(settings: Any) -> None:
    """Raise InputError, which names the value, if a number is out of range."""
    for name, least in LEAST.items():
        if (value := getattr(settings, name)) < least:
            raise InputError(f"heal.{name}={value} is too small: choose {least} or more.")
    for name in ("lr", "clip"):
        if (value := getattr(settings, name)) is not None and not 0 < value < math.inf:
            raise InputError(f"heal.{name}={value:g} is out of range: choose a number above 0.")
    for name, most in (("decay", 1.0), ("weight_decay", math.inf)):
        if not 0 <= (value := getattr(settings, name)) <= most:
            raise InputError(f"heal.{name}={value:g} is out of range: choose 0 to {most:g}.")
    if (rank := getattr(settings, "rank", 1)) < 1:
        raise InputError(f"heal.rank={rank} is too small: choose 1 or more.")


def check_rounds(settings: Any) -> None:
    """Raise InputError if candidates would be healed on less than a step, or on more than the whole budget."""
    if settings.candidates == 1:
        return
    step, rounds = settings.windows * settings.length, budgets(settings.candidates, settings.round_tokens)
    if settings.round_tokens < step:
        raise InputError(
            f"heal.round_tokens={settings.round_tokens} is less than the {step} tokens of one step: choose more, or "
            "lower heal.batch_tokens."
        )
    if rounds[-1] > settings.tokens:
        raise InputError(
            f"heal.candidates={settings.candidates} needs {len(rounds)} rounds, and the last one heals on "
            f"{rounds[-1]} tokens, which is more than heal.tokens={settings.tokens}: lower heal.round_tokens, or "
            "raise heal.tokens."
        )


# Successive halving: heal several masks a little, keep the better half, heal these twice as long, and so on.
#
# Jamieson and Talwalkar (arXiv 1502.07943, algorithm 1); DarwinLM (arXiv 2502.07780, section 3.2) selects pruned
# models by short training in the same way. What a mask is judged by is its loss on held-out text after the
# training.


class Trial(NamedTuple):
    """What one mask gave in one round.

    `heldout_loss` is its held-out loss in nats per token after `tokens` tokens. `trained` tokens of them, and
    `seconds`, were spent in this round; the beginning had been trained in the round before.
    """

    mask: Mask
    tokens: int
    heldout_loss: float
    trained: int
    seconds: float


@dataclass(frozen=True)
class Selection:
    """The rounds, each with the trials of the masks that took part, in their order."""

    rounds: tuple[tuple[Trial, ...], ...]

    @property
    def winner(self) -> Mask:
        """The mask with the lowest held-out loss in the last round; of equal ones, the earlier."""
        return _kept(self.rounds[-1], 1)[0]

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the order in which they were made."""
        return [trial for one in self.rounds for trial in one]


def budgets(count: int, tokens: int) -> list[int]:
    """The tokens of each round for this number of masks; the first round has `tokens`, and each round doubles it."""
    found: list[int] = []
    while count > 1:
        found.append(tokens * 2 ** len(found))
        count = _half(count)
    return found


def halve(
    masks: Sequence[Mask],
    tokens: int,
    trial: Callable[[Mask, int, int], Trial],
    after: Callable[[Sequence[Mask]], None],
) -> Selection:
    """Select among at least two masks.

    `trial(mask, tokens, before)` heals a mask on `tokens` tokens, of which `before` is the budget of the round before
    (0 in the first). `after(masks)` is called at the end of a round with those that are left.
    """
    left, before, rounds = list(masks), 0, list[tuple[Trial, ...]]()
    for budget in budgets(len(masks), tokens):
        rounds.append(tuple(trial(mask, budget, before) for mask in left))
        left, before = _kept(rounds[-1], _half(len(left))), budget
        after(left)
    return Selection(tuple(rounds))


def _kept(trials: Sequence[Trial], count: int) -> list[Mask]:
    """The best masks, best first; of equal ones, the earlier."""
    return [trial.mask for trial in sorted(trials, key=lambda trial: trial.heldout_loss)[:count]]


def _half(count: int) -> int:
    return (count + 1) // 2
