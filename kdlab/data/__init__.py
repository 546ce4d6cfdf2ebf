"""Images in, batches on the device.

`load` opens a set by name, path or arrays and hands over an `ImageData` with a training, a
validation and a test part; `Batches` cuts reproducible, augmented batches from a part that stays
on the device as bytes. `kdlab.data.shapes.make` draws pictures with known factors,
`kdlab.data.augment` knows the augmentations.
"""

from kdlab.data import augment, shapes
from kdlab.data.catalog import data_root, download, load, names, table
from kdlab.data.dataset import ImageData, Split, normalize
from kdlab.data.probe_set import ProbeSet, choose_probe_set
from kdlab.data.resident import Batch, Batches, eval_batches
from kdlab.data.store import write_npz

__all__ = [
    "Batch",
    "Batches",
    "ImageData",
    "ProbeSet",
    "Split",
    "augment",
    "choose_probe_set",
    "data_root",
    "download",
    "eval_batches",
    "load",
    "names",
    "normalize",
    "shapes",
    "table",
    "write_npz",
]
