"""A router: from a prompt's hidden states, it predicts the right answer's log-likelihood under each set.

Source: PuDDing (arXiv 2502.04348) trains its router on the squared error of these log-likelihoods. The error
has two independent parts: the error of the mean over sets, and the error of the differences from this mean.
The mean shows how hard a prompt is; only the differences decide the route. Each part has its own ridge strength.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pruning.calibration.item_files import FIELD, Item
from pruning.calibration.samples import Row
from pruning.calibration.text import start_tokens
from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, PruningError, first_line
from pruning.core.mask import Mask
from pruning.core.storage import file_sha256
from pruning.models.architecture import context_length_of
from pruning.routing.set_scores import Floats
from pruning.routing.task_study import TARGETS

if TYPE_CHECKING:
    from pruning.engine.forward import Forward
    from pruning.models.handle import Model
    from pruning.models.placement import LanguageModel


STRENGTHS = np.logspace(0, 7, 22)  # ridge strengths among which cross-validation chooses
SHARE = 4  # a router runs at most 1 / SHARE of the blocks


@dataclass(frozen=True)
class FittedRouter:
    """A router. `sets` maps each task's name to its mask; the first `blocks` blocks run to choose a prompt's mask."""

    sets: Mapping[str, Mask]
    head: Head
    blocks: int
    template: str  # the wording of the prompts that it was trained on
    target: str = "loglikelihood"  # what the router predicts

    def predict(self, encoder: StateEncoder, prompts: Sequence[str]) -> Floats:
        """The predicted log-likelihoods or negated margins of the right answers, of shape (sets, prompts)."""
        return self.head.predict(encoder.encode(prompts)).T


@dataclass(frozen=True)
class Head:
    """Predicts the mean over sets and each set's difference from it; their sum has the shape (prompts, sets)."""

    common: Ridge
    relative: Ridge

    def predict(self, features: Floats) -> Floats:
        """The predicted values of shape (prompts, sets), such as the right answer's mean log-likelihood per token."""
        return self.common.predict(features) + self.relative.predict(features)


@dataclass(frozen=True)
class Ridge:
    """A linear map of standardised features: `weight` has the shape (features, outputs), `bias` (outputs,)."""

    center: Floats
    scale: Floats
    weight: Floats
    bias: Floats
    strength: float

    def predict(self, features: Floats) -> Floats:
        """The outputs, of shape (prompts, outputs)."""
        return np.asarray((features - self.center) / self.scale @ self.weight + self.bias)


def fit_head(features: Floats, targets: Floats) -> Head:
    """Fit a head to features and to targets of shape (prompts, sets); cross-validation chooses ridge strengths."""
    mean = targets.mean(axis=1, keepdims=True)
    return Head(_ridge(features, mean), _ridge(features, targets - mean))


def _ridge(features: Floats, targets: Floats) -> Ridge:
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    fitted = RidgeCV(STRENGTHS).fit(scaler.transform(features), targets)
    weight = np.atleast_2d(fitted.coef_).T.reshape(features.shape[1], -1)
    return Ridge(scaler.mean_, scaler.scale_, weight, np.atleast_1d(fitted.intercept_), float(fitted.alpha_))


# A prompt's features: the mean state over its tokens, and the state of its last token.


@dataclass(frozen=True)
class StateEncoder:
    """Encodes prompts by the states after the first `blocks` blocks (0: the embeddings); no set removes these blocks.

    The features: the mean state of all tokens but the first (its state is often large), and the last token's state.
    """

    forward: Forward
    tokenizer: Any
    blocks: int

    def encode(self, prompts: Sequence[str]) -> Floats:
        """The prompts' features in float64, of shape (prompts, 2 * hidden size). Raises as `prompt_rows` does."""
        from pruning.engine.dense_pass import states

        most = context_length_of(self.forward.model.module.config)
        rows = prompt_rows(self.tokenizer, prompts, most)
        found: dict[int, Floats] = {}
        for lines, hidden in states(self.forward, rows, stop=self.blocks):
            for line in lines:
                state = hidden[-1][line.index, : line.length].double().cpu().numpy()
                found[line.row] = np.concatenate([state[1:].mean(axis=0), state[-1]])
        return np.array([found[number] for number in range(len(rows))])


def prompt_rows(tokenizer: Any, prompts: Sequence[str], most: int | None = None) -> list[Row]:
    """The token rows of prompts. Raises InputError if a prompt has fewer than two or more than `most` tokens."""
    first = start_tokens(tokenizer)
    rows = []
    for prompt in prompts:
        ids = (*first, *tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids)
        if len(ids) < 2:
            raise InputError(f"the prompt {prompt!r} has fewer than two tokens: give a longer one.")
        if most is not None and len(ids) > most:
            raise InputError(
                f"the prompt {prompt[:40]!r}... has {len(ids)} tokens, and the model reads at most {most}: "
                "shorten it."
            )
        rows.append(Row(ids, (len(ids) - 1, len(ids))))
    return rows


def prompts(template: str, items: Sequence[Item]) -> tuple[str, ...]:
    """The prompts of items: the template, filled with each item's question."""
    return tuple(template.replace(FIELD, item.question) for item in items)


def first_blocks(masks: Sequence[Mask]) -> int:
    """How many blocks a router runs: all before the first that a mask changes, but at most a quarter of the model."""
    n_blocks, per_block = masks[0].n_blocks, masks[0].n_units // masks[0].n_blocks
    kept = min((mask.dropped[0] // per_block for mask in masks if mask.dropped), default=n_blocks)
    return min(kept, n_blocks // SHARE)


FOLDER = "routing"  # in the results folder; it contains a folder for each model, search and size
RECORD, ROUTER, HEAD = "routing.json", "router.json", "router.npz"
PARTS = ("common", "relative")  # the parts of a head
FITTED = [field.name for field in fields(Ridge)]
# The errors that numpy can raise for a damaged file.
UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


DIGEST = "sha256"  # the entry of a `.npz` file with the digest of its other entries


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays and their digest to a `.npz` file atomically."""
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays, **{DIGEST: np.array(_sha256(arrays))})
    storage.write_bytes(path, stream.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file. Raises DamagedError if it cannot be read or was changed after it was written."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if str(arrays.pop(DIGEST, None)) != _sha256(arrays):
            raise ValueError("its contents do not match their digest")
        return arrays
    except UNREADABLE as error:
        raise DamagedError(f"{path} is damaged ({error}): move it away and run again.") from error


def _sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """A digest of the names, types, shapes and values of arrays."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return found.hexdigest()


def model_record(model: LanguageModel, settings: Model | None) -> dict[str, Any]:
    """The record of a router's model, with which the same model can be loaded and recognised later.

    `settings` has the settings that loaded the model; None if a loaded model was passed.
    """
    plain = None if settings is None else asdict(settings)
    if plain is not None:
        plain.pop("resources")
    info, digest = model.info, model.weights_sha256()
    facts = {"revision": info.revision, "n_blocks": info.n_blocks, "dtype": info.dtype}
    return {"settings": plain, **facts, "weights_sha256": digest}


def save_router(folder: Path, router: FittedRouter, model: Mapping[str, Any]) -> None:
    """Write `router.npz` and then `router.json`, which includes `model`, the record of the router's model."""
    parts = {part: getattr(router.head, part) for part in PARTS}
    named = {f"{part}_{name}": getattr(ridge, name) for part, ridge in parts.items() for name in FITTED}
    save_arrays(folder / HEAD, {name: np.array(value) for name, value in named.items()})
    record = {
        "sets": {name: mask.to_json() for name, mask in router.sets.items()},
        "blocks": router.blocks,
        "template": router.template,
        "target": router.target,
        "model": dict(model),
        "order": list(router.sets),  # the order of the head's outputs; JSON objects have no order
        "head_sha256": file_sha256(folder / HEAD),
    }
    storage.write_record(folder / ROUTER, record)


def read_router(folder: Path) -> tuple[FittedRouter, dict[str, Any]]:
    """The router in a folder, and the record of its model.

    Raises InputError if there is no router, and DamagedError if a file was changed or is unreadable.
    """
    if not (folder / ROUTER).is_file():
        raise InputError(
            f"{folder} holds no {ROUTER}: `depth-pruning grid experiment=tasks tasks.folder=DIR` makes one."
        )
    try:
        record = json.loads((folder / ROUTER).read_text(encoding="utf-8"))
        if record != storage.sealed(record) or record["head_sha256"] != file_sha256(folder / HEAD):
            raise ValueError("a file was changed after it was written")
        arrays = read_arrays(folder / HEAD)
        parts = []
        for part in PARTS:
            center, scale, weight, bias, strength = (arrays[f"{part}_{name}"] for name in FITTED)
            parts.append(Ridge(center, scale, weight, bias, float(strength)))
        sets = {name: Mask.from_json(record["sets"][name]) for name in record["order"]}
        if (target := record["target"]) not in TARGETS:
            raise ValueError(f"target={target}")
        router = FittedRouter(sets, Head(*parts), record["blocks"], record["template"], target)
        return router, record["model"]
    except (PruningError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(
            f"the router in {folder} is damaged ({first_line(error)}): restore {ROUTER} and {HEAD}, or fit it again."
        ) from error
