"""Set weights to zero with Wanda or SparseGPT, for `depth-pruning compare`. Needs llm-compressor, not this program.

python zeros.py MODEL WINDOWS OUT {wanda,sparsegpt} {20,2:4}

MODEL is a directory that `save_pretrained` wrote. WINDOWS are the calibration samples that a results folder keeps
in `calibration/`. Only weights of linear layers in blocks become zero: 20 %, or two of every four (2:4).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

METHODS = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}
BLOCKS = r"re:.*\.layers\.\d+$"
PATTERNS = {"20": (0.2, "0:0"), "2:4": (0.5, "2:4")}  # the share of zeros, and their structure


def main() -> None:
    """Write the model with zeros to OUT, and print the share of zeros in the blocks' matrices."""
    source, windows, out, method, pattern = sys.argv[1:]
    ids = [json.loads(line)["input_ids"] for line in Path(windows).read_text(encoding="utf-8").splitlines()]
    sparsity, structure = PATTERNS[pattern]
    recipe = METHODS[method](sparsity=sparsity, mask_structure=structure, targets=[BLOCKS])
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    rows = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})
    calibration = {"num_calibration_samples": len(ids), "max_seq_length": max(map(len, ids))}
    oneshot(model=model, processor=tokenizer, dataset=rows, recipe=[recipe], **calibration)
    model.save_pretrained(out, save_compressed=False)
    tokenizer.save_pretrained(out)
    matrices = [w for name, w in model.named_parameters() if ".layers." in name and w.ndim == 2]
    zeros = sum(int((w == 0).sum()) for w in matrices) / sum(w.numel() for w in matrices)
    sys.stdout.write(f"{zeros:.4f} of the weights in the matrices of the blocks are zero\n")
    if zeros < 0.99 * sparsity:
        sys.exit(f"fewer zeros than {sparsity}")


if __name__ == "__main__":
    main()
