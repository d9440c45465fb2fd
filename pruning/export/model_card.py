"""The model card of an export: a README.md with metadata for the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pruning.core.heal_record import HealRecord, SelectionRecord
from pruning.core.mask import Mask
from pruning.core.metric_names import label_of
from pruning.core.repair_record import is_repaired
from pruning.core.result import DoneResult
from pruning.core.units import bytes_text
from pruning.export import metric_text, parts_text
from pruning.export.portable import code, code_block, escaped, portable
from pruning.healing.rate import advice

# Hub names and licences of the models that Python packages contain as GGUF files.
PACKAGED = {
    "smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
    "gemma3_270m": ("google/gemma-3-270m", "gemma"),
}
USE = (
    "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'model = AutoModelForCausalLM.from_pretrained("DIR")  # the directory of this file\n'
    'tokenizer = AutoTokenizer.from_pretrained("DIR")\n```'
)
INHERITED = ("license", "license_name", "license_link", "language")


@dataclass(frozen=True)
class Sizes:
    """Parameters and bytes of the weights of both models, in the precision of the export."""

    dense_parameters: int
    parameters: int
    dense_bytes: int
    bytes: int


@dataclass(frozen=True)
class Facts:
    """The content of a card. `result` is the result of the cell, or None if the mask comes from elsewhere.

    `base` is the hub name of the original model, or the name of its directory; `source` describes where the weights
    came from. `commands` reproduce the export; `proof` describes how the export was checked; `hybrid` is True if the
    blocks have more than one kind of attention. `repair` names the parts whose weights hold a map. `idle` counts the
    parameters in the file that belong to removed parts of blocks. `healed` says how the model was trained after the
    cut, or is None. `use` says how the model is run; None means with transformers, from a directory. `library` is the
    hub's name for what runs the model.
    """

    name: str
    base: str
    source: str
    dtype: str
    hybrid: bool
    mask: Mask
    sizes: Sizes
    commands: Sequence[str]
    proof: str
    result: DoneResult | None = None
    scales: Sequence[float] | None = None
    repair: Sequence[str] | None = None
    inherited: Mapping[str, Any] | None = None
    idle: int = 0
    healed: HealRecord | None = None
    use: str | None = None
    library: str = "transformers"


def inherit(folder: Path | None) -> dict[str, Any]:
    """Licence and language from the model card in a model's directory; {} if there is no card."""
    from huggingface_hub import ModelCard

    if folder is None or not (folder / "README.md").is_file():
        return {}
    data = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.to_dict()
    return {name: data[name] for name in INHERITED if name in data}


def model_card(facts: Facts) -> str:
    """The text of README.md, with metadata for the hub."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        **_licence(facts),
        base_model=facts.base if facts.base.count("/") == 1 and not facts.base.startswith("/") else None,
        library_name=facts.library,
        pipeline_tag="text-generation",
        tags=["depth-pruning", "pruned"],
        model_name=facts.name,
        eval_results=list(_eval_results(facts)) or None,
    )
    if data.eval_results is None:
        data.model_name = None  # only valid together with results
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(_sections(facts)) + "\n"))


def _licence(facts: Facts) -> dict[str, Any]:
    known = {base: {"license": licence} for base, licence in PACKAGED.values()}
    return dict(facts.inherited or known.get(facts.base, {}))


def _sections(facts: Facts) -> Iterator[str]:
    mask, sizes, whole = facts.mask, facts.sizes, facts.mask.unit == "block"
    yield f"# {escaped(facts.name)}"
    yield f"This is {escaped(facts.base)} without {parts_text.removed(mask)}. " + _rest(facts)
    used = "" if whole else _row("parameters in use", sizes.dense_parameters, sizes.parameters - facts.idle)
    yield (
        "| | before | after |\n|---|---|---|\n"
        + parts_text.rows(mask)
        + used
        + _row("parameters" if whole else "parameters in the file", sizes.dense_parameters, sizes.parameters)
        + f"| weights in {facts.dtype} | {bytes_text(sizes.dense_bytes)} | {bytes_text(sizes.bytes)} |"
    )
    yield parts_text.numbers(mask)
    if not whole:
        yield parts_text.ZEROS
    yield facts.use or USE
    yield from _chosen(facts, "blocks" if whole else "parts")
    yield from _measured(facts)
    yield f"## How it was checked\n\n{facts.proof[0].upper()}{facts.proof[1:]}."
    yield "## How to make it again\n\n" + code_block("\n".join(facts.commands))
    if not facts.base.count("/"):
        yield "Paths are shortened to their last part: give those of your machine."
    yield f"Source of the weights: {facts.source}."


def reselected(healed: HealRecord | None) -> SelectionRecord | None:
    """How healing selected another mask than the search; None if it kept the search's mask."""
    selection = None if healed is None else healed.get("selection")
    return selection if selection is not None and selection["changed"] else None


def _trained(healed: HealRecord | None, units: str) -> str:
    """What was done to the units that are left."""
    if healed is None:
        return f"{units} are unchanged and nothing was trained afterwards."
    settings = healed["settings"]
    how = {"Lora": "with LoRA, whose adapters are merged", "Full": "with all their weights"}
    what = how.get(settings["class"], "by distillation from the dense model")
    return (
        f"{units} were trained afterwards {what}: {healed['tokens']:,} tokens of {_source(healed['source'])}, "
        f"{healed['steps']} steps at a learning rate of {settings['lr']:g}{_tried(healed)}, "
        f"{healed['seconds']:.0f} s. {_kept(healed)}"
    )


def _tried(healed: HealRecord) -> str:
    """The learning rates that were tried, in brackets, if short trials chose one."""
    if (trials := healed.get("rates")) is None:
        return ""
    rates = ", ".join(f"{trial['lr']:g}" for trial in trials)
    return f" (the best of {rates} in trials of {trials[0]['tokens']:,} tokens)"


def _kept(healed: HealRecord) -> str:
    """Which weights of a training are kept, and their loss: an earlier step's if the loss rose after it."""
    curve, step = healed["curve"], healed["best_step"]
    if step == 0:
        return (
            f"No step lowered the loss on held-out text ({curve['heldout_before']:.4f} nats per token), so the "
            "weights from before this training are kept: it changed nothing. Try "
            f"{advice(healed['settings']['class'] == 'Lora' or healed['settings'].get('weights') == 'lora')}."
        )
    tokens = step * healed["tokens"] // healed["steps"]
    earlier = f" The weights are those of step {step}, after {tokens:,} tokens: the loss was lowest there."
    return (
        f"The loss on held-out text went from {curve['heldout_before']:.4f} to {curve['heldout_after']:.4f} nats per "
        f"token.{'' if step == healed['steps'] else earlier}"
    )


def _row(name: str, before: int, after: int) -> str:
    return f"| {name} | {before:,} | {after:,} |\n"


def _rest(facts: Facts) -> str:
    """What became of the parts that were kept."""
    kept = "blocks" if facts.mask.unit == "block" else "parts"
    if facts.repair:
        trained = None if facts.healed is None else f"The remaining {_trained(facts.healed, kept)}"
        return parts_text.repaired(facts.repair, kept, trained)
    return f"The remaining {_trained(facts.healed, kept)}" + _compensation(facts) + _unrepaired(facts)


def _unrepaired(facts: Facts) -> str:
    """That a repair was tried and left out, if it was."""
    record = None if facts.result is None else facts.result.get("repair")
    if record is None or is_repaired(record):
        return ""
    return (
        " A repair by linear maps was tried and left out, because each map raised the loss on text that it was not "
        "fitted on."
    )


def _compensation(facts: Facts) -> str:
    if facts.scales is None:
        return ""
    factors = ", ".join(f"{i}: {facts.scales[i]:.4g}" for i in facts.mask.dropped)
    return (
        " Each removed block is replaced by a factor on the residual stream ("
        + factors
        + "), which is folded into "
        "the output projections of the blocks after it."
    )


def _chosen(facts: Facts, units: str) -> Iterator[str]:
    result = facts.result
    yield f"## How the {units} were chosen"
    if result is None:
        yield "The mask was given to the export, so this card does not know how it was found."
        return
    calibration, search = result["calibration"], result["search"]
    yield (
        f"By the search {code(search['algo'])} with the objective {code(calibration['objective'])}, whose loss went "
        f"from {calibration['dense_loss']:.4f} to {calibration['loss']:.4f} on the calibration data: "
        f"{calibration['samples']} samples"
        + (f" of {calibration['length']} tokens" if calibration.get("length") else "")
        + f" of {_source(calibration['source'])}, seed {calibration['seed']}, "
        f"SHA-256 {code(calibration['sha256'][:16])}. Cell {code(result['cell'])}."
    )
    if (selection := reselected(facts.healed)) is not None:
        own = Mask.from_json(result["mask"])
        trials = selection["rounds"][0]
        place = [trial["dropped"] for trial in trials].index(Mask.from_json(selection["mask"]).listed())
        yield (
            f"The search's own choice is {' '.join(own.names())}. Healing trained {len(trials)} of the best masks "
            "for a short time and kept the one whose loss on held-out text was then lowest, which is this model's. "
            f"Its loss in the search was {selection['losses'][place]:.4f}."
        )


def _source(name: str) -> str:
    """The names of the calibration's sources; of a file, the last part of the path."""
    return escaped(" + ".join(map(portable, name.split(" + "))))


def _measured(facts: Facts) -> Iterator[str]:
    result = facts.result
    yield "## What was measured"
    if (other := reselected(facts.healed)) is not None:
        yield "Everything but \"healed\" was measured of the search's own choice, not of this model's mask."
    yield from metric_text.measured_section(result, own=other is not None)
    if result is not None and (speed := result["evaluation"].get("speed")) is not None:
        yield "## What was gained"
        yield from metric_text.speed_section(speed)


def _eval_results(facts: Facts) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    which: Literal["pruned", "healed"] = "pruned" if facts.healed is None else "healed"
    for name, _, _ in metric_text.metrics(facts.result, which):
        assert facts.result is not None
        data = name.partition("/")[2]
        yield EvalResult(
            task_type="text-generation",
            dataset_type=data or name,
            dataset_name=data or name,
            metric_type=label_of(name).partition(",")[0],
            metric_name=name,
            metric_value=facts.result["evaluation"][which][name],
        )
