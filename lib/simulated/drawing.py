"""
Building blocks for drawing tissue: smooth noise, lattices of points, polygons, winding lines, nuclei.

Structure is laid out on a coarse grid, a quarter of 20x, and enlarged; nuclei are drawn at 20x.
Lengths are in micrometres, angles in radians; `x` runs right and `y` down.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue] (missing in the stub)

MPP = 0.4942  # GTEx slides: 20x
COARSE = 4  # structure is laid out at MPP * COARSE, about 2 µm per pixel


class Field(NamedTuple):
    """The coarse grid of one slide, and the random generator used for everything drawn on it."""

    size_px: int  # level-0 pixels, a multiple of COARSE
    x: np.ndarray  # (n, n) float32, µm, after the wavy distortion
    y: np.ndarray  # (n, n) float32, µm
    rng: np.random.Generator
    density: float  # factors around 1 from the hidden quantities
    nucleus: float
    lumen: float
    pigment: float
    likeness: float  # tubule (negative) to acinus (positive): makes kidney and pancreas hard to distinguish

    @property
    def size_um(self) -> float:
        return self.size_px * MPP


class Ground(NamedTuple):
    """Stain amounts (size_px, size_px) float32; a row per nucleus: x, y, half-axes a, b, angle, darkness."""

    h: np.ndarray
    e: np.ndarray
    nuclei: np.ndarray


def enlarge(coarse: np.ndarray, size_px: int) -> np.ndarray:
    """A coarse map interpolated to (size_px, size_px), float32."""
    image = Image.fromarray(np.ascontiguousarray(coarse, np.float32))
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR))


def noise(rng: np.random.Generator, n: int, wavelength: float) -> np.ndarray:
    """Smooth noise (n, n), mean 0 and sd about 1, that varies over `wavelength` pixels of the grid."""
    m = max(4, int(np.ceil(2.5 * n / wavelength)) + 3)
    small = Image.fromarray(rng.standard_normal((m, m), np.float32))
    step = wavelength / 2.5
    near, far = min(1.0, m - 1.0), min(1.0 + n / step, m - 1.0)
    box = (near, near, far, far)
    return np.asarray(small.resize((n, n), Image.Resampling.BICUBIC, box=box)) * 1.35


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """Fine texture (1024, 1024), sd 1, the same for all slides: each uses a shifted copy."""
    white = np.random.default_rng(20).standard_normal((1024, 1024), np.float32)
    fine, coarse = (ndimage.gaussian_filter(white, sigma, mode="wrap") for sigma in (1.0, 3.0))
    mixed = fine * 3 + coarse * 6
    return (mixed / mixed.std()).astype(np.float32)


def grain(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A shifted, tiled view of the fine texture, (size_px, size_px)."""
    shifted = np.roll(_grain(), tuple(rng.integers(0, 1024, 2)), (0, 1))
    repeats = -(-size_px // 1024)
    return np.tile(shifted, (repeats, repeats))[:size_px, :size_px]


def soft(distance: np.ndarray, width: float = 0.6) -> np.ndarray:
    """0 to 1 across `distance` = 0 over about `width` µm: a smooth edge."""
    return 1 / (1 + np.exp(np.clip(-distance / width, -30, 30)))


def scatter(field: Field, spacing: float, jitter: float = 0.28) -> np.ndarray:
    """Points (n, 2) of a jittered triangular lattice over the slide and a margin, in µm."""
    margin = 2 * spacing
    xs = np.arange(-margin, field.size_um + margin, spacing)
    ys = np.arange(-margin, field.size_um + margin, spacing * 0.866)
    x, y = np.meshgrid(xs, ys)
    x[1::2] += spacing / 2
    points = np.stack([x.ravel(), y.ravel()], 1) + field.rng.uniform(0, spacing, 2)
    return points + field.rng.normal(0, jitter * spacing, points.shape)


def cells(field: Field, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Polygons around seeds: nearest seed, distance to it, distance to the polygon's border (coarse, µm)."""
    distance, index = cKDTree(seeds).query(_places(field), k=2)
    between = np.linalg.norm(seeds[index[:, 0]] - seeds[index[:, 1]], axis=1)
    border = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * np.maximum(between, 1e-6))
    nearest, *lengths = (values.reshape(field.x.shape) for values in (index[:, 0], distance[:, 0], border))
    return nearest, lengths[0].astype(np.float32), lengths[1].astype(np.float32)


def _places(field: Field) -> np.ndarray:
    """The points of the coarse grid, (n * n, 2)."""
    return np.stack([field.x.ravel(), field.y.ravel()], 1)


def rounded(seeds: np.ndarray, index: np.ndarray, centre: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Distance to the border of polygons whose corners are cut by a circle about the seed (coarse, µm)."""
    reach = cKDTree(seeds).query(seeds, k=6)[0][:, 1:].mean(axis=1).astype(np.float32) * 0.60
    return np.minimum(border, reach[index] - centre)


def look_up(coarse: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of a coarse map at points (n, 2) in µm."""
    at = points.T[::-1] / (MPP * COARSE) - 0.5
    return ndimage.map_coordinates(coarse, at, order=1, mode="nearest")


def contour(field: Field, distance: np.ndarray, level: float, spacing: float, width: float) -> np.ndarray:
    """
    Points (n, 2) about `spacing` apart along the line distance = level of a coarse map.

    Lattice points whose distance is within `width` of the level are moved onto the line along the gradient.
    """
    slope_y, slope_x = slopes(ndimage.gaussian_filter(distance, 1.0), MPP * COARSE)
    points = scatter(field, spacing)
    value = look_up(distance, points)
    near = np.abs(value - level) < width
    points, value = points[near], value[near]
    gradient = np.stack([look_up(slope_x, points), look_up(slope_y, points)], 1)
    steep = np.maximum((gradient**2).sum(axis=1), 0.1)
    return thin(points + gradient * ((level - value) / steep)[:, None], 0.42 * spacing)


def slopes(coarse: np.ndarray, pitch: float) -> tuple[np.ndarray, np.ndarray]:
    """Slope of a coarse map along y and along x."""
    along_y, along_x = (np.asarray(slope) for slope in np.gradient(coarse, pitch))
    return along_y, along_x


def thin(points: np.ndarray, closest: float) -> np.ndarray:
    """Points without those that lie closer than `closest` µm to an earlier one."""
    pairs = cKDTree(points).query_pairs(closest, output_type="ndarray")
    return np.delete(points, np.unique(pairs.max(axis=1)), axis=0) if len(pairs) else points


def directions(field: Field, coarse: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Angle of the level line of a coarse map through each point."""
    slope_y, slope_x = slopes(ndimage.gaussian_filter(coarse, 1.5), 1.0)
    return np.arctan2(look_up(slope_y, points), look_up(slope_x, points)) + np.pi / 2


def nuclei(
    field: Field,
    points: np.ndarray,
    a: float,
    b: float | None = None,
    angle: np.ndarray | None = None,
    dark: float = 1.0,
) -> np.ndarray:
    """Rows of the nucleus table: half-axes `a` >= `b` µm, varied by a tenth and by the hidden size."""
    n, rng = len(points), field.rng
    b = a * 0.86 if b is None else b
    angle = rng.uniform(0, np.pi, n) if angle is None else angle + rng.normal(0, 0.15, n)
    size = field.nucleus * np.exp(rng.normal(0, 0.10, (n, 2)))
    # The DNA of a larger nucleus is less dense, so it stains paler, as in vesicular nuclei.
    shade = dark * field.nucleus**-1.3 * np.exp(rng.normal(0, 0.12, n))
    return np.column_stack([points, a * size[:, 0], b * size[:, 1], angle, shade])


def stamp(table: np.ndarray, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Haematoxylin of all nuclei, (size_px, size_px) float32: ellipses with rim, chromatin and nucleolus."""
    flat = np.zeros(size_px * size_px, np.float32)
    inside = ((table[:, :2] > -8) & (table[:, :2] < size_px * MPP + 8)).all(axis=1)
    table = table[inside]
    texture = _grain()
    reach = np.ceil(table[:, 2:4].max(axis=1) / MPP).astype(int) + 2
    for low, high in ((0, 9), (9, 13), (13, 20), (20, 80)):
        group = table[(reach > low) & (reach <= high)]
        if not len(group):
            continue
        half = min(high, int(reach.max()))
        offset = np.arange(-half, half + 1, dtype=np.float32)
        x, y, a, b, angle, dark = (column[:, None, None].astype(np.float32) for column in group.T)
        px, py = np.floor(x / MPP).astype(int), np.floor(y / MPP).astype(int)
        dx = (px + offset[None, None, :] + 0.5) * MPP - x
        dy = (py + offset[None, :, None] + 0.5) * MPP - y
        cos, sin = np.cos(angle), np.sin(angle)
        u, v = (dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b
        radius = u * u + v * v
        shape = 1 / (1 + np.exp(np.clip((radius - 1) * 5.5, -30, 30)))
        start = rng.integers(0, 1024, (2, len(group), 1, 1))
        row = (start[0] + np.arange(2 * half + 1)[None, :, None]) % 1024
        column = (start[1] + np.arange(2 * half + 1)[None, None, :]) % 1024
        spot = rng.uniform(-0.4, 0.4, (2, len(group), 1, 1)).astype(np.float32)
        nucleolus = np.exp(-((u - spot[0]) ** 2 + (v - spot[1]) ** 2) * 14)
        chromatin = 0.72 + 0.22 * np.minimum(radius, 1) + 0.13 * texture[row, column] + 0.35 * nucleolus
        ink = shape * dark * chromatin
        rows, columns = py + offset[None, :, None].astype(int), px + offset[None, None, :].astype(int)
        keep = (rows >= 0) & (rows < size_px) & (columns >= 0) & (columns < size_px)
        at = (rows * size_px + columns)[keep]
        flat += np.bincount(at, np.maximum(ink[keep], 0), minlength=flat.size).astype(np.float32)
    return 1.5 * np.tanh(flat.reshape(size_px, size_px) / 1.5)  # the stain of overlapping nuclei saturates


def stripes(field: Field, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across a fibre direction on the (wavy) coarse grid, in µm."""
    cos, sin = np.cos(angle), np.sin(angle)
    return field.x * cos + field.y * sin, field.y * cos - field.x * sin


def unwarped(field: Field, points: np.ndarray) -> np.ndarray:
    """Where a point of the undistorted plane (a seed of `cells`) is seen on the slide."""
    seen = np.stack([look_up(field.x, points), look_up(field.y, points)], 1)
    return 2 * points - seen


def ridge(field: Field, wavelength: float) -> np.ndarray:
    """About the distance (coarse, µm) to a random winding line: smooth noise over its own slope."""
    pitch = MPP * COARSE
    values = ndimage.gaussian_filter(noise(field.rng, len(field.x), wavelength / pitch), 1.0)
    slope_y, slope_x = slopes(values, pitch)
    return np.abs(values) / np.sqrt(slope_x**2 + slope_y**2 + (0.25 * 6 / wavelength) ** 2)


def spread(field: Field, spacing: float) -> float:
    """The spacing that gives the hidden nuclear density (points per area go with the inverse square)."""
    return spacing / np.sqrt(field.density)


def distance_to(f: Field, points: np.ndarray) -> np.ndarray:
    """Distance (coarse, µm) from every place to the nearest of the points."""
    return cKDTree(points).query(_places(f))[0].reshape(f.x.shape).astype(np.float32)
