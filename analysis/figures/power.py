"""How many calibration draws does a study need? In how many simulated studies each number of draws would decide.

python -m analysis.power --results results --study small --draws 3,6,12 --studies 40

The simulated studies have the shares of variance that figure 5 shows for a study that was run, and its objectives,
data and searches, with the given numbers of draws of each data set. docs/statistics.md ("How many draws?") says what
is assumed.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..data.cell_filter import column, merged
from ..data.errors import NothingToRead
from ..data.load import done
from ..data.metrics import choose, names
from ..data.mlflow_store import expanded
from ..data.study import AskedStudy
from ..stats import power, variance
from ..stats.power import RATIOS, Decided, Pilot
from ..stats.search_means import rivals
from .style import number
from .variance_shares import UNKNOWN, measure, outcomes

log = logging.getLogger(__name__)

DRAWS, STUDIES = (3, 6, 12), 40


@dataclass(frozen=True)
class Line:
    """What is known of an outcome with a number of draws. `note` says why nothing is known."""

    label: str
    draws: str
    found: dict[str, Decided] = field(default_factory=dict)
    note: str = ""


def lines(study: AskedStudy, draws: Sequence[int], studies: int) -> list[Line]:
    """For each outcome of a study, a line for each number of draws.

    An outcome whose shares cannot be estimated has one line. Raises NothingToRead if this is so for all outcomes.
    """
    pilots, refused = _pilots(study)
    if not pilots:
        raise NothingToRead(
            f"no study can be simulated from this one ({refused[0].note}): run it with two draws of each calibration "
            "and two searches, or select other cells with --only."
        )
    found, total = list[Line](), len(pilots) * len(draws)
    for label, pilot in pilots.items():
        for n in draws:
            log.info("power    %d of %d: %s, %d draws", len(found) + 1, total, label, n)
            scenario = pilot.scenario(n)
            note = scenario.design.no_interval
            found.append(Line(label, str(n), {} if note else power.power(scenario, studies), note))
    return found + refused


def _pilots(study: AskedStudy) -> tuple[dict[str, Pilot], list[Line]]:
    """The pilot of each outcome, and a line for each outcome that has none."""
    cells = done(study.frame)
    named = outcomes(cells, None, None)
    answers = study.answers(choose(cells, "acc").names) if names(cells, "acc") else UNKNOWN
    log.info("power    estimating the shares of %d cells", len(cells))
    shares, _ = measure(cells, named, answers)
    pilots, refused = {}, []
    for label, (values, by) in named.items():
        use = rivals(cells)
        use = use if values is None else use[values.loc[use.index].notna()]
        if note := power.refusal(use, shares[label]):
            refused.append(Line(label, "", note=note))
            continue
        of = variance.plain(use, None if values is None else values.loc[use.index], by)
        pilots[label] = Pilot.of(use, of, by, shares[label])
    return pilots, refused


def text(title: str, found: Sequence[Line], studies: int) -> Iterator[str]:
    """The lines of the printed table."""
    yield f"Simulated studies in which a ratio is decided, of {studies} each; shares and noise are those of"
    yield title
    yield ""
    yield f"{'':<44}" + "".join(f"{name:^31}" for name in RATIOS).rstrip()
    yield f"{'outcome':<36}{'draws':>6}  " + f"{'ratio':>8}{'decided':>11}{'if equal':>12}" * len(RATIOS)
    for line in found:
        cells = "".join(_counts(line.found.get(name)) for name in RATIOS)
        yield f"{line.label:<36}{line.draws:>6}  " + (f"  {line.note}" if line.note else cells)
    yield ""
    yield "ratio: the true ratio of the simulated studies. decided: the 95 percent interval leaves out 1."
    yield "if equal: the same, in studies whose true ratio is 1."


def _counts(found: Decided | None) -> str:
    if found is None:
        return f"{'-':>8}{'-':>11}{'-':>12}"
    counts = (f"{n} of {found.studies}" for n in (found.decided, found.if_equal))
    return "{:>8}{:>11}{:>12}".format(number(found.value), *counts)


def main() -> None:
    """Print the table for a study. If files of the study are damaged, name them and end with exit code 1."""
    given = _arguments()
    study = AskedStudy(given.results, given.study, given.only)
    found = lines(study, given.draws, given.studies)
    print("\n".join(text(study.title, found, given.studies)))  # noqa: T201
    for damage in study.damages:
        log.warning("damaged  %s", damage)
    if study.damages:
        raise SystemExit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.power", description="How many draws are needed?"
    )
    where = "a results folder, an archive (*.tar.xz), or an MLflow store: sqlite:///FILE, http://HOST:PORT"
    parser.add_argument("--results", default="results", type=expanded, help=where)
    parser.add_argument("--study", default=None, help="use the cells of this study only; default: all cells")
    kept = "use only cells that have one of these values; may be repeated"
    parser.add_argument(
        "--only", type=column, action="append", default=[], metavar="COLUMN=VALUE,VALUE", help=kept
    )
    of_each = "numbers of draws of each data set, with commas; default: 3,6,12"
    parser.add_argument("--draws", type=_numbers, default=DRAWS, metavar="N,N", help=of_each)
    simulated = f"simulated studies for each number of draws; default: {STUDIES}"
    parser.add_argument("--studies", type=_count, default=STUDIES, metavar="N", help=simulated)
    given = parser.parse_args()
    given.only = merged(given.only)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger(__name__.partition(".figures")[0]).setLevel(logging.INFO)
    return given


def _numbers(listed: str) -> list[int]:
    """Parse `3,6,12`. Used as an argparse type."""
    return [_at_least(2, part, "the numbers of draws") for part in listed.split(",")]


def _count(written: str) -> int:
    """Parse the number of studies. Used as an argparse type."""
    return _at_least(1, written, "the number of studies")


def _at_least(least: int, written: str, what: str) -> int:
    if not written.strip().isdecimal() or int(written) < least:
        raise argparse.ArgumentTypeError(f"'{written}' is not possible: {what} must be {least} or more")
    return int(written)
