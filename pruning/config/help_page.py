"""The text of `depth-pruning grid --help`: groups, options and settings, as the files in `conf` describe them."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from pruning.config.groups import (
    BUILT,
    CONF,
    GROUPS,
    Setting,
    default_options,
    description,
    option_classes,
    options,
    settings_in,
    text_of,
)

WIDTH = 118
# The settings that most commands need. The others stand in `--help=all`.
USUAL = (
    *("ratio", "k", "unit", "budget", "seed", "max_evaluations", "export", "study", "paths.results"),
    *("model.path", "calibration.samples", "calibration.length", "calibration.path"),
)
# The files that describe the settings of a group which several options share.
SHOWN = {"model": "local", "calibration": "text_file"}
OWN = "Part of "  # how the description begins of an experiment that belongs to a study of this project

USAGE = """\
Run one cell, or with -m a grid. One cell = model x objective x calibration x algorithm x ratio.

    {program}                                                             one cell with the defaults
    {program} -m algo=one_shot,greedy objective=perplexity,margin ratio=0.1,0.2
    {program} model=local model.path=DIR k=4 calibration=text_file calibration.path=FILE
    {program} experiment=tasks tasks.folder=DIR                a set of blocks for each task, and a router
    {program} -m launcher=slurm model=llama3,qwen3 ratio=0.1,0.2          one job per cell
"""
END = """\
--help=all lists every option with its settings. --cfg job prints the composed settings, --hydra-help the flags of
Hydra, and -sc install=bash says how the tab key completes names. Finished cells are not run again.
"""


def grid_help(program: str, everything: bool = False) -> str:
    """The text for `program`, such as `depth-pruning grid`; with every setting of every option if `everything`."""
    defaults = default_options()
    parts = [USAGE.format(program=program), "Groups, as GROUP=OPTION; * is the default:\n"]
    for group in GROUPS:
        classes = option_classes(group) if everything and group in BUILT else {}
        parts += [f"  {group}", *_options(group, defaults.get(group), everything, classes), ""]
    parts += ["Settings, as NAME=VALUE, with their defaults:\n"]
    known = [*settings_in((CONF / "config.yaml").read_text(encoding="utf-8"))]
    for group, option in SHOWN.items():
        known += settings_in(text_of(group, option), f"{group}.")
    shown = [setting for setting in known if everything or setting.name in USUAL]
    return "\n".join([*parts, *setting_lines(shown), "", END])


def group_help(groups: Sequence[str]) -> str:
    """The options of some groups with the settings of each, for the help of a command that takes no others."""
    return "\n".join(line for group in groups for line in (f"\n  {group}", *_options(group, None, True, {})))


def setting_lines(settings: Sequence[Setting]) -> list[str]:
    """One line per setting: its name, its default and its comment."""
    # `${unless:${k},0.2}` is 0.2 unless k is given, and ??? is for a value that has to be given.
    defaults = [
        re.sub(r"^\$\{unless:.*,(.*)\}$", r"\1", setting.default).replace("???", "...")
        for setting in settings
    ]
    names = [f"  {setting.name}={default}" for setting, default in zip(settings, defaults, strict=True)]
    wide = min(34, max(map(len, names), default=0))
    lines = []
    for name, setting in zip(names, settings, strict=True):
        lines += _described(name, setting.comment, wide)
    return lines


def _described(name: str, text: str, wide: int) -> list[str]:
    """A name and what is said of it, wrapped beside the name."""
    first = f"{name:<{wide}}  "
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * (wide + 2)) or [name]


def _options(group: str, default: str | None, everything: bool, classes: Mapping[str, type]) -> Iterator[str]:
    said = {name: description(group, name) for name in options(group)}
    shown = [name for name, text in said.items() if everything or not text.startswith(OWN)]
    wide = max(map(len, shown), default=0) + 6
    for name in shown:
        text = (
            said[name] if everything else textwrap.shorten(said[name], WIDTH - wide - 2, placeholder=" ...")
        )
        yield from _described(f"  {'*' if name == default else ' '} {name}", text, wide)
        if everything and group != "experiment":
            yield from (f"      {line}" for line in setting_lines(_settings(group, name, classes.get(name))))


def _settings(group: str, option: str, cls: type | None) -> list[Setting]:
    """The settings of an option: those of its file, and those of its class that the file leaves as they are."""
    written = {setting.name: setting for setting in settings_in(text_of(group, option), f"{group}.")}
    for item in dataclasses.fields(cls) if cls is not None else ():  # type: ignore[arg-type]
        name = f"{group}.{item.name}"
        plain = item.init and item.default is not dataclasses.MISSING
        if plain and not any(known == name or known.startswith(f"{name}.") for known in written):
            written[name] = Setting(name, _plain(item.default), "")
    return [*written.values()]


def _plain(value: object) -> str:
    """A value as YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
