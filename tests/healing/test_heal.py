"""Training: the loss falls, adapters merge, budgets share their beginning, a stop changes nothing."""

from __future__ import annotations

import errno
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pruning.core import records
from pruning.core.errors import DamagedError, InputError, LossError, is_fatal, sentence
from pruning.core.mask import Mask
from pruning.engine import collectives
from pruning.healing import loop
from pruning.healing.loop import (
    WEIGHTS,
    Healed,
    Trainer,
    heal,
    latest_checkpoint,
    read_weights,
    smaller_model,
    write_healed,
)
from pruning.models.blocks import find_blocks
from pruning.models.sublayers import masked
from tests.healing.worlds import MASK, N_BLOCKS, PARTS, distill, full, lora, text, tiny, trainer
from tests.helpers.architectures import logits
from tests.helpers.processes import meet, started

Tensors: TypeAlias = Mapping[str, torch.Tensor]
ENDS = Mask(N_BLOCKS, (0, 1, 5))
ROOT = Path(__file__).parents[2]


def healed(settings: Any, folder: Path | None = None, mask: Any = MASK, **more: Any) -> Healed:
    return heal(tiny(), mask, text(settings), settings, folder, **more)


def same(first: Healed, second: Healed) -> bool:
    return first.tensors.keys() == second.tensors.keys() and all(
        torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors
    )


def difference(found: Tensors, expected: Tensors) -> float:
    """How far two trained models are apart (Frobenius norm), relative to what training has changed.

    The first steps of Adam move a weight by the learning rate, also if rounding decides the sign of its gradient. So
    single weights may differ on some processors, but not many.
    """
    start = tiny().module.state_dict()
    apart, changed = (
        math.hypot(*(float((tensor - other[name]).norm()) for name, tensor in expected.items()))
        for other in (found, start)
    )
    return apart / changed


def losses(one: Healed) -> list[Any]:
    return [{name: value for name, value in point.items() if name != "seconds"} for point in one.curve]


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "qwen3_moe"])
@pytest.mark.parametrize("mask", [MASK, PARTS, ENDS], ids=str)
def test_the_smaller_model_is_the_masked_one(name: str, mask: Mask) -> None:
    dense = tiny(name)
    if name == "gemma3" and mask is PARTS:  # whole blocks out of a pattern of layers need more configuration
        mask = Mask(N_BLOCKS, (2, 5), "sublayer")
    smaller = smaller_model(dense, mask)
    with masked(dense.module, mask):
        wanted = logits(dense.module)
    torch.testing.assert_close(logits(smaller.model.module), wanted, rtol=1e-5, atol=1e-5)
    assert len(find_blocks(smaller.model.module).modules) == N_BLOCKS - len(mask.gone)


def test_blocks_are_copies_and_other_weights_are_shared() -> None:
    dense, embedding = tiny(), "model.embed_tokens.weight"
    smaller = smaller_model(dense, MASK)
    assert smaller.model.module.get_parameter(embedding) is dense.module.get_parameter(embedding)
    weights = smaller.block_weights()
    assert {name.split(".")[2] for name in weights} == {"0", "2", "3", "5"}, "numbers are the dense model's"
    before = dense.module.get_parameter("model.layers.2.mlp.up_proj.weight").clone()
    with torch.no_grad():
        weights["model.layers.2.mlp.up_proj.weight"].zero_()
    assert torch.equal(dense.module.get_parameter("model.layers.2.mlp.up_proj.weight"), before)
    assert dense.module.config.num_hidden_layers == N_BLOCKS
    names = smaller_model(tiny(), PARTS).block_weights()
    assert not [n for n in names if n.startswith(("model.layers.1.self_attn", "model.layers.2.mlp"))]
    assert [n for n in names if n.startswith("model.layers.1.mlp")]
    with pytest.raises(InputError, match=r"model\.layers\.1"):
        smaller.apply({"model.layers.1.mlp.up_proj.weight": torch.zeros(48, 32)})
    with pytest.raises(InputError, match="6 of 6 blocks"):
        smaller_model(tiny(), Mask(N_BLOCKS, tuple(range(N_BLOCKS))))


@pytest.mark.parametrize(
    ("settings", "mask"),
    [
        (lora(tokens=2048), MASK),
        (full(tokens=2048), MASK),
        (full(tokens=2048), PARTS),
        (full(tokens=2048), Mask(N_BLOCKS)),
        (distill(tokens=2048, weights="full", lr=3e-3, ce=1.0, kl=0.1), MASK),
    ],
    ids=["lora", "full", "parts", "dense", "distill"],
)
def test_training_lowers_the_loss_and_the_weights_are_those_of_the_model(settings: Any, mask: Any) -> None:
    found = healed(settings, mask=mask)
    summary = found.summary()
    assert summary["heldout_after"] < summary["heldout_before"] - 0.02
    rebuilt = smaller_model(tiny(), mask)
    rebuilt.apply(found.tensors)
    assert torch.equal(logits(rebuilt.model.module), logits(found.smaller.model.module))


def test_merged_adapters_give_what_the_adapters_gave() -> None:
    smaller = smaller_model(tiny(), MASK)
    module = smaller.model.module
    added = loop.add_adapters(smaller, 4, 8.0, seed=0)
    with torch.no_grad():
        for weight in added:
            weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        apart = logits(module)
        changed = loop.merge_adapters(smaller)
    torch.testing.assert_close(logits(module), apart, rtol=1e-4, atol=1e-4)
    assert float((apart - logits(smaller_model(tiny(), MASK).model.module)).abs().max()) > 0.1
    assert len(changed) == 4 * 7, "all linear layers of four blocks"
    assert not [name for name, _ in module.named_modules() if "lora" in name]
    transposed = smaller_model(tiny("gpt2"), MASK)
    loop.add_adapters(transposed, 2, 2.0, seed=0)
    assert len(loop.merge_adapters(transposed)) == 4 * 4


def test_recomputed_blocks_and_smaller_batches_give_the_same_training() -> None:
    plain = healed(full()).tensors
    for other in (full(gradient_checkpointing=True), full(micro_tokens=16)):
        assert difference(healed(other).tensors, plain) < 0.01


class KilledError(Exception):
    pass


@pytest.mark.parametrize("settings", [lora(), full(), distill()], ids=["lora", "full", "distill"])
@pytest.mark.parametrize("at", [1, 5, 9])
def test_a_stopped_training_continues_with_the_same_result(tmp_path: Path, settings: Any, at: int) -> None:
    whole = healed(settings)

    def stop(point: Any) -> None:
        if point["step"] == at:
            raise KilledError

    with pytest.raises(KilledError):
        healed(settings, tmp_path, watch=stop)
    seen: list[int] = []
    again = healed(settings, tmp_path, watch=lambda point: seen.append(point["step"]))
    assert same(again, whole)
    assert losses(again) == losses(whole)
    assert min(seen) >= at - 2, "it continued from its last checkpoint"
    path = tmp_path / settings.key(text(settings).sha256) / records.CURVE
    assert records.read(path) == again.curve


def test_budgets_share_their_beginning(tmp_path: Path) -> None:
    small, large = lora(tokens=640), lora(tokens=1280)
    healed(small, tmp_path)
    saved = latest_checkpoint(large, text(large), tmp_path)
    assert saved is not None
    assert int(saved.stem.split("-")[1]) == 8
    steps: list[int] = []
    shared = healed(large, tmp_path, watch=lambda point: steps.append(point["step"]))
    assert min(steps) == 9, "the smaller budget's rate falls after step 8 of 10"
    alone = healed(large)
    assert same(shared, alone)
    assert losses(shared) == losses(alone)
    between = lora(tokens=960)
    assert same(healed(between, tmp_path), healed(between)), "a budget in between, later"


class HeldOut:
    """Gives the evaluations of a training run these losses, one after the other, and keeps the weights of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
        self.losses, self.weights = iter(losses), list[list[torch.Tensor]]()
        monkeypatch.setattr(Trainer, "heldout_loss", lambda trainer: self.loss(trainer))

    def loss(self, trainer: Trainer) -> float:
        self.weights.append([master.detach().clone() for master in trainer.masters])
        return next(self.losses)


def test_it_stops_early_if_the_held_out_loss_rises_and_keeps_the_best_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rising = (3.5, 3.2, 3.4, 3.3)  # after steps 0, 2, 4, 6
    heldout = HeldOut(monkeypatch, *rising)
    found = healed(full(tokens=64 * 40, patience=2))
    assert (found.stopped_early, found.best_step, found.curve[-1]["step"]) == (True, 2, 6)
    summary = found.summary()
    assert (summary["heldout_before"], summary["heldout_after"]) == (3.5, 3.2)
    _, best, _, last = heldout.weights
    assert all(map(torch.equal, found.tensors.values(), best))
    assert not any(map(torch.equal, last, best)), "later weights differ, but are not kept"
    HeldOut(monkeypatch, *rising)
    whole = healed(full(tokens=64 * 6, patience=2))
    assert (whole.curve[-1]["step"], whole.best_step, whole.stopped_early) == (6, 2, False), (
        "nothing was left"
    )
    HeldOut(monkeypatch, *range(21))
    patient = healed(full(tokens=64 * 40, patience=0))
    assert (patient.curve[-1]["step"], patient.best_step, patient.stopped_early) == (40, 0, False)


def test_a_loss_that_is_not_a_number_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr("pruning.healing.loop.summed_loss", lambda *_: nan)
    monkeypatch.setattr(Trainer, "heldout_loss", lambda _: 1.0)
    with pytest.raises(LossError, match=r"nan .* 1 of 10: .*heal\.lr \(0\.003\)"):
        healed(full())


def test_steps_below_the_spacing_of_half_precision_add_up() -> None:
    settings, model = full(lr=1e-4), tiny()
    model.module.to(torch.bfloat16)
    found = heal(model, MASK, text(settings), settings)
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.bfloat16}
    one = trainer(settings, smaller_model(model, MASK))
    before = torch.cat([weight.detach().flatten() for weight in one.parameters])
    one.run(settings.steps, folder=None)
    after = torch.cat([weight.detach().flatten() for weight in one.parameters])
    assert after.dtype == torch.bfloat16
    # The numbers of this size are 4.9e-4 apart, and a step is at most about 1e-4: alone, it would be rounded away.
    wide = (before.abs() >= 1 / 16) & (before.abs() < 1 / 8)
    assert (after != before)[wide].float().mean() > 0.2


def test_adapters_in_half_precision_gain_about_as_in_float32_and_are_judged_merged() -> None:
    settings, model = lora(tokens=2048, seed=2), tiny()
    model.module.to(torch.bfloat16)
    found = [heal(one, MASK, text(settings), settings) for one in (model, tiny())]
    half, single = (one.summary()["heldout_before"] - one.summary()["heldout_after"] for one in found)
    assert half > single / 2, "small steps were rounded away"
    assert {tensor.dtype for tensor in found[0].tensors.values()} == {torch.bfloat16}
    rebuilt = smaller_model(model, MASK)
    rebuilt.apply(found[0].tensors)
    assert found[0].summary()["heldout_after"] == trainer(settings, rebuilt).heldout_loss()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    settings = lora()
    record = write_healed(tmp_path / "key", healed(settings), text(settings), settings)
    assert len(read_weights(tmp_path / "key", record)) == 28
    (tmp_path / "key" / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(DamagedError, match=r"weights\.safetensors"):
        read_weights(tmp_path / "key", record)
    (tmp_path / "step-00000002.pt").write_bytes(b"no checkpoint")
    with pytest.raises(DamagedError, match="step-00000002"):
        trainer().resume(tmp_path / "step-00000002.pt")


class FullDisk(io.RawIOBase):
    """A file on a disk that has room for some bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return len(data)


def test_a_full_disk_is_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, one = lora(), trainer()
    found = healed(settings)

    def no_space(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", no_space)
    with pytest.raises(OSError, match="No space left on device") as error:
        write_healed(tmp_path / "key", found, text(settings), settings)
    assert is_fatal(error.value)
    assert str(tmp_path / "key" / WEIGHTS) in sentence(error.value)
    assert list((tmp_path / "key").iterdir()) == []

    for room in (0, 100, 5_000, 40_000):

        @contextmanager
        def full_file(_: Path, room: int = room) -> Iterator[tuple[FullDisk, Path]]:
            yield FullDisk(room), tmp_path / "never"

        monkeypatch.setattr(loop, "temporary_file", full_file)
        with pytest.raises(OSError, match="No space left on device") as error:
            one.save(tmp_path)
        assert is_fatal(error.value), "so the command ends, and does not go on with the next cell"
        assert str(tmp_path / "step-00000000.pt") in sentence(error.value)


# Two ranks train as one process does, up to the rounding of sums.

RANKS = distill(weights="full", lr=3e-3, ce=1.0, kl=0.1, micro_tokens=16)


def worker(rank: int, size: int, port: int, folder: Path) -> None:
    meet(rank, size, port)
    with collectives.joined_ranks():
        assert collectives.world_size() == 2
        write_healed(folder / "key", healed(RANKS, folder), text(RANKS), RANKS)


def test_two_ranks_give_the_weights_of_one_process(tmp_path: Path) -> None:
    started(worker, 2, tmp_path)
    assert difference(load_file(tmp_path / "key" / WEIGHTS), healed(RANKS).tensors) < 0.01


def test_more_ranks_than_windows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "world_size", lambda: 8)
    with pytest.raises(InputError, match=r" 4 windows.* 8 ranks .*heal\.batch_tokens"):
        trainer()
