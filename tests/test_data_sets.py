"""Sets by name, file and arrays: what is loaded, how it is cut, and how bad input is refused."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

import kdlab.data as kd
from kdlab.data import label_names
from kdlab.data.splits import apportion, cut, few, keep
from kdlab.errors import ConfigError, DataError, UnknownNameError

# of everything in the set, its cuts included: a change means that old results cannot be compared
DIGITS_FINGERPRINT = "03fc038f79e688d6af67219fac6442d66c2ce98f09b4f321fa0a00fb5eae2e9e"


def arrays(train: int = 60, test: int = 20, classes: int = 4, size: int = 6, channels: int = 3) -> dict:
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (train, size, size, channels), dtype=np.uint8),
        "y_train": np.arange(train) % classes,
        "x_test": random.integers(0, 256, (test, size, size, channels), dtype=np.uint8),
        "y_test": np.arange(test) % classes,
        "class_names": np.array([f"class {c}" for c in range(classes)]),
    }


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def digits() -> kd.ImageData:
    return kd.load("digits")


def overlap(a: kd.Split, b: kd.Split) -> set[int]:
    return set(a.index.tolist()) & set(b.index.tolist())


# ---- digits and the cuts ---------------------------------------------------------------------------


def test_digits_is_the_whole_of_the_scans(digits: kd.ImageData) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    assert [len(digits.train), len(digits.val), len(digits.test)] == [1078, 269, 450]
    seen = torch.zeros(len(source.target), dtype=torch.int64)
    for split in (digits.train, digits.val, digits.test):
        positions = split.index.numpy()
        seen[split.index] += 1
        np.testing.assert_array_equal(split.labels.numpy(), source.target[positions])
        expected = np.floor(source.images[positions] * 255 / 16 + 0.5)
        np.testing.assert_array_equal(split.images[:, 0].numpy(), expected)
    assert seen.tolist() == [1] * len(source.target)  # every scan in exactly one part


def test_digits_is_pinned(digits: kd.ImageData) -> None:
    assert digits.fingerprint == DIGITS_FINGERPRINT
    assert kd.load("digits", seed=5).fingerprint == DIGITS_FINGERPRINT  # a seed moves no cut
    assert digits.input_shape == (1, 8, 8)
    assert digits.num_classes == 10
    assert digits.chance == pytest.approx(torch.bincount(digits.test.labels).max().item() / 450)
    assert digits.describe().startswith("digits: 1,078 train, 269 validation, 450 test images of 1x8x8")


def test_parts_are_disjoint_and_stratified(digits: kd.ImageData) -> None:
    assert not overlap(digits.train, digits.val)
    whole = torch.bincount(torch.cat([s.labels for s in (digits.train, digits.val, digits.test)])).double()
    for split in (digits.train, digits.val, digits.test):
        share = torch.bincount(split.labels).double() / whole
        assert (share - len(split) / 1797).abs().max() < 0.006  # one image of 180 is 0.0056


def test_fingerprint_follows_the_content_not_the_name(tmp_path: Path) -> None:
    given = arrays()
    first = kd.load(given)
    kd.write_npz(tmp_path / "other.npz", given)
    assert kd.load(tmp_path / "other.npz").fingerprint == first.fingerprint
    assert first.to("cpu").fingerprint == first.fingerprint
    assert kd.load(given, val_fraction=0.1).fingerprint != first.fingerprint
    given["x_test"][3, 2, 1, 0] ^= 1  # one bit
    assert kd.load(given).fingerprint != first.fingerprint


def test_validation_share(digits: kd.ImageData) -> None:
    none = kd.load("digits", val_fraction=0)
    assert len(none.val) == 0 and len(none.train) == 1347
    tenth, fifth = kd.load("digits", val_fraction=0.1), digits
    assert len(tenth.val) == round(0.1 * 1347)
    assert set(tenth.val.index.tolist()) < set(fifth.val.index.tolist())  # cuts are nested
    torch.testing.assert_close(tenth.test.images, fifth.test.images, rtol=0, atol=0)
    assert tenth.mean == fifth.mean  # constants do not depend on the cut
    for bad in (-0.1, 1.0, "x", True):
        with pytest.raises(ConfigError, match="val_fraction"):
            kd.load("digits", val_fraction=bad)


def test_a_probe_set_needs_validation_pictures(digits: kd.ImageData) -> None:
    with pytest.raises(ConfigError, match="no validation pictures.*larger val_fraction"):
        kd.choose_probe_set(kd.load("digits", val_fraction=0))
    with pytest.raises(ConfigError, match="at least 8"):
        kd.choose_probe_set(digits, size=6)


def test_labels_per_class(digits: kd.ImageData) -> None:
    five, ten = (kd.load("digits", labels_per_class=n) for n in (5, 10))
    assert torch.bincount(five.train.labels).tolist() == [5] * 10
    assert set(five.train.index.tolist()) < set(ten.train.index.tolist()) < set(digits.train.index.tolist())
    assert five.val.index.equal(digits.val.index) and five.test.index.equal(digits.test.index)
    again, other = kd.load("digits", labels_per_class=5), kd.load("digits", labels_per_class=5, seed=1)
    assert again.fingerprint == five.fingerprint != other.fingerprint
    assert kd.load(digits, labels_per_class=5).fingerprint == five.fingerprint
    fewest = int(torch.bincount(digits.train.labels).min())
    with pytest.raises(ConfigError, match=f"has only {fewest}; ask for labels_per_class={fewest} at most"):
        kd.load("digits", labels_per_class=fewest + 1)
    with pytest.raises(ConfigError, match="positive whole number"):
        kd.load("digits", labels_per_class=0)


def test_limit(digits: kd.ImageData) -> None:
    small = kd.load("digits", limit=100)
    assert [len(small.train), len(small.val), len(small.test)] == [100, 100, 100]
    assert torch.bincount(small.train.labels).tolist() == [10] * 10
    only = kd.load("digits", limit={"test": 50})
    assert [len(only.train), len(only.val), len(only.test)] == [1078, 269, 50]
    assert kd.load("digits", limit=10_000).fingerprint == digits.fingerprint
    with pytest.raises(ConfigError, match="at least 10"):
        kd.load("digits", limit=9)
    with pytest.raises(ConfigError, match="'tset'"):
        kd.load("digits", limit={"tset": 50})


def test_apportion_is_exact() -> None:
    assert apportion([10, 10, 10], 15) == [5, 5, 5]
    assert apportion([7, 2, 1], 5) == [3, 1, 1]  # the smallest class is not left out
    assert apportion([100, 1, 0], 10) == [9, 1, 0]
    for total in range(0, 60):
        shares = apportion([3, 0, 17, 40], total)
        assert sum(shares) == total
        assert all(share <= count for share, count in zip(shares, [3, 0, 17, 40], strict=True))


def test_cuts_are_functions_of_the_labels() -> None:
    labels = np.random.default_rng(1).integers(0, 5, 300)
    rest, off = cut(labels, 60)
    assert sorted([*rest, *off]) == list(range(300)) and len(off) == 60
    np.testing.assert_array_equal(off, cut(labels.copy(), 60)[1])
    counts = np.bincount(labels)
    assert np.abs(np.bincount(labels[off]) - counts * 60 / 300).max() < 1
    lone = np.array([0, 0, 0, 0, 1])  # a class of one stays in the training part
    assert 4 in cut(lone, 2)[0]
    assert len(keep(labels, 40)) == 40
    np.testing.assert_array_equal(np.bincount(labels[few(labels, 3, 0, "abcde")]), [3] * 5)


# ---- files and arrays ------------------------------------------------------------------------------


def test_npz_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arrays()
    given |= {"coarse_names": np.array(["a", "b"]), "fine_to_coarse": np.array([0, 1, 1, 0])}
    path = kd.write_npz(tmp_path / "mine.npz", given)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.npz"]  # no partial file stays
    data = kd.load(path, val_fraction=0)
    assert data.name == "mine" and data.class_names == ("class 0", "class 1", "class 2", "class 3")
    assert data.coarse_names == ("a", "b") and data.fine_to_coarse == (0, 1, 1, 0)
    np.testing.assert_array_equal(data.train.images.permute(0, 2, 3, 1), given["x_train"])
    np.testing.assert_array_equal(data.test.labels, given["y_test"])
    np.testing.assert_allclose(data.mean, given["x_train"].mean((0, 1, 2)) / 255, atol=1e-6)
    np.testing.assert_allclose(data.std, given["x_train"].std((0, 1, 2)) / 255, atol=1e-6)
    assert kd.load("mine", root=tmp_path).fingerprint == kd.load(path).fingerprint
    monkeypatch.setenv("KDLAB_DATA", str(tmp_path))
    assert kd.load("mine").fingerprint == kd.load(path).fingerprint
    with pytest.raises(ConfigError, match="exists already"):
        kd.write_npz(path, given)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(DataError, match=r"mine\.npz cannot be written \(No space left"):
        kd.write_npz(tmp_path / "mine.npz", arrays())
    assert list(tmp_path.iterdir()) == []


def test_only_what_can_be_read_again_is_written(tmp_path: Path) -> None:
    given = arrays()
    for key in ("x_test", "y_test"):
        del given[key]
    with pytest.raises(DataError, match="lacks x_test, y_test"):
        kd.write_npz(tmp_path / "mine.npz", given)
    assert list(tmp_path.iterdir()) == []


def damaged(path: Path, how: str) -> None:
    """Write a file that is wrong in one way."""
    given = arrays()
    if how == "labels too high":
        given["y_test"] = given["y_test"] + 1
    elif how == "negative label":
        given["y_train"] = given["y_train"] - 1
    elif how == "missing key":
        del given["y_test"]
    elif how == "float pixels":
        given["x_train"] = given["x_train"] / 255
    elif how == "float labels":
        given["y_train"] = given["y_train"] * 1.0
    elif how == "too few labels":
        given["y_train"] = given["y_train"][:-1]
    elif how == "flat images":
        given["x_train"] = given["x_train"].reshape(60, -1)
    elif how == "two sizes":
        given["x_test"] = given["x_test"][:, :5]
    elif how == "pickle":
        given["class_names"] = np.array(["a", "b", "c", 3], dtype=object)
    elif how == "same names":
        given["class_names"] = np.array(["a", "b", "b", "c"])
    elif how == "bad coarse":
        given |= {"coarse_names": np.array(["a"]), "fine_to_coarse": np.array([0, 0, 0, 1])}
    np.savez(path, **given)
    if how == "cut short":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "flipped byte":
        with open(path, "r+b") as file:
            file.seek(2000)
            byte = file.read(1)
            file.seek(2000)
            file.write(bytes([byte[0] ^ 255]))
    elif how == "text":
        path.write_text("this is no archive")
    elif how == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("labels too high", r"y_test holds label 4; with 4 classes labels must lie in 0\.\.3"),
        ("negative label", "y_train holds label -1"),
        ("missing key", "lacks y_test"),
        ("float pixels", r"x_train must hold uint8 pixels.*astype\('uint8'\)"),
        ("float labels", "y_train must hold whole numbers"),
        ("too few labels", r"y_train has shape \(59,\); for 60 images"),
        ("flat images", r"x_train has shape \(60, 108\)"),
        ("two sizes", "make them one size"),
        ("pickle", "cannot be read"),
        ("same names", "a name twice"),
        ("bad coarse", r"fine_to_coarse must hold one number 0\.\.0"),
        ("cut short", "damaged or cut short"),
        ("flipped byte", "damaged or cut short"),
        ("text", "not an .npz file"),
        ("empty", "not an .npz file"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, how: str, message: str) -> None:
    path = tmp_path / "broken.npz"
    damaged(path, how)
    with pytest.raises(DataError, match=message) as caught:
        kd.load(path)
    assert str(path) in str(caught.value)


def test_a_file_must_be_what_its_name_says(tmp_path: Path) -> None:
    kd.write_npz(tmp_path / "cifar10.npz", arrays(size=32))
    with pytest.raises(DataError, match="is not cifar10: it has 4 classes of 3x32x32 images, not 10 classes"):
        kd.load("cifar10", root=tmp_path)


def test_a_part_of_a_known_set_brings_its_names(tmp_path: Path) -> None:
    given = arrays(train=200, test=100, classes=100, size=32)
    del given["class_names"]
    np.savez(tmp_path / "cifar100.npz", **given)
    data = kd.load("cifar100", root=tmp_path)
    assert data.class_names == label_names.CIFAR100 and len(set(data.class_names)) == 100
    assert data.mean == (0.5071, 0.4867, 0.4408) and data.std == (0.2675, 0.2565, 0.2761)
    assert data.augment == "crop_flip"
    coarse = dict(zip(data.class_names, data.fine_to_coarse, strict=True))
    assert data.coarse_names[coarse["maple_tree"]] == "trees"
    assert np.bincount(data.fine_to_coarse).tolist() == [5] * 20


def test_arrays_in_any_usual_form() -> None:
    given = arrays()
    whole = kd.load(given)
    x, y = given["x_train"], given["y_train"]
    four = kd.load((x, y, given["x_test"], given["y_test"]))
    assert four.test.images.equal(whole.test.images) and four.class_names == ("0", "1", "2", "3")
    tensors = kd.load((torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(y)), val_fraction=0)
    assert len(tensors.test) == 12 and len(tensors.train) == 48  # a fifth is cut for the test part
    first = int(tensors.train.index[0])
    np.testing.assert_array_equal(tensors.train.images[0].permute(1, 2, 0), x[first])
    grey = kd.load((x[..., 0], y))
    assert grey.input_shape == (1, 6, 6)
    before = whole.train.images.clone()
    grey_before = grey.train.images.clone()
    x[:] = 0  # the user's array stays the user's
    assert whole.train.images.equal(before) and grey.train.images.equal(grey_before)


def test_bad_arrays() -> None:
    given = arrays()
    x, y = given["x_train"], given["y_train"]
    with pytest.raises(DataError, match="renumbers"):
        kd.load((x, y * 2))
    with pytest.raises(DataError, match="only one class"):
        kd.load((x, y * 0))
    with pytest.raises(DataError, match="y_test is missing"):
        kd.load({"x_train": x, "y_train": y, "x_test": x})
    with pytest.raises(DataError, match="'x_valid'"):
        kd.load({**given, "x_valid": x})
    with pytest.raises(ConfigError, match="not as 3"):
        kd.load((x, y, x))
    with pytest.raises(ConfigError, match="not int"):
        kd.load(3)
    with pytest.raises(ConfigError, match="split already"):
        kd.load(kd.load(given), val_fraction=0.5)
    with pytest.raises(ConfigError, match="folder of images"):
        kd.load(given, image_size=32)


def test_normalisation_is_torchvisions() -> None:
    from torchvision.transforms import functional as tv

    data = kd.load(arrays(size=9))
    ours = data.normalize(data.train.images)
    for image, mine in zip(data.train.images, ours, strict=True):
        theirs = tv.normalize(tv.to_tensor(image.permute(1, 2, 0).numpy()), data.mean, data.std)
        assert torch.equal(mine, theirs)  # bit for bit
    assert data.denormalize(ours).equal(data.train.images)
    assert ours.dtype == torch.float32


# ---- sets that are not there -----------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
def test_missing_set_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDLAB_DATA", str(tmp_path / "sets"))
    with pytest.raises(DataError) as caught:
        kd.load("cifar100")
    text = str(caught.value)
    assert "`kdlab datasets --download cifar100`" in text and "'digits' and 'shapes' work offline" in text
    assert str(tmp_path / "sets" / "cifar100.npz") in text
    with pytest.raises(DataError, match=r"--download svhn --root .*elsewhere`"):
        kd.load("svhn", root=tmp_path / "elsewhere")
    assert list(tmp_path.iterdir()) == []  # looking creates nothing


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar100'"):
        kd.load("cifar-100", root=tmp_path)
    kd.write_npz(tmp_path / "flowers.npz", arrays())
    with pytest.raises(UnknownNameError, match="did you mean 'flowers'"):
        kd.load("flower", root=tmp_path)
    with pytest.raises(DataError, match="no file or folder"):
        kd.load(tmp_path / "nothing.npz")
    with pytest.raises(UnknownNameError):
        kd.download("cifar-100")
    with pytest.raises(ConfigError, match="nothing to download"):
        kd.download("digits")


@pytest.mark.usefixtures("no_network")
def test_failed_download_leaves_no_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'fashion_mnist' could not be downloaded"):
        kd.download("fashion_mnist", root=tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


def idx(path: Path, array: np.ndarray) -> None:
    """The file format of MNIST: two zero bytes, type 8 = uint8, number of axes, their lengths, data."""
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.mark.usefixtures("no_network")
def test_published_files_are_decoded_without_a_network(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (50, 28, 28), dtype=np.uint8)
    labels = (np.arange(50) % 10).astype(np.uint8)
    for part, rows in (("train", slice(0, 40)), ("t10k", slice(40, 50))):
        idx(folder / f"{part}-images-idx3-ubyte", pictures[rows])
        idx(folder / f"{part}-labels-idx1-ubyte", labels[rows])
    row = next(row for row in kd.table(root=tmp_path) if row["name"] == "mnist")
    assert row["present"] and row["how"] == "decoded on first use"
    data = kd.load("mnist", root=tmp_path, val_fraction=0)
    np.testing.assert_array_equal(data.train.images[:, 0], pictures[:40])
    np.testing.assert_array_equal(data.test.labels, labels[40:])
    assert (tmp_path / "mnist.npz").is_file()  # kept for the next time
    assert kd.load("mnist", root=tmp_path, val_fraction=0).fingerprint == data.fingerprint
    assert kd.download("mnist", root=tmp_path) == tmp_path / "mnist.npz"  # there: nothing is fetched
    idx(folder / "train-images-idx3-ubyte", pictures[:3])
    (tmp_path / "mnist.npz").unlink()
    with pytest.raises(DataError, match="y_train has shape"):
        kd.load("mnist", root=tmp_path)


@pytest.mark.usefixtures("no_network")
def test_damaged_published_files(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cut short")
    with pytest.raises(DataError, match="incomplete or damaged.*delete cifar-10-batches-py"):
        kd.load("cifar10", root=tmp_path)


def test_table_knows_all_sets(tmp_path: Path) -> None:
    rows = kd.table(root=tmp_path)
    assert [row["name"] for row in rows] == kd.names()
    assert kd.names()[0] == "digits"
    assert {row["name"] for row in rows if row["present"]} == {"digits", "shapes"}
    for row in rows:
        assert kd.augment.get(kd.catalog.ENTRIES[row["name"]].augment)


# ---- the real ones, where they are at hand ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "shape", "parts"),
    [
        ("cifar100", 100, (3, 32, 32), (45_000, 5_000, 10_000)),
        ("fashion_mnist", 10, (1, 28, 28), (54_000, 6_000, 10_000)),
    ],
)
def test_real_sets(name: str, classes: int, shape: tuple[int, ...], parts: tuple[int, ...]) -> None:
    if not (kd.data_root() / f"{name}.npz").is_file():
        pytest.skip(f"{name}.npz is neither in KDLAB_DATA nor in data/ (kdlab datasets --download {name})")
    data = kd.load(name)
    assert (data.num_classes, data.input_shape) == (classes, shape)
    assert (len(data.train), len(data.val), len(data.test)) == parts
    assert data.chance == 1 / classes
    assert not overlap(data.train, data.val)
    for split in (data.train, data.val, data.test):
        assert torch.bincount(split.labels).unique().tolist() == [len(split) // classes]
    sample = data.normalize(data.train.images[:5000])
    assert sample.mean().abs() < 0.05 and abs(sample.std() - 1) < 0.05
    if name == "cifar100":
        assert data.coarse_names is not None and len(data.coarse_names) == 20
