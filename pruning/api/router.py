"""Choose a set of units to skip for each prompt, and generate text without these units."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning.api.calibration_data import ItemList, item_list
from pruning.api.model import PrunableModel, check_text, check_type, exclusive, loaded, path_of, used_by
from pruning.calibration.item_files import FIELD, Item
from pruning.calibration.items import TEMPLATE, check_template, items_of
from pruning.config.app import build
from pruning.core.errors import ForeignError, InputError, shown, unknown
from pruning.core.mask import Mask
from pruning.core.records import CLASS
from pruning.models.handle import Model
from pruning.routing import fitted_router
from pruning.routing.fitted_router import FittedRouter, StateEncoder, first_blocks, fit_head, prompts
from pruning.routing.set_scores import routes, score_items
from pruning.routing.task_study import TARGETS
from pruning.runs.cell import forward_of

PREDICTED = {"loglikelihood": "log-likelihood per token", "margin": "lead of the right answer per token"}


@dataclass(frozen=True)
class Route:
    """The set of units to skip that a router chose for a prompt, with the router's predictions.

    `predicted` maps each set's name to what is predicted for the right answer: its mean log-likelihood per
    token or, for margins, its lead over the other answers. `seconds` is the time taken to choose.
    """

    chosen: str
    mask: Mask
    predicted: dict[str, float]
    seconds: float
    what: str = "loglikelihood"

    def __str__(self) -> str:
        lines = [
            f"{'->' if name == self.chosen else '  '} {name:<20} {value:8.4f}"
            for name, value in sorted(self.predicted.items(), key=lambda pair: -pair[1])
        ]
        drops = " ".join(self.mask.names())
        return "\n".join(
            [f"{self.chosen}: {self.mask} removed: {drops}", f"predicted {self.what} per token:", *lines]
        )


@dataclass(frozen=True)
class Router:
    """A model, and a router that chooses which of its units to skip. Use `fit_router` or `load` to make one.

    `facts` identify the model to which the router was fitted, with the digest of the weights at that time.
    """

    model: PrunableModel
    fitted: FittedRouter
    encoder: StateEncoder = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)

    @classmethod
    def load(cls, folder: str | Path, model: PrunableModel | None = None) -> Router:
        """The router in a folder that a task study or `save` wrote. By default, the recorded model is loaded.

        Raises InputError if the folder contains no router or if its model is not recorded, DamagedError if a
        file was changed, and ForeignError if the router was fitted to another model.
        """
        router, record = fitted_router.read_router(path_of("folder", folder))
        if model is None:
            model = _recorded_model(record, folder)
        check_type("model", model, PrunableModel)
        _check_weights(record, model, folder)
        forward = forward_of(model.language_model)
        return cls(model, router, StateEncoder(forward, model.tokenizer, router.blocks), record)

    def save(self, folder: str | Path) -> Path:
        """Write `router.json` and `router.npz` to a folder, without the weights of the model. Returns the folder."""
        target = path_of("folder", folder)
        fitted_router.save_router(target, self.fitted, self.facts)
        return target

    def route(self, prompt: str, *, question: bool = False) -> Route:
        """The route for a prompt: the set of units with the highest prediction is skipped.

        With `question=True`, the prompt is a question, which is put into the wording that the router was
        fitted to. Raises InputError if the prompt is too short or too long.
        """
        check_text(prompt, "prompt")
        check_type("question", question, bool)
        started = time.perf_counter()
        with self.model.evaluated_by("route"):
            predicted = self.fitted.predict(self.encoder, [self.wording(prompt) if question else prompt])
        sets, seconds = self.fitted.sets, time.perf_counter() - started
        chosen = list(sets)[routes(predicted)[0]]
        values = dict(zip(sets, predicted[:, 0].tolist(), strict=True))
        return Route(chosen, sets[chosen], values, seconds, PREDICTED[self.fitted.target])

    def wording(self, question: str) -> str:
        """A question in the wording to which the router was fitted."""
        check_text(question, "question")
        return self.fitted.template.replace(FIELD, question)

    def generate(
        self, prompt: str, *, question: bool = False, max_new_tokens: int = 64, **settings: Any
    ) -> str:
        """The text that the model generates after a prompt, without the units that the router chooses.

        `settings` are those of `generate` in transformers; the default is greedy decoding.
        """
        from pruning.models.blocks import evaluating, input_device
        from pruning.models.kept_models import quiet
        from pruning.models.removal import blocks_removed, smaller_config

        check_type("max_new_tokens", max_new_tokens, int)
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens={max_new_tokens} is too few: give at least 1.")
        chosen = self.route(prompt, question=question)
        asked = self.wording(prompt) if question else prompt
        tokenizer, module = self.model.tokenizer, self.model.module
        inputs = tokenizer(asked, return_tensors="pt").to(input_device(module))
        inputs.pop("token_type_ids", None)
        settings = {"do_sample": False, "pad_token_id": tokenizer.eos_token_id, **settings}
        removed = blocks_removed(module, chosen.mask, smaller_config(module, chosen.mask))
        with used_by("generate", module, self.model.name), evaluating(module), removed, quiet():
            ids = module.generate(**inputs, max_new_tokens=max_new_tokens, **settings)
        return str(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def _recorded_model(record: Mapping[str, Any], folder: str | Path) -> PrunableModel:
    if record.get("settings") is None:
        raise InputError(
            f"the model of the router in {folder} was in memory: load the model, and give it as well."
        )
    return loaded(build("model", {CLASS: Model.__name__, **record["settings"]}))


def _check_weights(record: Mapping[str, Any], model: PrunableModel, folder: str | Path) -> None:
    """Raise ForeignError unless a router was fitted to the weights of a model.

    If the precisions are equal and both digests are known, the digests are compared, otherwise the revisions are.
    """
    info = model.language_model.info
    digests = [record["weights_sha256"], model.language_model.weights_sha256()]
    if record["dtype"] == info.dtype and None not in digests:
        same = digests[0] == digests[1]
    else:
        same = record["revision"] == info.revision != "memory"
    if not same:
        raise ForeignError(
            f"the router in {folder} was fitted to other weights ({record['n_blocks']} blocks, {record['dtype']}, "
            f"revision {record['revision']}) than those of {info.name} ({info.n_blocks} blocks, {info.dtype}, "
            f"revision {info.revision}): give the model that it was fitted to, or fit a new router."
        )


# Without a study, fit a router, which chooses between sets of units, to the items of tasks.


@exclusive
def fit_router(
    model: PrunableModel,
    tasks: Mapping[str, ItemList],
    sets: Mapping[str, Mask],
    *,
    template: str = TEMPLATE,
    target: str = "loglikelihood",
) -> Router:
    """Fit a router to the items of tasks. For each set, it predicts the right answer's score if the set is skipped.

    `tasks` maps names to lists of items (question, choices, answer), and `sets` maps names to masks; names of tasks
    and sets need not agree. `target` is the score that the router predicts, "loglikelihood" or "margin". Raises
    InputError if an item, a mask, the template or the target is wrong.
    """
    for name, given in (("tasks", tasks), ("sets", sets)):
        if not isinstance(given, Mapping):
            raise InputError(f"{name} is {shown(given)}: give a mapping, {{NAME: ...}}.")
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    check_text(template, "template")
    check_template("template", template)
    if not sets:
        raise InputError("sets is empty: give a mask for each set, {NAME: MASK}.")
    for name, mask in sets.items():
        model.check_mask(mask, f"the set {name}")
    if len({mask.unit for mask in sets.values()}) > 1:
        raise InputError(
            "some sets are of blocks and others of sub-layers: use `mask.as_sublayers()` for all."
        )
    items: list[Item] = []
    for name, task in tasks.items():
        items += item_list(task, str(name), f"{name}, item")
    if len(items) < 2:
        raise InputError(f"{len(items)} items are given: give two or more.")
    blocks = first_blocks(list(sets.values()))
    forward = forward_of(model.language_model)
    encoder = StateEncoder(forward, model.tokenizer, blocks)
    samples = items_of(items, model.tokenizer, "items", 0, template)
    scores = score_items(forward, samples, list(sets.values()))
    head = fit_head(encoder.encode(prompts(template, items)), scores.target(target).T)
    router = FittedRouter(sets, head, blocks, template, target)
    return Router(model, router, encoder, fitted_router.model_record(model.language_model, model.settings))
