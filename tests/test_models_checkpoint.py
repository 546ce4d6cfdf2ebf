"""Weights in and out of files: formats, strictness, damage."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdlab.errors import CheckpointError
from kdlab.models import StagedNet, build, load_checkpoint, read_state, save_checkpoint, state_hash, tap


@pytest.fixture
def net() -> StagedNet:
    torch.manual_seed(0)
    return build("resnet8", 10)


def other(seed: int = 1, classes: int = 10, channels: int = 3) -> StagedNet:
    torch.manual_seed(seed)
    return build("resnet8", classes, channels)


def test_round_trip_with_metadata(net: StagedNet, tmp_path: Path) -> None:
    net.train()(torch.randn(4, 3, 8, 8))  # statistics and counters other than the first
    path = save_checkpoint(net, tmp_path / "new folder" / "net.safetensors", {"architecture": "resnet8"})
    loaded = other()
    report = load_checkpoint(loaded, path)
    assert report.metadata == {"architecture": "resnet8"} and not report.missing
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in net.state_dict().items())
    assert state_hash(loaded) == state_hash(net)
    assert read_state(path).metadata["architecture"] == "resnet8"
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]  # no temporary file stays


def wrappings(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    parallel = {f"module.{k}": v for k, v in state.items()}
    return {
        "plain": state,
        "RepDistiller": {
            "epoch": 240,
            "model": state,
            "accuracy": torch.tensor(74.5),
            "optimizer": {"state": {}},
        },
        "NumPy accuracy": {"model": state, "best_acc": np.float64(0.745), "epoch": np.int64(3)},
        "parallel": {"state_dict": parallel, "best_prec1": 91.73},
        "compiled": {f"_orig_mod.module.{k}": v for k, v in state.items()},
        "twice": {"model": {"state_dict": state}},
    }


@pytest.mark.parametrize("how", wrappings({}))
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_public_formats(net: StagedNet, tmp_path: Path, how: str, legacy: bool) -> None:
    path = tmp_path / "ckpt_epoch_240.pth"
    torch.save(wrappings(net.state_dict())[how], path, _use_new_zipfile_serialization=not legacy)
    state = read_state(path)
    assert list(state) == list(net.state_dict())
    loaded = other()
    metadata = load_checkpoint(loaded, path).metadata
    assert state_hash(loaded) == state_hash(net)
    if how == "RepDistiller":
        assert metadata == {"epoch": "240", "accuracy": "74.5"}
    if how == "NumPy accuracy":
        assert metadata == {"best_acc": "0.745", "epoch": "3"}


def test_extension_does_not_matter(net: StagedNet, tmp_path: Path) -> None:
    save_checkpoint(net, tmp_path / "weights.pt")
    torch.save(net.state_dict(), tmp_path / "weights.safetensors")
    for name in ("weights.pt", "weights.safetensors"):
        assert list(sorted(read_state(tmp_path / name))) == sorted(net.state_dict())


def test_checkpoints_without_batch_counters_load(net: StagedNet) -> None:
    """PyTorch before 0.4.1 had no num_batches_tracked."""
    old = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    loaded = other()
    load_checkpoint(loaded, old)
    assert state_hash(loaded) == state_hash(net)


def test_tapped_networks_save_the_names_of_the_module(tmp_path: Path) -> None:
    class Small(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(
                nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
            )

    torch.manual_seed(0)
    module, twin = Small(), Small()
    path = save_checkpoint(tap(module), tmp_path / "small.safetensors")
    assert list(read_state(path)) == sorted(module.state_dict())
    assert state_hash(tap(module)) == state_hash(module) != state_hash(twin)
    load_checkpoint(tap(twin), path)
    assert state_hash(twin) == state_hash(module)
    load_checkpoint(twin, tap(module).state_dict())


def damaged(path: Path, keep: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.02, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_truncated_files_are_named_and_nothing_is_loaded(tmp_path: Path, kind: str, keep: float) -> None:
    path = tmp_path / f"cut.{kind}"
    if kind == "safetensors":
        save_checkpoint(other(), path)
    else:
        torch.save({"model": other().state_dict()}, path, _use_new_zipfile_serialization=kind == "zip")
    damaged(path, keep)
    net = other(seed=2)
    before = state_hash(net)
    with pytest.raises(CheckpointError, match=rf"cut\.{kind} cannot be read: it is damaged"):
        load_checkpoint(net, path)
    assert state_hash(net) == before


def test_files_that_are_no_checkpoints(net: StagedNet, tmp_path: Path) -> None:
    path = tmp_path / "notes.pth"
    with pytest.raises(CheckpointError, match=r"There is no file .*notes\.pth"):
        read_state(path)
    path.write_text("not weights at all")
    with pytest.raises(CheckpointError, match=r"notes\.pth cannot be read"):
        read_state(path)
    torch.save({"epoch": 3, "lr": 0.1}, path)
    with pytest.raises(CheckpointError, match=r"holds no state dictionary but a mapping with 'epoch', 'lr'"):
        read_state(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="but a list"):
        read_state(path)
    with pytest.raises(CheckpointError, match="There is no file"):
        read_state(tmp_path)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_code_in_a_checkpoint_is_not_run(net: StagedNet, tmp_path: Path) -> None:
    path, sign = tmp_path / "bomb.pth", tmp_path / "it ran"
    torch.save({"model": net.state_dict(), "extra": Bomb(sign)}, path)
    with pytest.raises(CheckpointError, match=r"bomb\.pth holds Python objects.*state_dict"):
        load_checkpoint(net, path)
    path.write_bytes(pickle.dumps(Bomb(sign), protocol=2))
    with pytest.raises(CheckpointError, match=r"bomb\.pth"):
        read_state(path)
    torch.save(net, path)  # a whole network is code too
    with pytest.raises(CheckpointError, match="holds Python objects"):
        read_state(path)
    assert not sign.exists()


def test_misfits_are_explained_and_nothing_is_loaded(net: StagedNet, tmp_path: Path) -> None:
    path = save_checkpoint(net, tmp_path / "ten.safetensors")
    cases: list[tuple[nn.Module, str]] = [
        (
            other(classes=100),
            r"ten\.safetensors does not fit this ResNet: it has 10 classes and the network has 100; .*10",
        ),
        (other(channels=1), r"images of 3 channels and the network takes 1; build one with in_channels=3"),
        (build("resnet14", 10), r"it lacks layer1\.1\.conv1\.weight, .* and \d+ more.*another network"),
        (build("wrn_16_1", 10), r"it lacks block1.*the network has no"),
        (build("resnet8x4", 10), r"shapes differ: bn1\.bias \(16,\) for \(32,\)|it lacks"),
    ]
    for wrong, message in cases:
        before = state_hash(wrong)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(wrong, path)
        assert state_hash(wrong) == before


def test_without_strict_what_fits_is_loaded_and_the_rest_is_told(net: StagedNet) -> None:
    wide = other(classes=100)
    report = load_checkpoint(wide, net.state_dict(), strict=False)
    assert set(report.mismatched) == {"fc.weight", "fc.bias"} and not report.missing and not report.unexpected
    assert torch.equal(wide.get_submodule("conv1").weight, net.get_submodule("conv1").weight)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(build("vgg8", 10), {"nothing.weight": torch.zeros(3)}, strict=False)


def test_loading_keeps_precision_and_gradients_off(net: StagedNet) -> None:
    half = other().half()
    load_checkpoint(half, net.state_dict())
    assert half.classifier.weight.dtype == torch.float16
    torch.testing.assert_close(half.classifier.weight.float(), net.classifier.weight, rtol=1e-3, atol=1e-3)
    assert half.classifier.weight.is_leaf and half.classifier.weight.requires_grad


def test_hash_sees_every_byte_name_and_shape(net: StagedNet) -> None:
    state = net.state_dict()
    first = state_hash(net)
    assert first == state_hash(dict(reversed(state.items()))) and len(first) == 64
    changed = {k: v.clone() for k, v in state.items()}
    changed["bn1.running_mean"][3] += 1e-6
    assert state_hash(changed) != first
    assert state_hash(state | {"bn1.num_batches_tracked": torch.tensor(1)}) != first
    assert state_hash({"a": torch.zeros(2, 3)}) != state_hash({"a": torch.zeros(3, 2)})
    assert state_hash({"a": torch.zeros(2)}) != state_hash({"b": torch.zeros(2)})
    assert state_hash({"a": torch.zeros(2)}) != state_hash({"a": torch.zeros(2, dtype=torch.int32)})
    assert state_hash({"a": torch.ones(2, 2)}) == state_hash({"a": torch.ones(2, 2).t().contiguous().t()})
    assert isinstance(state_hash({"a": torch.ones(3, dtype=torch.bfloat16)}), str)


def test_hash_is_the_same_in_another_process(net: StagedNet, tmp_path: Path) -> None:
    path = save_checkpoint(net, tmp_path / "net.safetensors")
    code = "import sys, kdlab.models as m; print(m.state_hash(m.read_state(sys.argv[1])))"
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == state_hash(net)


def test_a_failed_write_keeps_the_old_file(
    net: StagedNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_checkpoint(net, tmp_path / "net.safetensors")
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"Cannot write .*net\.safetensors: .*No space left"):
        save_checkpoint(other(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_place_and_metadata_that_is_no_text(net: StagedNet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Cannot write"):
        save_checkpoint(net, tmp_path / "file" / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"put str\(\) around 'epoch'"):
        save_checkpoint(net, tmp_path / "net.safetensors", {"epoch": 3})  # type: ignore[dict-item]


def test_libraries_are_imported_on_demand() -> None:
    code = (
        "import sys, kdlab.models as m; m.build('resnet8'); m.table(); "
        "print({'torchvision', 'timm', 'safetensors', 'sklearn', 'pandas'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
