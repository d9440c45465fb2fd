"""The operations that the soak test kills, each in a folder, and functions that read what they have written."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from tests.helpers.damage import tree

MODULES = (
    "launch", "torch", "transformers.models.llama.modeling_llama", "transformers.models.auto.tokenization_auto",
    "pruning.study.command", "pruning.runs.run_cell", "pruning.models.kept_models",
    "pruning.export.pipeline", "pruning.export.plan", "pruning.export.verify", "pruning.export.checkpoint",
    "pruning.healing.loop", "pruning.runs.heal_cell", "pruning.export.gguf_export", "gguf",
)  # fmt: skip
SMALL = (
    "model=local", "model.name=tiny", "model.dtype=bfloat16", "calibration.samples=4", "calibration.length=24",
    "eval.samples=2", "eval.length=32", "tracker=none",
    "k=3",
)  # fmt: skip

# Two runs differ in this part of a path: the digest of a checkpoint, which holds times.
RUN = re.compile(r"(?<=-)[0-9a-f]{16}(?=\.pt\b)")


def search(folder: str, items: str = "eval.items=6") -> None:
    """Run two searches that share losses, and measure their masks."""
    import launch

    os.chdir(folder)
    words = (*SMALL, "model.path=../../model", items, "paths.results=results")
    sys.argv = ["launch.py", "-m", "algo=greedy,one_shot", *words]
    launch.main()


def evaluation(folder: str) -> None:
    """Measure the finished masks on other items."""
    search(folder, "eval.items=8")


def healing(folder: str) -> None:
    """Heal the finished masks; short trials choose the learning rate first."""
    import launch

    os.chdir(folder)
    heal = ("heal=full", "heal.tokens=4096", "heal.length=32", "heal.batch_tokens=256", "heal.heldout=2")
    words = (*SMALL, *heal, "heal.eval_every=2", "model.path=../../model", "paths.results=results")
    sys.argv = ["launch.py", "algo=greedy", *words, "eval.items=6"]
    launch.main()


def cutting(folder: str) -> None:
    """Cut blocks out of a GGUF file."""
    from pruning.core.mask import Mask
    from pruning.export.gguf_export import export_gguf
    from pruning.export.request import Request
    from pruning.models.handle import Model

    model = Model("tiny", "local", str(Path(folder) / "soak_gguf" / "tiny.gguf"), dtype="float32")
    export_gguf(Request(model, Mask(6, (1, 4)), Path(folder) / "cut" / "out.gguf"))


def export(folder: str) -> None:
    """Export a finished mask."""
    from pruning.export.pipeline import export_cell

    os.chdir(folder)
    (cell,) = Path("results").glob("*greedy*")
    export_cell(cell, Path(folder) / "out")


# -- what the operations have written ------------------------------------------------------------------------


def cells(folder: Path) -> dict[str, Any]:
    """The mask, the losses and the measurements of each cell. Fails if a mask's loss was computed twice."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("results/*/result.json")):
        result = json.loads(path.read_text())
        lines = [json.loads(line) for line in path.with_name("trace.jsonl").read_text().splitlines()]
        losses = {str(line["dropped"]): (line["loss"], line["samples"]) for line in lines}
        assert len(losses) == len(lines), f"{path.parent}: a loss was computed twice"
        paid = {name: result["search"][f"evaluations_{name}"] for name in ("asked", "paid")}
        loss = result["calibration"]["loss"]
        measured = {name: result["evaluation"][name] for name in ("dense", "pruned", "data", "records")}
        found[path.parent.name] = (result["status"], result["mask"], loss, losses, paid, measured)
    return found


def healings(folder: Path) -> dict[str, Any]:
    """For each cell, the record of its healing and of the trials, without times, and the healed model's metrics."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("results/*/result.json")):
        if (heal := (result := json.loads(path.read_text())).get("heal")) is not None:
            rates = [{k: v for k, v in trial.items() if k != "seconds"} for trial in heal["rates"]]
            plain = {name: value for name, value in heal.items() if name not in ("seconds", "rates")}
            found[path.parent.name] = plain, rates, result["evaluation"]["healed"]
    return found


def files(folder: Path) -> dict[str, bytes | str]:
    """The contents of the files of a folder, without locks and hidden files."""
    every = tree(folder)
    return {name: every[name] for name in every if not re.search(r"(^|/)\.|\.lock$", name)}


def leftovers(folder: Path, reference: Path) -> set[str]:
    """The files and folders, including hidden ones, that are in `folder` but not in that of an undisturbed run.

    Unfinished parts, which are removed after a day, are left out.
    """
    there, wanted = (
        {RUN.sub("RUN", str(path.relative_to(where))) for path in where.rglob("*")}
        for where in (folder, reference)
    )
    return {name for name in there - wanted if not re.search(r"(^|/)\.part-\w+(/|$)", name)}
