"""Tiny Aperio-like slides and their samples for tests, made with tifffile and pandas, without lib."""

from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import tifffile

MPP = 0.4942
PINK, WHITE = (215, 120, 175), (244, 244, 244)


def _unmarked(jpeg: bytes) -> bytes:
    """RGB data that is not marked as such, like real Aperio JPEG/RGB: no Adobe marker, components 1, 2, 3."""
    at = jpeg.find(b"\xff\xee\x00\x0eAdobe")
    if at < 0:
        return jpeg
    plain = bytearray(jpeg[:at] + jpeg[at + 16 :])
    frame, scan = plain.find(b"\xff\xc0"), plain.find(b"\xff\xda")
    for i in range(3):
        plain[frame + 10 + 3 * i] = plain[scan + 5 + 2 * i] = i + 1
    return bytes(plain)


def _tiles(rgb: np.ndarray, tile_px: int, photometric: str, quality: int) -> Iterator[bytes]:
    height, width, _ = rgb.shape
    padded = np.pad(rgb, ((0, -height % tile_px), (0, -width % tile_px), (0, 0)), mode="edge")
    subsampling = "422" if photometric == "ycbcr" else "444"
    for top in range(0, height, tile_px):
        for left in range(0, width, tile_px):
            tile = np.ascontiguousarray(padded[top : top + tile_px, left : left + tile_px])
            jpeg = imagecodecs.jpeg8_encode(
                tile, level=quality, colorspace="rgb", outcolorspace=photometric, subsampling=subsampling
            )
            yield _unmarked(jpeg)


def write_slide(
    path: Path,
    rgb: np.ndarray,
    mpp: float | None = MPP,
    tile_px: int = 128,
    photometric: str = "ycbcr",
    quality: int = 90,
    steps: tuple[int, ...] = (4,),
) -> Path:
    """Level 0 in JPEG tiles, a stripped thumbnail, then level 0 reduced by each of `steps`, tiled."""
    height, width, _ = rgb.shape
    description = f"Aperio Image Library v11.2.1 \r\n{width}x{height} ({tile_px}x{tile_px})|AppMag = 20"
    description += "" if mpp is None else f"|MPP = {mpp}"
    with tifffile.TiffWriter(path) as tiff:

        def write_tiled(level: np.ndarray, **kwargs) -> None:
            tiff.write(
                _tiles(level, tile_px, photometric, quality),
                shape=level.shape,
                dtype=np.uint8,
                tile=(tile_px, tile_px),
                compression="jpeg",
                photometric="rgb",
                compressionargs={"outcolorspace": photometric},
                subsampling=(2, 1) if photometric == "ycbcr" else None,
                metadata=None,
                **kwargs,
            )

        write_tiled(rgb, description=description)
        thumbnail = rgb[:: max(1, height // 64), :: max(1, width // 64)]
        tiff.write(np.ascontiguousarray(thumbnail), photometric="rgb", rowsperstrip=16, metadata=None)
        for step in steps:
            part = rgb[: height // step * step, : width // step * step].astype(float)
            small = part.reshape(height // step, step, width // step, step, 3).mean(axis=(1, 3))
            write_tiled(np.rint(small).astype(np.uint8))
    return path


def glass(height: int, width: int) -> np.ndarray:
    """An empty slide, uint8 (height, width, 3)."""
    return np.full((height, width, 3), WHITE, np.uint8)


def textured(height: int, width: int, seed: int, colour: tuple[int, int, int] = PINK) -> np.ndarray:
    """Tissue-like: `colour` with dark blobs of about 12 px, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(-(-height // 6), -(-width // 6), 1)).repeat(6, axis=0).repeat(6, axis=1)
    noise = coarse[:height, :width] * 18 + rng.normal(scale=4, size=(height, width, 3))
    return (np.array(colour) + noise).clip(0, 255).astype(np.uint8)


def samples(*ids: str, **columns) -> pd.DataFrame:
    """A samples table of slide "s"."""
    return pd.DataFrame({"sample_id": list(ids), "slide_id": "s"} | columns)


def regions(*boxes) -> dict[str, tuple]:
    """Region columns from (l0_x, l0_y, l0_width, l0_height) of each sample."""
    return dict(zip(("l0_x", "l0_y", "l0_width", "l0_height"), zip(*boxes, strict=True), strict=True))
