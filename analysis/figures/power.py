"""How many calibration draws does a study need? In how many simulated studies each number of draws would decide.

depth-pruning power --results results --study small --draws 3,6,12 --studies 40

The simulated studies have the shares of variance that figure 5 shows for a study that was run, and its objectives,
data and searches, with the given numbers of draws of each data set. docs/statistics.md ("How many draws?") says what
is assumed.
"""

from __future__ import annotations

import logging
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..data.archive import NothingToRead
from ..data.load import done
from ..data.study import AskedStudy
from ..stats import simulated, variance
from ..stats.simulated import RATIOS, Decided, Pilot
from .cli import end_with, parsed, study_arguments
from .fig5_variance_shares import outcomes, shares_of, used
from .style import number

log = logging.getLogger(__name__)

DRAWS, STUDIES = (3, 6, 12), 40


@dataclass(frozen=True)
class PowerLine:
    """What is known of an outcome with a number of draws. `note` says why nothing is known."""

    label: str
    draws: str
    found: dict[str, Decided] = field(default_factory=dict)
    note: str = ""


def main() -> None:
    """Print the table for a study. If files of the study are damaged, name them and end with exit code 1."""
    parser = study_arguments("How many draws are needed?", out=False)
    of_each = "numbers of draws of each data set, with commas; default: 3,6,12"
    parser.add_argument("--draws", type=_numbers, default=DRAWS, metavar="N,N", help=of_each)
    simulated = f"simulated studies for each number of draws; default: {STUDIES}"
    parser.add_argument("--studies", type=_count, default=STUDIES, metavar="N", help=simulated)
    given = parsed(parser)
    study = AskedStudy(given.results, given.study, given.only)
    found = lines(study, given.draws, given.studies)
    print("\n".join(text(study.title, found, given.studies)))  # noqa: T201
    end_with(study.damages)


def _numbers(listed: str) -> list[int]:
    return [_at_least(2, part, "the numbers of draws") for part in listed.split(",")]


def _count(written: str) -> int:
    return _at_least(1, written, "the number of studies")


def _at_least(least: int, written: str, what: str) -> int:
    if not written.strip().isdecimal() or int(written) < least:
        raise ArgumentTypeError(f"'{written}' is not possible: {what} must be {least} or more")
    return int(written)


def lines(study: AskedStudy, draws: Sequence[int], studies: int) -> list[PowerLine]:
    """For each outcome of a study, a line for each number of draws.

    An outcome whose shares cannot be estimated has one line. Raises NothingToRead if this is so for all outcomes.
    """
    cells = done(study.frame)
    log.info("power    estimating the shares of %d cells", len(cells))
    shares, _ = shares_of(study)
    pilots, refused = {}, []
    for label, (values, by) in outcomes(cells).items():
        use, known, _ = used(cells, values)
        if note := simulated.power_refusal(use, shares[label]):
            refused.append(PowerLine(label, "", note=note))
        else:
            pilots[label] = Pilot.of(use, variance.plain(use, known, by), by, shares[label])
    if not pilots:
        raise NothingToRead(
            f"no study can be simulated from this one ({refused[0].note}): run it with two draws of each calibration "
            "and two searches, or select other cells with --only."
        )
    found, total = list[PowerLine](), len(pilots) * len(draws)
    for label, pilot in pilots.items():
        for n in draws:
            log.info("power    %d of %d: %s, %d draws", len(found) + 1, total, label, n)
            scenario = pilot.scenario(n)
            note = scenario.design.no_interval
            found.append(PowerLine(label, str(n), {} if note else simulated.power(scenario, studies), note))
    return found + refused


def text(title: str, found: Sequence[PowerLine], studies: int) -> Iterator[str]:
    """The lines of the printed table."""
    yield f"Simulated studies in which a ratio is decided, of {studies} each; shares and noise are those of"
    yield title
    yield ""
    yield f"{'':<44}" + "".join(f"{name:^31}" for name in RATIOS).rstrip()
    yield f"{'outcome':<36}{'draws':>6}  " + f"{'ratio':>8}{'decided':>11}{'if equal':>12}" * len(RATIOS)
    for line in found:
        cells = f"  {line.note}" if line.note else "".join(_counts(line.found.get(name)) for name in RATIOS)
        yield f"{line.label:<36}{line.draws:>6}  {cells}"
    yield ""
    yield "ratio: the true ratio of the simulated studies. decided: the 95 percent interval leaves out 1."
    yield "if equal: the same, in studies whose true ratio is 1."


def _counts(found: Decided | None) -> str:
    if found is None:
        return f"{'-':>8}{'-':>11}{'-':>12}"
    counts = (f"{n} of {found.studies}" for n in (found.decided, found.if_equal))
    return "{:>8}{:>11}{:>12}".format(number(found.value), *counts)
