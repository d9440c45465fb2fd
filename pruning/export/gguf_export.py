"""Cut the blocks of a mask out of a GGUF file, and prove that the smaller file equals the masked model.

depth-pruning export CELL_OR_MASK out=FILE.gguf
depth-pruning export --drop 3,7,12 out=FILE.gguf model=local model.path=MODEL.gguf

No weight is dequantised: tensors are copied byte by byte under new numbers. The proof is made by transformers, which
loads both files and dequantises them in the same way.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning.core import storage
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.storage import file_sha256, sweep, text_sha256
from pruning.core.units import bytes_text
from pruning.export import output_dir, verify
from pruning.export.model_card import CutFile, Facts, ModelSizes, facts, model_card
from pruning.export.plan import parts, plan_fold, zeroed
from pruning.export.request import Request, reference, settled
from pruning.models import gguf, pruned_config
from pruning.models.blocks import find_blocks
from pruning.models.gguf import Change, GgufCut, GgufFile, Stored, decoded, dtype_of, encoded
from pruning.models.kept_models import gguf_of_package
from pruning.models.model import Model, directory_name
from pruning.models.model_files import find_files, in_gguf
from pruning.models.output_maps import folded_weights, replaced

log = logging.getLogger(__name__)


def export_gguf(wanted: Request) -> Facts:
    """Write the file `wanted.out` and its card beside it; the file is put in place as a whole, or not at all.

    If the request cannot be met, raises InputError, UnreachableError or UnskippableError before anything is written.
    Raises MismatchError if the written file does not give the logits of the masked model.
    """
    wanted = settled(wanted)
    if wanted.healed is not None:
        raise InputError(f"healed=true changes all weights of a model, and {CONVERT}.")
    output_dir.check_place(wanted.out, wanted.model)
    path, settings = find_gguf(wanted.model)
    if wanted.out == path.resolve():
        raise InputError(f"out={wanted.out} is the file that is to be cut: choose another file.")
    # What the file says about itself; an earlier file is replaced only if it says the same.
    digest = file_sha256(path)
    record = {"mask": wanted.mask.to_json(), "source_sha256": digest, "compensation": wanted.compensation}
    blocks = Mask(wanted.mask.n_blocks, wanted.mask.gone)
    cut = gguf.plan_gguf(gguf.open_gguf(path), blocks, record)
    size = gguf.size_of(cut)
    check_gguf_target(wanted.out, record, wanted.force)
    output_dir.check_space(wanted.out, size)
    cut, idle, tolerance, goal = _changed_cut(wanted, cut, settings)
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
            proof, moved = _proven(smaller, goal, settings, wanted, tolerance)
        check_gguf_target(wanted.out, record, wanted.force)  # it can have changed meanwhile
        new, old = file_sha256(smaller), file_sha256(wanted.out) if wanted.out.exists() else None
        listed = f"{cut.file.architecture}.{gguf.PATTERN}" if moved or cut.lists else None
        found = _facts(wanted, cut, idle, proof, CutFile(wanted.out.name, new, len(cut.changes), listed))
        card = model_card(found)
        # The card names both files for a moment, so a kill between the steps does not look like a change by hand.
        storage.write_text(card_of(wanted.out), _sealed(card, new, old))
        smaller.replace(wanted.out)
        if old is not None:
            storage.write_text(card_of(wanted.out), _sealed(card, new))
    return found


def _facts(wanted: Request, cut: GgufCut, idle: int, proof: str, file: CutFile) -> Facts:
    source, kept = cut.file, cut.kept
    largest = sorted(kept, key=lambda tensor: -len(tensor.data))
    every = list(source.tensors.values())
    parameters = [sum(tensor.parameters for tensor in tensors) for tensors in (every, kept)]
    sizes = [sum(len(tensor.data) for tensor in tensors) for tensors in (every, kept)]
    digest = cut.record["source_sha256"][:16]
    return facts(
        wanted,
        source=f"the GGUF file of the SHA-256 `{digest}` ({directory_name(source.path)})",
        dtype=", ".join(dict.fromkeys(tensor.kind_name for tensor in largest)),
        hybrid=False,
        sizes=ModelSizes(*parameters, *sizes),
        idle=idle,
        proof=proof,
        inherited={"license": licence} if (licence := source.value("general.license")) else {},
        file=file,
    )


# The GGUF file of a model: given by its path, on a hub, or in a package of the Python index.

CONVERT = (
    "blocks are cut out of a GGUF file only if the model is one. Export a directory (out=DIR) and convert that with "
    "llama.cpp's convert_hf_to_gguf.py (docs/gguf.md has the commands); or give a GGUF file of the model, with "
    "model=local model.path=FILE.gguf and the cell's mask.json"
)


def find_gguf(settings: Model) -> tuple[Path, Model]:
    """The GGUF file of a model, and the settings with which transformers loads it.

    A file on a hub or in a package is downloaded unless it is in a cache. Raises InputError if the model is not a
    GGUF file, and UnreachableError if it cannot be fetched.
    """
    path: Path | None = None
    if settings.source == "packaged":
        path = gguf_of_package(settings.path)
    elif settings.in_directory:
        path = find_files(settings.path, settings.gguf_file).gguf
    elif settings.gguf_file:
        path = settings._hub_gguf()
    if path is None:
        raise InputError(f"model {settings.name} ({settings.path}) is stored as safetensors: {CONVERT}.")
    return path, replace(
        settings, source="local", path=str(path.parent), gguf_file=path.name, revision=None, dtype="float32"
    )


# The values of a few tensors that change while a file is cut: zeros for removed parts, and folded compensations.
#
# Zero bytes are zero weights in every type of the format, because each group of quantised weights is multiplied by
# scales. Other values are written only into floating-point tensors; quantised ones are refused, with the reason.


def _changed_cut(
    wanted: Request, cut: GgufCut, settings: Model
) -> tuple[GgufCut, int, float, verify.Expected | None]:
    """The cut with its changes of tensors, what `zeroed` counts, and the logits with their relative tolerance.

    `settings` load the whole file with transformers. If nothing changes and verify=false, it is not loaded.
    """
    removed = parts(wanted.mask)
    if not (wanted.verify or removed or wanted.repair is not None or wanted.scales is not None):
        return cut, 0, 0.0, None
    model, names, order = load_dense(settings), WeightNames(cut.file), cut.file.order
    own = dict(model.named_parameters())
    tensors, weights, tolerance = dict[str, Change](), dict[str, Tensor](), 0.0
    if wanted.scales is not None:
        tensors, tolerance = _scaled(names, model, wanted)
    if wanted.repair is not None:
        # Equal bit for bit after loading: the model gets what transformers makes of the written values.
        precise = folded_weights(model, wanted.repair, lambda name, _: dtype_of(names.tensor(name)))
        for name, values in precise.items():
            tensor, layout = names.tensor(name), names.layout(name, own[name])
            data = encoded(layout.stored(values.cpu().float()), tensor, order)
            tensors[tensor.name] = _constant(data)
            weights[name] = layout.weight(decoded(replace(tensor, data=data), order)).to(own[name])
    zeros, idle = zeroed(model, removed)
    tensors |= {names.tensor(name).name: np.zeros_like for name in zeros}
    with replaced(model, weights):
        goal = verify.expected(model, wanted.mask, wanted.scales) if wanted.verify else None
    return replace(cut, changes=tensors), idle, tolerance, goal


def _scaled(names: WeightNames, model: Any, wanted: Request) -> tuple[dict[str, Change], float]:
    """The factors of removed blocks, folded into the blocks after them, and the tolerance of the logits."""
    path, weights = f"{find_blocks(model).path}.", dict(model.named_parameters())
    split = {name: name.removeprefix(path).partition(".") for name in weights if name.startswith(path)}
    inside = {name: (int(block), tail) for name, (block, _, tail) in split.items()}
    others = [name for name in weights if name not in inside]
    assert wanted.scales is not None
    fold = plan_fold(model.config, inside.values(), others, wanted.mask, wanted.scales)
    tensors, tolerance = dict[str, Change](), 0.0
    for name, place in inside.items():
        if (factor := fold.factor(*place)) != 1.0:
            tensor = names.tensor(name)
            names.layout(name, weights[name])  # so the factor reaches the weight, or 1 + the weight of a norm
            tensors[tensor.name] = _times(tensor, names.file.order, factor)
            tolerance = max(tolerance, verify.TOLERANCE[dtype_of(tensor)])
    return tensors, tolerance


def _constant(data: Any) -> Change:
    return lambda _: data


def _times(tensor: Stored, order: str, factor: float) -> Change:
    """The product is computed when the tensor is written, so that one tensor is in memory at a time."""
    return lambda _: encoded(decoded(tensor, order).float() * factor, tensor, order)


# Find the tensor of a GGUF file that holds a weight of the model, and how its values are laid out there.

SAFER = "Remove whole blocks without compensation, or export a directory (out=DIR) and convert that."


@dataclass(frozen=True)
class Layout:
    """How a file stores a weight: as it is, transposed, or (norms of Gemma) with 1 added."""

    transposed: bool = False
    offset: float = 0.0

    def stored(self, weight: Tensor) -> Tensor:
        """The values that the file stores for a weight."""
        return (weight.T if self.transposed else weight) + self.offset

    def weight(self, stored: Tensor) -> Tensor:
        """The weight that transformers makes of stored values, in float32."""
        values = stored.float() - self.offset if self.offset else stored.float()
        return values.T.contiguous() if self.transposed and values.dim() == 2 else values


@dataclass(frozen=True)
class WeightNames:
    """The tensors of a GGUF file by the names of the model's weights in transformers."""

    file: GgufFile

    @cached_property
    def _find(self) -> Callable[..., str | None]:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        kinds = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
        found: Callable[..., str | None]
        found = get_tensor_name_map(kinds[self.file.architecture], self.file.n_blocks).get_name
        return found

    def tensor(self, name: str) -> Stored:
        """The tensor for the weight `name`. Raises InputError if there is none."""
        found = self._find(name, try_suffixes=(".weight", ".bias")) or ""
        tensor = self.file.tensors.get(found) or self.file.tensors.get(f"{found}.weight")
        if tensor is None:
            raise InputError(f"{self.file.path}: no tensor is found for the weight {name}. {SAFER}")
        return tensor

    def layout(self, name: str, weight: Tensor) -> Layout:
        """How the file stores a weight, found by comparing all values; `weight` is the model's, in float32.

        Raises InputError if the tensor is quantised, or if its values are none of the known layouts.
        """
        tensor = self.tensor(name)
        stored = decoded(tensor, self.file.order)
        for layout in (Layout(), Layout(transposed=True), Layout(offset=1.0)):
            values = layout.weight(stored)
            if values.shape == weight.shape and torch.equal(values, weight.detach().float().cpu()):
                return layout
        raise InputError(f"{self.file.path}: {tensor.name} does not hold the values of {name}. {SAFER}")


# The proof with transformers: the cut file must give the logits of the masked model that the whole file gives.


def load_dense(settings: Model) -> Any:
    """The model of the whole file, dequantised to float32. Raises InputError if transformers cannot load it."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bar ignores its settings
            return settings.load_anew().module
    except InputError as error:
        if "not supported" in str(error):
            raise InputError(
                f"{error} With verify=false the file is cut without a comparison; a mask.json is then needed, "
                "because transformers cannot load the file."
            ) from error
        raise


def _proven(
    path: Path, goal: verify.Expected, settings: Model, wanted: Request, tolerance: float
) -> tuple[str, bool]:
    """How the file was checked, and whether the kinds of its blocks no longer follow from their numbers.

    `settings` are those of the whole file. If transformers derives other kinds from the blocks' numbers, it is given
    a configuration that lists them. Raises MismatchError.
    """
    from transformers import AutoConfig

    mask = wanted.mask
    config = pruned_config.pruned_config(settings.config, Mask(mask.n_blocks, mask.gone))
    where, options = in_gguf(path)
    own = AutoConfig.from_pretrained(where, **options, trust_remote_code=False)
    moved = _kinds(own) != _kinds(config)
    loaded = verify.reload(where, settings, config if moved else own, **options)
    return verify.compare(*loaded, goal, tolerance, reference(wanted)), moved


def _kinds(config: Any) -> Any:
    return getattr(config.get_text_config(decoder=True), "layer_types", None)


# What a GGUF file may replace. Its card, a text beside it, ends with digests in a comment that nobody sees.

SEALED = re.compile(
    r"(.*)\n<!-- SHA-256 of the file ([0-9a-f]{64})(?:, of the file before ([0-9a-f]{64}))?, "
    r"of the text above ([0-9a-f]{64}) -->\n",
    re.DOTALL,
)


def card_of(out: Path) -> Path:
    """The card of a GGUF file."""
    return out.with_name(f"{out.name}.md")


def _sealed(card: str, sha256: str, replaced: str | None = None) -> str:
    """The text of a card with its seal. `replaced` is the digest of the file whose place the GGUF file takes."""
    before = "" if replaced is None else f", of the file before {replaced}"
    return f"{card}\n<!-- SHA-256 of the file {sha256}{before}, of the text above {text_sha256(card)} -->\n"


def check_gguf_target(out: Path, record: Mapping[str, Any], force: bool) -> None:
    """Raise InputError unless a GGUF file can be written to `out`.

    An existing file is replaced only if its record shows that it was cut from the same file (`source_sha256`) with
    the same `mask`, and has the same compensation. `record` holds what is known of these. The file and its card must
    be as they were written. With `force`, the compensation may differ, and the file and its card may have changed.
    """
    try:
        sweep(out.parent)
        if out.is_dir():
            raise InputError(
                f"{out} is a directory: give a file, or a directory whose name has another ending."
            )
        output_dir.check_writable(out)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another file.") from error
    card = card_of(out)
    if not out.exists():
        if card.exists() and card in _changed(out):
            raise InputError(f"{card}, where the card goes, exists: move it away, or choose another file.")
        return
    earlier = None
    with contextlib.suppress(InputError):
        earlier = gguf.open_gguf(out).record()
    if earlier is None:
        raise InputError(
            f"{out} exists, and is no GGUF file that this command wrote: move it away, or choose another file "
            "(force=true does not replace it)."
        )
    output_dir.check_same(out, earlier, record, force)
    if not force and (changed := _changed(out)):
        raise InputError(
            f"{' and '.join(map(str, changed))} changed after the cut was written: move the files away, choose "
            "another file, or replace them with force=true."
        )


def _changed(out: Path) -> list[Path]:
    """The file and its card, as far as they are not as they were written. All bytes are read."""
    card, match = card_of(out), None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        match = SEALED.fullmatch(card.read_text(encoding="utf-8"))
    if match is None:
        return [card]
    text, *digests, of_text = match.groups()
    changed = [out] if out.exists() and file_sha256(out) not in digests else []
    return [*changed, *([] if text_sha256(text) == of_text else [card])]
