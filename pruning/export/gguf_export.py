"""Cut the blocks of a mask out of a GGUF file, and prove that the smaller file equals the masked model.

python -m pruning.export CELL_OR_MASK out=FILE.gguf
python -m pruning.export --drop 3,7,12 out=FILE.gguf model=local model.path=MODEL.gguf

No weight is dequantised: tensors are copied byte by byte under new numbers. The proof is made by transformers, which
loads both files and dequantises them in the same way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pruning.core import storage
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.storage import file_sha256, sweep, text_sha256
from pruning.core.units import bytes_text
from pruning.export import model_card as model_card_module
from pruning.export import verify
from pruning.export.model_card import Facts, Sizes, code_block, model_card, noun
from pruning.export.output_dir import check_place, check_space, check_writable, staging_directory
from pruning.export.plan import plan_fold
from pruning.export.request import Request, reference, settled
from pruning.export.verify import TOLERANCE
from pruning.models import pruned_config
from pruning.models.architecture import attention_kernel
from pruning.models.blocks import find_blocks
from pruning.models.gguf import (
    PATTERN,
    Change,
    GgufCut,
    GgufFile,
    Stored,
    decoded,
    dtype_of,
    encoded,
    open_gguf,
    plan_gguf,
    record_of,
    size_of,
    write_gguf,
)
from pruning.models.kept_models import gguf_of_package, quiet
from pruning.models.model import Model, directory_name
from pruning.models.model_files import find_files, in_gguf
from pruning.models.output_maps import Repair, folded_weights, output_weights
from pruning.models.sublayers import find_chain

if TYPE_CHECKING:
    from pruning.export.verify import Expected


log = logging.getLogger(__name__)

UNPROVEN = "not compared with the masked model (verify=false)"


def export_gguf(wanted: Request) -> Facts:
    """Write the file `wanted.out` and its card beside it; the file is put in place as a whole, or not at all.

    If the request cannot be met, raises InputError, UnreachableError or UnskippableError before anything is written.
    Raises MismatchError if the written file does not give the logits of the masked model.
    """
    wanted = settled(wanted)
    _check_request(wanted)
    check_place(wanted.out, wanted.model)
    source = find_gguf(wanted.model)
    cut = _planned(wanted, source.path)
    changes, goal = _computed(wanted, cut, source.settings)
    cut = dataclasses.replace(cut, changes=changes.tensors)
    with staging_directory(wanted.out) as partial:
        written = partial / wanted.out.name
        log.info("writing %s", bytes_text(size_of(cut)))
        _write(cut, written)
        proof, moved = _proven(written, goal, source.settings, wanted, changes.tolerance)
        check_gguf_target(wanted.out, cut.record, wanted.force)  # it can have changed meanwhile
        digest, replaced = file_sha256(written), file_sha256(wanted.out) if wanted.out.exists() else None
        found = _facts(wanted, cut, changes, proof)
        card = model_card(with_use(found, wanted.out, digest, cut, moved))
        # The card names both files for a moment, so a kill between the steps does not look like a change by hand.
        storage.write_text(card_of(wanted.out), sealed(card, digest, replaced))
        written.replace(wanted.out)
        if replaced is not None:
            storage.write_text(card_of(wanted.out), sealed(card, digest))
    return found


def _planned(wanted: Request, path: Path) -> GgufCut:
    """The plan for the smaller file; no weights are read."""
    if wanted.out == path.resolve():
        raise InputError(f"out={wanted.out} is the file that is to be cut: choose another file.")
    record = _record(wanted, path)
    cut = plan_gguf(open_gguf(path), Mask(wanted.mask.n_blocks, wanted.mask.gone), record)
    check_gguf_target(wanted.out, record, wanted.force)
    check_space(wanted.out, size_of(cut))
    return cut


def _proven(
    written: Path, goal: Expected | None, settings: Model, wanted: Request, tolerance: float
) -> tuple[str, bool]:
    """How a written file was checked, and whether transformers' rule for the kinds of blocks no longer holds."""
    if goal is None:
        return UNPROVEN, False
    log.info("reloading and comparing")
    return prove(written, goal, settings, wanted, tolerance)


def _check_request(wanted: Request) -> None:
    mask = wanted.mask
    if not mask.dropped or not mask.kept:
        raise InputError(
            f"{len(mask.dropped)} of {mask.n_units} {noun(mask)} removed leaves nothing to export: drop 1 to "
            f"{mask.n_units - 1}."
        )
    if wanted.healed is not None:
        raise InputError(f"healed=true changes all weights of a model, and {CONVERT}.")


def _record(wanted: Request, path: Path) -> dict[str, Any]:
    """What the file says about itself; an earlier file is replaced only if it says the same."""
    changes: Any = None if wanted.scales is None else list(wanted.scales)
    if wanted.repair is not None:
        changes = {"repair": wanted.repair.sha256}
    mask: Mapping[str, Any] = wanted.mask.to_json()
    return {"mask": mask, "source_sha256": file_sha256(path), "compensation": changes}


def _computed(wanted: Request, cut: GgufCut, settings: Model) -> tuple[Changes, Expected | None]:
    """The changes of tensors, and the logits that the written file must give (None with verify=false).

    `settings` load the whole file with transformers; that is done only if one of the two needs it.
    """
    from pruning.export import verify
    from pruning.export.changed_model import parts
    from pruning.models.output_maps import replaced

    removed, changes = parts(wanted.mask), Changes()
    if not wanted.verify and not removed and wanted.repair is None and wanted.scales is None:
        return changes, None
    model, names = load_dense(settings), WeightNames(cut.file)
    if wanted.scales is not None:
        changes = scaled(names, model, cut.mask, wanted.scales)
    if wanted.repair is not None:
        changes = repaired(names, model, wanted.repair)
    if removed:
        zeros = zeroed_tensors(names, model, removed)
        changes = dataclasses.replace(changes, tensors={**changes.tensors, **zeros.tensors}, idle=zeros.idle)
    with replaced(model, changes.weights):
        return changes, verify.expected(model, wanted.mask, wanted.scales) if wanted.verify else None


def _write(cut: GgufCut, path: Path) -> None:
    with path.open("wb") as stream:
        write_gguf(cut, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _facts(wanted: Request, cut: GgufCut, changes: Changes, proof: str) -> Facts:
    file, kept = cut.file, cut.kept
    return model_card_module.facts(
        wanted,
        source=f"the GGUF file of the SHA-256 `{cut.record['source_sha256'][:16]}` ({directory_name(file.path)})",
        dtype=", ".join(
            dict.fromkeys(tensor.kind_name for tensor in sorted(kept, key=lambda t: -len(t.data)))
        ),
        hybrid=False,
        sizes=_sizes(file, cut),
        idle=changes.idle,
        proof=proof,
        inherited={"license": licence} if (licence := file.value("general.license")) else {},
        library="gguf",
    )


def _sizes(file: GgufFile, cut: GgufCut) -> Sizes:
    before, after = (sum(tensor.parameters for tensor in tensors) for tensors in (file.tensors, cut.kept))
    return Sizes(before, after, *(sum(len(t.data) for t in tensors) for tensors in (file.tensors, cut.kept)))


# What the card of a cut GGUF file says about running it: with llama.cpp, with Ollama, and with transformers.

COPIED = (
    "The weights were copied byte by byte from the original file: nothing was quantised or dequantised. The blocks "
    "were renumbered, and the number of blocks and all lists with one entry per block were corrected. The tokenizer "
    "and the chat template are those of the original file."
)


MOVED = (
    "The kinds of the blocks that are left (sliding window or full attention) no longer follow the rule by which "
    "the architecture derives them from a block's number. The file lists them (`{key}`). llama.cpp reads this list; "
    "programs that only know the rule, such as transformers' loader for GGUF files and old releases of llama.cpp, "
    "compute something else."
)


def with_use(facts: Facts, out: Path, sha256: str, cut: GgufCut, moved: bool) -> Facts:
    """The same facts with the text on how the file is run.

    `moved` says that the kinds of the blocks do not follow from their numbers in transformers; the cut says whether
    that is so in llama.cpp.
    """
    changed = len(cut.changes)
    lines = [COPIED if not changed else f"{COPIED} Only {changed} tensors have other values, as said above."]
    lines += _commands(out.name)
    if moved or cut.lists:
        lines.append(MOVED.format(key=f"{cut.file.architecture}.{PATTERN}"))
    else:
        load = code_block(f'AutoModelForCausalLM.from_pretrained(".", gguf_file="{out.name}")')
        lines += ["With transformers, which dequantises it:", load]
    lines.append(f"SHA-256 of the file: `{sha256}`.")
    return dataclasses.replace(facts, use="\n\n".join(lines))


def _commands(name: str) -> list[str]:
    model = name.removesuffix(".gguf").lower()
    return [
        "With llama.cpp:",
        code_block(f'llama-cli -m {name} -p "Once upon a time"'),
        "With Ollama, a file `Modelfile` beside it:",
        code_block(f"FROM ./{name}"),
        code_block(f"ollama create {model} -f Modelfile\nollama run {model}"),
    ]


# Change the values of a few tensors while a GGUF file is cut: zeros for removed parts, and folded compensations.
#
# Zero bytes are zero weights in every type of the format, because each group of quantised weights is multiplied by
# scales. Other values are written only into floating-point tensors; quantised ones are refused, with the reason.


@dataclass(frozen=True)
class Changes:
    """Changes to the bytes of tensors, by their names in the file.

    `weights` are the values that the changed file gives to weights of the model, by name. `tolerance` is the largest
    relative difference of the logits, and `idle` counts the parameters of parts that became zeros.
    """

    tensors: Mapping[str, Change] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    tolerance: float = 0.0
    idle: int = 0


def zeroed_tensors(names: WeightNames, model: Any, removed: Sequence[int]) -> Changes:
    """Zeros for the last weights of removed sub-layers whose block stays; unit 2i is the attention of block i.

    Raises UnskippableError if a sub-layer cannot be switched off by weights, InputError if the file lacks a weight.
    """
    path, found = find_blocks(model).path, output_weights(model, removed)
    tensors = {
        names.tensor(f"{path}.{unit // 2}.{name}").name: np.zeros_like
        for unit in removed
        for name in found[unit]
    }
    sizes = find_chain(model, "sublayer").sizes()
    return Changes(tensors, idle=sum(sizes[unit] for unit in removed))


def scaled(names: WeightNames, model: Any, mask: Mask, scales: Sequence[float]) -> Changes:
    """The factors of removed blocks, folded into the blocks after them (`fold_scales.py`).

    Raises InputError if the architecture does not allow that, or if a tensor to scale is quantised.
    """
    path, order = f"{find_blocks(model).path}.", names.file.order
    weights = dict(model.named_parameters())
    parts = {name: name.removeprefix(path).partition(".") for name in weights if name.startswith(path)}
    inside = {name: (int(block), tail) for name, (block, _, tail) in parts.items()}
    fold = plan_fold(model.config, inside.values(), [n for n in weights if n not in inside], mask, scales)
    tensors: dict[str, Change] = {}
    tolerance = 0.0
    for name, place in inside.items():
        if (factor := fold.factor(*place)) != 1.0:
            tensor = names.tensor(name)
            names.layout(name, weights[name])  # so the factor reaches the weight, or 1 + the weight of a norm
            tensors[tensor.name] = _times(tensor, order, factor)
            tolerance = max(tolerance, TOLERANCE[dtype_of(tensor)])
    return Changes(tensors, tolerance=tolerance)


def repaired(names: WeightNames, model: Any, repair: Repair) -> Changes:
    """The maps of a repair, folded into weights (`models/repaired_weights.py`); equal bit for bit after loading.

    Raises InputError if a map cannot be folded, or if a tensor to change is quantised.
    """
    order, own = names.file.order, dict(model.named_parameters())

    def precision(name: str, _: torch.dtype) -> torch.dtype:
        return dtype_of(names.tensor(name))

    tensors: dict[str, Change] = {}
    weights = {}
    for name, values in folded_weights(model, repair, precision).items():
        tensor, layout = names.tensor(name), names.layout(name, own[name])
        data = encoded(layout.stored(values.cpu().float()), tensor, order)
        tensors[tensor.name] = _constant(data)
        weights[name] = layout.weight(decoded(tensor, order, data)).to(own[name])
    return Changes(tensors, weights)


def _constant(data: Any) -> Change:
    return lambda _: data


def _times(tensor: Stored, order: str, factor: float) -> Change:
    """The product is computed when the tensor is written, so that one tensor is in memory at a time."""
    return lambda data: encoded(decoded(tensor, order, data).float() * factor, tensor, order)


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
    def _map(self) -> Any:
        import gguf

        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        return gguf.get_tensor_name_map(kinds[self.file.architecture], self.file.n_blocks)

    def tensor(self, name: str) -> Stored:
        """The tensor for the weight `name`. Raises InputError if there is none."""
        found = self._map.get_name(name, try_suffixes=(".weight", ".bias")) or ""
        tensor = self.file.tensor(found) or self.file.tensor(f"{found}.weight")
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


# Prove a cut GGUF file with transformers: it must give the logits of the masked model that the whole file gives.

UNSUPPORTED = (
    "With verify=false the file is cut without a comparison; a mask.json is then needed, because transformers cannot "
    "load the file."
)


def load_dense(settings: Model) -> Any:
    """The model of the whole file, dequantised to float32. Raises InputError if transformers cannot load it."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bar ignores its settings
            return settings.load_anew().module
    except InputError as error:
        if "not supported" in str(error):
            raise InputError(f"{error} {UNSUPPORTED}") from error
        raise


def prove(
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
    of = reference(wanted)
    model, lacking = _load(path, settings, config if moved else own)
    return str(verify.compare(model, lacking, goal, tolerance, of)), moved


def _kinds(config: Any) -> Any:
    return getattr(config.get_text_config(decoder=True), "layer_types", None)


def _load(path: Path, settings: Model, config: Any) -> tuple[Any, list[str]]:
    """The model of the cut file, and complaints about missing weights."""
    import torch
    from transformers import AutoModelForCausalLM

    where, options = in_gguf(path)
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        model, info = AutoModelForCausalLM.from_pretrained(
            where,
            **options,
            config=config,
            dtype=torch.float32,
            attn_implementation=attention_kernel(settings.attention, config, settings.name),
            output_loading_info=True,
            trust_remote_code=False,
            **settings.device_options,  # the same device as the whole file, for equal bits
        )
    lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    return model.eval(), [f"{len(lacking)} weights are missing, for example {lacking[0]}"] if lacking else []


# Find the GGUF file of a model: given by its path, on a hub, or in a package of the Python index.

CONVERT = (
    "blocks are cut out of a GGUF file only if the model is one. Export a directory (out=DIR) and convert that with "
    "llama.cpp's convert_hf_to_gguf.py (docs/gguf.md has the commands); or give a GGUF file of the model, with "
    "model=local model.path=FILE.gguf and the cell's mask.json"
)


@dataclass(frozen=True)
class GgufSource:
    """The GGUF file of a model, and the settings with which transformers loads it."""

    path: Path
    settings: Model


def find_gguf(settings: Model) -> GgufSource:
    """The GGUF file of a model; one on a hub or in a package is downloaded unless it is in a cache.

    Raises InputError if the model is not a GGUF file, and UnreachableError if it cannot be fetched.
    """
    if settings.source == "packaged":
        path = gguf_of_package(settings.path)
    elif settings.in_directory:
        found = find_files(settings.path, settings.gguf_file).gguf
        if found is None:
            raise InputError(f"model {settings.name} ({settings.path}) is stored as safetensors: {CONVERT}.")
        path = found
    elif settings.gguf_file:
        path = settings._hub_gguf()
    else:
        raise InputError(f"model {settings.name} ({settings.path}) is stored as safetensors: {CONVERT}.")
    local = replace(
        settings, source="local", path=str(path.parent), gguf_file=path.name, revision=None, dtype="float32"
    )
    return GgufSource(path, local)


# The GGUF file that an export writes: where, and what it may replace.

ENDING = ".gguf"
SAME = ("mask", "source_sha256")  # what an earlier file must share with a new one to be replaced
# A card and its last line, which `sealed` adds.
SEALED = re.compile(
    r"(.*)\n<!-- SHA-256 of the file ([0-9a-f]{64})(?:, of the file before ([0-9a-f]{64}))?, "
    r"of the text above ([0-9a-f]{64}) -->\n",
    re.DOTALL,
)


def is_gguf(out: Path) -> bool:
    """Whether an export to this path writes a GGUF file, and not a directory."""
    return out.suffix.lower() == ENDING


def card_of(out: Path) -> Path:
    """The card of a GGUF file: a text beside it."""
    return out.with_name(f"{out.name}.md")


def sealed(card: str, sha256: str, replaced: str | None = None) -> str:
    """The text of a card, with the digests of the GGUF file and of the text itself in a comment that nobody sees.

    `replaced` is the digest of the file whose place the GGUF file takes.
    """
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
        check_writable(out)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another file.") from error
    if not out.exists():
        if card_of(out).exists() and card_of(out) in _changed(out):
            raise InputError(
                f"{card_of(out)}, where the card goes, exists: move it away, or choose another file."
            )
        return
    earlier = _target_record(out)
    if earlier is None:
        raise InputError(
            f"{out} exists, and is no GGUF file that this command wrote: move it away, or choose another file "
            "(force=true does not replace it)."
        )
    other = [name for name, value in record.items() if earlier.get(name) != value]
    if foreign := [name for name in other if name in SAME]:
        raise InputError(
            f"{out} holds another cut (of another {' and another '.join(foreign)}): move it away, or choose another "
            "file."
        )
    if other and not force:
        raise InputError(
            f"{out} holds a cut of this model and mask with another {' and another '.join(other)}: choose another "
            "file, or replace it with force=true."
        )
    if (changed := _changed(out)) and not force:
        raise InputError(
            f"{' and '.join(map(str, changed))} changed after the cut was written: move the files away, choose "
            "another file, or replace them with force=true."
        )


def _changed(out: Path) -> list[Path]:
    """The file and its card, as far as they are not as they were written; the card if it has no digests at its end.

    The whole file is read.
    """
    card = card_of(out)
    try:
        match = SEALED.fullmatch(card.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        match = None
    if match is None:
        return [card]
    text, *digests, of_text = match.groups()
    changed = [out] if out.exists() and file_sha256(out) not in digests else []
    return [*changed, *([] if text_sha256(text) == of_text else [card])]


def _target_record(out: Path) -> Mapping[str, Any] | None:
    try:
        return record_of(open_gguf(out))
    except InputError:
        return None
