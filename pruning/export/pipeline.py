"""Write a checkpoint without the removed blocks, and prove that it equals the masked model.

python -m pruning.export CELL_OR_MASK out=DIR                  a finished cell's folder, or a mask.json and model=NAME
python -m pruning.export --drop 3,7,12 out=DIR model=local model.path=MODEL
python -m pruning.export CELL_OR_MASK out=FILE.gguf            the same for a GGUF file (gguf_pipeline.py)
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.core.terminal import guarded, prepare_process
from pruning.core.units import bytes_text
from pruning.export import changed_model, request
from pruning.export.changed_model import summary
from pruning.export.gguf_export import is_gguf
from pruning.export.model_card import Facts
from pruning.export.output_dir import (
    check_place,
    check_same,
    check_space,
    check_target,
    put_in_place,
    staging_directory,
    write_record,
)
from pruning.export.output_dir import directory as output_directory
from pruning.export.request import Request, settled

if TYPE_CHECKING:
    from pruning.export.changed_model import Changed
    from pruning.export.verify import Expected

log = logging.getLogger(__name__)

UNPROVEN = "not compared with the masked model (verify=false)"


def export(wanted: Request) -> Facts:
    """Write the directory `wanted.out`. An earlier export is replaced in the last step, and kept if a step fails.

    If the request cannot be met, raises InputError, UnreachableError or UnskippableError before anything is written.
    If the disk is full, raises InputError and leaves nothing behind. Raises MismatchError if the written model does
    not equal the masked model.
    """
    from pruning.export.changed_model import changed
    from pruning.export.plan import plan_cut

    wanted = settled(wanted)
    check_place(wanted.out, wanted.model)
    earlier = check_target(wanted.out)
    cut = plan_cut(wanted)
    identity = changed_model.identity(wanted, cut)
    launched = wanted.cell if wanted.launched else None
    check = partial(check_same, wanted.out, wanted=identity, force=wanted.force, launched=launched)
    check(earlier)
    check_space(wanted.out, cut.sizes.bytes)
    wanted = dataclasses.replace(wanted, model=cut.source.settings)
    new = changed(wanted, cut)
    del cut  # of the model, only what is still read stays in memory
    with staging_directory(wanted.out) as staged:
        digests = _write_model(new, wanted, staged)
        cut, goal = new.cut, new.goal
        del new
        proof = UNPROVEN if goal is None else _proof(wanted, staged, goal)
        found = changed_model.facts_of(wanted, cut, proof)
        changed_model.write_texts(found, staged)
        write_record(staged, {**changed_model.record(wanted, found), **identity}, digests)
        put_in_place(staged, wanted.out, earlier, check)
    return found


def _write_model(new: Changed, wanted: Request, folder: Path) -> dict[str, str]:
    """Write weights, tokenizer and configuration; the digest of each file of weights."""
    from pruning.export.plan import write_config, write_shards

    log.info("writing %s", bytes_text(new.cut.sizes.bytes))
    digests = write_shards(new.tensors, new.cut.plan, folder, wanted.max_shard_size)
    new.cut.source.copy_beside(folder, new.model)
    write_config(new.cut.config, folder)
    return digests


def _proof(wanted: Request, folder: Path, goal: Expected) -> str:
    """The comparison of the written model with the masked one, in words."""
    from pruning.export import verify

    log.info("reloading and comparing")
    of = request.reference(wanted)
    return str(verify.compare_export(folder, goal, wanted.model, wanted.scales is None, of))


def export_cell(folder: Path, out: Path, healed: bool = False) -> str:
    """Export a finished cell, or its healed model, as a launch does; returns the three lines of `summary`.

    Raises as `export` does.
    """
    wanted = dataclasses.replace(request.of_cell(folder, output_directory(out)), launched=True)
    if healed:
        wanted = request.of_healed(folder, wanted)
    return summary(written(wanted), wanted.out)


def written(wanted: Request) -> Facts:
    """Write what is asked for, a directory or a GGUF file; raises as `export` and `export_gguf` do."""
    if is_gguf(wanted.out):
        from pruning.export.gguf_export import export_gguf

        return export_gguf(wanted)
    return export(wanted)


def main() -> None:
    """The entry point of `python -m pruning.export` and of `depth-pruning-export`."""
    with guarded():
        _run()


def _run() -> None:
    prepare_process()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pruning").setLevel(logging.INFO)
    wanted = request.parse(sys.argv[1:])
    print(summary(written(wanted), wanted.out))  # noqa: T201 - the command's output
