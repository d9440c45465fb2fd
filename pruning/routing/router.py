"""A router: from prompts to predicted log-likelihoods under each set, and to the set that is predicted best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.calibration.items import check_template
from pruning.core.errors import DamagedError, InputError, first_line
from pruning.core.mask import Mask, whole_numbers
from pruning.routing.encoders import Encoder
from pruning.routing.head import Head, fit_head
from pruning.routing.prompts import first_blocks
from pruning.routing.scores import Floats, Numbers
from pruning.routing.settings import RouterSettings


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
