"""Faults around a command: a full disk, a missing permission, a closed pipe, Ctrl-C, a narrow terminal."""

from __future__ import annotations

import contextlib
import errno
import inspect
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from filelock import FileLock

from analysis.data import archive
from pruning.core import storage
from pruning.core.errors import InputError, PruningError
from pruning.core.terminal import guarded, sentence
from pruning.runs.measurements import batches_shown, search_shown
from pruning.study import text_tables
from pruning.tracking import rebuild
from pruning.tracking.store import MLflow
from tests.conftest import Command
from tests.helpers.results import a_result

ROOT = Path(__file__).parents[2]
DENIED = errno.EACCES, "Permission denied"


def full_after(lines: int, torn: bool) -> Callable[[int, bytes], int]:
    """A replacement for `os.write`: after some lines the disk is full, or takes a part of a line if `torn`."""
    calls, honest = itertools.count(), os.write

    def write(descriptor: int, data: bytes) -> int:
        if next(calls) < lines:
            return honest(descriptor, data)
        if torn:
            return honest(descriptor, data[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    return write


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True])
def test_a_full_disk_stops_a_search_and_the_same_command_continues(
    launch: Command, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "write", full_after(5, torn))
        ended = launch("-m", "k=2", "algo=greedy,one_shot")
    (journal,) = ended.results.glob("*/trace.jsonl")
    assert ended.status == 1
    assert re.match(rf"{journal} .*full", ended.err.splitlines()[-1])
    assert "Traceback" not in ended.err
    assert ended.all() == []
    kept = b"".join(line for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))
    assert kept.count(b"\n") == 5
    again = launch("k=2").result("greedy")
    assert journal.read_bytes().startswith(kept)
    assert again["search"]["evaluations_paid"] == again["search"]["evaluations_asked"] == 11


def test_a_folder_of_a_colleague_fails_its_own_cell_only(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Path.mkdir

    def closed(self: Path, *given: Any, **more: Any) -> None:
        if "-greedy-" in self.name:
            raise PermissionError(*DENIED, str(self))
        honest(self, *given, **more)

    monkeypatch.setattr(Path, "mkdir", closed)
    ended = launch("-m", "k=1", "algo=greedy,one_shot")
    assert ended.status == 1
    assert DENIED[1].lower() in ended.out
    assert "tiny-perplexity-greedy" in ended.err
    assert "Traceback" not in ended.err
    assert ended.result("one_shot")["status"] == "done"


def test_a_cell_that_another_process_runs_has_not_failed(launch: Command) -> None:
    first = launch("k=1")
    folder = first.results / first.result()["cell"]
    (folder / "result.json").unlink()
    with FileLock(folder / ".lock"):
        ended = launch("k=1")
    assert (ended.status, ended.all()) == (75, [])
    assert f":\n{folder.name}" in ended.out
    assert "failed" not in ended.out + ended.err


FAULTS = [
    (PermissionError(*DENIED, "/data/x"), r"^/data/x .*\(permission denied\).*paths\.results=DIR"),
    (OSError(errno.EROFS, "Read-only file system", "/data/x"), r"^/data/x .*\(read-only"),
    (OSError(errno.EDQUOT, "Disk quota exceeded", "/data/x"), r"^/data/x .*full"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "/data"), r"^/data .*: is a directory\.$"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "/data"), r"^/data .*: file name too long\.$"),
    (OSError("strange"), r"^strange\.$"),
]


@pytest.mark.parametrize(("error", "text"), FAULTS)
def test_each_fault_of_a_file_is_a_sentence(error: OSError, text: str) -> None:
    assert re.search(text, sentence(error))


FULL = OSError(errno.ENOSPC, "No space left")


@pytest.mark.parametrize(
    ("raised", "status", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted: "),
        (InputError("wrong"), 2, "wrong"),
        (FULL, 1, "a file "),
    ],
)
def test_every_command_ends_in_one_line(
    raised: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, guarded():
        raise raised
    assert end.value.code == status
    assert (said := capsys.readouterr().err).startswith(text)
    assert said.count("\n") == 1
    with pytest.raises(ZeroDivisionError), guarded():
        _ = 1 // 0  # a defect keeps its traceback


def test_every_door_is_guarded() -> None:
    """A door is a file that runs as a program, or a function that becomes a command when the package is installed."""
    files = [ROOT / "launch.py", *ROOT.glob("pruning/**/*.py"), *ROOT.glob("analysis/**/*.py")]
    doors = {path for path in files if '__name__ == "__main__"' in path.read_text("utf-8")}
    assert doors == {ROOT / "launch.py", ROOT / "pruning" / "commands.py"}
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "    commands.main()\n" in (ROOT / "launch.py").read_text("utf-8")
    assert scripts == {"depth-pruning": "pruning.commands:main"}
    assert "    with guarded():\n" in inspect.getsource(resolve_name("pruning.commands:main"))


def test_ctrl_c_in_the_first_second_is_one_line(tmp_path: Path) -> None:
    # A shell that starts this test in the background lets it ignore SIGINT, and its children too.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"sys.path.insert(0, {str(ROOT)!r}); import launch; launch.main()"
    command = [sys.executable, "-c", code, "k=1", "model=local", "model.path=nowhere"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        # An import of a library can swallow an interrupt: then it is pressed again.
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.7)
        out, err = process.communicate(timeout=60)
    assert "settings" in first, "a first line is shown before the slow imports"
    assert process.returncode == 130
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("interrupted: ")


@pytest.mark.parametrize(
    ("redirected", "status", "said"),
    [
        ("| true", 1, ""),
        ("> /dev/full", 1, "disk"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
def test_output_that_nobody_takes_ends_a_command_without_a_traceback(
    redirected: str, status: int, said: str, tmp_path: Path
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pruning.core.terminal import guarded, is_terminal\n"
        "from rich.console import Console\n"
        "import logging, time\n"
        "time.sleep(0.2)\n"
        "with guarded():\n"
        "    print('a table · é'), print('a warning', file=sys.stderr), Console().print('a table')\n"
        "    logging.warning('text'), is_terminal(sys.stdout), is_terminal(sys.stderr)\n"
    )
    (tmp_path / "work.py").write_text(code)
    command = f"set -o pipefail; PYTHONIOENCODING=ascii {sys.executable} work.py {redirected}"
    ran = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == status, ran.stderr
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr


def result(seed: int) -> Any:
    """What the table shows of a result."""
    metrics = {"ppl/heldout": 26.2, "acc/heldout": 0.5, "ppl/wikitext2": 30.0}
    return a_result(
        mask={"dropped": list(range(10, 19))},
        config={"seed": seed, "model": {"dtype": "bfloat16", "attention": "sdpa"}},
        search={"algo": "fast_block_select", "k": 9, "evaluations_asked": 165, "evaluations_paid": 78},
        evaluation={"dense": metrics, "pruned": metrics},
    )


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (80, []),
        (170, ["cell", "blocks dropped", "loss", "held-out perplexity", "wikitext2 perplexity"]),
    ],
)
def test_the_table_fits_a_narrow_terminal_and_a_pipe_gets_all_of_it(
    columns: int, titles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    lines = text_tables.results([result(0), result(1)]).strip().splitlines()
    assert max(map(len, lines)) <= columns
    assert [*filter(None, re.split(r"\s{2,}", lines[0].strip()))][: len(titles)] == titles
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert max(map(len, text_tables.results([result(0)]).splitlines())) > 80


def test_progress_names_the_size_of_its_masks_and_a_measurement_shows_its_batches(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, float]] = []
    batches: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def bar(title: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: batches.setdefault(title, []).append((done, total))

    @contextmanager
    def search_bar(*_: Any, **__: Any) -> Iterator[Callable[[int, float, int], None]]:
        yield lambda _, best, size: shown.append((size, best))

    monkeypatch.setattr("pruning.runs.measurements.search_shown", search_bar)
    monkeypatch.setattr("pruning.runs.measurements.batches_shown", bar)
    assert launch("k=2").status == 0
    assert {size for size, _ in shown} == {0, 1, 2}
    assert shown == sorted(shown, key=lambda one: (one[0], -one[1])), (
        "within one size, the best loss only falls"
    )
    assert {title.partition(" ")[0] for title in batches} == {"ppl/heldout", "acc/heldout"}
    assert len(batches) == 2, "the dense and the pruned model share their passes"
    assert all(steps[-1][0] == steps[-1][1] for steps in batches.values())


@pytest.mark.parametrize("name", ["launch.log", "trace.jsonl", ""])
def test_a_copied_cell_with_a_link_writes_nothing_through_it(
    launch: Command, tmp_path: Path, name: str
) -> None:
    ended = launch("algo=one_shot", "k=1")
    (cell,) = [path.parent for path in ended.results.glob("*/result.json")]
    (cell / "result.json").unlink()
    victim = tmp_path / "victim"
    (cell / name).rename(victim)
    (cell / name).symlink_to(victim)
    files = {path: path.read_bytes() for path in [victim, *victim.glob("*")] if path.is_file()}
    ended = launch("algo=one_shot", "k=1")
    assert ended.status != 0
    assert str(cell / name) in ended.err
    assert {path: path.read_bytes() for path in files} == files
    assert name or not (victim / "result.json").exists()


def test_a_database_that_is_a_link_is_not_written(launch: Command, tmp_path: Path) -> None:
    (victim := tmp_path / "victim").write_text("precious")
    ended = launch("algo=one_shot", "k=1")
    (ended.results / "mlflow.db").symlink_to(victim)
    with pytest.raises(PruningError, match=r"mlflow\.db"):
        MLflow().record(ended.results, [path.parent for path in ended.results.glob("*/result.json")])
    assert victim.read_text() == "precious"


def test_the_python_interface_needs_no_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with search_shown("search", 3) as search, batches_shown("measure") as show:
        search(1, 0.5, 1)
        show(1, 2)


@pytest.mark.slow
def test_a_home_folder_in_quotes_is_expanded_everywhere(
    launch: Command, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "model").symlink_to(model_folder)
    (home / "text.txt").write_text("Some words of a text. " * 900)
    monkeypatch.setenv("HOME", str(home))
    words = [
        "model.path='~/model'",
        "export='~/less'",
        "calibration.path='~/text.txt'",
        "paths.results='~/out'",
    ]
    ended = launch("algo=one_shot", "k=1", "calibration=text_file", *words)
    assert ended.status == 0, ended.err
    assert len(list((home / "out").glob("*/result.json"))) == 1
    assert (home / "less" / "config.json").exists()
    monkeypatch.setattr("sys.argv", ["archive", "unpack", "~/none.tar.xz", "~/new"])
    with pytest.raises(Exception, match=str(home)):
        archive.main()
    monkeypatch.setattr("sys.argv", ["track", "~/nothing"])
    with pytest.raises(InputError, match=str(home)):
        rebuild.main()
    assert not list(tmp_path.rglob("~*"))
