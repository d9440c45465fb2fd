"""Train a pruned model on texts, so that it regains some of what the mask has cost."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.api.arguments import check_settings, list_of_texts, path_of
from pruning.api.model import PrunableModel, exclusive, wrap_model
from pruning.calibration.text import start_tokens, token_ids
from pruning.core.errors import InputError
from pruning.core.hashing import digest
from pruning.core.mask import Mask
from pruning.healing.guard import check_length
from pruning.healing.settings import Training
from pruning.models.loader import context_length_of


@exclusive
def heal_mask(
    model: PrunableModel,
    mask: Mask,
    *,
    texts: Sequence[str] | None = None,
    tokens: int = 200_000,
    how: str = "lora",
    folder: str | Path | None = None,
    **settings: Any,
) -> PrunableModel:
    """Train the model without the units of a mask. Returns a copy of the dense model with the healed weights.

    Run, measure or export the copy with the same mask: the units that the mask removes are not healed. `how` is an
    option of `heal`, `lora`, `full` or `distill`, and `settings` are its settings, such as `lr=1e-4`. If no
    `lr` is given, short trials choose it. If training does not help, the log says so. Without texts,
    the embedded text is used (`source="pydoc"`). With a folder, a call that was stopped continues when it is
    repeated; other masks and other weights can use the same folder. The model itself is not changed. Raises
    InputError if the mask or a setting is wrong or the texts are too short, and LossError if a loss is not finite.
    """
    from pruning.healing.heal import Healed, heal
    from pruning.healing.rate import warn_if_useless, with_rate
    from pruning.healing.text import draw_text, packed

    chosen = _settings(how, {"tokens": tokens, **settings})
    model.check_mask(mask)
    home = None if folder is None else path_of("folder", folder)
    check_length(chosen.length, context_length_of(model.module.config), model.name)
    if texts is None:
        text = draw_text(chosen, model.tokenizer)
    else:
        given = list_of_texts(texts, "texts")
        text = packed(token_ids(given, model.tokenizer, None), start_tokens(model.tokenizer), chosen, "texts")
    place = None if home is None else home / digest([mask.to_json(), model.language_model.weights_sha256()])

    def healing(settings: Training, place: Path | None) -> Healed:
        return heal(model.language_model, mask, text, settings, place)

    chosen, _ = with_rate(chosen, text, place, lambda trial, scratch: healing(trial, scratch).curve)
    healed = healing(chosen, place)
    warn_if_useless(healed.best_step, chosen)
    module = copy.deepcopy(model.module)
    weights = dict(module.named_parameters())
    for name, tensor in healed.tensors.items():
        weights[name].data.copy_(tensor)
    return wrap_model(module, model.tokenizer, model.name)


def _settings(how: str, settings: dict[str, Any]) -> Training:
    """The settings of an option of `heal`. Raises InputError if the option or a setting does not exist."""
    from pruning.hydra_app.build_option import build_named

    option: Training = build_named("heal", how)
    if not option.trains:
        raise InputError(f"how={how!r} does not train: choose lora, full or distill.")
    check_settings(type(option), settings, "setting of a healing")
    chosen = dataclasses.replace(option, **settings)
    chosen.check()
    if chosen.candidates != 1:
        raise InputError(
            f"candidates={chosen.candidates} needs the masks that a search has scored, and heal_mask heals one mask: "
            "leave it out, or heal each mask and measure it."
        )
    return chosen
