"""The command `depth-pruning`: its table of subcommands, their help, and what a wrong word gets."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from pruning import __version__, commands
from pruning.config.groups import BUILT, GROUPS, default_options, description, options, settings_in
from pruning.config.help_page import OWN, USUAL, grid_help
from pruning.core import terminal
from pruning.core.errors import InputError
from tests.helpers.subprocesses import depth_pruning

ROOT = Path(__file__).parents[2]


def test_every_subcommand_has_a_function_and_a_line_and_make_calls_no_other() -> None:
    for name, (line, function) in commands.SUBCOMMANDS.items():
        assert callable(resolve_name(function)), name
        assert re.search(rf"^  {name} +{line}$", commands.usage(), re.MULTILINE)
    called = set(
        re.findall(r"bin/depth-pruning ([\w-]+)", (ROOT / "Makefile").read_text().replace("$(BIN)", "bin"))
    )
    assert called <= {*commands.SUBCOMMANDS}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ([], "depth-pruning compress"),
        (["--version"], __version__),
        (["compress", "--help"], "heal.tokens=300000"),
        (["grid", "--help"], "objective"),
        (["compare", "--help"], "eval.samples=32"),
        (["status", "-h"], "RESULTS"),
        (["report", "--help"], "--only"),
        (["figure"], "table3"),
    ],
)
def test_help_needs_less_than_half_a_cpu_second(words: list[str], shown: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = depth_pruning(tmp_path, *words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == 0, ended.stderr
    assert shown in ended.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    assert len(commands.WELCOME.splitlines()) <= 10


def test_launch_py_is_the_same_as_grid(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), "--help"]
    launched = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert (
        launched.replace("python launch.py", "depth-pruning grid")
        == depth_pruning(tmp_path, "grid", "--help").stdout
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["grod"], "grid"),
        (["algo=greedy", "k=2"], "depth-pruning grid algo=greedy k=2"),
        (["-m", "k=2"], "depth-pruning grid -m k=2"),
    ],
)
def test_a_wrong_subcommand_names_the_right_one(words: list[str], named: str) -> None:
    with pytest.raises(InputError, match=named):
        commands.run(words)


def test_help_shows_every_option_with_what_its_file_says() -> None:
    short, whole = grid_help("launch"), grid_help("launch", everything=True)
    for group in GROUPS:
        for option in options(group):
            text = description(group, option)
            assert text, f"conf/{group}/{option}.yaml says nothing in its first line"
            hidden = text.startswith(OWN)
            assert bool(re.search(rf"^  [ *] {option} ", short, re.MULTILINE)) is not hidden, option
            assert re.search(rf"^  [ *] {option} +{re.escape(text[:20])}", whole, re.MULTILINE), option
    assert set(re.findall(r"^  \* (\w+)", short, re.MULTILINE)) == {*default_options().values()}
    assert default_options().keys() == {*BUILT} - {"calibration"}
    for name in USUAL:
        assert re.search(rf"^  {re.escape(name)}=\S* +\w", short, re.MULTILINE), f"{name} has no comment"
    assert "_target_" not in whole
    assert "algo.width=5" in whole
    assert "make " not in short


def test_settings_are_read_from_the_text_of_a_file() -> None:
    text = "defaults: [a]\nk: null # how many\npaths:\n  results: here\nhydra:\n  run: {dir: .}\nbig: {a: 1} # two\n"
    found = [(one.name, one.default, one.comment) for one in settings_in(text)]
    assert found == [("k", "null", "how many"), ("paths.results", "here", ""), ("big", "{a: 1}", "two")]


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["python", "launch.py", "-m", "k=1,2"], "python launch.py -m k=1,2"),
        (["python", "{bin}/depth-pruning", "compress", "a model"], "depth-pruning compress 'a model'"),
        (["python", "/elsewhere/depth-pruning", "grid"], "/elsewhere/depth-pruning grid"),
    ],
)
def test_the_command_to_resume_is_the_one_that_was_typed(
    typed: list[str], shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "depth-pruning").write_text("#!/bin/sh\n")
    (tmp_path / "depth-pruning").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("sys.orig_argv", [word.format(bin=tmp_path) for word in typed])
    monkeypatch.setattr("sys.argv", ["what compress makes of it"])
    assert terminal.typed_command() == shown
