"""Training: the loss falls, adapters merge, budgets share their beginning, a stop changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pruning.core import records
from pruning.core.errors import DamagedError, LossError
from pruning.core.terminal import is_disk_full, sentence
from pruning.healing import loop, training
from pruning.healing.healed_files import WEIGHTS, read_weights, write_healed
from pruning.healing.loop import Healed, heal, latest_checkpoint, smaller_model
from pruning.healing.training import Trainer, Weights, schedule_of
from tests.healing.worlds import MASK, PARTS, distill, full, lora, text, tiny

IDS = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(0))
ROOT = Path(__file__).parents[2]


def healed(settings: Any, folder: Path | None = None, mask: Any = MASK) -> Healed:
    return heal(tiny(), mask, text(settings), settings, folder)


def same(first: Healed, second: Healed) -> bool:
    return first.tensors.keys() == second.tensors.keys() and all(
        torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors
    )


def losses(one: Healed) -> list[Any]:
    return [{name: value for name, value in point.items() if name != "seconds"} for point in one.curve]


@pytest.mark.parametrize(
    ("settings", "mask"),
    [
        (lora(tokens=2048), MASK),
        (full(tokens=2048), MASK),
        (full(tokens=2048), PARTS),
        (distill(tokens=2048, weights="full", lr=3e-3, ce=1.0, kl=0.1, hidden=0.1), MASK),
    ],
    ids=["lora", "full", "parts", "distill"],
)
def test_training_lowers_the_loss_and_the_weights_are_those_of_the_model(settings: Any, mask: Any) -> None:
    found = healed(settings, mask=mask)
    summary = found.summary()
    assert summary["heldout_after"] < summary["heldout_before"] - 0.02
    rebuilt = smaller_model(tiny(), mask)
    rebuilt.apply(found.tensors)
    with torch.no_grad():
        logits = [one.model.module(input_ids=IDS, use_cache=False).logits for one in (rebuilt, found.smaller)]
    assert torch.equal(*logits)


def test_merged_adapters_give_what_the_adapters_gave() -> None:
    smaller = smaller_model(tiny(), MASK)
    module = smaller.model.module
    added = loop.add_adapters(smaller, 4, 8.0, seed=0)
    with torch.no_grad():
        for weight in added:
            weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        apart = module(input_ids=IDS, use_cache=False).logits
        changed = loop.merge_adapters(smaller)
        merged = module(input_ids=IDS, use_cache=False).logits
        dense = smaller_model(tiny(), MASK).model.module(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(merged, apart, rtol=1e-4, atol=1e-4)
    assert float((merged - dense).abs().max()) > 0.1
    assert len(changed) == 4 * 7, "all linear layers of four blocks"
    assert not [name for name, _ in module.named_modules() if "lora" in name]


def test_gpt2_has_adapters_on_its_transposed_layers() -> None:
    smaller = smaller_model(tiny("gpt2"), MASK)
    loop.add_adapters(smaller, 2, 2.0, seed=0)
    assert len(loop.merge_adapters(smaller)) == 4 * 4


def test_recomputed_blocks_and_smaller_batches_give_the_same_training() -> None:
    plain = healed(full())
    for other in (full(gradient_checkpointing=True), full(micro_tokens=16)):
        found = healed(other)
        for name, tensor in plain.tensors.items():
            torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-3, atol=1e-4)
        assert other.key("text") == full().key("text")


class KilledError(Exception):
    pass


@pytest.mark.parametrize("settings", [lora(), full(), distill(hidden=0.3)], ids=["lora", "full", "distill"])
@pytest.mark.parametrize("at", [1, 5, 9])
def test_a_stopped_training_continues_with_the_same_result(tmp_path: Path, settings: Any, at: int) -> None:
    whole = healed(settings)

    def stop(point: Any) -> None:
        if point["step"] == at:
            raise KilledError

    with pytest.raises(KilledError):
        heal(tiny(), MASK, text(settings), settings, tmp_path, watch=stop)
    seen: list[int] = []
    again = heal(
        tiny(), MASK, text(settings), settings, tmp_path, watch=lambda point: seen.append(point["step"])
    )
    assert same(again, whole)
    assert losses(again) == losses(whole)
    assert min(seen) >= at - 2, "it continued from its last checkpoint"
    path = tmp_path / settings.key(text(settings).sha256) / records.CURVE
    assert records.read(path) == again.curve


PROGRAM = """
import sys
from pathlib import Path
from pruning.healing.loop import heal
from pruning.healing.healed_files import write_healed
from tests.healing.worlds import MASK, full, text, tiny
settings = full(tokens=64 * 60)
folder = Path(sys.argv[1])
found = heal(tiny(), MASK, text(settings), settings, folder)
write_healed(folder / settings.key(text(settings).sha256), found, text(settings), settings)
"""


@pytest.mark.slow
def test_a_killed_process_continues_with_the_same_result(tmp_path: Path) -> None:
    settings = full(tokens=64 * 60)
    folder, key = tmp_path / "killed", settings.key(text(settings).sha256)

    def start() -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], env=environment)

    for least in (5, 25):
        process = start()
        while len(records.read(folder / key / records.CURVE)) < least:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / key / WEIGHTS).exists()
    assert start().wait() == 0
    whole = healed(settings)
    written = load_file(folder / key / WEIGHTS)
    assert written.keys() == whole.tensors.keys()
    assert all(torch.equal(written[name], whole.tensors[name]) for name in written)
    assert not (folder / key / "checkpoints").exists()


def test_budgets_share_their_beginning(tmp_path: Path) -> None:
    small, large = lora(tokens=640), lora(tokens=1280)
    healed(small, tmp_path)
    saved = latest_checkpoint(large, text(large), tmp_path)
    assert saved is not None
    assert training.step_of(saved) == 8
    steps: list[int] = []
    shared = heal(tiny(), MASK, text(large), large, tmp_path, watch=lambda point: steps.append(point["step"]))
    assert min(steps) == 9, "the smaller budget's rate falls after step 8 of 10"
    alone = healed(large)
    assert same(shared, alone)
    assert losses(shared) == losses(alone)
    between = lora(tokens=960)
    assert same(healed(between, tmp_path), healed(between)), "a budget in between, later"


def test_a_cosine_shares_nothing(tmp_path: Path) -> None:
    small, large = (lora(tokens=tokens, schedule="cosine") for tokens in (640, 1280))
    assert small.line("text") != large.line("text")
    assert lora(tokens=640).line("text") == lora(tokens=1280).line("text")
    healed(small, tmp_path)
    assert same(healed(large, tmp_path), healed(large))


def test_it_stops_early_if_the_held_out_loss_rises_and_keeps_the_best_weights() -> None:
    settings = full(tokens=64 * 40, lr=0.3, patience=2, clip=100.0)
    found = healed(settings)
    judged = records.heldout(found.curve)
    assert found.stopped_early
    assert found.curve[-1]["step"] < settings.steps
    assert [point["heldout_loss"] >= found.summary()["heldout_after"] for point in judged[-2:]] == [
        True,
        True,
    ]
    best = min(judged, key=lambda point: point["heldout_loss"])
    assert found.best_step == best["step"] == judged[-3]["step"]
    weights = list(found.smaller.block_weights().values())
    trainer = Trainer(found.smaller.model.module, weights, text(settings), settings, Weights())
    assert trainer.heldout_loss() == pytest.approx(best["heldout_loss"], rel=1e-6)
    last = healed(full(tokens=64 * judged[-1]["step"], lr=0.3, patience=2, clip=100.0))
    assert (last.curve[-1]["step"], last.stopped_early) == (judged[-1]["step"], False), (
        "nothing was left to train"
    )
    patient = healed(full(tokens=64 * 40, lr=0.3, patience=0, clip=100.0))
    assert patient.curve[-1]["step"] == settings.steps


def test_a_loss_that_is_not_a_number_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pruning.healing.training.summed_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True)
    )
    monkeypatch.setattr(Trainer, "heldout_loss", lambda _: 1.0)
    with pytest.raises(LossError, match=r"nan at step 1 of 10: lower heal\.lr \(0\.003\)"):
        healed(full())


def test_steps_below_the_spacing_of_half_precision_add_up() -> None:
    settings, model = full(lr=1e-4), tiny()
    model.module.to(torch.bfloat16)
    found = heal(model, MASK, text(settings), settings)
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.bfloat16}
    student = smaller_model(model, MASK)
    weights = list(student.block_weights().values())
    before = torch.cat([weight.detach().flatten() for weight in weights])
    trainer = Trainer(student.model.module, weights, text(settings), settings, Weights())
    schedule = schedule_of(settings.schedule, settings.steps, settings.warmup, settings.decay)
    trainer.run(schedule, settings.steps, folder=None)
    after = torch.cat([weight.detach().flatten() for weight in weights])
    assert after.dtype == torch.bfloat16
    # The numbers of this size are 4.9e-4 apart, and a step is at most about 1e-4: alone, it would be rounded away.
    wide = (before.abs() >= 1 / 16) & (before.abs() < 1 / 8)
    assert (after != before)[wide].float().mean() > 0.2


def test_adapters_in_half_precision_gain_what_they_gain_in_float32() -> None:
    settings, model = lora(tokens=2048, seed=2), tiny()
    model.module.to(torch.bfloat16)
    found = [heal(one, MASK, text(settings), settings) for one in (model, tiny())]
    half, single = (one.summary()["heldout_before"] - one.summary()["heldout_after"] for one in found)
    assert half == pytest.approx(single, rel=0.2)
    assert {tensor.dtype for tensor in found[0].tensors.values()} == {torch.bfloat16}


def test_the_loss_of_adapters_is_that_of_the_merged_weights() -> None:
    settings, model = lora(tokens=2048), tiny()
    model.module.to(torch.bfloat16)
    found = heal(model, MASK, text(settings), settings)
    rebuilt = smaller_model(model, MASK)
    rebuilt.apply(found.tensors)
    weights = list(rebuilt.block_weights().values())
    merged = Trainer(rebuilt.model.module, weights, text(settings), settings, Weights()).heldout_loss()
    on_curve = min(point["heldout_loss"] for point in records.heldout(found.curve))
    assert found.summary()["heldout_after"] == merged != on_curve


def test_damaged_files_are_named(tmp_path: Path) -> None:
    settings = lora()
    record = write_healed(tmp_path / "key", healed(settings), text(settings), settings)
    assert len(read_weights(tmp_path / "key", record)) == 28
    (tmp_path / "key" / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(DamagedError, match=r"weights\.safetensors is damaged"):
        read_weights(tmp_path / "key", record)
    name = f"step-00000002-{'0' * 16}.pt"
    (tmp_path / name).write_bytes(b"no checkpoint")
    with pytest.raises(DamagedError, match=name):
        training.load(tmp_path / name)


@pytest.mark.parametrize("place", ["*/checkpoints/step-*.pt", "trunk-*/decay-*.pt"])
def test_a_checkpoint_with_a_flipped_byte_is_not_trained_on(place: str, tmp_path: Path) -> None:
    settings = full(decay=0.5)

    def stopped(point: records.Point) -> None:
        if point["step"] == settings.steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal(tiny(), MASK, text(settings), settings, tmp_path, watch=stopped)
    (path,) = tmp_path.glob(place)
    for other in {*tmp_path.glob("**/*.pt")} - {path}:
        other.unlink()
    content = bytearray(path.read_bytes())
    values = next(iter(training.load(path).weights)).numpy().tobytes()[:64]
    content[content.index(values) + 3] ^= 0x40  # a weight of another size, in a file that torch still reads
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["step"] == training.step_of(path)
    with pytest.raises(DamagedError, match=path.name):
        heal(tiny(), MASK, text(settings), settings, tmp_path)
    path.unlink()
    assert same(heal(tiny(), MASK, text(settings), settings, tmp_path), healed(settings))


def test_a_full_disk_is_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    settings = lora()
    found = healed(settings)
    monkeypatch.setattr("safetensors.torch.save_file", no_space)
    with pytest.raises(OSError, match="No space left on device") as error:
        write_healed(tmp_path / "key", found, text(settings), settings)
    assert is_disk_full(error.value)
    assert sentence(error.value).startswith(f"{tmp_path / 'key' / WEIGHTS} cannot be written")
    assert list((tmp_path / "key").iterdir()) == []
