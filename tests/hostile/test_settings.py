"""Words of a command line that are wrong: each gets one sentence, and nothing is computed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pruning.config.compose import check_settings, check_words, ordered
from pruning.core.errors import InputError, first_line
from pruning.core.mask import Removal
from pruning.launcher.slurm import Slurm
from pruning.models.model import Resources
from tests.conftest import Command

CASES: dict[str, tuple[str, list[str], str]] = {
    "nan": ("", ["ratio=nan"], "ratio=nan is not a finite number: give one that is."),
    "inf": ("", ["ratio=inf"], "ratio=inf is not a finite number"),
    "negative": ("", ["ratio=-1"], "ratio=-1 is not a fraction of the blocks"),
    "text": ("", ["ratio=abc"], "ratio=abc is not valid: give a number."),
    "whole": ("", ["k=1.5"], "k=1.5 is not valid: give a whole number"),
    "huge": ("", ["forward.memory=99999999999999999999"], "forward.memory=99999999999999999999 is out of range"),
    "exponent": ("", ["calibration.length=1e9"], "calibration.length=1e9 is not valid: give a whole number"),
    "memory": ("", ["forward.memory=0"], "forward.memory=0 is too small: choose 1 or more."),
    "added": ("", ["+algo.foo=1"], "algo=greedy has no setting 'foo'. Its settings: blocks, lazy, rank"),
    "added below": ("", ["+forward.foo=1"], "forward has no setting 'foo'. Its settings: bounds, compile,"),
    "added deep": ("", ["+model.resources.foo=1"], "model.resources has no setting 'foo'"),
    "top": ("", ["algos=greedy"], "unknown setting 'algos'. Did you mean algo? Available: algo, budget, calibration"),
    "other option": ("", ["launcher.requeues=-1"], "launcher.requeues is a setting of launcher=slurm."),
    "own option": ("", ["algo=genetic", "algo.width=2"], "algo=genetic has no setting 'width'"),
    "sweep after flag": ("-m", ["algo=a,b"], "unknown algo 'a'"),
    "null": ("", ["algo=null"], "unknown algo 'null'. Available: annealing"),
    "number": ("", ["algo=1"], "unknown algo '1'. Available: annealing"),
    "list": ("", ["algo=[greedy,beam]"], "unknown algo '['greedy', 'beam']'"),
    "removed": ("", ["~forward"], "~forward would remove settings that every cell has: leave it out."),
    "protect": ("", ["protect=null"], "protect takes two numbers of blocks: give protect.first=N and"),
    "no protect": ("", ["~protect"], "~protect would remove settings that every cell has"),
    "missing": ("", ["~algo"], "algo is missing: give algo=..."),
    "comma": ("", ["model.path=a,b"], "model.path=a,b holds a comma. Add -m to run one cell for each value"),
    "folder": (
        "",
        ["calibration=text_file", "calibration.path=/tmp"],
        "calibration.path=/tmp is a folder, and a file is needed",
    ),
    "eval folder": ("", ["eval=local", "eval.items={a: /tmp}"], "eval.items.a=/tmp is a folder, and a file"),
    "window": (
        "",
        ["eval=perplexity", "+eval.corpora.a={source: file, path: /etc/hosts, window: 1e9}"],
        "eval.corpora.a.window=1000000000.0 is not valid: give a whole number",
    ),
    "window of text": (
        "",
        ["eval=perplexity", "+eval.corpora.a={source: file, path: /etc/hosts, window: abc}"],
        "eval.corpora.a.window='abc' is not valid: give a whole number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_word_gets_one_sentence(launch: Command, case: str) -> None:
    flag, words, message = CASES[case]
    calibrated = not any(word.startswith("calibration") for word in words)
    ended = launch(*filter(None, [flag]), *words, calibrated=calibrated)
    lines = ended.err.splitlines()
    assert lines[0] == "reading the settings"
    assert message in ended.err
    assert ended.status == 2
    assert "HYDRA_FULL_ERROR" not in ended.err
    assert not {"append", "Traceback", "Conf'"} & set(ended.err.split())
    assert ended.all() == []


@pytest.mark.parametrize(
    ("word", "cure"),
    [
        ("calibration.path=/a=b.txt", """'calibration.path="/a=b.txt"'"""),
        ("calibration.path=/a(1).txt", """'calibration.path="/a(1).txt"'"""),
        ("model.path=/ü", """'model.path="/ü"'"""),
        ("paths.results=~nobody/x", """'paths.results="~nobody/x"'"""),
        ("""model.path=/a"=b""", """'model.path="/a\\"=b"'"""),
        ("eval.texts={a: /a=b.txt}", """'eval.texts={NAME: "PATH"}'"""),
    ],
)
def test_a_word_that_hydra_cannot_read_is_shown_in_quotes(word: str, cure: str) -> None:
    with pytest.raises(InputError) as error:
        check_words([word])
    assert cure in str(error.value)
    assert "NAME" in cure or check_words([cure.strip("'")]) is None, "the cure works"


def test_each_value_of_a_sweep_is_quoted() -> None:
    with pytest.raises(InputError, match=r"""'model\.path="/a=b","/c"'"""):
        check_words(["-m", "model.path=/a=b,/c"])


def test_settings_may_stand_on_both_sides_of_a_flag() -> None:
    assert ordered(["k=2", "-m", "algo=a,b", "--cfg", "job"]) == ["k=2", "algo=a,b", "-m", "--cfg", "job"]
    assert ordered(["~eval", "--info", "+a=1"]) == ["~eval", "+a=1", "--info"]


@pytest.mark.parametrize("launcher", [Slurm(requeues=-1), Slurm(parallel=0), Slurm(warning_seconds=0)])
def test_each_number_of_a_launcher_has_its_range(launcher: Slurm) -> None:
    with pytest.raises(InputError, match=r"launcher\.\w+=-?\d is too few: choose [01] or more\."):
        launcher.check({"tiny": Resources()})


OPTIONS = ["algo=annealing", "algo=bayesian", "algo=beam", "algo=cbo", "algo=evolution", "algo=exhaustive"]
OPTIONS += ["algo=fast_block_select", "algo=genetic", "algo=random", "objective=mutual_information"]
OPTIONS += ["calibration=pydoc", "calibration=commonsense", "eval=heldout", "eval=speed"]
OPTIONS += ["objective=relative_magnitude", "objective=weighted", "eval=zeroshot", "algo=cbo_hessian"]


@pytest.mark.parametrize("option", OPTIONS)
def test_no_numeric_setting_of_an_option_accepts_nan_or_minus_one(option: str) -> None:
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from pruning.config.app import composed

    group = option.partition("=")[0]
    plain: Any = OmegaConf.to_container(composed([option])[group], resolve=True)
    numbers = {name: value for name, value in plain.items() if type(value) in (int, float)}
    for name in numbers:
        with pytest.raises(InstantiationException) as error:
            instantiate({**plain, name: -1}, _convert_="all")
        assert isinstance(error.value.__cause__, InputError)
        assert f"{group}.{name}=-1" in str(error.value.__cause__)
        with pytest.raises(InputError, match=rf"{group}\.{name}=nan is not a finite number"):
            check_settings({group: {**plain, name: math.nan}}, {})


@pytest.mark.parametrize(("n_blocks", "first"), [(1, 0), (0, 0), (4, 3)])
def test_no_message_offers_an_empty_range(n_blocks: int, first: int) -> None:
    with pytest.raises(InputError) as error:
        Removal(None, 4 if first else 1, first=first).space(n_blocks)
    assert "from 1 to 0" not in str(error.value)
    assert "from 1 to 1" not in str(error.value)


def test_the_first_line_of_an_error_never_ends_in_a_list_that_is_cut_off() -> None:
    error = OSError(
        "Couldn't instantiate the tokenizer from one of: \n(1) a serialization file, \n(2) a slow one"
    )
    assert first_line(error) == "Couldn't instantiate the tokenizer from one of: (1) a serialization file"
    assert first_line(ValueError("two things:")) == "two things"


def test_a_file_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: Command
) -> None:
    file = tmp_path / "secret.txt"
    file.write_text("text")
    honest = Path.open

    def closed(self: Path, *given: Any, **more: Any) -> Any:
        if self.name == "secret.txt":
            raise PermissionError(13, "Permission denied", str(self))
        return honest(self, *given, **more)

    monkeypatch.setattr(Path, "open", closed)
    ended = launch("calibration=text_file", f"calibration.path={file}")
    assert f"calibration.path={file} cannot be read (Permission denied): make it readable" in ended.err
    assert ended.status == 2
