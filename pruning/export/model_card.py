"""The texts of an export: its model card with metadata for the hub, and three printed lines.

The texts are templates (`*.jinja`); this module has the facts and functions that they use.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from pruning.calibration.items import EMBEDDED as ITEMS
from pruning.calibration.sources import PARTED
from pruning.config.app import launch_words
from pruning.core import VERSION, records
from pruning.core.mask import Mask, unit_noun
from pruning.core.records import CLASS, DoneResult, HealRecord
from pruning.core.units import bytes_text, rate_text
from pruning.evaluation.change import QualityChange, changes
from pruning.export.request import Request
from pruning.models.handle import directory_name
from pruning.search.decide import certainty

if TYPE_CHECKING:
    from pruning.export.checkpoint import ModelSizes

# Hub names and licences of the models that Python packages contain as GGUF files.
PACKAGED = {
    "smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
    "gemma3_270m": ("google/gemma-3-270m", "gemma"),
    "qwen_coder_1b": ("Qwen/Qwen2.5-Coder-1.5B-Instruct", "apache-2.0"),
}
INHERITED = ("license", "license_name", "license_link", "language")
Which = Literal["pruned", "healed"]


@dataclass(frozen=True)
class CutFile:
    """A GGUF file that was written: its name and its digest.

    `listed` is the GGUF key that lists the blocks' attention kinds; None if these follow from the block numbers.
    """

    name: str
    sha256: str
    listed: str | None


@dataclass(frozen=True)
class Facts:
    """The facts that the texts of an export state.

    `base` is the hub name of the original model, or the name of its directory; `source` says where the
    weights came from; `commands` reproduce the export; `proof` says how the export was checked. `result` is
    the result of the cell, or None if the mask comes from elsewhere. `repair` names the sub-layers whose
    output a map multiplies. `idle` is the number of exported parameters in removed sub-layers. If the export
    is a directory, `file` is None. `changes` says in words how each metric differs from the dense model's.
    """

    name: str
    base: str
    source: str
    dtype: str
    mask: Mask
    sizes: ModelSizes
    commands: Sequence[str]
    proof: str
    result: DoneResult | None = None
    repair: Sequence[str] | None = None
    inherited: Mapping[str, Any] | None = None
    idle: int = 0
    healed: HealRecord | None = None
    file: CutFile | None = None
    changes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def which(self) -> Which:
        """The key of the exported model's metrics in a result's evaluation: `pruned` or `healed`."""
        return "pruned" if self.healed is None else "healed"

    @property
    def share(self) -> str:
        """The removed shares of units and of parameters, in words."""
        used, dense = self.sizes.parameters - self.idle, self.sizes.dense_parameters
        unit = f"{unit_noun(self.mask.unit)}s"
        return (
            f"{100 * self.mask.ratio:.3g} % of the {unit}, {100 * (1 - used / dense):.3g} % of the parameters"
        )


def facts(wanted: Request, **known: Any) -> Facts:
    """The facts of an export; `known` has the fields of `Facts` that do not follow from the request."""
    mask, settings = wanted.mask, wanted.model
    hub = {"hub": settings.path, "packaged": PACKAGED.get(settings.path, ("",))[0]}.get(settings.source)
    named = hub if hub and not settings.in_directory else directory_name(settings.location)
    base, unit = wanted.in_memory or named, unit_noun(mask.unit).replace("-", "")
    which, found = "healed" if wanted.healed else "pruned", dict[str, QualityChange]()
    if wanted.result is not None and which in wanted.result["evaluation"]:
        found = changes(wanted.result, wanted.folder and wanted.folder.parent, which)
    return Facts(
        name=f"{base.rpartition('/')[2]}-{len(mask.kept)}-of-{mask.n_units}-{unit}s",
        base=base,
        mask=mask,
        commands=list(_commands(wanted)),
        result=wanted.result,
        repair=None if wanted.repair is None else wanted.repair.names(),
        healed=wanted.heal_record,
        changes={name: str(change) for name, change in found.items()},
        **known,
    )


def inherit(folder: Path | None) -> dict[str, Any]:
    """Licence and language from the model card in a model's directory; {} if there is no card."""
    from huggingface_hub import ModelCard

    if folder is None or not (folder / "README.md").is_file():
        return {}
    data = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.to_dict()
    return {name: data[name] for name in INHERITED if name in data}


def model_card(facts: Facts) -> str:
    """The text of the model card, with metadata for the hub."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=name.partition("/")[2] or name,
            dataset_name=name.partition("/")[2] or name,
            metric_type=records.label_of(name).partition(",")[0],
            metric_name=name,
            metric_value=facts.result["evaluation"][facts.which][name] if facts.result else None,
        )
        for name in measured(facts.result, facts.which)
    ]
    known = {base: {"license": licence} for base, licence in PACKAGED.values()}
    data = ModelCardData(
        **(facts.inherited or known.get(facts.base, {})),
        base_model=facts.base if facts.base.count("/") == 1 and not facts.base.startswith("/") else None,
        library_name="transformers" if facts.file is None else "gguf",
        pipeline_tag="text-generation",
        tags=["depth-pruning", "pruned"],
        model_name=facts.name if results else None,  # only valid together with results
        eval_results=results or None,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_rendered('card.md.jinja', facts)}"))


def settings_of(name: str, evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The names of a metric's settings that are not null, and their values as JSON, with shortened paths."""
    how = dict(records.leaves(portable(evaluation.get("how", {}).get(name, {}))))
    return [(k, json.dumps(value, ensure_ascii=False)) for k, value in how.items() if value is not None]


def summary(facts: Facts, out: Path) -> str:
    """Three lines: how the metrics change, what is removed (with sizes and speed), and where the model is."""
    return _rendered("summary.txt.jinja", facts, which=facts.which, out=out).rstrip()


def _rendered(template: str, facts: Facts, **more: Any) -> str:
    return str(_templates().get_template(template).render(**vars(facts), share=facts.share, **more))


# A result's measurements as text.


def measured(result: DoneResult | None, which: Which = "pruned") -> list[str]:
    """The names of the metrics of the pruned or healed model."""
    found: Mapping[str, Any] = result["evaluation"].get(which, {}) if result is not None else {}
    return [name for name in records.metrics_among(found) if isinstance(found[name], (int, float))]


def number(name: str, values: Mapping[str, Any]) -> str:
    """A metric as text, with its standard error if it has one; `-` if the metric is not in `values`."""
    if not isinstance(value := values.get(name), (int, float)):
        return "-"
    decimals = 2 if abs(value) >= 10 else 3
    error = values.get(records.error_of(name))
    return f"{value:,.{decimals}f}" + (f" ± {error:,.{decimals}f}" if isinstance(error, float) else "")


def related(result: DoneResult, healed: HealRecord | None) -> list[str]:
    """The metrics (as code spans) on data from a source of which calibration or training used another part."""
    used = {*result["calibration"]["source"].split(" + "), *([healed["source"]] if healed else ())}
    if "embedded" in used:
        used |= set(PARTED)
    how = result["evaluation"].get("how", {})
    own = used & {*PARTED, ITEMS}  # of a file or a data set, these words do not say which one
    return [f"`{name}`" for name in how if how[name].get("source") in own]


def unmeasured(result: DoneResult | None) -> str:
    """The reason why a result has no metrics."""
    return "the mask does not come from a cell" if result is None else "its cell was evaluated for speed only"


# The commands that reproduce an export, and the program that they belong to.


def program() -> str:
    """The program's name and version, as a link to its home page if the installed package names one."""
    named = f"depth-pruning {VERSION}"
    try:
        urls = importlib.metadata.metadata("depth-pruning").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:  # it runs from a checkout that is not installed
        return named
    labelled = dict(url.split(", ", 1) for url in urls)
    return f"[{named}]({labelled['Homepage']})" if "Homepage" in labelled else named


def _commands(wanted: Request) -> Iterator[str]:
    """Yield commands that can reproduce an export: one for a whole launch, and one for the export only."""
    if wanted.in_memory is not None:
        yield f"pruning.export_model(model, {wanted.mask!r}, DIR)  # in Python"
        return
    out = "DIR" if wanted.out.suffix.lower() != ".gguf" else "FILE.gguf"
    if wanted.result is not None:
        config = portable(launched(wanted.result, wanted.healed))
        yield shlex.join(["depth-pruning", "grid", *launch_words(config), f"export={out}"])
    if not wanted.healed and wanted.repair is None:
        model = {CLASS: "Model", **portable(dataclasses.asdict(wanted.model))}
        words = ["--drop", ",".join(wanted.mask.names()), *launch_words({"model": model}), f"out={out}"]
        yield shlex.join(["depth-pruning", "export", *words])


def launched(result: DoneResult, healed: bool) -> Mapping[str, Any]:
    """The configuration of a launch that reproduces a result's pruned or healed model.

    A healed model also depends on an evaluation, whose data determine the windows that healing leaves out.
    """
    config = dict(result["config"])
    if not healed:
        return {name: value for name, value in config.items() if name != "heal"}
    return config | {"eval": result["heal"].get("evaluation", config["eval"])}


# Text for publication: without this machine's paths, and escaped for Markdown.


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,
    )
    found.globals |= {
        "certainty": certainty,
        "is_repaired": records.is_repaired,
        "kind_of": records.kind_of,
        "main_of": records.main_of,
        "mask_of": Mask.from_json,
        "measured": measured,
        "number": number,
        "program": program,
        "related": related,
        "settings_of": settings_of,
        "unmeasured": unmeasured,
    }
    found.filters |= {
        "as": format,
        "bytes": bytes_text,
        "rate": rate_text,
        "joined": lambda text: " ".join(text.split()) + "\n",
        "sources": lambda name: escaped(" + ".join(map(portable, name.split(" + ")))),
        "escaped": escaped,
        "code": code,
        "code_block": code_block,
        "one_line": one_line,
    }
    return found


def portable(settings: Any) -> Any:
    """The settings with each absolute path, at any depth, replaced by its last part."""
    if isinstance(settings, Mapping):
        return {name: portable(value) for name, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [portable(value) for value in settings]
    if isinstance(settings, str) and settings.startswith(("/", "~")):
        return PurePath(settings).name or settings
    return settings


def escaped(text: str) -> str:
    """The text in one line, escaped so that Markdown, its tables and HTML show it literally."""
    plain = re.sub(r"([\\`*\[\]|#!~]|(?<!\w)_|_(?!\w))", r"\\\1", one_line(text))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """A code span in one line; backticks, which would end it, become apostrophes. Not for use in table cells."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def code_block(text: str) -> str:
    """A block of code; backticks, which could end it, become apostrophes."""
    return f"```\n{text.replace('`', chr(39))}\n```"


def one_line(text: str) -> str:
    """The text with spaces for unprintable characters: a line break could end a comment or a table."""
    return "".join(c if c.isprintable() else " " for c in text)
