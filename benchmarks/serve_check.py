"""Check that vLLM or SGLang computes an exported model as transformers does: `make serve-check`, on a GPU node.

Both programs have their own model code, which can derive the kind of a block from its number and so be wrong after
pruning. So the program and transformers both compute the log-probability of every token of a few texts, in the same
precision, and the results are compared. The texts are longer than the sliding windows of small models.

python -m benchmarks.serve_check --model DIR [--engine vllm|sglang] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np

log = logging.getLogger("serve_check")

TEXTS, LENGTH = 4, 800  # number of texts, and tokens of each
# Largest mean absolute difference of a token's log-probability, in nats.
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
Rows = Sequence[Sequence[int]]
Engine = Callable[[str, str, Rows], list[list[float]]]  # model, dtype, rows of token ids


def main() -> None:
    """Exit with 0 if the programs agree, with 1 if they do not, and with 2 if one cannot be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_check")
    parser.add_argument("--model", required=True, help="the directory of an export")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="vllm")
    parser.add_argument("--dtype", default="bfloat16", choices=sorted(TOLERANCE))
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if find_spec(asked.engine) is None:
        log.error(
            "%s is not installed: on a GPU node, install it in an environment of its own.", asked.engine
        )
        raise SystemExit(2)
    if not (Path(asked.model) / "config.json").is_file():
        log.error("--model %s holds no config.json: give the directory of an export.", asked.model)
        raise SystemExit(2)
    rows = token_rows(asked.model)
    ours, theirs = (
        np.concatenate(engine(asked.model, asked.dtype, rows))
        for engine in (transformers, ENGINES[asked.engine])
    )
    gap = np.abs(ours - theirs)
    good = gap.mean() <= TOLERANCE[asked.dtype]
    log.info(
        "%s: %s against transformers, %s: %d tokens, loss %.4f nats per token; the log-probabilities differ by %.1e "
        "on average and %.1e at most",
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
    """Token ids of a few texts that come with Python."""
    from transformers import AutoTokenizer

    from pruning.calibration.sources import pydoc

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    text = "\n\n".join(islice(pydoc("evaluation"), 200))
    ids = tokenizer(text).input_ids[: TEXTS * LENGTH]
    return [ids[start : start + LENGTH] for start in range(0, len(ids), LENGTH)]


# Each program gives the log-probability of each token but the first.


def transformers(model: str, dtype: str, rows: Rows) -> list[list[float]]:
    """The log-probabilities by transformers, on a GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), trust_remote_code=False)
    module = module.to(device).eval()
    found = []
    for row in rows:
        ids = torch.tensor([list(row)], device=device)
        with torch.no_grad():
            logits = module(input_ids=ids, use_cache=False).logits[0, :-1].float()
        found.append(logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].tolist())
    del module
    torch.cuda.empty_cache()
    return found


def vllm(model: str, dtype: str, rows: Rows) -> list[list[float]]:
    """The log-probabilities by vLLM."""
    from vllm import LLM, SamplingParams

    longest = max(map(len, rows)) + 1
    engine = LLM(model=model, dtype=dtype, enforce_eager=True, max_model_len=longest, trust_remote_code=False)
    wanted = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    outputs = engine.generate([{"prompt_token_ids": list(row)} for row in rows], wanted)
    return [
        [place[token].logprob for token, place in zip(row[1:], output.prompt_logprobs[1:], strict=True)]
        for row, output in zip(rows, outputs, strict=True)
    ]


def sglang(model: str, dtype: str, rows: Rows) -> list[list[float]]:
    """The log-probabilities by SGLang."""
    import sglang as program

    engine = program.Engine(model_path=model, dtype=dtype, disable_cuda_graph=True, trust_remote_code=False)
    try:
        outputs = engine.generate(
            input_ids=[list(row) for row in rows],
            sampling_params={"max_new_tokens": 1, "temperature": 0.0},
            return_logprob=True,
            logprob_start_len=0,
        )
    finally:
        engine.shutdown()
    return [[entry[0] for entry in output["meta_info"]["input_token_logprobs"][1:]] for output in outputs]


ENGINES: dict[str, Engine] = {"vllm": vllm, "sglang": sglang}

if __name__ == "__main__":
    main()
