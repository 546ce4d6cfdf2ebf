"""Pictures inside figures: PNG data addresses without further libraries."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np


def png(image: np.ndarray, least_side: int = 96) -> str:
    """A data address of `image` (C, H, W) uint8, enlarged by whole factors so that pixels stay sharp.

    One channel is drawn grey, two as red and green, of more than three the first three.

    Args:
        image: (C, H, W) uint8.
        least_side: enlarge until the shorter side has at least so many pixels.
    """
    channels, height, width = image.shape
    factor = max(1, -(-least_side // min(height, width)))
    if channels == 2:
        image = np.concatenate([image, np.zeros_like(image[:1])])
    pixels = image[:1] if channels == 1 else image[:3]
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2).transpose(1, 2, 0)
    rows = np.concatenate([np.zeros((len(pixels), 1), np.uint8), pixels.reshape(len(pixels), -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width * factor, height * factor, 8, 0 if channels == 1 else 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def muted(image: np.ndarray) -> np.ndarray:
    """(1, H, W) `image` (C, H, W) in grey and with less contrast, so that colours over it stay readable."""
    grey = 60 + 0.55 * image.mean(axis=0, keepdims=True)
    return np.asarray(grey.round(), dtype=np.uint8)
