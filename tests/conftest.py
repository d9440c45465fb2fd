"""Tiny models and a tokenizer that need no network, and a command line that runs in this process."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # workers share the cores, and tiny tensors gain nothing from more
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import pytest

# Each collection of the oldest generation takes half a second, because of all the modules that tests import.
gc.set_threshold(50_000, 20, 10)

N_BLOCKS = 6


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE tokenizer of 512 tokens, trained on text that Python carries."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    from pruning.calibration.sources import pydoc

    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(pydoc("calibration"), vocab_size=512, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A random Llama of six blocks, saved as `model=local` reads it."""
    from tests.helpers.architectures import saved_llama

    return saved_llama(tmp_path_factory.mktemp("model"), tokenizer, num_hidden_layers=N_BLOCKS)


@dataclass
class Ended:
    """How a command ended: its status, its output, what it logged or complained of."""

    status: int
    out: str
    err: str
    results: Path

    @property
    def nothing_ran(self) -> bool:
        """Whether each cell was done before the command began."""
        return bool(re.search(r"every cell was done: (\d+) of \1\b", self.err))

    def result(self, part: str = "") -> dict[str, Any]:
        """The one result whose cell's name contains `part`."""
        (found,) = [r for r in self.all() if part in r["cell"]]
        return found

    def all(self) -> list[dict[str, Any]]:
        """All results in the folder."""
        from pruning.core.storage import read_json

        return [read_json(path) for path in sorted(self.results.glob("*/result.json"))]


Command = Callable[..., Ended]


@pytest.fixture
def launch(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Command]:
    """`launch.py` in this process on the tiny model, small samples, without a tracker, as a function."""
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra

    import launch as program

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Hydra, "get_mode", _mode(Hydra.get_mode))
    small = [
        "model=local",
        f"model.path={model_folder}",
        "model.name=tiny",
        "model.dtype=float32",
        "eval.samples=2",
        "eval.length=32",
        "eval.items=6",
    ]

    def command(*arguments: str, tracker: str = "none", calibrated: bool = True) -> Ended:
        GlobalHydra.instance().clear()
        results = tmp_path / "results"
        sizes = ["calibration.samples=4"] if calibrated else []
        sizes += ["calibration.length=24"] if calibrated and not _items(arguments) else []
        flags = [a for a in arguments if a.startswith("-")]
        words = [a for a in arguments if not a.startswith("-")]
        chosen = {word.partition("=")[0] for word in words}
        defaults = [*small, *sizes, f"paths.results={results}", f"tracker={tracker}"]
        own = ("eval.",) if "eval" in chosen else ()  # settings of the default evaluation
        line = [d for d in defaults if d.partition("=")[0] not in chosen and not d.startswith(own)]
        monkeypatch.setattr("sys.argv", ["launch.py", *flags, *line, *words])
        capfd.readouterr()
        try:
            program.main()
            status: Any = 0
        except SystemExit as end:
            status = end.code
        out, err = capfd.readouterr()
        if isinstance(status, str):
            status, err = 1, err + status
        return Ended(int(status or 0), out, err, results)

    yield command
    GlobalHydra.instance().clear()


def _mode(asked: Callable[..., Any]) -> Callable[..., Any]:
    """Hydra composes each configuration a first time only for its mode, which the flags say if no file sets it."""

    def mode(self: Any, config_name: str | None, overrides: list[str]) -> Any:
        set_elsewhere = any(word.lstrip("+").startswith(("experiment=", "hydra")) for word in overrides)
        return asked(self, config_name, overrides) if set_elsewhere else None

    return mode


def _items(arguments: tuple[str, ...]) -> bool:
    words = (
        "objective=margin",
        "calibration=items_file",
        "calibration=commonsense",
        "objective=perplexity,margin",
    )
    return any(argument in words for argument in arguments)


@pytest.fixture
def every_map_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the maps of repairs that do not help: those of random models seldom do."""
    monkeypatch.setattr("pruning.engine.repair._Judge._losses", lambda *_: {})
