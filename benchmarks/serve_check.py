"""Check that vLLM or SGLang computes an exported model as transformers does: `make serve-check`, on a GPU node.

Each program has its own model code. If the code derives a block's kind from the block's number, results are wrong
after pruning, which renumbers blocks. So the chosen program and transformers score a few texts in pieces of `PIECE`
tokens, in the same precision, through lm-eval. The texts are longer than the sliding windows of small models.

python -m benchmarks.serve_check --model DIR [--engine vllm|sglang] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger("serve_check")

TEXTS, LENGTH, PIECE = 4, 800, 8  # number of texts, and tokens of each text and of a piece
# Largest mean absolute difference of the log-likelihoods of pieces, in nats per token.
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}


def main() -> None:
    """Exit with 0 if the program agrees with transformers, 1 if it does not, and 2 if it cannot be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_check")
    parser.add_argument("--model", required=True, help="the directory of an export")
    parser.add_argument("--engine", choices=("vllm", "sglang"), default="vllm")
    parser.add_argument("--dtype", default="bfloat16", choices=sorted(TOLERANCE))
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if find_spec(asked.engine) is None:
        log.error("%s is not installed: install it on a GPU node, in its own environment.", asked.engine)
        raise SystemExit(2)
    if not (Path(asked.model) / "config.json").is_file():
        log.error("--model %s holds no config.json: give the directory of an export.", asked.model)
        raise SystemExit(2)
    rows = token_rows(asked.model)
    ours, theirs = (log_likelihoods(name, asked.model, asked.dtype, rows) for name in ("hf", asked.engine))
    gap = np.abs(ours - theirs)
    good = gap.mean() <= TOLERANCE[asked.dtype]
    log.info(
        "%s: %s against transformers, %s: %d pieces, loss %.4f nats per token; it differs by %.1e on average and by "
        "%.1e at most",
        *(
            "ok" if good else "FAILED",
            asked.engine,
            asked.dtype,
            len(gap),
            -ours.mean(),
            gap.mean(),
            gap.max(),
        ),
    )
    raise SystemExit(0 if good else 1)


def token_rows(model: str) -> list[list[int]]:
    """Rows of `LENGTH` token ids from texts that come with Python."""
    from transformers import AutoTokenizer

    from pruning.calibration.sources import pydoc

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    text = "\n\n".join(islice(pydoc("evaluation"), 200))
    ids = tokenizer(text).input_ids[: TEXTS * LENGTH]
    return [ids[start : start + LENGTH] for start in range(0, len(ids), LENGTH)]


def log_likelihoods(
    program: str, model: str, dtype: str, rows: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """The log-likelihood per token of each piece, except a row's first piece, given all earlier tokens of the row."""
    import torch
    from lm_eval.api.registry import get_model

    starts = [(row, start) for row in rows for start in range(PIECE, len(row), PIECE)]
    pieces = [(("", ""), list(row[:start]), list(row[start : start + PIECE])) for row, start in starts]
    options: dict[str, object] = {"max_model_len": LENGTH + 1}
    if program == "hf":
        options = {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    engine = get_model(program)(pretrained=model, dtype=dtype, trust_remote_code=False, **options)
    sums = [total for total, _ in engine._loglikelihood_tokens(pieces)]
    del engine
    torch.cuda.empty_cache()  # the other program needs the memory
    return np.array(sums) / [len(piece) for _, _, piece in pieces]


if __name__ == "__main__":
    main()
