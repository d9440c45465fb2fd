"""Answer requests. If only the best masks matter, rule others out by bounds or in a race, and settle near ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from pruning.algo import Ask, Rise
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.records import DecisionRecord, NearTiesRecord
from pruning.core.scoring import Estimate, Score
from pruning.objective import Loss
from pruning.search.journal import Journal, KnownScores, ScoreBook
from pruning.search.significance import decision


@dataclass
class Choice:
    """Answers the requests of a search, and notes how it has decided.

    If not `bounding`, every loss that is asked for is computed, also if a bound would do. A request can go on with
    an earlier one, as in lazy rounds. `ruled_out` has the masks that the requests of such a round have ruled out, and
    on how many samples each was scored. What is in the journal does not say that: an earlier run or another cell may
    have scored a mask on more samples.
    """

    book: ScoreBook
    racing: Racing
    settler: Settler
    bounding: bool = True
    decisions: list[DecisionRecord] = field(default_factory=list)
    ruled_out: dict[Mask, int] = field(default_factory=dict)
    estimated: dict[Mask, float] = field(default_factory=dict)

    def answer(self, request: Ask) -> list[float]:
        """Losses of the masks of a request, in order.

        If a race or a bound has ruled a mask out, its loss is infinite, or an estimate if the request asks for
        `estimates`. If only the best masks matter, near ties are settled first; see `near_ties.py`.
        """
        self.book.count_asked(request.masks, request.samples)
        if request.samples is not None or request.best is None:
            return [score.loss for score in self.book.scores(request.masks, request.samples)]
        losses = self._losses(request, request.best)
        return [losses.get(mask, math.inf) for mask in [*request.known, *request.masks]]

    def _losses(self, request: Ask, best: int) -> dict[Mask, float]:
        """The losses by which the `best` masks of a request are chosen. Masks that are ruled out have none.

        If the request asks for estimates, they have an estimate, which is above the losses of the chosen ones.
        """
        if not request.known:
            self.ruled_out, self.estimated = {}, {}
        rising = None
        if request.rise is not None:
            rising = Rising(request.rise, self._whole(request.rise.base), self.estimate)
        known = [mask for mask in request.known if mask not in self.ruled_out]
        bounds = self._bounds(known, request, best)
        raced = self._raced([*known, *request.masks], bounds, best, rising)
        self.ruled_out |= raced.out
        rises = self.settler.losses(list(raced.finished.values()), best, rising)
        self._record(request, best, [replace(s, loss=rises[s.mask]) for s in raced.finished.values()], rising)
        losses = rises
        if rising is not None:
            losses = rising.losses([self._whole(mask) for mask in raced.finished], rises)
        if request.estimates:
            self._estimate(raced, bounds, known)
            floor = _floor(losses, best, rising)
            losses |= {mask: max(loss, floor(mask)) for mask, loss in self.estimated.items()}
        return losses

    def _raced(
        self, masks: Sequence[Mask], bounds: Mapping[Mask, Score], best: int, rising: Rising | None
    ) -> Raced:
        """Score those masks that neither bounds nor a race rule out."""

        def scorer(masks: Sequence[Mask], samples: int | None = None) -> list[Score]:
            scores = self.book.scores(masks, samples)
            return scores if rising is None else [rising.view(score) for score in scores]

        if not bounds:
            return self.racing.race(masks, best, self.estimate, scorer)
        if rising is not None:
            bounds = {mask: rising.view(bound) for mask, bound in bounds.items()}

        def slack(worst: Score) -> float:
            return max(SLACK, self.settler.reach_at(worst, rising))

        finished = bounded(bounds, best, scorer, slack)
        return Raced(finished, {mask: 0 for mask in masks if mask not in finished})

    def _bounds(self, known: Sequence[Mask], request: Ask, best: int) -> dict[Mask, Score]:
        """Lower bounds of the scores of a request's masks, or full scores that are known; empty without bounds.

        In a race they are of no use: few candidates are ruled out earlier by the bounds of a part of the samples.
        """
        loss, masks = self.book.losses.whole, [*known, *request.masks]
        if loss.bounds is None or not self.bounding or self.racing.delta is not None or best >= len(masks):
            return {}
        own, scores = self.book.known.bounds.scores, {mask: self._whole(mask) for mask in known}
        # Estimates must not depend on what other cells have scored; without estimates, the choice does not.
        if not request.estimates:
            unknown = [mask for mask in masks if mask not in own]
            self.book.look_up(unknown, self.book.samples)
            journal = self.book.journal.scores
            scores |= {m: journal[m] for m in unknown if m in journal and journal[m].of is None}
        missing = [mask for mask in masks if mask not in scores]
        share, noted = not request.estimates, self.book.progressed
        found = lower_bounds(missing, loss, self.book.known, share, noted)
        return {mask: (scores | found)[mask] for mask in masks} if found else {}

    def _record(self, request: Ask, best: int, settled: Sequence[Score], rising: Rising | None) -> None:
        """Note the decision, in place of that of the request which this one goes on with."""
        if request.known and self.decisions:
            self.decisions.pop()
        journal = self.book.journal.scores
        out = [self.book.first(journal[mask], samples) for mask, samples in self.ruled_out.items() if samples]
        skipped = request.rest + len(self.ruled_out) - len(out)
        out = out if rising is None else [rising.view(score) for score in out]
        if (record := decision(settled, out, best, self.estimate)) is not None:
            self.decisions.append(record | {"skipped": skipped} if skipped else record)

    def _estimate(self, raced: Raced, bounds: Mapping[Mask, Score], known: Sequence[Mask]) -> None:
        """Estimate the losses of masks that a request has ruled out.

        If a mask is ruled out by its bound, this is as far below its loss as those of other masks, on average. In a
        race, the mask and the best one are compared on the samples on which the mask was scored.
        """
        finished, whole = [self._whole(mask) for mask in raced.finished], set(known)
        gap = mean_gap(finished, self.book.known.bounds.scores)
        best = min(finished, key=lambda score: score.loss)
        for mask, samples in raced.out.items():
            if mask in whole:  # scored in full by an earlier request of this round, and now ruled out
                self.estimated[mask] = self._whole(mask).loss
            elif not samples:
                self.estimated[mask] = bounds[mask].loss + gap
            else:
                terms = self.book.journal.scores[mask].samples[:samples]
                differences = [term - other for term, other in zip(terms, best.samples, strict=False)]
                self.estimated[mask] = best.loss + self.estimate.mean(differences)

    @property
    def estimate(self) -> Estimate:
        """How a loss follows from its terms."""
        return self.book.losses.whole.estimate

    def _whole(self, mask: Mask) -> Score:
        (score,) = self.book.scores([mask])
        return score


def _floor(losses: Mapping[Mask, float], best: int, rising: Rising | None) -> Callable[[Mask], float]:
    """The lowest loss of each mask that is not among the `best`, of which there are the `losses`."""
    if rising is None:
        worst = sorted(losses.values())[min(best, len(losses)) - 1]
        return lambda _: math.nextafter(worst, math.inf)
    rates = sorted(rising.rise.rate(mask, loss, rising.base.loss) for mask, loss in losses.items())
    rate = rates[min(best, len(rates)) - 1]

    def lowest(mask: Mask) -> float:
        loss = rising.base.loss + math.nextafter(rate, math.inf) * rising.rise.costs[mask]
        while rising.rise.rate(mask, loss, rising.base.loss) <= rate:
            loss = math.nextafter(loss, math.inf)
        return loss

    return lowest


# Rule out masks by lower bounds of their losses.
#
# Let L be the `best`-th lowest loss of the masks that are scored so far; the first are those of lowest bound. A
# mask whose bound is above L, by more than rounding, is not among the `best`, so its loss is not computed. For all
# others it is, and the choice follows the losses. So the `best` masks are those that all losses would choose.
#
# Bounds are kept in a journal, so that a resumed search rules out the same masks.

# Nats. Bounds are computed by other products than losses and are rounded differently, and the losses of near ties are
# needed as well (`near_ties.py`).
SLACK = 0.02


def bounded(
    bounds: Mapping[Mask, Score],
    best: int,
    scorer: Callable[[Sequence[Mask]], Sequence[Score]],
    slack: Callable[[Score], float] = lambda _: SLACK,
) -> dict[Mask, Score]:
    """The scores of the masks that their bounds do not rule out, in the order of `bounds`.

    A mask is ruled out if its bound is more than `slack(score)` above the score of the last of the `best`. One
    rejected mask is always scored, so that the lead of the chosen ones is known.
    """
    order = sorted(bounds, key=lambda mask: bounds[mask].loss)
    left, order = order[: best + 1], order[best + 1 :]
    scores: dict[Mask, Score] = {}
    while left:
        scores |= {score.mask: score for score in scorer(left)}
        worst = sorted(scores.values(), key=lambda score: score.loss)[best - 1]
        limit = worst.loss + slack(worst)
        left = [mask for mask in order if mask not in scores and bounds[mask].loss <= limit]
    return {mask: scores[mask] for mask in bounds if mask in scores}


def lower_bounds(
    masks: Sequence[Mask], loss: Loss, known: KnownScores, share: bool, noted: Callable[[], None]
) -> dict[Mask, Score]:
    """Scores that are at most those of the masks; empty if there are none.

    They are taken from the cell's journal and, if `share`, from those of other cells. Others are computed, and
    `noted` is called after each.
    """
    journal = known.bounds
    if share:
        for score in known.find_bounds([mask for mask in masks if mask not in journal.scores]):
            journal.add(score)
    missing = [mask for mask in masks if mask not in journal.scores]
    for mask, terms, seconds in loss.bounds(missing) if loss.bounds is not None and missing else ():
        journal.add(Score(mask, loss.estimate.mean(terms), tuple(terms), seconds))
        noted()
    if any(mask not in journal.scores for mask in masks):
        return {}
    return {mask: journal.scores[mask] for mask in masks}


def mean_gap(scores: Sequence[Score], bounds: Mapping[Mask, Score]) -> float:
    """How far the losses of masks are above their bounds, on average; 0 if no bounds are known."""
    gaps = [score.loss - bounds[score.mask].loss for score in scores if score.mask in bounds]
    return math.fsum(gaps) / len(gaps) if gaps else 0.0


# Racing: stop scoring candidates that, at a stated confidence, are not among the best.
#
# The candidates are ranked by loss after n samples, for a few increasing numbers n. Each such ranking is a look.
# Only the `best` candidates of lowest loss matter; let b be the worst of these. Each candidate c that ranks after b
# is compared with b by the paired differences of their terms, d_s = t_s(c) - t_s(b). If there are m candidates, and
# r looks before the last sample, c is ruled out if
#
#     mean(d)  >  q * se(d)        q: the 1 - delta / (r * (m - best)) quantile of Student's t
#
# The aim is to compare the candidates on all S samples, not on an infinite population. The samples are in random
# order (`Samples.shuffled`). So the standard error se includes the finite-population correction sqrt(1 - n / S). A
# truly best candidate is lost only through a false alarm. There are at most r * (m - best) comparisons, so by
# Bonferroni's inequality the probability of a false alarm is at most about delta per batch. The bound is only
# "about" delta because the terms are not normally distributed. For the same reason, no look is taken before `first`
# samples.
#
# The usual successive halving compares unpaired means. It often loses the winner, because a loss varies less between
# candidates than between samples.

# scorer(masks, n): the scores of the masks, in their order, over the first n samples.
Scorer = Callable[[Sequence[Mask], int], Sequence[Score]]


@dataclass(frozen=True)
class Raced:
    """The full scores of the masks that are left.

    `out` says on how many samples each of the others was scored before it was ruled out: 0 if that took only a bound.
    """

    finished: dict[Mask, Score]
    out: dict[Mask, int]


@dataclass
class Racing:
    """Settings of a race; if `delta` is None, racing is off.

    The first look is taken after `first` samples. From one look to the next, the number of samples grows by a factor
    of 1.5 (rounded down).
    """

    delta: float | None = None
    first: int = 8

    def check(self) -> None:
        """Raise InputError if a number is out of range.

        This is a separate method because OmegaConf does not call __init__.
        """
        if self.delta is not None and not 0 < self.delta < 1:
            raise InputError(
                f"racing.delta={self.delta:g} is not between 0 and 1: choose a probability such as 0.01, or null."
            )
        if self.first < 2:
            raise InputError(f"racing.first={self.first} is too few to estimate an error: choose at least 2.")

    def looks(self, samples: int) -> list[int]:
        """The numbers of samples after which candidates can be ruled out."""
        looks, following = [], self.first
        while following < samples:
            looks.append(following)
            following = following * 3 // 2
        return looks

    def race(self, masks: Sequence[Mask], best: int, estimate: Estimate, scorer: Scorer) -> Raced:
        """Score all masks that are not ruled out. At least `best` of them are left (or all, if fewer)."""
        alive, out = list(masks), dict[Mask, int]()
        looks = self.looks(estimate.count) if self.delta is not None and best < len(masks) else []
        for samples in looks:
            scores = scorer(alive, samples)
            alive = self._survivors(scores, best, estimate, len(masks) - best, len(looks))
            left = set(alive)
            out |= {score.mask: len(score.samples) for score in scores if score.mask not in left}
            if len(alive) == best:
                break
        return Raced({score.mask: score for score in scorer(alive, estimate.count)}, out)

    def _survivors(
        self, scores: Sequence[Score], best: int, estimate: Estimate, others: int, looks: int
    ) -> list[Mask]:
        """The masks that one look does not rule out. All `scores` are over the same samples."""
        from scipy.stats import t

        assert self.delta is not None
        ranked = sorted(scores, key=lambda score: score.loss)
        last, kept = ranked[best - 1], ranked[:best]
        for score in ranked[best:]:
            terms = estimate.differences(score.samples, last.samples)
            error, freedom = estimate.error(terms, whole=estimate.count), estimate.freedom(terms)
            # With 0 degrees of freedom, the error is unknown and nothing is ruled out.
            if freedom == 0 or estimate.mean(terms) <= error * t.isf(self.delta / (looks * others), freedom):
                kept.append(score)
        left = {score.mask for score in kept}
        return [score.mask for score in scores if score.mask in left]


# Compare scores by the rise of the loss per cost, so that races, near ties and tests see rises in place of losses.
#
# A search on a budget ranks masks by (loss - loss of a base mask) / cost. Each term of a score is changed in the
# same way, so standard errors and paired differences follow. Costs are counted in multiples of the least cost of a
# request. So a rise is never larger than the difference of losses that it comes from, and tolerances of losses hold
# for it.

View = Callable[[Score], Score]


@dataclass(frozen=True)
class Rising:
    """Rises per cost since a base mask, whose full score is `base`."""

    rise: Rise
    base: Score
    estimate: Estimate

    @property
    def unit(self) -> float:
        """The least cost of the masks that are compared."""
        return min(self.rise.costs.values())

    def view(self, score: Score) -> Score:
        """The score of a mask with rises per cost in place of losses."""
        share = self.unit / self.rise.costs[score.mask]
        before = self.base.samples[: len(score.samples)]
        terms = tuple((term - old) * share for term, old in zip(score.samples, before, strict=True))
        base = self.base.loss if score.of is None else self.estimate.mean(before)
        return replace(score, loss=self.rise.rate(score.mask, score.loss, base) * self.unit, samples=terms)

    def losses(self, scores: Sequence[Score], settled: Mapping[Mask, float]) -> dict[Mask, float]:
        """Losses of masks whose rises per cost are in the order of `settled`, which raised some of the rises.

        A rise that was not raised belongs to the mask's own loss.
        """
        losses, last = {}, -math.inf
        for score in sorted(scores, key=lambda score: settled[score.mask]):
            mask, loss = score.mask, score.loss
            if settled[mask] > self.view(score).loss:
                loss = max(loss, self.base.loss + settled[mask] * self.rise.costs[mask] / self.unit)
                while self.rise.rate(mask, loss, self.base.loss) <= last:
                    loss = math.nextafter(loss, math.inf)
            losses[mask], last = loss, max(last, self.rise.rate(mask, loss, self.base.loss))
        return losses


# Settle near ties in float32.
#
# In bfloat16, a loss depends on the order in which a processor adds, so another processor computes a slightly
# different loss. If two masks differ by less than that, the two processors can choose different masks, and all
# later choices follow. Such masks are scored again in float32, where rounding is 10,000 times smaller, and the
# search gets losses in the order of the float32 losses.
#
# How far rounding moves a difference of two losses is measured. For each mask with both losses, let d_s be the
# difference of the two terms of sample s. Rounding moves the loss of a mask by about se(d), the standard error of
# the mean of d, and a difference of two losses by sqrt(2) times as much. Masks are near if they differ by at most
# three times that.
#
# A search gets no loss that is lower than the mask's own, so settled losses can be compared with those of other
# masks. Searches that follow each loss, such as a genetic search, can take another path on another processor. For
# them, only the final mask is compared with the other masks of its size.

NEAR = 3 * math.sqrt(2)  # standard errors of rounding within which two losses are near


@dataclass
class NearTies:
    """Settings of how near ties are settled.

    At most `most` masks of a decision are scored again; 0 settles no ties.
    """

    most: int = 8

    def check(self) -> None:
        """Raise InputError if `most` is negative or 1.

        This is a separate method because OmegaConf does not call __init__.
        """
        if self.most < 0 or self.most == 1:
            raise InputError(
                f"near_ties.most={self.most} cannot settle a tie: choose 2 or more masks, or 0 to settle none."
            )


@dataclass(frozen=True)
class FloatLoss:
    """The loss in float32 and the journal of its scores. `make` returns None if float32 is not available."""

    make: Callable[[], Loss | None]
    journal: Journal

    @cached_property
    def loss(self) -> Loss | None:
        """The loss, made on first use; it holds a float32 copy of the model until `free`."""
        return self.make()

    def free(self) -> None:
        """Free the float32 copy of the model; the loss is made again when it is needed."""
        self.__dict__.pop("loss", None)

    def scores(self, masks: Sequence[Mask]) -> list[Score] | None:
        """Full scores of the masks, or None if some are not in the journal and cannot be computed."""
        missing = [mask for mask in masks if mask not in self.journal.scores]
        if missing:
            if self.loss is None:
                return None
            for score in self.loss(missing):
                self.journal.add(score)
        return [self.journal.scores[mask] for mask in masks]


@dataclass
class Settler:
    """Settles the near ties of one search, and counts them. Without `single`, every near tie stays as it is."""

    settings: NearTies
    single: FloatLoss | None
    estimate: Estimate
    rounding: float = 0.0  # the largest se(d) so far
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("settled", "changed", "open"), 0))
    unmeasured: bool = False

    def begin(self, dense: Mask, resumed: bool) -> None:
        """Decide once for a search whether float32 is used, so that a search that was killed goes on in the same way.

        The dense model is scored in float32 before any other score. If a resumed search has no float32 scores, it
        began without float32, for example because there was no memory for it.
        """
        if self.settings.most == 0 or self.single is None:
            self.single = None
        elif (resumed and not self.single.journal.scores) or self.single.scores([dense]) is None:
            self.single, self.unmeasured = None, True
        self._free()

    def losses(self, scores: Sequence[Score], best: int, rising: Rising | None = None) -> dict[Mask, float]:
        """The losses by which a search chooses the `best` masks of lowest loss among fully scored masks.

        They are the masks' own losses, except that near masks are raised until they are in the order of their float32
        losses. Equal ones are in the order of `scores`. If `rising` is given, `scores` are its views, and losses are
        rises per cost.
        """
        try:
            return self._losses(scores, best, rising)
        finally:
            self._free()

    def _losses(self, scores: Sequence[Score], best: int, rising: Rising | None) -> dict[Mask, float]:
        losses = {score.mask: score.loss for score in scores}
        ranked = sorted(scores, key=lambda score: score.loss)
        if not 0 < best < len(ranked) or self._measure([ranked[best - 1]], rising) is None:
            return losses
        near = self._near(ranked, best)
        if not near or (single := self._measure(near, rising)) is None:
            return losses
        chosen, position = {score.mask for score in ranked[:best]}, {m: i for i, m in enumerate(losses)}
        last = -math.inf
        for _, _, mask in sorted(
            (loss, position[s.mask], s.mask) for loss, s in zip(single, near, strict=True)
        ):
            last = losses[mask] = max(losses[mask], math.nextafter(last, math.inf))
        self.counts["settled"] += 1
        self.counts["changed"] += chosen != set(sorted(losses, key=losses.__getitem__)[:best])
        return losses

    def end(self, winner: Score, others: Sequence[Score]) -> None:
        """Count the final choice as open if a near mask of the same size could win on another processor.

        `others` are fully scored.
        """
        if self._measure([winner]) is None:
            return
        near = [s for s in others if s.mask != winner.mask and abs(s.loss - winner.loss) <= self.reach]
        near.sort(key=lambda score: abs(score.loss - winner.loss))
        compared = [winner, *near[: self.settings.most - 1]]
        single = self._measure(compared)
        if single is None or len(near) >= self.settings.most or min(single) < single[0]:
            self.counts["open"] += 1
        self._free()

    def _free(self) -> None:
        """Free the float32 copy of the model: no near tie is open any more."""
        if self.single is not None:
            self.single.free()

    def record(self) -> NearTiesRecord | None:
        """What a result records; None if near ties were not looked for."""
        if self.single is None and not self.unmeasured:
            return None
        settled, changed, left = (self.counts[name] for name in ("settled", "changed", "open"))
        rounding = None if self.unmeasured else self.rounding
        return {"settled": settled, "changed": changed, "open": left, "rounding": rounding}

    @property
    def reach(self) -> float:
        """The largest difference of two losses at which masks are near; it can grow during a search."""
        return max(NEAR * self.rounding, self.estimate.ties)

    def reach_at(self, score: Score, rising: Rising | None = None) -> float:
        """The same, as if this score were compared as well. The reach of other choices does not change."""
        singles = self._singles([score], rising)
        error = 0.0 if singles is None else self._error([score], singles)
        return max(self.reach, NEAR * error)

    def _measure(self, scores: Sequence[Score], rising: Rising | None = None) -> list[float] | None:
        """The float32 losses of some masks, or None. `rounding` grows to the largest error among them."""
        if (singles := self._singles(scores, rising)) is None:
            return None
        self.rounding = max(self.rounding, self._error(scores, singles))
        return [single.loss for single in singles]

    def _singles(self, scores: Sequence[Score], rising: Rising | None) -> list[Score] | None:
        """The float32 scores of some masks, or None."""
        if self.single is None:
            return None
        bases = [] if rising is None else [rising.base.mask]
        if (singles := self.single.scores([*bases, *(score.mask for score in scores)])) is None:
            self.unmeasured = True  # an earlier run had float32, and this one has not
            return None
        if rising is None:
            return singles
        rises = replace(rising, base=singles[0])
        return [rises.view(single) for single in singles[1:]]

    def _error(self, scores: Sequence[Score], singles: Sequence[Score]) -> float:
        """The largest se(d) of some masks, 0 if there are none."""
        pairs = zip(scores, singles, strict=True)
        off = ([a - b for a, b in zip(s.samples, single.samples, strict=True)] for s, single in pairs)
        return max(map(self.estimate.error, off), default=0.0)

    def _near(self, ranked: Sequence[Score], best: int) -> list[Score]:
        """The chosen and the rejected masks that rounding could exchange; empty if there are none.

        If there are more than `most`, the choice stays open, and only the nearest ones are returned.
        """
        last, following = ranked[best - 1].loss, ranked[best].loss
        inside = [score for score in ranked[:best] if following - score.loss <= self.reach]
        outside = [score for score in ranked[best:] if score.loss - last <= self.reach]
        if not inside or not outside:
            return []
        most = self.settings.most
        if len(inside) + len(outside) > most:
            self.counts["open"] += 1
            few = max(1, min(len(inside), most - min(len(outside), most // 2)))
            inside, outside = inside[-few:], outside[: most - few]
        return [*inside, *outside]
