"""Cut the blocks of a mask out of a GGUF file, and prove that the smaller file equals the masked model.

No weight is dequantised: tensors are copied byte by byte, with new block numbers in their names. For the proof,
transformers loads both files and dequantises them in the same way.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruning.core import storage
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.storage import file_sha256
from pruning.core.units import bytes_text
from pruning.export import output_dir, verify
from pruning.export.checkpoint import ModelSizes
from pruning.export.model_card import CutFile, Facts, facts, model_card
from pruning.export.request import Request, settled
from pruning.models import gguf, pruned_config
from pruning.models.gguf import GgufCut
from pruning.models.handle import Model, directory_name
from pruning.models.kept_models import gguf_of_package
from pruning.models.model_files import find_files, in_gguf

log = logging.getLogger(__name__)


def export_gguf(wanted: Request) -> Facts:
    """Write the file `wanted.out` and, next to it, its card. The file appears complete or not at all.

    If the request cannot be met, raises InputError, UnreachableError or UnskippableError before anything is written.
    Raises MismatchError if the written file does not give the logits of the masked model.
    """
    wanted = settled(wanted)
    changing = {"the healing": wanted.healed, "the repair": wanted.repair}
    for name, given in {**changing, "a mask over parts of blocks": wanted.mask.unit != "block"}.items():
        if given:
            raise InputError(f"{name} changes weights, and {CONVERT}.")
    output_dir.check_place(wanted.out, wanted.model)
    path, settings = find_gguf(wanted.model)
    if wanted.out == path.resolve():
        raise InputError(f"out={wanted.out} is the file that is to be cut: choose another file.")
    # The record of the new file. Without `force`, an earlier file is replaced only if its record is the same.
    record = {"mask": wanted.mask.to_json(), "source_sha256": file_sha256(path)}
    cut = gguf.plan_gguf(gguf.open_gguf(path), wanted.mask, record)
    size = gguf.size_of(cut)
    check_gguf_target(wanted.out, record, wanted.force)
    output_dir.check_space(wanted.out, size)
    goal = verify.expected(load_dense(settings), wanted.mask) if wanted.verify else None
    with output_dir.staging_directory(wanted.out) as partial:
        smaller = partial / wanted.out.name
        log.info("writing %s", bytes_text(size))
        with smaller.open("wb") as stream:
            gguf.write_gguf(cut, stream)
            stream.flush()
            os.fsync(stream.fileno())
        proof, moved = verify.UNPROVEN, False
        if goal is not None:
            log.info("reloading and comparing")
            proof, moved = _proven(smaller, goal, settings, wanted.mask)
        check_gguf_target(wanted.out, record, wanted.force)  # the target can have changed meanwhile
        listed = f"{cut.file.architecture}.{gguf.PATTERN}" if moved or cut.lists else None
        found = _facts(wanted, cut, proof, CutFile(wanted.out.name, file_sha256(smaller), listed))
        smaller.replace(wanted.out)
        storage.write_text(card_of(wanted.out), model_card(found))
    return found


def _facts(wanted: Request, cut: GgufCut, proof: str, file: CutFile) -> Facts:
    source, kept = cut.file, cut.kept
    every = list(source.tensors.values())
    parameters = [sum(tensor.parameters for tensor in tensors) for tensors in (every, kept)]
    sizes = [sum(len(tensor.data) for tensor in tensors) for tensors in (every, kept)]
    largest = sorted(kept, key=lambda tensor: -len(tensor.data))
    return facts(
        wanted,
        source=f"the GGUF file of the SHA-256 `{cut.record['source_sha256'][:16]}` ({directory_name(source.path)})",
        dtype=", ".join(dict.fromkeys(tensor.kind_name for tensor in largest)),
        sizes=ModelSizes(*parameters, *sizes),
        proof=proof,
        inherited={"license": licence} if (licence := source.value("general.license")) else {},
        file=file,
    )


# The GGUF file of a model: a local file, or a file in a package of the Python index.

CONVERT = (
    "blocks are cut out of a GGUF file only if the model is one. Export a directory (out=DIR) and convert that with "
    "llama.cpp's convert_hf_to_gguf.py; or give a GGUF file of the model, with "
    "model=local model.path=FILE.gguf and the cell's mask.json"
)


def find_gguf(settings: Model) -> tuple[Path, Model]:
    """The GGUF file of a model, and the settings with which transformers loads it.

    If the file is in a package, the package is downloaded unless the file is cached. Raises InputError if the
    model is not a GGUF file, and UnreachableError if the package cannot be fetched.
    """
    path: Path | None = None
    if settings.source == "packaged":
        path = gguf_of_package(settings.path)
    elif settings.in_directory:
        path = find_files(settings.path, settings.gguf_file).gguf
    if path is None:
        raise InputError(f"model {settings.name} ({settings.path}) is stored as safetensors: {CONVERT}.")
    return path, replace(
        settings, source="local", path=str(path.parent), gguf_file=path.name, revision=None, dtype="float32"
    )


# The proof with transformers: the cut file must give the same logits as the whole file under the mask.


def load_dense(settings: Model) -> Any:
    """The model in the whole file, dequantised to float32. Raises InputError if transformers cannot load it."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bar ignores its settings
            return settings.load_anew().module
    except InputError as error:
        raise InputError(f"{error} With verify=false the file is cut without a comparison.") from error


def _proven(path: Path, goal: verify.Expected, settings: Model, mask: Mask) -> tuple[str, bool]:
    """How the file was checked, and whether transformers derives wrong attention kinds for its blocks.

    `settings` are those of the whole file. If the kinds (sliding or full attention) that transformers derives from
    the new block numbers are wrong, the check sets the right ones. Raises MismatchError for logits other than `goal`.
    """
    from transformers import AutoConfig

    config = pruned_config.pruned_config(settings.config, mask)
    where, options = in_gguf(path)
    own = AutoConfig.from_pretrained(where, **options, trust_remote_code=False)
    moved = _kinds(own) != _kinds(config)
    return verify.compare_export(where, goal, settings, config if moved else own, **options), moved


def _kinds(config: Any) -> Any:
    return getattr(config.get_text_config(decoder=True), "layer_types", None)


# What an export to a GGUF file may replace. The card is a Markdown file beside it.


def card_of(out: Path) -> Path:
    """The path of the card of a GGUF file."""
    return out.with_name(f"{out.name}.md")


def check_gguf_target(out: Path, record: Mapping[str, Any], force: bool = False) -> None:
    """Raise InputError unless a GGUF file can be written to `out`.

    An existing file is replaced only if it has a record of this program. Unless `force` is true, its record
    must also have the same entries as `record`, such as `source_sha256` (of the file that is cut) and `mask`.
    """
    output_dir.check_writable(out)
    if out.is_dir():
        raise InputError(f"{out} is a directory: give a file, or a directory whose name has another ending.")
    if not out.exists():
        if card_of(out).exists():
            raise InputError(
                f"{card_of(out)}, where the card goes, exists: move it away, or choose another file."
            )
        return
    earlier = None
    with contextlib.suppress(InputError):
        earlier = gguf.open_gguf(out).record()
    if earlier is None:
        raise InputError(
            f"{out} exists, and is not a GGUF file that this command wrote: move it away, or choose another file "
            "(force=true does not replace it)."
        )
    output_dir.check_same(out, earlier, record, force)
