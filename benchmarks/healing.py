"""Time a training step of each kind of healing beside a plain loop with peft; `make bench` runs it.

python -m benchmarks.healing [WAY ...]

Each way trains SmolLM2 without blocks 13 to 18, on one thread. It runs in its own process, whose peak
memory is measured. A step has 8 windows of 256 tokens. *At peak* is a step's time divided by the time that
its matrix products would take at the speed of one large product. The products counted are those of forward
passes, of hidden-state gradients and, if all weights are trained, of weight gradients.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.run import CPU, SMOLLM2, device_name, matmul_peak, rewrite
from benchmarks.whole import python
from pruning.core.mask import Mask
from pruning.core.terminal import keep_pages
from pruning.healing.heal_settings import Distill, Full, Lora, Training
from pruning.healing.loop import Trainer, add_adapters, smaller_model
from pruning.healing.training_text import draw_text
from pruning.models.blocks import find_blocks
from pruning.models.products import Float32Linear

RESULTS = Path(__file__).with_name("healing.json")
MASK = Mask(30, tuple(range(13, 19)))
STEPS = 3  # timed steps, after one that is not timed
PEFT = "a plain loop with peft"
WAYS: dict[str, Training] = {
    PEFT: Lora(lr=1e-4, tokens=65_536),
    "heal=lora": Lora(lr=1e-4, tokens=65_536),
    "heal=full": Full(lr=1e-4, tokens=65_536),
    "heal=distill": Distill(lr=1e-4, tokens=65_536),
}
log = logging.getLogger(__name__)


def main() -> None:
    """Measure the chosen ways, print a line for each, and replace this processor's rows in the results file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device, rows = device_name(), []
    for way in [way for way in WAYS if not sys.argv[1:] or any(word in way for word in sys.argv[1:])]:
        found = json.loads(python("-m", "benchmarks.healing", "alone", way)[1].splitlines()[-1])
        rows.append({"way": way, **found, "device": device})
        log.info("%s", rows[-1])
    rewrite(RESULTS, rows, ("way",), [(way,) for way in WAYS])


def alone(way: str) -> dict[str, float]:
    """Time one way in this process: CPU seconds of a step, ratio *at peak*, peak memory in GB, and the last loss."""
    torch.set_num_threads(1)
    settings = WAYS[way]
    if way != PEFT:
        keep_pages()  # as the program's commands do
    model = replace(SMOLLM2, products="native" if way == PEFT else SMOLLM2.products).load()
    text = draw_text(settings, SMOLLM2.tokenizer)
    step = plain(model, settings, text) if way == PEFT else ours(model, settings, text)
    step(0)
    started = time.process_time()
    for number in range(1, 1 + STEPS):
        loss = step(number)
    seconds = (time.process_time() - started) / STEPS
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    single = any(isinstance(layer, Float32Linear) for layer in model.module.modules())
    peak = matmul_peak(CPU, torch.float32 if single else torch.bfloat16)
    products = _products(model.module, settings) * settings.windows * settings.length
    return {
        "cpu_seconds": round(seconds, 2),
        "at_peak": round(seconds / (products / peak / 1e9), 2),
        "memory_gb": round(memory, 2),
        "loss": round(loss, 4),
    }


def _products(module: Any, settings: Training) -> float:
    """The number of operations that a step spends on matrix products, per token."""
    text = module.config.get_text_config(decoder=True)
    block = sum(w.numel() for w in find_blocks(module).modules[0].parameters() if w.ndim == 2)
    head = text.vocab_size * text.hidden_size
    kept, passes = len(MASK.kept), 2 if settings.adapter else 3
    teacher = (MASK.n_blocks * block + head) if settings.losses.kl else 0
    return 2 * float(passes * kept * block + 2 * head + teacher)


def ours(model: Any, settings: Any, text: Any) -> Callable[[int], float]:
    """A function that takes one training step as the program does, and returns the loss."""
    smaller = smaller_model(model, MASK)
    if settings.adapter:
        trained = add_adapters(smaller, settings.rank, settings.alpha, settings.seed)
    else:
        trained = list(smaller.block_weights().values())
    trainer = Trainer(smaller, trained, text, settings, model.module if settings.losses.kl else None)

    def step(number: int) -> float:
        trainer.state.step = number
        trainer._step()
        return float(trainer.state.curve[-1]["loss"])

    return step


def plain(model: Any, settings: Training, text: Any) -> Callable[[int], float]:
    """A function that takes one step of a usual loop: peft's model, transformers' loss, torch's AdamW."""
    from peft import LoraConfig, get_peft_model

    module = model.module
    blocks = find_blocks(module)
    kept = [block for number, block in enumerate(blocks.modules) if number in MASK.kept]
    module.model.layers = torch.nn.ModuleList(kept)
    for number, block in enumerate(kept):
        attention: Any = block.self_attn
        attention.layer_idx = number
    module.config.num_hidden_layers = len(kept)
    tuned = get_peft_model(module, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([w for w in tuned.parameters() if w.requires_grad], lr=1e-4)
    tuned.train()

    def step(number: int) -> float:
        rows = text.batch(number, settings.windows)
        ids = torch.tensor([row.input_ids for row in rows])
        loss = tuned(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    if sys.argv[1:2] == ["alone"]:
        sys.stdout.write(json.dumps(alone(sys.argv[2])) + "\n")
    else:
        main()
