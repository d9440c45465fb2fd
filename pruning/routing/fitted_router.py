"""A router: it predicts the right answer's log-likelihood under each set from the features of a prompt.

Source: PuDDing (arXiv 2502.04348) trains its router on the squared error of these log-likelihoods. The error is the
sum of two parts that do not depend on each other: that of the mean over sets, which says how hard a prompt is, and
that of the differences between sets, which alone decide the route. Each part gets a strength of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pruning.core.mask import Mask
from pruning.routing.encoders import Encoder
from pruning.routing.router_settings import RouterSettings
from pruning.routing.set_scores import Floats

STRENGTHS = np.logspace(0, 7, 22)  # ridge: candidates for cross-validation
DECAYS = np.logspace(-3, 3, 7)  # mlp: candidates for cross-validation
FOLDS = 5


@dataclass(frozen=True)
class FittedRouter:
    """`sets` maps the name of each set, that of its task, to its mask. `blocks` is what the encoder runs.

    `encoder_revision` identifies the files of a hub encoder; see `encoders.encoder_revision`.
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


@dataclass(frozen=True)
class Head:
    """Predicts log-likelihoods (prompts, sets) as the mean over sets and the differences from it."""

    common: Layers
    relative: Layers

    def predict(self, features: Floats) -> Floats:
        """The predicted mean log-likelihood per token of the right answer (prompts, sets)."""
        return self.common.predict(features) + self.relative.predict(features)

    @property
    def width(self) -> int:
        """The number of features that it reads."""
        return int(self.common.center.size)


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
    bias = np.atleast_1d(fitted.intercept_)
    return Layers(scaler.mean_, scaler.scale_, (weight,), (bias,), float(fitted.alpha_))


def _mlp(features: Floats, targets: Floats, settings: RouterSettings) -> Layers:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import MLPRegressor
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    network = MLPRegressor(hidden_layer_sizes=(settings.hidden,), random_state=settings.seed, max_iter=300)
    folds = min(FOLDS, len(features))
    search = GridSearchCV(network, {"alpha": DECAYS}, cv=folds, scoring="neg_mean_squared_error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(scaler.transform(features), targets[:, 0] if targets.shape[1] == 1 else targets)
    best = search.best_estimator_
    weights, biases = tuple(best.coefs_), tuple(best.intercepts_)
    return Layers(scaler.mean_, scaler.scale_, weights, biases, float(search.best_params_["alpha"]))
