"""A router: from prompts to predicted log-likelihoods under each set, and to the set that is predicted best."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.calibration.items import check_template
from pruning.core.errors import DamagedError, InputError, first_line
from pruning.core.mask import Mask, whole_numbers
from pruning.routing.encoders import Encoder
from pruning.routing.router_settings import RouterSettings
from pruning.routing.set_scores import (
    Floats,
    ItemScores,
    Numbers,
    Scores,
    at,
    best_sets,
    best_static,
    first_blocks,
)


@dataclass(frozen=True)
class FittedRouter:
    """`sets` maps the name of each set, that of its task, to its mask. `blocks` is what the encoder runs.

    `encoder_revision` identifies the files of a hub encoder; see `encoder_files`.
    """

    sets: Mapping[str, Mask]
    head: Head
    blocks: int
    template: str  # the wording of the prompts that it was trained on
    settings: RouterSettings
    encoder_revision: str | None = None

    def predict(self, encoder: Encoder, prompts: Sequence[str]) -> Floats:
        """The predicted log-likelihoods per token of the right answers (sets, prompts)."""
        return self.head.predict(encoder.encode(prompts)).T

    def record(self) -> dict[str, Any]:
        """The part of the router that JSON holds."""
        return {
            "sets": {name: mask.to_json() for name, mask in self.sets.items()},
            "blocks": self.blocks,
            "template": self.template,
            "settings": asdict(self.settings),
            "encoder_revision": self.encoder_revision,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FittedRouter:
        """The router of a record and of the arrays of its head.

        Raises DamagedError if something is missing, or is not as `record` and `Head.arrays` give it.
        """
        try:
            sets = {name: Mask.from_json(mask) for name, mask in record["sets"].items()}
            settings = RouterSettings(**record["settings"])
            settings.check()
            check_template("template", record["template"])
            if len({(mask.n_blocks, mask.unit) for mask in sets.values()}) != 1:
                raise ValueError(f"sets={list(sets)} are not masks over the same units")
            (blocks,) = whole_numbers([record["blocks"]])
            if blocks < 0:
                raise ValueError(f"blocks={blocks} is below 0")
            first_blocks(list(sets.values()), blocks)
            made = (blocks, record["template"], settings, record["encoder_revision"])
            return cls(sets, Head.of(arrays, len(sets)), *made)
        except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
            raise DamagedError(f"the router's files are damaged: {what}.") from error


def fit_router(
    sets: Mapping[str, Mask],
    features: Floats,
    targets: Floats,
    made: tuple[int, str],
    settings: RouterSettings,
    encoder_revision: str | None = None,
) -> FittedRouter:
    """Fit a router to features (prompts, F) and right answers' log-likelihoods (sets, prompts).

    `made` is how the features were made: the number of blocks and the wording of the prompts.
    """
    return FittedRouter(sets, fit_head(features, targets.T, settings), *made, settings, encoder_revision)


def explained(predicted: Floats, true: Floats) -> dict[str, float]:
    """The share of the variance (sets, prompts) that predictions explain: of the mean over sets, and of the rest.

    Below 0, the mean of the prompts would predict better. The rest alone decides the route.
    """
    parts = {"common": (predicted.mean(0), true.mean(0))}
    parts["relative"] = (predicted - predicted.mean(0), true - true.mean(0))
    return {name: _share(*part) for name, part in parts.items()}


def _share(predicted: Floats, true: Floats) -> float:
    spread = float(((true - true.mean(axis=-1, keepdims=True)) ** 2).sum())
    return 0.0 if spread == 0 else 1 - float(((true - predicted) ** 2).sum()) / spread


def routes(predicted: Floats) -> Numbers:
    """The set with the highest prediction for each prompt (prompts,), from predictions (sets, prompts)."""
    return np.asarray(predicted.argmax(axis=0))


# Predict the right answer's log-likelihood under each set from the features of a prompt.
#
# Source: PuDDing (arXiv 2502.04348) trains its router on the squared error of these log-likelihoods. The error is
# the sum of two parts that do not depend on each other: that of the mean over sets, which says how hard a prompt
# is, and that of the differences between sets, which alone decide the route. Each part gets a strength of its own.

STRENGTHS = np.logspace(0, 7, 22)  # ridge: candidates for cross-validation
DECAYS = np.logspace(-3, 3, 7)  # mlp: candidates for cross-validation
FOLDS = 5
PARTS = ("common", "relative")


@dataclass(frozen=True)
class Layers:
    """Linear layers with ReLU between them, on standardised features."""

    center: Floats
    scale: Floats
    weights: tuple[Floats, ...]  # (in, out)
    biases: tuple[Floats, ...]
    strength: float

    def predict(self, features: Floats) -> Floats:
        """The outputs (prompts, out)."""
        state = (features - self.center) / self.scale
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            state = state @ weight + bias
            state = state if number == last else np.maximum(state, 0.0)
        return np.asarray(state)

    def arrays(self, part: str) -> dict[str, NDArray[Any]]:
        """What a file holds."""
        layers = {f"{part}_weight{n}": weight for n, weight in enumerate(self.weights)}
        layers |= {f"{part}_bias{n}": bias for n, bias in enumerate(self.biases)}
        plain = {"center": self.center, "scale": self.scale, "strength": np.array(self.strength)}
        return layers | {f"{part}_{name}": value for name, value in plain.items()}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], part: str) -> Layers:
        """The inverse of `arrays`. Raises KeyError if something is missing, and ValueError if it does not fit."""
        count = sum(name.startswith(f"{part}_weight") for name in arrays)
        for name, values in arrays.items():
            if not (np.issubdtype(values.dtype, np.floating) and np.isfinite(values).all()):
                raise ValueError(f"{name} is not made of finite numbers")
        layers = cls(
            arrays[f"{part}_center"],
            arrays[f"{part}_scale"],
            tuple(arrays[f"{part}_weight{n}"] for n in range(count)),
            tuple(arrays[f"{part}_bias{n}"] for n in range(count)),
            float(arrays[f"{part}_strength"]),
        )
        widths = [layers.center.size, *(bias.size for bias in layers.biases)]
        wanted = [(widths[0],), (widths[0],), *((size,) for size in widths[1:]), *pairwise(widths)]
        found = [one.shape for one in (layers.center, layers.scale, *layers.biases, *layers.weights)]
        if not count or found != wanted or not layers.scale.all():
            raise ValueError(f"the arrays of {part} do not fit each other")
        return layers


@dataclass(frozen=True)
class Head:
    """Predicts log-likelihoods (prompts, sets) as the mean over sets and the differences from it."""

    common: Layers
    relative: Layers

    def predict(self, features: Floats) -> Floats:
        """The predicted mean log-likelihood per token of the right answer (prompts, sets)."""
        return self.common.predict(features) + self.relative.predict(features)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file holds."""
        return self.common.arrays("common") | self.relative.arrays("relative")

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], sets: int) -> Head:
        """The inverse of `arrays`, for a number of sets. Raises as `Layers.of` does."""
        common, relative = (Layers.of(arrays, part) for part in PARTS)
        outputs = common.biases[-1].size, relative.biases[-1].size
        if outputs != (1, sets) or common.center.size != relative.center.size:
            raise ValueError(f"the arrays predict for {outputs[1]} sets, and there are {sets}")
        return cls(common, relative)

    @property
    def width(self) -> int:
        """The number of features that it reads."""
        return int(self.common.center.size)


def fit_head(features: Floats, targets: Floats, settings: RouterSettings) -> Head:
    """Fit to features (prompts, F) and log-likelihoods (prompts, sets); cross-validation chooses the strengths."""
    fit = _ridge if settings.head == "ridge" else _mlp
    mean = targets.mean(axis=1, keepdims=True)
    return Head(fit(features, mean, settings), fit(features, targets - mean, settings))


def _ridge(features: Floats, targets: Floats, _: RouterSettings) -> Layers:
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    fitted = RidgeCV(STRENGTHS).fit(scaler.transform(features), targets)
    weight = np.atleast_2d(fitted.coef_).T.reshape(features.shape[1], -1)
    return Layers(
        scaler.mean_, scaler.scale_, (weight,), (np.atleast_1d(fitted.intercept_),), float(fitted.alpha_)
    )


def _mlp(features: Floats, targets: Floats, settings: RouterSettings) -> Layers:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import MLPRegressor
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    network = MLPRegressor(hidden_layer_sizes=(settings.hidden,), random_state=settings.seed, max_iter=300)
    single = targets.shape[1] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(
            network, {"alpha": DECAYS}, cv=min(FOLDS, len(features)), scoring="neg_mean_squared_error"
        ).fit(scaler.transform(features), targets[:, 0] if single else targets)
    best = search.best_estimator_
    weights, biases = tuple(best.coefs_), tuple(best.intercepts_)
    return Layers(scaler.mean_, scaler.scale_, weights, biases, float(search.best_params_["alpha"]))


# Ways to choose a set for a prompt, and how right each way answers every held-out item.

DENSE = "dense"
# In the order in which tables show them: the name, and what it chooses.
POLICIES = {
    DENSE: "no set: the whole model",
    "static": "the one set that is best on the calibration items",
    "hindsight": "the one set that is best on the held-out items",
    "own": "the set of the prompt's task, which must be known",
    "random": "each set with the same probability",
    "router": "the set that the router predicts best",
    "likeliest": "the set under which the right answer is likeliest: a router without error",
    "oracle": "for each prompt, the set that answers best",
}


@dataclass(frozen=True)
class Measured:
    """Scores of each task under the dense model (first) and then under each set; `own` is a task's set, from 0."""

    calibration: Scores
    heldout: Scores
    own: Mapping[str, int]

    @property
    def sets(self) -> int:
        """The number of sets."""
        return len(next(iter(self.heldout.values())).sums) - 1

    def of_sets(self, scores: Scores) -> dict[str, ItemScores]:
        """Scores under the sets, without the dense model."""
        return {task: one.take(range(1, 1 + self.sets)) for task, one in scores.items()}


def choices(measured: Measured, routed: Mapping[str, Numbers]) -> dict[str, dict[str, Numbers]]:
    """The set that each policy chooses for each item (items,), by policy and task; 0 is the dense model.

    `routed` are the router's choices, with sets counted from 0. `random` is left out, because it chooses all.
    """
    calibrated, held = measured.of_sets(measured.calibration), measured.of_sets(measured.heldout)
    static, hindsight = best_static(calibrated), best_static(held)
    found: dict[str, dict[str, Numbers]] = {name: {} for name in POLICIES if name != "random"}
    for task, scores in held.items():
        every = np.ones(scores.count, dtype=np.int64)
        found[DENSE][task] = 0 * every
        found["static"][task] = (1 + static) * every
        found["hindsight"][task] = (1 + hindsight) * every
        found["own"][task] = (1 + measured.own[task]) * every
        found["router"][task] = 1 + routed[task]
        found["likeliest"][task] = 1 + scores.loglikelihood.argmax(axis=0)
        found["oracle"][task] = 1 + best_sets(scores)
    return found


def values(
    measured: Measured, chosen: Mapping[str, Mapping[str, Numbers]], what: str
) -> dict[str, dict[str, Floats]]:
    """The accuracy ("hits") or the margin of every item (items,), by policy and task."""
    found: dict[str, dict[str, Floats]] = {name: {} for name in POLICIES}
    for task, scores in measured.heldout.items():
        table: Floats = getattr(scores, what)
        for name in POLICIES:
            every = name == "random"
            found[name][task] = table[1:].mean(axis=0) if every else at(table, chosen[name][task])
    return found


def counts(chosen: Mapping[str, Numbers], sets: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often a policy chose each set, by task; sets are counted from 1."""
    return {
        task: {name: int((of_task == number).sum()) for number, name in enumerate(sets, start=1)}
        for task, of_task in chosen.items()
    }
