"""
One slide as an image: a drawn tissue with outline, hidden quantities, stain colours, pen marks and blur.

Amounts of haematoxylin and eosin become colours by the Beer-Lambert law of absorption.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue] (missing in the stub)

from lib.errors import InputError
from lib.simulated.drawing import (
    COARSE,
    MPP,
    Field,
    enlarge,
    grain,
    look_up,
    noise,
    scatter,
    soft,
    stamp,
    stripes,
)
from lib.simulated.tissues import TISSUES

QUANTITIES = ("nuclear_density", "nuclear_size", "lumen_size", "pigment", "eosin_strength")
# Optical density (natural logarithm) per unit of stain in red, green and blue.
HAEMATOXYLIN = np.array([0.65, 0.70, 0.40], np.float32) * 1.25
EOSIN = np.array([0.13, 0.90, 0.42], np.float32) * 0.95
PIGMENT = np.array([0.45, 0.85, 1.50], np.float32)  # brown: lipofuscin, haemosiderin, melanin
GLASS = np.array([244, 243, 245], np.float32)
INK = {"blue": (1.9, 1.2, 0.35), "green": (1.7, 0.55, 1.2), "black": (2.2, 2.1, 2.0)}


def outline(rng: np.random.Generator, n: int, coverage: float) -> np.ndarray:
    """Map (n, n), positive on a piece of tissue that covers the share `coverage` of the slide."""
    line = (np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1
    x, y = line[None, :], line[:, None]
    height = -(x**4 + y**4) * 0.9 + 0.13 * noise(rng, n, n / 2.5) + 0.045 * noise(rng, n, n / 8)
    height = height + 0.012 * noise(rng, n, n / 30)
    return height - np.quantile(height, 1 - coverage)


def pen_stroke(rng: np.random.Generator, n: int, size_um: float) -> np.ndarray:
    """Amount of ink (n, n) of a felt-pen line across the slide."""
    t = np.linspace(-0.1, 1.1, 400)
    start, bend = rng.uniform(0.1, 0.9, 2), rng.normal(0, 0.12, 2)
    x, y = t, start[0] + (start[1] - start[0]) * t + bend[0] * np.sin(5 * t) + bend[1] * np.cos(9 * t)
    if rng.random() < 0.5:
        x, y = y, x
    line = np.arange(n) / n * size_um
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    distance = cKDTree(np.stack([x, y], 1) * size_um).query(grid)[0].reshape(n, n)
    width = rng.uniform(18, 32) + 2 * noise(rng, n, n / 40)
    return soft(width - distance, 2.0) * (0.8 + 0.12 * noise(rng, n, n / 15))


@dataclass(frozen=True)
class SlideSpec:
    """
    One slide to draw.

    Parameters
    ----------
    tissue : str
        A key of `TISSUES`.
    quantities : mapping
        The five hidden `QUANTITIES`, standardised (0 = average, 1 = one standard deviation above).
    size_um : float
        Side of the square slide; rounded up to a multiple of 8 level-0 pixels.
    h_gain, e_gain : float
        Factors on the amounts of haematoxylin and eosin, for technical variation between slides.
    likeness : float
        For the hard pair only: negative is tubule-like, positive acinus-like.
    coverage : float
        Share of the slide that is tissue, 0 to 1.
    pen : str
        "" or a key of `INK`.
    blur : bool
        Out of focus.

    Raises
    ------
    ValueError
        For an unknown tissue, ink or quantity, or a slide smaller than 60 µm.
    """

    tissue: str
    quantities: Mapping[str, float]
    size_um: float = 600.0
    h_gain: float = 1.0
    e_gain: float = 1.0
    likeness: float = 0.0
    coverage: float = 0.7
    pen: str = ""
    blur: bool = False

    def __post_init__(self) -> None:
        if self.tissue not in TISSUES:
            raise InputError(f"tissue {self.tissue!r} cannot be drawn: choose one of {', '.join(TISSUES)}")
        if set(self.quantities) != set(QUANTITIES):
            raise InputError(f"quantities {sorted(self.quantities)}: give exactly {sorted(QUANTITIES)}")
        if self.pen and self.pen not in INK:
            raise InputError(f"pen {self.pen!r}: choose one of {', '.join(INK)}, or none")
        if self.size_um < 60:
            raise InputError(
                f"size_um = {self.size_um}: under 60 there is no room for tissue; take 200 or more"
            )


def draw(spec: SlideSpec, rng: np.random.Generator) -> np.ndarray:
    """
    The slide as an image, (size_px, size_px, 3) uint8, RGB at 0.4942 µm per pixel.

    All randomness is `rng`'s: the same state gives the same pixels.
    """
    size_px = int(np.ceil(spec.size_um / MPP / 8) * 8)
    n = size_px // COARSE
    f = _field(spec.quantities, rng, size_px, spec.likeness)
    shape = outline(rng, n, spec.coverage)
    ground = TISSUES[spec.tissue](f)
    tissue_map = soft(enlarge(shape, size_px), 0.004)
    kept = ground.nuclei[look_up(shape, ground.nuclei[:, :2]) > 0]
    nuclear = stamp(kept, size_px, rng)
    fine = grain(rng, size_px)
    covered = np.minimum(nuclear, 1)
    brown = _pigment(f, ground.e) * tissue_map
    e = np.maximum(ground.e * (1 + _crimp(f) + 0.10 * fine), 0) * (1 - 0.55 * covered) + 0.12 * covered
    h = np.maximum(ground.h * (1 + 0.16 * fine), 0) * (1 - 0.5 * covered) + nuclear
    e *= tissue_map * (spec.e_gain * np.exp(0.22 * spec.quantities["eosin_strength"]))
    h *= tissue_map * spec.h_gain
    ink = enlarge(pen_stroke(rng, n, f.size_um), size_px) if spec.pen else None
    density = [h * HAEMATOXYLIN[c] + e * EOSIN[c] + brown * PIGMENT[c] for c in range(3)]
    if ink is not None:
        density = [density[c] + ink * INK[spec.pen][c] for c in range(3)]
    glass = GLASS * rng.uniform(0.985, 1.0, 3).astype(np.float32)
    image = np.stack([glass[c] * np.exp(-density[c]) for c in range(3)], -1)
    if spec.blur:
        sigma = rng.uniform(3.0, 4.5)
        image = np.stack([ndimage.gaussian_filter(image[..., c], sigma, truncate=2.5) for c in range(3)], -1)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _field(quantities: Mapping[str, float], rng: np.random.Generator, size_px: int, likeness: float) -> Field:
    """The coarse grid with its wavy distortion; quantities as factors (log-normal, sd 0.24 to 0.60)."""
    n = size_px // COARSE
    line = (np.arange(n, dtype=np.float32) + 0.5) * (MPP * COARSE)
    pitch = MPP * COARSE
    warp = [noise(rng, n, 28 / pitch) + 0.25 * noise(rng, n, 13 / pitch) for _ in range(2)]
    return Field(
        size_px=size_px,
        x=line[None, :] + warp[0],
        y=line[:, None] + warp[1],
        rng=rng,
        density=float(np.exp(0.50 * quantities["nuclear_density"])),
        nucleus=float(np.exp(0.24 * quantities["nuclear_size"])),
        lumen=float(np.exp(0.34 * quantities["lumen_size"])),
        pigment=float(np.exp(0.60 * quantities["pigment"])),
        likeness=likeness,
    )


def _crimp(f: Field) -> np.ndarray:
    """Relative change of eosin (size_px, size_px): the light and dark bands across wavy fibres."""
    n = len(f.x)
    along, across = stripes(f, f.rng.uniform(0, np.pi))
    phase = 2 * np.pi * along / 12.5 + 2.2 * noise(f.rng, n, 45) + 0.6 * np.sin(across / 9)
    return enlarge(0.17 * np.sin(phase), f.size_px)


def _pigment(f: Field, e: np.ndarray) -> np.ndarray:
    """Amount of pigment (size_px, size_px): clusters of brown granules where there is cytoplasm or fibre."""
    heaps = scatter(f, 46 / np.sqrt(f.pigment), 0.4)
    points = np.repeat(heaps, f.rng.poisson(6, len(heaps)), axis=0)
    points = points + f.rng.normal(0, 4.0, points.shape)
    column, row = np.clip(points.T / MPP, 0, f.size_px - 1).astype(int)
    points = points[e[row, column] > 0.12]
    radius = 1.5 * np.exp(f.rng.normal(0, 0.2, len(points)))
    upright, full = np.zeros(len(points)), np.ones(len(points))
    return stamp(np.column_stack([points, radius, radius, upright, full]), f.size_px, f.rng)
