"""Words of a command line that are wrong: each gets one sentence, and nothing is computed."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pruning.config.app import check_settings, composed
from pruning.config.groups import options
from pruning.config.words import check_words, ordered
from pruning.core.errors import InputError, first_line
from pruning.core.mask import Removal
from pruning.launcher.slurm import Slurm
from pruning.models.handle import Resources
from tests.conftest import Command

CORPUS = ["eval=perplexity", "+eval.corpora.a={source: file, path: /etc/hosts, window: %s}"]
# A flag, words, and what the refusal names: the setting, the value, what is allowed.
CASES: list[tuple[str, list[str], str]] = [
    ("", ["ratio=nan"], "ratio=nan "),
    ("", ["ratio=inf"], "ratio=inf "),
    ("", ["ratio=-1"], "ratio=-1 "),
    ("", ["ratio=abc"], "ratio=abc "),
    ("", ["k=1.5"], r"k=1\.5 "),
    ("", ["max_evaluations=99999999999999999999"], "max_evaluations=99999999999999999999 "),
    ("", ["calibration.length=1e9"], r"calibration\.length=1e9 "),
    ("", ["+algo.foo=1"], "algo=greedy .*'foo'.* lazy, rank"),
    ("", ["+racing.foo=1"], "racing .*'foo'.* delta"),
    ("", ["+model.resources.foo=1"], r"model\.resources .*'foo'"),
    ("", ["algos=greedy"], r"'algos'.* algo\?.* algo, budget, calibration"),
    ("", ["launcher.requeues=-1"], r"launcher\.requeues .*launcher=slurm"),
    ("", ["algo=genetic", "algo.width=2"], "algo=genetic .*'width'"),
    ("-m", ["algo=a,b"], "algo 'a'"),
    ("", ["algo=null"], "algo 'null'.* annealing"),
    ("", ["algo=1"], "algo '1'.* annealing"),
    ("", ["algo=[greedy,beam]"], r"algo '\['greedy', 'beam'\]'"),
    ("", ["~racing"], "~racing .*remove"),
    ("", ["protect=null"], r"protect\.first=N"),
    ("", ["~protect"], "~protect .*remove"),
    ("", ["~algo"], r"algo=\.\.\."),
    ("", ["model.path=a,b"], r"model\.path=a,b .* -m .*model\.path=\[a,b\]"),
    ("", ["calibration=text_file", "calibration.path=/tmp"], r"calibration\.path=/tmp .*folder"),
    ("", ["eval=local", "eval.items={a: /tmp}"], r"eval\.items\.a=/tmp .*folder"),
    ("", [CORPUS[0], CORPUS[1] % "1e9"], r"eval\.corpora\.a\.window=1000000000\.0 .* int"),
    ("", [CORPUS[0], CORPUS[1] % "abc"], r"eval\.corpora\.a\.window='abc' .* int"),
]


@pytest.mark.parametrize(("flag", "words", "named"), CASES, ids=[" ".join(words) for _, words, _ in CASES])
def test_a_wrong_word_is_named_in_one_sentence(
    launch: Command, flag: str, words: list[str], named: str
) -> None:
    calibrated = not any(word.startswith("calibration") for word in words)
    ended = launch(*filter(None, [flag]), *words, calibrated=calibrated)
    assert (ended.status, ended.all()) == (2, [])
    assert "settings" in ended.err.partition("\n")[0]
    assert re.search(named, ended.err.partition("\n")[2])
    assert not {"append", "Traceback", "Conf'", "HYDRA_FULL_ERROR=1"} & set(ended.err.split())


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
    with pytest.raises(InputError, match=r"launcher\.\w+=-?\d .* [01]\b"):
        launcher.check({"tiny": Resources()})


GROUPS = ("algo", "objective", "calibration", "eval")
OPTIONS = [f"{group}={name}" for group in GROUPS for name in options(group)]


@pytest.mark.parametrize("option", OPTIONS)
def test_no_numeric_setting_of_an_option_accepts_nan_or_minus_one(option: str) -> None:
    group = option.partition("=")[0]
    plain: Any = OmegaConf.to_container(composed([option])[group], resolve=True)
    if option == "eval=local":
        plain["texts"] = {"a": "/etc/hosts"}
    numbers = {name: value for name, value in plain.items() if type(value) in (int, float)}
    for name in numbers:
        with pytest.raises(InstantiationException) as error:
            instantiate({**plain, name: -1}, _convert_="all")
        assert isinstance(error.value.__cause__, InputError)
        assert f"{group}.{name}=-1" in str(error.value.__cause__)
        with pytest.raises(InputError, match=rf"{group}\.{name}=nan "):
            check_settings({group: {**plain, name: math.nan}}, {})


@pytest.mark.parametrize(("n_blocks", "first"), [(1, 0), (0, 0), (4, 3)])
def test_no_message_offers_an_empty_range(n_blocks: int, first: int) -> None:
    with pytest.raises(InputError) as error:
        Removal(None, 4 if first else 1, first=first).space(n_blocks)
    assert not re.search(r"\b1 to [01]\b", str(error.value))


def test_the_first_line_of_an_error_never_ends_in_a_list_that_is_cut_off() -> None:
    error = OSError("Couldn't read one of: \n(1) a serialization file, \n(2) a slow one")
    assert first_line(error) == "Couldn't read one of: (1) a serialization file"
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
    assert re.search(rf"calibration\.path={file} .*\(Permission denied\)", ended.err)
    assert ended.status == 2
