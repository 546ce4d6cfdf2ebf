"""Folders of images: layouts, sizes, Tiny-ImageNet, and files that cannot be read."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kdlab.data as kd
from kdlab.errors import ConfigError, DataError


def picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def folder(root: Path, classes: tuple[str, ...] = ("ant", "bee", "cat"), each: int = 5) -> Path:
    for number, name in enumerate(classes):
        for k in range(each):
            picture(root / name / f"{k}.png", (number * 40, k, 7))
    return root


def test_one_folder_per_class(tmp_path: Path) -> None:
    folder(tmp_path / "zoo")
    (tmp_path / "zoo" / "ant" / "notes.txt").write_text("not a picture")
    (tmp_path / "zoo" / ".thumbnails").mkdir()
    data = kd.load(tmp_path / "zoo")
    assert data.name == "zoo" and data.class_names == ("ant", "bee", "cat")
    assert data.input_shape == (3, 10, 12)  # one common size: kept
    assert [len(data.train), len(data.val), len(data.test)] == [10, 2, 3]
    for split in (data.train, data.val, data.test):
        red = split.images[:, 0, 0, 0].long()
        assert red.equal(split.labels * 40)
        green = split.images[:, 1, 5, 5].long()  # files in order: index = label * 5 + number
        assert split.index.equal(split.labels * 5 + green)
    parts = [set(s.index.tolist()) for s in (data.train, data.val, data.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 15
    assert kd.load(str(tmp_path / "zoo")).fingerprint == data.fingerprint


@pytest.mark.parametrize("names", [("train", "val", "test"), ("train", "validation", "test")])
def test_three_parts(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name, each in zip(names, (4, 2, 3), strict=True):
        folder(tmp_path / name, each=each)
    data = kd.load(tmp_path)
    assert [len(data.train), len(data.val), len(data.test)] == [12, 6, 9]
    with pytest.raises(ConfigError, match="its own validation part"):
        kd.load(tmp_path, val_fraction=0.5)


def test_two_parts(tmp_path: Path) -> None:
    for name in ("train", "val"):
        folder(tmp_path / "a" / name)
    data = kd.load(tmp_path / "a")
    assert [len(data.train), len(data.val), len(data.test)] == [12, 3, 15]  # val is the test part
    for name in ("train", "test"):
        folder(tmp_path / "b" / name)
    data = kd.load(tmp_path / "b")
    assert [len(data.train), len(data.val), len(data.test)] == [12, 3, 15]


def test_sizes(tmp_path: Path) -> None:
    folder(tmp_path)
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 200  # what a centre crop leaves
    Image.fromarray(wide).save(tmp_path / "cat" / "wide.png")
    data = kd.load(tmp_path)
    assert data.input_shape == (3, 64, 64)  # several sizes
    data = kd.load(tmp_path, image_size=20)
    assert data.input_shape == (3, 20, 20)
    everything = torch.cat([data.train.images, data.val.images, data.test.images])
    cropped = everything[torch.cat([s.index for s in (data.train, data.val, data.test)]) == 15]
    assert (cropped[0][:, :, 1:-1] == 200).all()
    with pytest.raises(ConfigError, match="image_size"):
        kd.load(tmp_path, image_size=0)


def test_grey_pictures_stay_grey(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for k in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (8, 8), 10 * k).save(tmp_path / name / f"{k}.png")
    assert kd.load(tmp_path).input_shape == (1, 8, 8)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "b" / "color.png")
    assert kd.load(tmp_path).input_shape == (3, 8, 8)


def test_rotated_photographs_are_set_upright(tmp_path: Path) -> None:
    pixels = np.zeros((10, 12, 3), np.uint8)
    pixels[0] = 255  # a white row at the top
    exif = Image.Exif()
    exif[0x0112] = 8  # "turn by 90 degrees to the left to see it right"
    for name in ("ant", "bee"):
        for k in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(np.rot90(pixels, -1).copy()).save(tmp_path / name / f"{k}.png", exif=exif)
    data = kd.load(tmp_path)
    assert data.input_shape == (3, 10, 12)
    for image in data.train.images:
        np.testing.assert_array_equal(image.permute(1, 2, 0), pixels)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder(tmp_path / "one", classes=("ant",))
    with pytest.raises(DataError, match="at least two; it has 1"):
        kd.load(tmp_path / "one")
    folder(tmp_path / "hole")
    (tmp_path / "hole" / "dog").mkdir()
    with pytest.raises(DataError, match=r"hole.dog holds no image files"):
        kd.load(tmp_path / "hole")
    folder(tmp_path / "bad")
    (tmp_path / "bad" / "bee" / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bee.x\.png cannot be read as an image"):
        kd.load(tmp_path / "bad")
    folder(tmp_path / "short")
    random = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    whole = tmp_path / "short" / "bee" / "x.png"
    Image.fromarray(random).save(whole)
    whole.write_bytes(whole.read_bytes()[:200])
    with pytest.raises(DataError, match=r"bee.x\.png is damaged"):
        kd.load(tmp_path / "short")
    folder(tmp_path / "odd" / "train")
    folder(tmp_path / "odd" / "test", classes=("ant", "dog"))
    with pytest.raises(DataError, match="'dog', which .*train does not have"):
        kd.load(tmp_path / "odd")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match="neither a folder"):
        kd.load(tmp_path / "file.txt")


def tiny_imagenet(root: Path, classes: int = 3, each: int = 2, size: int = 64) -> Path:
    """The published layout; every class has its own shade of grey, and class codes are not in file order."""
    path = root / "tiny-imagenet-200"
    codes = [f"n{9 - c % 10}{c:04}" for c in range(classes)]
    lines = []
    for number, code in enumerate(codes):
        for k in range(each):
            picture(path / "train" / code / "images" / f"{code}_{k}.JPEG", (number, 0, 0), (size, size))
        picture(path / "val" / "images" / f"val_{number}.JPEG", (number, 0, 0), (size, size))
        lines.append(f"val_{number}.JPEG\t{code}\t0\t0\t{size - 1}\t{size - 1}")
        (path / "train" / code / f"{code}_boxes.txt").write_text("")
    (path / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (path / "words.txt").write_text("\n".join(f"{code}\tword {code}, other word" for code in codes))
    (path / "wnids.txt").write_text("\n".join(codes))
    (path / "test" / "images").mkdir(parents=True)  # unlabelled: not used
    return path


def test_tiny_imagenet_layout(tmp_path: Path) -> None:
    data = kd.load(tiny_imagenet(tmp_path, size=16), val_fraction=0.5)
    assert data.class_names == ("word n70002", "word n80001", "word n90000")
    assert [len(data.train), len(data.val), len(data.test)] == [3, 3, 3]
    assert data.test.labels.tolist() == [2, 1, 0]  # annotations in their own order
    lines = (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").read_text()
    (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text(
        lines + "val_9.JPEG\tn70002\n"
    )
    with pytest.raises(DataError, match=r"no image file .*val_9\.JPEG"):
        kd.load(tmp_path / "tiny-imagenet-200")
    (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text(lines + "val_9.JPEG\tn1\n")
    with pytest.raises(DataError, match="names no class"):
        kd.load(tmp_path / "tiny-imagenet-200")


def test_tiny_imagenet_by_name(tmp_path: Path) -> None:
    path = tiny_imagenet(tmp_path, classes=200, each=2)
    data = kd.load("tiny_imagenet", root=tmp_path, val_fraction=0)
    assert data.num_classes == 200 and data.input_shape == (3, 64, 64)
    assert data.mean == (0.4802, 0.4481, 0.3975) and data.augment == "crop_flip_8"
    assert (tmp_path / "tiny_imagenet.npz").is_file()
    start = time.perf_counter()
    assert kd.load("tiny_imagenet", root=tmp_path, val_fraction=0).fingerprint == data.fingerprint
    assert time.perf_counter() - start < 5  # from the cached file
    (tmp_path / "tiny_imagenet.npz").unlink()
    next((path / "train" / "n90000" / "images").glob("*_1.JPEG")).unlink()  # unpacked in part
    with pytest.raises(DataError, match="is incomplete: class 'word n90000' has 1 training images, others 2"):
        kd.load("tiny_imagenet", root=tmp_path)
    assert not (tmp_path / "tiny_imagenet.npz").exists()
