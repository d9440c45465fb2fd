"""The text of `depth-pruning grid --help`: groups, options and settings, as the files in `conf` describe them."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from pruning.config import groups

WIDTH = 118
# The settings that most commands need. Only `--help=all` lists the others.
USUAL = (
    *("ratio", "k", "unit", "budget", "seed", "max_evaluations", "export", "study", "paths.results"),
    *("model.path", "calibration.samples", "calibration.length", "calibration.path"),
)
SHOWN = {
    "model": "local",
    "calibration": "text_file",
}  # options whose files describe the settings that all options of a group have
ENDS = (
    "first",
    "last",
)  # of the model; `protect` is an empty group by default, so no file lists its settings
OWN = "Part of "  # the first words of the description of an experiment from this project's studies

USAGE = """\
Run one cell, or with -m a grid. One cell = model x objective x calibration x algorithm x ratio.

    {program}                                                    one cell with the defaults
    {program} -m algo=one_shot,greedy objective=perplexity,margin ratio=0.1,0.2
    {program} model=local model.path=DIR k=4 calibration=text_file calibration.path=FILE
    {program} model=OWNER/NAME                                   a model of the hub
    {program} experiment=tasks tasks.folder=DIR                  a set of blocks for each task, and a router
    {program} -m launcher=slurm model=llama3,qwen3 k=2,4         one job per cell

Groups, as GROUP=OPTION; * is the default, and an objective chooses a calibration that suits it:
"""
END = """
--help=all lists every option with its settings, --cfg job prints the composed settings, and --hydra-help the flags of
Hydra. Finished cells are not run again."""


def grid_help(program: str, everything: bool = False) -> str:
    """The help of `program`, such as `depth-pruning grid`. If `everything`, it lists the settings of all options."""
    defaults, parts = groups.default_options(), [USAGE.format(program=program)]
    for group in groups.GROUPS:
        classes = groups.option_classes(group) if everything and group in groups.BUILT else {}
        parts += [f"  {group}", *_options(group, defaults.get(group), everything, classes), ""]
    known = [*groups.settings_in((groups.CONF / "config.yaml").read_text(encoding="utf-8"))]
    for group, option in SHOWN.items():
        known += groups.settings_in(groups.text_of(group, option), f"{group}.")
    known += [groups.Setting(f"protect.{end}", "0", f"number of {end} blocks that stay") for end in ENDS]
    shown = [setting for setting in known if everything or setting.name in USUAL]
    return "\n".join([*parts, "Settings, as NAME=VALUE, with their defaults:\n", *_lines(shown), END])


def group_help(group: str, default: str) -> str:
    """The options of a group with their settings, for a command that takes only options of this group."""
    return "\n".join([f"\n  {group}; * is the default", *_options(group, default, True, {})])


def experiment_help(name: str) -> str:
    """The settings that most commands need, and the options that an experiment chooses, with their settings."""
    text = groups.text_of("experiment", name)
    parts = ["\nSettings and their defaults; `depth-pruning grid --help=all` has all:\n"]
    own = {one.name: one.default for one in groups.settings_in(text)}
    known = groups.settings_in((groups.CONF / "config.yaml").read_text(encoding="utf-8"))
    usual = [one for one in known if one.name in (*USUAL, "minutes") and one.name not in ("export", "study")]
    parts += _lines([dataclasses.replace(one, default=own.get(one.name, one.default)) for one in usual])
    for group, option in re.findall(r"- override /(\w+): (\w+)", text):
        parts += ["", *_described(f"  {group}={option}", groups.description(group, option), 34)]
        parts += (f"  {line}" for line in _lines(_settings(group, option, None)))
    return "\n".join(parts)


def _options(group: str, default: str | None, everything: bool, classes: dict[str, Any]) -> Iterator[str]:
    """Yield each option's lines. If `everything`, its settings follow, except those that were listed before."""
    said = {name: groups.description(group, name) for name in groups.options(group)}
    shown = [name for name, text in said.items() if everything or not text.startswith(OWN)]
    shown.sort(key=lambda name: name != default)
    wide, seen = max(map(len, shown)) + 6, set[groups.Setting]()
    for name in shown:
        text = (
            said[name] if everything else textwrap.shorten(said[name], WIDTH - wide - 2, placeholder=" ...")
        )
        yield from _described(f"  {'*' if name == default else ' '} {name}", text, wide)
        if everything and group != "experiment":
            settings = _settings(group, name, classes.get(name))
            yield from (f"      {line}" for line in _lines([one for one in settings if one not in seen]))
            seen.update(settings)


def _settings(group: str, option: str, cls: Any) -> list[groups.Setting]:
    """The settings of an option: those in its file, and its class's settings that the file leaves out."""
    written = [*groups.settings_in(groups.text_of(group, option), f"{group}.")]
    own = [] if cls is None else [*_fields(cls, f"{group}.")]
    return written + [one for one in own if not any(f"{w.name}.".startswith(f"{one.name}.") for w in written)]


def _fields(settings: Any, prefix: str) -> Iterator[groups.Setting]:
    """Yield the settings of a class or an object, with their defaults in YAML."""
    for item in dataclasses.fields(settings):
        value = item.default
        if value is dataclasses.MISSING and item.default_factory is not dataclasses.MISSING:
            value = item.default_factory()
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{item.name}.")
        elif item.init and value is not dataclasses.MISSING:
            text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            yield groups.Setting(prefix + item.name, text, "")


def _lines(settings: Sequence[groups.Setting]) -> Iterator[str]:
    """Yield lines with the name, the default and the comment of each setting."""
    # `${unless:${k},0.2}` is 0.2 unless k is given, and ??? marks a value that must be given.
    defaults = [
        re.sub(r"^\$\{(?:unless:.*,)?(.*)\}$", r"\1", one.default).replace("???", "...") for one in settings
    ]
    names = [f"  {one.name}={default}" for one, default in zip(settings, defaults, strict=True)]
    wide = min(34, max(map(len, names), default=0))
    for name, setting in zip(names, settings, strict=True):
        yield from _described(name, setting.comment, wide)


def _described(name: str, text: str, wide: int) -> list[str]:
    """Lines with a name and, beside it, the wrapped text that describes it."""
    first = f"{name:<{wide}}  "
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * (wide + 2)) or [name]
