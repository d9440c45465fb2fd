"""A directory that holds a model and an adapter (LoRA) for it: merge both once, with peft.

transformers ignores an adapter in silence if peft is not installed. So such a directory is either merged or refused.
The merged model is kept in the cache folder, under the digest of the directory. It is in the precision in which the
weights are stored, as if the user had merged the adapter by hand.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

from pruning.core import atomic_files
from pruning.core.errors import DamagedError, InputError, first_line
from pruning.models.cached_model import cached_model

log = logging.getLogger(__name__)

KNOWN = (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Kinds of adapters that extend the input. They cannot be merged into weights.
UNMERGEABLE = {
    "ADAPTION_PROMPT",
    "CARTRIDGE",
    "CPT",
    "MULTITASK_PROMPT_TUNING",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
}
MERGE = (
    "merge the adapter first (AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload()."
    "save_pretrained(MERGED)) and give model.path=MERGED"
)


def has_adapter(folder: Path) -> bool:
    """Whether a directory holds an adapter."""
    return (folder / CONFIG).exists()


def check_adapter(folder: Path, gguf: bool) -> None:
    """Raise InputError, with the cure, if a directory holds an adapter that cannot be merged here."""
    if not has_adapter(folder):
        return
    what = f"model.path={folder} holds an adapter ({CONFIG})"
    if gguf:
        raise InputError(f"{what}, and adapters are not merged into GGUF weights: {MERGE}.")
    bases = [file for file in folder.glob("*.safetensors") if not file.name.startswith("adapter_")]
    if not bases or not (folder / "config.json").exists():
        raise InputError(f"{what} without the model that it adapts: {MERGE}.")
    if not (folder / WEIGHTS).exists():
        raise InputError(f"{what} without {WEIGHTS}, and no other format is read: {MERGE}.")
    if importlib.util.find_spec("peft") is None:
        raise InputError(f"{what}, and peft is not installed: install it (pip install peft), or {MERGE}.")
    if (kind := _kind(folder)) in UNMERGEABLE:
        raise InputError(
            f"{what} of the kind {kind}, which cannot be merged into the weights: remove {CONFIG} to use the model "
            "without it."
        )


def merged_folder(folder: Path, digest: str) -> Path:
    """The directory of the merged model. It is made on first use.

    `digest` is the digest of the directory with the adapter. Raises InputError if peft cannot merge the adapter.
    """

    def make(scratch: Path) -> Path:
        log.info("merging the adapter in %s, once", folder)
        return _merge(folder, scratch)

    return cached_model(f"merged-{digest[:32]}", make)


def _merge(folder: Path, scratch: Path) -> Path:
    import peft
    import torch
    import transformers

    from pruning.models.quiet import quiet

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
    for file in base.iterdir():
        if file.suffix != ".safetensors" and not (merged / file.name).exists() and _wanted(file.name):
            shutil.copyfile(file, merged / file.name)
    for file in merged.glob("*.safetensors"):  # safetensors makes files that only their owner can read
        shutil.copymode(merged / "config.json", file)
    return merged


def _wanted(name: str) -> bool:
    """Whether a file belongs to the merged model: its tokenizer, texts and settings, no other weights."""
    return not name.endswith((".bin", ".pt", ".pth", ".index.json"))


def _kind(folder: Path) -> str:
    try:
        config = atomic_files.read_json(folder / CONFIG)
    except (OSError, DamagedError) as error:
        raise InputError(f"{folder / CONFIG} cannot be read ({first_line(error)}): {MERGE}.") from error
    return str(config.get("peft_type")) if isinstance(config, dict) else "unknown"
