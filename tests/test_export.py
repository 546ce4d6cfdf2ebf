"""Exported networks: the file answers as the network does, and says what it needs to be used."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import kdlab
from kdlab.cli import main
from kdlab.errors import CheckpointError, ConfigError
from kdlab.models import onnx as onnx_files
from kdlab.training import deploy
from tests.small_study import small

needs_onnx = pytest.mark.skipif(not onnx_files.available(), reason="needs kdlab[onnx]")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    made = small(
        tmp_path_factory.mktemp("export"),
        students={"KD": "kd", "SimKD": "simkd", "wide": kdlab.Student("kd", network="resnet14")},
        epochs=2,
        keep="all",
    )
    made.fit(progress=False)
    return made


def pictures(study: kdlab.Study, count: int) -> torch.Tensor:
    return study.data.test.images[:count].float() / 255


# ---- the module that is deployed --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["KD", "wide", "resnet8"])
def test_a_predictor_normalises_by_itself(study: kdlab.Study, name: str) -> None:
    raw = study.data.test.images[:9]
    with torch.no_grad():
        expected = study.network(name)(study.data.normalize(raw))
        assert torch.allclose(study.predictor(name)(raw.float() / 255), expected, atol=1e-5)


def test_a_predictor_scores_what_the_study_recorded(study: kdlab.Study) -> None:
    """Also where a method predicts by parts of its own, and at the epoch with the best validation."""
    test = study.data.test
    for name in ("KD", "SimKD"):
        for epoch in ("last", "best"):
            with torch.no_grad():
                found = study.predictor(name, epoch)(test.images.float() / 255).argmax(dim=1)
            accuracy = (found == test.labels).float().mean()
            assert float(accuracy) == pytest.approx(study.results()[name][epoch][0], abs=1e-6)


# ---- weights ----------------------------------------------------------------------------------------


def test_weights_come_back_with_all_that_is_needed(study: kdlab.Study, tmp_path: Path) -> None:
    done = study.export("wide", tmp_path / "new" / "wide.safetensors", epoch="best")
    assert done.difference == 0 and done.bytes == done.path.stat().st_size and done.pictures > 10
    with safe_open(done.path, framework="pt") as file:
        about = file.metadata()
    assert about["network"] == "resnet14" and about["method"] == "kd" and about["epoch"] == "best"
    net = kdlab.models.build(
        about["network"], num_classes=10, in_channels=json.loads(about["input_shape"])[0]
    )
    kdlab.models.load_checkpoint(net, done.path)
    raw = pictures(study, 5)
    shift, scale = (torch.tensor(json.loads(about[key])) for key in ("mean", "std"))
    with torch.no_grad():
        found = net.eval()((raw - shift) / scale)
        assert torch.allclose(found, study.predictor("wide", "best")(raw), atol=1e-5)


def test_weights_that_would_lose_the_predictor_are_refused(study: kdlab.Study, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SimKD predicts with more .* named .onnx"):
        study.export("SimKD", tmp_path / "simkd.safetensors")
    assert not list(tmp_path.iterdir())


def test_another_ending_is_refused(study: kdlab.Study, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.onnx or \.safetensors, not 'kd.pt'"):
        study.export("KD", tmp_path / "kd.pt")


def test_a_file_that_answers_otherwise_is_not_kept(
    study: kdlab.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kd.safetensors"
    path.write_text("mine")
    monkeypatch.setattr(deploy.models, "load_checkpoint", lambda net, file: None)
    with pytest.raises(CheckpointError, match="answered otherwise"):
        study.export("KD", path)
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_is_told(study: kdlab.Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Cannot write"):
        study.export("KD", tmp_path / "file" / "kd.safetensors")


def test_missing_packages_are_told(
    study: kdlab.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r'needs onnx, onnxscript, onnxruntime: pip install "kdlab\[onnx\]"'
    ):
        study.export("KD", tmp_path / "kd.onnx")


# ---- ONNX -------------------------------------------------------------------------------------------


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", ["KD", "SimKD"])
def test_an_onnx_file_answers_as_the_network(study: kdlab.Study, tmp_path: Path, name: str) -> None:
    import onnxruntime

    done = study.export(name, tmp_path / "net.onnx")
    assert done.difference < 1e-4 and "ONNX" in str(done) and f"{done.pictures} test pictures" in str(done)
    for count in (1, 7):  # the batch may have any size
        raw = pictures(study, count)
        with torch.no_grad():
            expected = study.predictor(name)(raw)
        assert torch.allclose(onnx_files.run_onnx(done.path, raw), expected, atol=1e-4)
    about = onnxruntime.InferenceSession(str(done.path)).get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == list(study.data.class_names) and about["name"] == name


@needs_onnx
@pytest.mark.slow
def test_what_onnx_cannot_express_is_told(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.flatten(1)) if float(x.sum()) > 0 else x.new_zeros(len(x), 2)

    net = Odd().train()
    with pytest.raises(CheckpointError, match="This Odd cannot be written as ONNX"):
        onnx_files.write_onnx(net, tmp_path / "odd.onnx", (1, 2, 2))
    assert net.training and not list(tmp_path.iterdir())


@needs_onnx
def test_a_damaged_onnx_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"bad\.onnx cannot be read"):
        onnx_files.run_onnx(tmp_path / "bad.onnx", torch.zeros(1, 1, 8, 8))
    with pytest.raises(CheckpointError, match="no file"):
        onnx_files.run_onnx(tmp_path / "none.onnx", torch.zeros(1, 1, 8, 8))


# ---- the command ------------------------------------------------------------------------------------


def test_the_command_writes_and_tells(
    study: kdlab.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kd.safetensors"
    assert main(["export", str(study.folder), "KD", str(path), "--epoch", "1", "--seed", "0"]) == 0
    assert "all logits of 40 test pictures are those of the network" in capsys.readouterr().out
    assert path.is_file()
    assert main(["export", str(study.folder), "KDD", str(path)]) == 2
    assert "did you mean 'KD'" in capsys.readouterr().err
