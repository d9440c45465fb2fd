"""Answer a search's requests, and decide which candidates of a request need more work.

A request can state how many masks of lowest loss its search uses (`best`). The other masks of the request need not
be scored in full. Four mechanisms save work or make the choice more certain; only `Decider.decide` combines them:

- a lazy round skips masks whose predicted losses are high (`algo.lazy`);
- lower bounds rule out masks before they are scored, if nothing but the search reads the losses;
- a race rules out masks after scoring them on some of the samples (`racing.delta`);
- near ties (losses so close that rounding could reverse their order) are settled in float32 (`near_ties.most`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from pruning.algo import Ask, Lazy, Rise
from pruning.algo.lazy import squares
from pruning.core.mask import Mask
from pruning.core.records import ComparisonRecord, DecisionRecord, MarginsRecord, NearTiesRecord
from pruning.core.scoring import FIRST, Estimate, Racing, Score, plus_minus
from pruning.search.journal import Journal, Losses, ScoreBook

Scorer = Callable[[Sequence[Mask], int | None], Sequence[Score]]  # scores over the first n samples; None: all


@dataclass
class Decider:
    """Answers a search's requests and notes its decisions. If `bounding` is true, bounds may rule out masks."""

    book: ScoreBook
    racing: Racing
    settler: Settler
    bounding: bool = False
    decisions: list[DecisionRecord] = field(default_factory=list)

    def answer(self, request: Ask) -> list[float]:
        """The losses of a request's masks, in order; for a ruled-out mask, infinity or, if lazy, an estimate."""
        if request.samples is not None or request.best is None:
            self.book.count_asked(request.masks, request.samples)
            return [score.loss for score in self.book.scores(request.masks, request.samples)]
        losses = self.decide(request, request.best)
        return [losses.get(mask, math.inf) for mask in request.masks]

    def decide(self, request: Ask, best: int) -> dict[Mask, float]:
        """The losses by which the `best` masks are chosen. A ruled-out mask has an estimated loss or is left out."""
        base = self.book.scores([request.rise.base])[0] if request.rise is not None else None
        view = View(self.book.estimate, request.rise, base)
        asked, settled = list[Mask](), list[Score]()
        losses, estimated = dict[Mask, float](), dict[Mask, float]()
        # The numbers of samples on which ruled-out masks were scored (0: none). The journal cannot give them, because
        # an earlier run or another cell may have scored a mask on more samples.
        out: dict[Mask, int] = {}
        while batch := following(request, losses, best, view):
            self.book.count_asked(batch)
            known = [mask for mask in asked if mask not in out]
            asked += batch
            # Bounds or a race rule masks out.
            finished, new = self._in_full(request, [*known, *batch], best, view)
            out |= new
            # Near ties are settled among the remaining masks, and then the choice is made.
            values = self.settler.losses(list(finished.values()), best, view)
            settled = [replace(score, loss=values[score.mask]) for score in finished.values()]
            whole = self.book.scores(list(finished))
            losses = view.losses(whole, values)
            if request.lazy is not None:  # no estimate may be among the `best`
                estimated |= self._estimates(new, known, whole)
                worst = view.worst(losses, best)
                losses |= {mask: max(loss, view.least_above(worst, mask)) for mask, loss in estimated.items()}
                losses = {mask: losses[mask] for mask in asked}
        self._record(out, len(request.masks) - len(asked), best, settled, view)
        return losses

    def _in_full(
        self, request: Ask, masks: Sequence[Mask], best: int, view: View
    ) -> tuple[dict[Mask, Score], dict[Mask, int]]:
        """The full scores of the masks that are not ruled out, as `race` returns them."""

        def scorer(masks: Sequence[Mask], samples: int | None = None) -> list[Score]:
            return [view.of(score) for score in self.book.scores(masks, samples)]

        if not (bounds := self._bounds(request, best)):
            return race(self.racing, masks, best, self.book.estimate, scorer)
        views = {mask: view.of(bound) for mask, bound in bounds.items()}
        finished = bounded(views, best, scorer, lambda scores: self.settler.reach_in(scores, best, view))
        return finished, {mask: 0 for mask in masks if mask not in finished}

    def _bounds(self, request: Ask, best: int) -> dict[Mask, Score]:
        """For each mask of a request, its score if it is known, else a lower bound; empty if bounds are not used."""
        # Bounds would change the predictions of a lazy search, and rule out few masks earlier than a race does.
        of_use = self.racing.delta is None and request.lazy is None and best + 1 < len(request.masks)
        if not self.bounding or not of_use:
            return {}
        journal = self.book.journal.scores
        unknown = [mask for mask in request.masks if mask not in self.book.bounds.scores]
        self.book.look_up(unknown, self.book.samples)
        known = {mask: journal[mask] for mask in unknown if mask in journal and journal[mask].of is None}
        found = self.book.bounded([mask for mask in request.masks if mask not in known])
        return {mask: (known | found)[mask] for mask in request.masks} if found else {}

    def _record(
        self, out: Mapping[Mask, int], left: int, best: int, settled: Sequence[Score], view: View
    ) -> None:
        """Record a decision: the scores by which it was made, and how many masks were not scored at all."""
        scores, first = self.book.journal.scores, self.book.estimate.first
        raced = [view.of(first(scores[mask], samples)) for mask, samples in out.items() if samples]
        if (record := decision(settled, raced, best, self.book.estimate)) is not None:
            skipped = left + len(out) - len(raced)
            self.decisions.append(record | {"skipped": skipped} if skipped else record)

    def _estimates(
        self, out: Mapping[Mask, int], known: Sequence[Mask], finished: Sequence[Score]
    ) -> dict[Mask, float]:
        """Estimated losses of masks that a race has ruled out.

        The estimate is the best mask's loss plus the mean of (ruled-out mask's term - best mask's term), over the
        samples on which the ruled-out mask was scored. Masks in `known` have been scored in full.
        """
        journal, best = self.book.journal.scores, min(finished, key=lambda score: score.loss)
        losses = {mask: journal[mask].loss for mask in out if mask in known}
        for mask in out.keys() - losses.keys():
            pairs = zip(journal[mask].samples[: out[mask]], best.samples, strict=False)
            losses[mask] = best.loss + self.book.estimate.mean([a - b for a, b in pairs])
        return losses


# Lazy rounds: score the most promising masks first, and stop if no other one is likely to be chosen.
#
# The masks of a lazy request come in the order of their predicted losses (`algo/lazy.py`). They are scored in
# batches, until this inequality holds for each mask that is left:
#
#     prediction + mean(e) - q * sd(e) * sqrt(1 + 1 / n)  >  the loss of the worst mask that would be chosen
#
# The errors e are losses minus predictions. mean(e) is over the n masks scored so far. sd(e) is pooled over all
# rounds, about each round's mean. If m masks are left, q is the 1 - risk / m quantile of Student's t. So if errors
# are normally distributed, `risk` is about the probability of skipping a mask that would have been chosen. Errors
# are only roughly normal; docs/algorithms.md has the share of searches that kept their mask. If masks are compared
# by rises per cost, both sides are rises per cost.

EARLY = 6  # masks in each of the first two batches, and one more for each further mask that is chosen
LATER = 3  # masks in each later batch


def following(request: Ask, losses: Mapping[Mask, float], best: int, view: View) -> Sequence[Mask]:
    """The next masks of a request to score, given the losses so far; empty if the choice can be made."""
    if (lazy := request.lazy) is None or not lazy.predicted:
        return () if losses else request.masks
    early = EARLY + best - 1
    if not losses:
        return request.masks[:early]
    if not (left := request.masks[len(losses) :]):
        return ()
    least = least_error(lazy, [loss - lazy.predicted[mask] for mask, loss in losses.items()], len(left))
    promise = min(view.rate(mask, lazy.predicted[mask] + least) for mask in left)
    likely = promise <= view.worst(losses, best)
    return left[: early if len(losses) == early else LATER] if likely else ()


def least_error(lazy: Lazy, errors: Sequence[float], left: int) -> float:
    """A lower bound on the errors of `left` unscored masks; minus infinity if too few errors are known."""
    from scipy.stats import t

    count, freedom = len(errors), lazy.freedom + len(errors) - 1
    if freedom < 1:
        return -math.inf
    variance = (lazy.squares + squares(errors)) / freedom
    quantile = float(t.isf(lazy.risk / left, freedom))
    return math.fsum(errors) / count - quantile * math.sqrt(variance * (1 + 1 / count))


# Lower bounds.
#
# The masks with the lowest bounds are scored first. Let L be the loss of the runner-up, the best rejected
# mask so far. If a mask's bound exceeds L by more than rounding, the mask can be neither chosen nor the
# runner-up, so it is not scored. All other masks are scored. So the choice and its lead over the runner-up do
# not depend on bounds. Bounds are kept in a journal, so that a resumed search rules out the same masks.

# In nats. Bounds and losses come from different matrix products and are rounded differently.
SLACK = 0.02


def bounded(
    bounds: Mapping[Mask, Score], best: int, scorer: Scorer, reach: Callable[[Sequence[Score]], float]
) -> dict[Mask, Score]:
    """The scores of the masks that their bounds do not rule out, in the order of `bounds`.

    A mask is ruled out if its bound exceeds the runner-up's loss by more than SLACK and by more than
    `reach(scores)`. The second condition keeps the near ties, whose losses are needed.
    """
    order = sorted(bounds, key=lambda mask: bounds[mask].loss)
    left, scores = order[: best + 1], dict[Mask, Score]()

    def within(reach: float) -> list[Mask]:
        following = sorted(score.loss for score in scores.values())[best]
        limit = following + max(SLACK, reach)
        return [mask for mask in order if mask not in scores and bounds[mask].loss <= limit]

    while left:
        scores |= {score.mask: score for score in scorer(left, None)}
        left = within(0.0) or within(reach(list(scores.values())))
    return {mask: scores[mask] for mask in bounds if mask in scores}


# Racing: stop scoring candidates that are not among the best, at a given confidence.
#
# At a few increasing numbers n, the candidates are ranked by their losses over the first n samples. Each
# ranking is called a look. Let b be the candidate of rank `best`. Each candidate c that ranks after b is
# compared with b by the paired differences of their terms, d_s = t_s(c) - t_s(b). If there are m candidates,
# and r looks before the last sample, c is ruled out if
#
#     mean(d)  >  q * se(d)        q: the 1 - delta / (r * (m - best)) quantile of Student's t
#
# The aim is to compare the candidates on all S samples, which are in random order (`Samples.shuffled`). So se
# includes the finite-population correction sqrt(1 - n / S). By Bonferroni's inequality over the
# r * (m - best) comparisons, a request loses a truly best candidate with probability at most about delta;
# only "about", because terms are not normally distributed. So no look is taken before FIRST samples.


def race(
    racing: Racing, masks: Sequence[Mask], best: int, estimate: Estimate, scorer: Scorer
) -> tuple[dict[Mask, Score], dict[Mask, int]]:
    """The full scores of the masks that are not ruled out: at least `best` masks, or all if there are fewer.

    The second dict returned maps each ruled-out mask to the number of samples on which it was scored.
    """
    if (delta := racing.delta) is None or best >= len(masks):
        return {score.mask: score for score in scorer(masks, None)}, {}
    alive, out = list(masks), dict[Mask, int]()
    looks = looks_of(estimate.count)
    for samples in looks:
        scores = scorer(alive, samples)
        left = _survivors(scores, best, estimate, delta / (len(looks) * (len(masks) - best)))
        alive = [mask for mask in alive if mask in left]
        out |= {score.mask: len(score.samples) for score in scores if score.mask not in left}
        if len(alive) == best:
            break
    return {score.mask: score for score in scorer(alive, None)}, out


def looks_of(samples: int) -> list[int]:
    """The numbers of samples after which candidates can be ruled out; each is 1.5 times the one before."""
    looks, following = [], FIRST
    while following < samples:
        looks.append(following)
        following = following * 3 // 2
    return looks


def _survivors(scores: Sequence[Score], best: int, estimate: Estimate, risk: float) -> set[Mask]:
    """The masks that one look (one ranking) does not rule out. All `scores` are over the same samples."""
    from scipy.stats import t

    ranked = sorted(scores, key=lambda score: score.loss)
    last, kept = ranked[best - 1], {score.mask for score in ranked[:best]}
    for score in ranked[best:]:
        terms = estimate.differences(score.samples, last.samples)
        error, freedom = estimate.error(terms, whole=estimate.count), estimate.freedom(terms)
        # With 0 degrees of freedom, the error is unknown and nothing is ruled out.
        if freedom == 0 or estimate.mean(terms) <= error * t.isf(risk, freedom):
            kept.add(score.mask)
    return kept


# The values by which masks are compared: their losses or, with a budget, (loss - loss of a base mask) / cost.


@dataclass(frozen=True)
class View:
    """How masks are compared: by their losses or, with `rise`, by (loss - loss of a base mask) / cost.

    Each term of a score is changed in the same way, so standard errors and paired differences remain valid.
    Costs are multiples of the lowest cost in a request, so they are at least 1. Dividing by them never enlarges a
    difference, so tolerances for losses are also valid for rises per cost.
    """

    estimate: Estimate
    rise: Rise | None = None
    base: Score | None = None  # the full score of `rise.base`

    @property
    def unit(self) -> float:
        """The lowest cost among the masks that are compared; 1 without costs."""
        return 1.0 if self.rise is None else min(self.rise.costs.values())

    def rate(self, mask: Mask, loss: float) -> float:
        """The value by which a mask with this loss is compared: the loss, or the rise of the loss per cost."""
        if self.rise is None or self.base is None:
            return loss
        return self.rise.rate(mask, loss, self.base.loss)

    def worst(self, losses: Mapping[Mask, float], best: int) -> float:
        """The highest of the `best` lowest values."""
        return sorted(self.rate(mask, loss) for mask, loss in losses.items())[min(best, len(losses)) - 1]

    def of(self, score: Score) -> Score:
        """The score of a mask, with rises per cost in place of losses."""
        if self.rise is None or self.base is None:
            return score
        share = self.unit / self.rise.costs[score.mask]
        before = self.base.samples[: len(score.samples)]
        terms = tuple((term - old) * share for term, old in zip(score.samples, before, strict=True))
        base = self.base.loss if score.of is None else self.estimate.mean(before)
        return replace(score, loss=self.rise.rate(score.mask, score.loss, base) * self.unit, samples=terms)

    def losses(self, scores: Sequence[Score], settled: Mapping[Mask, float]) -> dict[Mask, float]:
        """The masks' losses, some increased so that rises per cost rank the masks as the values in `settled` do.

        A mask's loss is increased only if the mask's rise per cost is higher in `settled` than in `scores`.
        """
        if self.rise is None or self.base is None:
            return dict(settled)
        losses, last = {}, -math.inf
        for score in sorted(scores, key=lambda score: settled[score.mask]):
            mask, loss = score.mask, score.loss
            if settled[mask] > self.of(score).loss:
                raised = self.base.loss + settled[mask] * self.rise.costs[mask] / self.unit
                loss = self._above(last, mask, max(loss, raised))
            losses[mask], last = loss, max(last, self.rate(mask, loss))
        return losses

    def least_above(self, rate: float, mask: Mask) -> float:
        """The lowest loss with which `mask` would have a compared value above `rate`."""
        more = math.nextafter(rate, math.inf)
        if self.rise is None or self.base is None:
            return more
        return self._above(rate, mask, self.base.loss + more * self.rise.costs[mask])

    def _above(self, rate: float, mask: Mask, loss: float) -> float:
        while self.rate(mask, loss) <= rate:
            loss = math.nextafter(loss, math.inf)
        return loss


# Near ties.
#
# In bfloat16, rounding makes a loss depend on the order of a processor's additions. If two losses differ by less than
# this rounding, two processors can choose different masks, and then their later choices differ. Such masks are scored
# again in float32, where rounding is 10,000 times smaller. The search gets losses in the order of the float32 losses.
#
# Rounding changes the losses of all masks similarly, so only its effect on the difference of two masks
# counts. For sample s, let d_s be the difference of the two masks' terms in half precision minus this
# difference in float32. `rounding` is the root mean square of mean(d), or of the standard error of this mean,
# whichever is larger, over all pairs measured so far. A choice is settled by these rules:
#
#     Let c be the worst chosen mask. If the best rejected mask is farther from c than FAR times the rounding,
#     nothing is scored in float32. Otherwise, rounding is measured on c and the mask nearest to c: if there are
#     many samples, on a part of them. Then c and all masks within NEAR times the rounding are scored in float32
#     on all samples, rounding is measured again, and these float32 losses decide the choice.
#
# From m of n samples, mean(d)^2 is estimated as its value on the m samples minus var(d) (1/m - 1/n).
#
# No settled loss is lower than the mask's own loss, so settled losses can be compared with other masks'
# losses. A search that uses each loss, such as a genetic search, can take another path on another processor.
# For such searches, only the final mask is compared with the other masks of its size.

NEAR, FAR = 3, 6
PART = 6  # samples on which a pair of masks is first scored in float32, or an eighth of all samples if that is more


@dataclass(frozen=True)
class FloatLoss:
    """The losses in float32, which `make` returns (None: not available), and the journal of their scores."""

    make: Callable[[], Losses | None]
    journal: Journal

    def scores(self, masks: Sequence[Mask], samples: int) -> list[Score] | None:
        """Scores over at least the first samples; None if some are in no journal and float32 is not available."""
        scores = self.journal.scores

        def missing() -> list[Mask]:
            return [m for m in dict.fromkeys(masks) if m not in scores or len(scores[m].samples) < samples]

        for score in self.journal.find(missing()):
            self.journal.add(score)
        if rest := missing():
            if (losses := self.make()) is None:
                return None
            ScoreBook(losses, self.journal, self.journal, lambda *_: None).scores(rest, samples)
        return [scores[mask] for mask in masks]


@dataclass
class Settler:
    """Settles and counts a search's near ties. For each choice, at most `most` masks are scored in float32.

    Without `single`, no near tie is settled. If float32 scores were needed and not available, `unmeasured` is true.
    """

    most: int
    single: FloatLoss | None
    estimate: Estimate
    measured: dict[tuple[Mask, Mask], tuple[float, float]] = field(default_factory=dict)  # mean(d)^2, error^2
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("settled", "changed", "open"), 0))
    unmeasured: bool = False

    @property
    def rounding(self) -> float:
        """How much rounding changes the difference of two masks' losses; 0 also if it has not been measured yet."""
        return math.sqrt(np.mean([*self.measured.values()] or [(0.0, 0.0)], axis=0).max())

    @property
    def reach(self) -> float:
        """Two masks are a near tie if their losses differ by at most this value, which can grow during a search."""
        return max(NEAR * self.rounding, self.estimate.ties)

    def losses(self, scores: Sequence[Score], best: int, view: View) -> dict[Mask, float]:
        """The losses by which a search chooses its `best` masks.

        Masks have their own losses, except in a near tie: there, losses are raised until they are in the order of
        the float32 losses. Masks with equal float32 losses stay in the order of `scores`. All losses, given and
        returned, are the values that `view` compares.
        """
        losses = {score.mask: score.loss for score in scores}
        ranked = sorted(scores, key=lambda score: score.loss)
        if not (exact := self._among(ranked, best, view)):
            return losses
        self.counts["open"] += len(self._near(ranked[best - 1], ranked)) > self.most
        position, last = {mask: i for i, mask in enumerate(losses)}, -math.inf
        for mask in sorted(exact, key=lambda mask: (exact[mask], position[mask])):
            last = losses[mask] = max(losses[mask], math.nextafter(last, math.inf))
        chosen = {score.mask for score in ranked[:best]}
        changed = chosen != set(sorted(losses, key=losses.__getitem__)[:best])
        self.counts["changed"] += changed
        self.counts["settled"] += changed or ranked[best].loss - ranked[best - 1].loss <= self.reach
        return losses

    def reach_in(self, scores: Sequence[Score], best: int, view: View) -> float:
        """The value of `reach` after the choice of the `best` masks among `scores` has been settled."""
        self._among(sorted(scores, key=lambda score: score.loss), best, view)
        return self.reach

    def end(self, winner: Score, others: Sequence[Score]) -> None:
        """Count the final choice as open if a mask in `others` is so near that it could win on another processor."""
        rest = [score for score in others if score.mask != winner.mask]
        lead = min((abs(score.loss - winner.loss) for score in rest), default=math.inf)
        exact = self._exact(winner, rest, lead, View(self.estimate))
        if exact and (len(self._near(winner, rest)) >= self.most or min(exact.values()) < exact[winner.mask]):
            self.counts["open"] += 1

    def record(self) -> NearTiesRecord | None:
        """The record of near ties for a result; None if the search did not look for them."""
        if self.single is None:
            return None
        rounding = None if self.unmeasured else self.rounding
        return cast(NearTiesRecord, self.counts | {"rounding": rounding})

    def _among(self, ranked: Sequence[Score], best: int, view: View) -> dict[Mask, float]:
        """The float32 losses that decide the choice of the `best` ranked masks; empty if none are needed."""
        if not 0 < best < len(ranked):
            return {}
        last = ranked[best - 1]
        others = [score for score in ranked if score is not last]
        return self._exact(last, others, ranked[best].loss - last.loss, view)

    def _exact(self, last: Score, others: Sequence[Score], lead: float, view: View) -> dict[Mask, float]:
        """The float32 losses of `last`, the worst chosen mask, and of masks near it; empty if all others are far.

        `lead` is the difference in loss between `last` and the nearest mask that can replace it.
        """
        far = max(FAR * self.rounding, self.estimate.ties)
        if self.single is None or not others or (self.rounding and lead > far):
            return {}
        nearest = sorted(others, key=lambda score: abs(score.loss - last.loss))
        exact, count, samples = dict[Mask, float](), 0, self.estimate.count
        part = max(PART, samples // 8)
        few = 2 * part > samples or len(self.estimate.shares) > 1
        if not few and (last.mask, nearest[0].mask) not in self.measured:
            self._measure(last, nearest[:1], view, part)
        # The reach can grow with each measurement. With few samples, the first pair is measured here.
        while count < (wanted := max(int(few), min(len(self._near(last, others)), self.most - 1))):
            count = wanted
            exact = self._measure(last, nearest[:count], view, samples)
        return exact

    def _near(self, last: Score, others: Iterable[Score]) -> list[Score]:
        reach = self.reach
        return [score for score in others if abs(score.loss - last.loss) <= reach]

    def _measure(self, last: Score, others: Sequence[Score], view: View, samples: int) -> dict[Mask, float]:
        """The masks' float32 losses over the first samples (none if unavailable); measures pairs with `last`."""
        assert self.single is not None
        masks, estimate = [score.mask for score in (last, *others)], self.estimate
        bases = [] if view.base is None else [view.base.mask]
        if (known := self.single.scores([*bases, *masks], samples)) is None:
            self.unmeasured = True
            return {}
        singles, share = [estimate.first(single, samples) for single in known], samples / estimate.count
        exact = replace(view, base=singles[0]) if bases else view
        found = [exact.of(single) for single in singles[len(bases) :]]
        pairs = zip((last, *others), found, strict=True)
        off = [np.subtract(half.samples[:samples], single.samples) for half, single in pairs]
        for mask, moved in zip(masks[1:], ((one - off[0]).tolist() for one in off[1:]), strict=True):
            square, error = estimate.mean(moved) ** 2, estimate.error(moved) ** 2
            self.measured[last.mask, mask] = square - (1 - share) * error, share * error
        return {single.mask: single.loss for single in found}


# Whether the winner of a search is significantly better than the runner-up and the other masks.
#
# A loss is a mean over samples. Two masks are compared by the paired differences of their terms, over the samples on
# which both were scored. If samples disagree about which mask is better, the difference of the means can be chance.

# Significance level: a mask that is not significantly worse than the winner at this level is a tie.
LEVEL = 0.05
LISTED = 100  # a result lists at most this many ties, but always states the exact number of all ties


@dataclass(frozen=True)
class Comparison:
    """A mask compared with a better one over `samples` samples.

    `difference` is the mean paired difference of their terms (this mask minus the better one). `error` is its
    standard error, with `freedom` degrees of freedom.
    """

    score: Score
    difference: float
    error: float
    freedom: float
    samples: int

    @property
    def p_value(self) -> float:
        """The probability of a difference at least this large if the mask is not worse: a one-sided Student's t test.

        If there is only one sample, or only one for a part of a combined objective, the p-value is 1.
        """
        from scipy.special import stdtr  # fifty times faster than scipy.stats.t for single numbers

        if self.freedom == 0:
            return 1.0
        if self.error == 0:
            return 1.0 if self.difference <= 0 else 0.0
        return float(stdtr(self.freedom, -self.difference / self.error))

    def to_json(self) -> ComparisonRecord:
        """The record of this comparison for a result."""
        return {
            "dropped": self.score.mask.listed(),
            "difference": self.difference,
            "standard_error": self.error if self.freedom else None,
            "samples": self.samples,
        }


def compare(better: Score, score: Score, estimate: Estimate) -> Comparison:
    """Compare a mask with a better mask over the samples on which both were scored."""
    count = min(len(better.samples), len(score.samples))
    terms = estimate.differences(score.samples[:count], better.samples[:count])
    return Comparison(score, estimate.mean(terms), estimate.error(terms), estimate.freedom(terms), count)


def margins(winner: Score, others: Sequence[Score], estimate: Estimate) -> MarginsRecord:
    """The runner-up and the ties of a winner among `others`, which are complete masks of the same space.

    A tie is a mask that is not significantly worse than the winner at LEVEL, after Holm's correction for all masks
    compared. The runner-up is the mask closest to the winner in loss among the masks that were scored on all samples;
    if there are no such masks, among the masks that were scored on a part of the samples.
    """
    compared = [compare(winner, score, estimate) for score in others if score.mask != winner.mask]
    compared.sort(key=lambda comparison: (comparison.score.of is not None, comparison.difference))
    if not compared:
        return {"compared": 0, "runner_up": None, "tied": 0, "ties": []}
    corrected = holm([comparison.p_value for comparison in compared])
    ties = [c for c, p in zip(compared, corrected, strict=True) if p >= LEVEL]
    return {
        "compared": len(compared),
        "runner_up": {**compared[0].to_json(), "p_corrected": corrected[0]},
        "tied": len(ties),
        "ties": [comparison.score.mask.listed() for comparison in ties[:LISTED]],
    }


def certainty(found: MarginsRecord) -> str:
    """A text on how certain a mask is: its runner-up, its ties, and the choices that rounding may have decided."""
    if (second := found["runner_up"]) is None:
        return "no other mask of this size was scored"
    near = found.get("near_ties", {"open": 0})["open"]
    return (
        f"runner-up {' '.join(map(str, second['dropped']))} at {second['difference']:+.4f} "
        f"{plus_minus(second['standard_error'])}, "
        f"{found['tied']} of {found['compared']} compared masks not significantly worse"
        + (f", {near} choice{'s' * (near != 1)} closer than the rounding" if near else "")
    )


def decision(
    finished: Sequence[Score], out: Sequence[Score], best: int, estimate: Estimate
) -> DecisionRecord | None:
    """Compare the worst of the `best` chosen masks with the rejected mask that is closest to it in loss.

    The masks in `finished` were scored in full; the masks in `out` were ruled out by a race. Returns None if
    all masks are chosen.
    """
    count = len(finished) + len(out)
    if best >= count:
        return None
    ranked = sorted(finished, key=lambda score: score.loss)
    chosen = ranked[best - 1]
    rejected = (compare(chosen, score, estimate) for score in [*ranked[best:], *out])
    following = min(rejected, key=lambda comparison: comparison.difference)
    return {"best": best, "of": count, "chosen": chosen.mask.listed(), "next": following.to_json()}


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, in the same order, corrected for multiple comparisons (Holm 1979)."""
    values, order = np.array(p_values), np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    values[order] = np.minimum(raised, 1.0)
    return [float(value) for value in values]
