"""The model card of an export: a README.md with metadata for the hub."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any, Literal

import yaml

from pruning.calibration.sources import EMBEDDED
from pruning.config.app import launch_words
from pruning.core.mask import Mask, unit_noun
from pruning.core.records import (
    CLASS,
    DoneResult,
    HealRecord,
    SelectionRecord,
    SpeedRecord,
    SpreadRecord,
    error_of,
    is_repaired,
    kind_of,
    label_of,
    leaves,
    main_of,
    metrics_among,
)
from pruning.core.units import bytes_text, rate_text
from pruning.export.request import Request
from pruning.healing.rate import advice
from pruning.models.model import directory_name

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
    yield f"This is {escaped(facts.base)} without {removed(mask)}. " + _rest(facts)
    used = "" if whole else _row("parameters in use", sizes.dense_parameters, sizes.parameters - facts.idle)
    yield (
        "| | before | after |\n|---|---|---|\n"
        + rows(mask)
        + used
        + _row("parameters" if whole else "parameters in the file", sizes.dense_parameters, sizes.parameters)
        + f"| weights in {facts.dtype} | {bytes_text(sizes.dense_bytes)} | {bytes_text(sizes.bytes)} |"
    )
    yield numbers(mask)
    if not whole:
        yield ZEROS
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
        return repaired(facts.repair, kept, trained)
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
    yield from measured_section(result, own=other is not None)
    if result is not None and (speed := result["evaluation"].get("speed")) is not None:
        yield "## What was gained"
        yield from speed_section(speed)


def _eval_results(facts: Facts) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    which: Literal["pruned", "healed"] = "pruned" if facts.healed is None else "healed"
    for name, _, _ in metrics(facts.result, which):
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


# Collect what the texts of an export say: its name, its origin, and the commands that make it again.


def facts(wanted: Request, **known: Any) -> Facts:
    """The facts of an export; `known` are those fields of `Facts` that do not follow from the request."""
    mask, base = wanted.mask, _base(wanted)
    return Facts(
        name=f"{base.rpartition('/')[2]}-{len(mask.kept)}-of-{mask.n_units}-{noun(mask).replace('-', '')}",
        base=base,
        mask=mask,
        commands=list(_commands(wanted)),
        result=wanted.result,
        scales=wanted.scales,
        repair=None if wanted.repair is None else wanted.repair.names(),
        healed=None if wanted.healed is None else heal_record(wanted),
        **known,
    )


def heal_record(wanted: Request) -> HealRecord:
    """How the cell of a request was healed; `request.py` has checked that it was."""
    assert wanted.result is not None
    return wanted.result["heal"]


def _base(wanted: Request) -> str:
    """The hub name of the original model, or the name of its directory."""
    settings = wanted.model
    hub = {"hub": settings.path, "packaged": PACKAGED.get(settings.path, ("",))[0]}.get(settings.source)
    if wanted.in_memory:
        return wanted.in_memory
    return hub if hub and not settings.in_directory else directory_name(settings.location)


def _commands(wanted: Request) -> Iterator[str]:
    """Commands that search, evaluate and export again, and one that makes the same cut without a search."""
    if wanted.in_memory is not None:
        yield f"pruning.export_model(model, {wanted.mask!r}, DIR)  # in Python"
        return
    out = "DIR" if wanted.out.suffix.lower() != ".gguf" else "FILE.gguf"
    if wanted.result is not None:
        launches = [
            ["python", "launch.py", *launch_words(portable(one))]
            for one in launched(wanted.result, wanted.healed is not None)
        ]
        if wanted.healed is not None:
            yield from map(shlex.join, launches)
            yield f"python -m pruning.export CELL out={out} healed=true"
            return
        yield from map(shlex.join, launches[:-1])
        yield shlex.join([*launches[-1], f"export={out}"])
    if wanted.scales is None and wanted.repair is None and wanted.healed is None:
        model = {CLASS: "Model", **portable(dataclasses.asdict(wanted.model))}
        words = ["--drop", ",".join(wanted.mask.names()), *launch_words({"model": model}), f"out={out}"]
        yield shlex.join(["python", "-m", "pruning.export", *words])


def launched(result: DoneResult, healed: bool) -> Iterator[Mapping[str, Any]]:
    """The configurations whose launches give a result, in order: one for each evaluation, the latest last.

    The first one that heals has the evaluation for whose sake windows of the healing's text were left out. The later
    ones find the healing finished. Evaluations that measured no healed model heal nothing.
    """
    config = result["config"]
    plain = {name: value for name, value in config.items() if name != "heal"}
    *earlier, latest = _evaluations(result)
    measured = [one for one in earlier if healed and _measured_healed(result, one)]
    first = [result["heal"]["evaluation"]] if healed and "evaluation" in result["heal"] else []
    if first == [latest] and not measured:
        first = []  # the last launch heals
    yield from ({**plain, "eval": one} for one in earlier if one not in (*first, *measured))
    again = [one for one in measured if one not in first]
    yield from ({**config, "eval": one} for one in (*first, *again))
    yield {**(config if healed else plain), "eval": latest}


def _evaluations(result: DoneResult) -> list[Any]:
    """The settings of each evaluation that added metrics; the latest is last."""
    settings = [*result["evaluation"].get("settings", {}).values(), result["config"]["eval"]]
    distinct = {json.dumps(evaluation, sort_keys=True): evaluation for evaluation in reversed(settings)}
    return list(reversed(distinct.values()))


def _measured_healed(result: DoneResult, evaluation: Any) -> bool:
    """Whether an evaluation measured the healed model, and a healing with this evaluation would be the same."""
    heal, records = result["heal"], result["evaluation"].get("records", {})
    if heal["settings"]["source"] in EMBEDDED and "evaluation" not in heal:
        return False  # of an older version, so it is not known for which evaluation windows were left out
    settings = result["evaluation"].get("settings", {})
    return any(one == evaluation and "healed" in records.get(metric, {}) for metric, one in settings.items())


# The cut of an export as a configuration for mergekit, which copies ranges of layers (passthrough).


def mergekit(facts: Facts) -> str:
    """A passthrough configuration for mergekit that makes the same cut as the export; layer ranges are half-open."""
    slices = [
        {"sources": [{"model": facts.base, "layer_range": [start, end]}]} for start, end in ranges(facts.mask)
    ]
    notes = [
        "# The same cut with mergekit: mergekit-yaml mergekit.yaml OUT",
        f"# The weights of this export come from {one_line(facts.source)}.",
    ]
    if not facts.base.count("/"):
        notes.append("# Give the directory of the original model in place of its name.")
    if facts.hybrid:
        notes.append(
            "# mergekit does not change config.layer_types: copy config.json from here, or the result is wrong."
        )
    if facts.scales is not None or facts.repair is not None:
        notes.append("# This file does not contain the compensation of this export.")
    if facts.healed is not None:
        notes.append(
            "# The blocks of this export were trained after the cut; this file copies them untrained."
        )
    body = {"slices": slices, "merge_method": "passthrough", "dtype": facts.dtype}
    return "\n".join(notes) + "\n" + yaml.safe_dump(body, sort_keys=False, default_flow_style=None)


def ranges(mask: Mask) -> list[tuple[int, int]]:
    """The ranges of consecutive kept blocks, half-open."""
    edges = [i for i in range(mask.n_blocks + 1) if (i in mask.kept) != (i - 1 in mask.kept)]
    return [pair for number, pair in enumerate(pairwise(edges)) if number % 2 == 0]


# A result's measurements as text: for the model card, and for the summary that a command prints.

Timed = Literal["prefill_per_second", "decode_per_second", "first_token_seconds"]
Ratio = Literal["prefill", "decode", "first_token"]
QUANTITIES: dict[Timed, tuple[str, Ratio, int]] = {
    "prefill_per_second": ("prefill, tokens/s", "prefill", 1),
    "decode_per_second": ("decode, tokens/s", "decode", 1),
    "first_token_seconds": ("time to first token, ms", "first_token", 1000),
}


def metrics(
    result: DoneResult | None, which: Literal["pruned", "healed"] = "pruned"
) -> Iterator[tuple[str, str, str]]:
    """Name, dense value and the value of the pruned or healed model of every metric of a result, as text."""
    if result is None:
        return
    dense, pruned = result["evaluation"]["dense"], result["evaluation"].get(which, {})
    for name in metrics_among(pruned):
        if isinstance(pruned[name], (int, float)):
            yield name, number(name, dense), number(name, pruned)


def number(name: str, values: Mapping[str, Any]) -> str:
    """A metric as text, with its standard error if it has one; `-` if the metric is not in `values`."""
    if not isinstance(value := values.get(name), (int, float)):
        return "-"
    decimals = 2 if abs(value) >= 10 else 3
    error = values.get(error_of(name))
    return f"{value:,.{decimals}f}" + (f" ± {error:,.{decimals}f}" if isinstance(error, float) else "")


def unmeasured(result: DoneResult | None) -> str:
    """The reason why there is no metric."""
    return "the mask does not come from a cell" if result is None else "its cell was evaluated for speed only"


def measured_section(result: DoneResult | None, own: bool = False) -> Iterator[str]:
    """Paragraphs of the model card's section on the metrics; `own`: the pruned model has a mask of its own."""
    rows = list(metrics(result))
    if result is None or not rows:
        yield f"Nothing: {unmeasured(result)}."
        return
    evaluation = result["evaluation"]
    plain, first = evaluation.get("uncompensated"), "pruned as searched" if own else "pruned"
    models: list[tuple[str, Mapping[str, Any]]] = [("dense", evaluation["dense"])]
    if plain is None:
        models.append((first, evaluation["pruned"]))
    else:
        changed = "repaired" if "repair" in result else "compensated"
        models += [(first, plain), (changed, evaluation["pruned"])]
    if (healed := evaluation.get("healed")) is not None:
        models.append(("healed", healed))
    lines = [f"| metric | {' | '.join(title for title, _ in models)} |", "|---" * (1 + len(models)) + "|"]
    for name, _, _ in rows:
        lines.append(f"| {escaped(name)} | {' | '.join(number(name, values) for _, values in models)} |")
    yield "\n".join(lines)
    yield (
        "Values with their standard errors over samples, if they have any. Both models were measured in "
        f"{result['model']['dtype']} by one program on the same data. "
        + _overlap(evaluation.get("overlap", {}))
    )
    yield "\n".join(f"- {code(name)}: {_how(name, evaluation)}" for name, _, _ in rows)


def _overlap(shared: Mapping[str, int]) -> str:
    if not shared:
        return "The search did not use these data."
    pieces = ", ".join(f"{count} with {escaped(name)}" for name, count in shared.items())
    return f"The calibration data share pieces with these data ({pieces}), so the values favour the mask."


def _how(name: str, evaluation: Mapping[str, Any]) -> str:
    """How a metric was measured: the recorded settings of its evaluation, and the digest of its data."""
    if (measured := main_of(name)) != name:
        plain = "lm-eval's acc, not normalised by length, " if kind_of(name) == "acc_plain" else ""
        return f"{plain}from the same answers as `{measured}`"
    how = dict(leaves(portable(evaluation.get("how", {}).get(name, {}))))
    parts = [
        f"{escaped(key)} {code(json.dumps(value, ensure_ascii=False))}"
        for key, value in how.items()
        if value is not None
    ]
    if (digest := evaluation.get("data", {}).get(name)) is not None:
        parts.append(f"SHA-256 `{digest[:16]}`")
    return ", ".join(parts) or "not recorded"


def speed_section(speed: SpeedRecord) -> Iterator[str]:
    """Paragraphs of the model card's section on speed: medians with quartiles, dense and pruned."""
    lines = ["| batch, prompt | | dense | pruned | |", "|---|---|---|---|---|"]
    for run in speed["runs"]:
        shape = f"{run['batch']}, {run['prompt']}"
        for name, (title, short, factor) in QUANTITIES.items():
            both = " | ".join(_spread(one[name], factor) for one in (run["dense"], run["pruned"]))
            lines.append(f"| {shape} | {title} | {both} | {run['ratio'][short]:.2f}x |")
        a, b = run["dense"]["peak_memory"], run["pruned"]["peak_memory"]
        if a is not None and b is not None:
            lines.append(f"| {shape} | peak memory | {bytes_text(a)} | {bytes_text(b)} | {b / a:.2f}x |")
    yield "\n".join(lines)
    yield (
        f"On {escaped(speed['device'])}, in {speed['dtype']}, with a cache: medians of {speed['repeats']} repeats "
        f"with their quartiles, after {speed['warmup']} warm-up runs. The two models alternate; each run generates "
        f"{speed['runs'][0]['new_tokens']} tokens."
    )


def speedup_text(result: DoneResult | None) -> str:
    """The speedup over the dense model (ratio of tokens per second), in a few words; empty if it was not measured."""
    if result is None or (speed := result["evaluation"].get("speed")) is None:
        return ""
    run = speed["runs"][0]
    return (
        f"; {run['ratio']['prefill']:.2f}x prefill, {run['ratio']['decode']:.2f}x decode "
        f"(batch {run['batch']}, prompt {run['prompt']}, {speed['device']})"
    )


def _spread(value: SpreadRecord, factor: float) -> str:
    median, low, high = (rate_text(n * factor) for n in (value["median"], value["low"], value["high"]))
    return f"{median} ({low} to {high})"


# What an export says about removed parts of blocks: in its card, and in the summary that a command prints.


def noun(mask: Mask) -> str:
    """What the units of a mask are called."""
    return f"{unit_noun(mask.unit)}s"


def removed(mask: Mask) -> str:
    """What a mask removes, as a part of a sentence: `the MLP of 2 of its 30 transformer blocks`."""
    gone, pieces = mask.gone, list[str]()
    single = [u for u in mask.dropped if u // 2 not in gone] if mask.unit == "sublayer" else []
    for name, count in (
        ("", len(gone)),
        ("the attention of ", sum(u % 2 == 0 for u in single)),
        ("the MLP of ", sum(u % 2 for u in single)),
    ):
        if count:
            others = ("other" if count == 1 else "others") if gone else f"of its {mask.n_blocks} blocks"
            pieces.append(
                f"{name}{count} {others if pieces else f'of its {mask.n_blocks} transformer blocks'}"
            )
    return pieces[0] if len(pieces) == 1 else f"{', '.join(pieces[:-1])} and {pieces[-1]}"


def numbers(mask: Mask) -> str:
    """Which units are missing, by number."""
    if mask.unit == "block":
        return f"Blocks removed, counted from 0: {', '.join(map(str, mask.dropped))}."
    return (
        f"Removed, with blocks counted from 0: {', '.join(mask.names())} (`a`: the attention of a block, `m`: its "
        "MLP, `b`: the whole block)."
    )


def rows(mask: Mask) -> str:
    """Rows of the card's table: how many units there are before and after."""
    if mask.unit == "block":
        return f"| blocks | {mask.n_blocks} | {len(mask.kept)} |\n"
    left = [sum(unit % 2 == kind for unit in mask.kept) for kind in (0, 1)]
    return (
        f"| blocks | {mask.n_blocks} | {mask.n_blocks - len(mask.gone)} |\n"
        f"| attentions in use | {mask.n_blocks} | {left[0]} |\n"
        f"| MLPs in use | {mask.n_blocks} | {left[1]} |\n"
    )


def repaired(names: Sequence[str], kept: str, trained: str | None = None) -> str:
    """What a repair has changed; `names` are sub-layers such as `m3`. `trained` says what was trained afterwards."""
    listed = ", ".join(f"`{name}`" for name in names)
    return (
        f"What comes before a removed run was adapted: the output of {listed} (`a`: the attention of a block, `m`: "
        "its MLP, counted from 0 in the original model) is multiplied by a linear map. It was fitted by least "
        "squares to the states of the original model after the run (ReplaceMe, arXiv 2505.02819), and is folded into "
        f"the weights. {trained or f'The other {kept} are unchanged and nothing was trained by gradients.'}"
    )


ZEROS = (
    "If a block lost both parts, it is cut out. If it lost one part, the last weights of this part are zeros, so the "
    "part adds exactly nothing. It still takes its room in the file and its time when the model runs, because no "
    "standard architecture has blocks without attention or without MLP. If this card gives a speed or a peak of "
    "memory, it was measured on a model in memory that really lacks these parts."
)


# Text that leaves this machine: without its paths, and escaped for Markdown.


def portable(settings: Any) -> Any:
    """Settings in which each absolute path is replaced by its last part, at any depth."""
    if isinstance(settings, Mapping):
        return {name: portable(value) for name, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [portable(value) for value in settings]
    if isinstance(settings, str) and settings.startswith(("/", "~")):
        return PurePath(settings).name or settings
    return settings


def escaped(text: str) -> str:
    """Text in one line whose characters mean themselves in Markdown, in its tables, and in HTML."""
    plain = re.sub(r"([\\`*\[\]|#!~]|(?<!\w)_|_(?!\w))", r"\\\1", one_line(text))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """A span of code in one line, whatever backticks the text has; not for cells of tables."""
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{one_line(text)}{pad}{fence}"


def code_block(text: str) -> str:
    """A block of code, whatever backticks the text has."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}\n{text}\n{fence}"


def one_line(text: str) -> str:
    """The text without line breaks and other control characters, so that it cannot end a comment or a table."""
    return "".join(c if c.isprintable() else " " for c in text)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
