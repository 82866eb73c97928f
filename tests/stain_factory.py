"""Images with stains at known places, for the tests of stains and of what lies on nuclei."""

import numpy as np
from scipy import ndimage
from skimage.color import hed2rgb


def painted(size: int = 512, *, dab_on: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A counterstained image with discs as nuclei, DAB on a ring around each, and the true nuclei.

    dab_on "nuclei" adds DAB on the discs, "around" on rings, "anywhere" on discs of their own.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]

    def discs(centres, inner, outer):
        mask = np.zeros((size, size), dtype=bool)
        for cy, cx in centres:
            distance = np.hypot(y - cy, x - cx)
            mask |= (distance >= inner) & (distance < outer)
        return mask

    # A jittered grid keeps the nuclei apart.
    grid = np.stack(np.meshgrid(*[np.arange(20, size - 10, 28)] * 2), axis=-1).reshape(-1, 2)
    centres = grid + rng.integers(-5, 6, size=grid.shape)
    centres = centres[rng.random(len(centres)) < 0.7]
    nuclei = discs(centres, 0, 6)
    dab = {
        "nuclei": lambda: nuclei,
        "around": lambda: discs(centres, 7, 10),
        "anywhere": lambda: discs(rng.integers(0, size, size=(len(centres), 2)), 0, 6),
    }[dab_on]()
    hed = np.zeros((size, size, 3))
    hed[..., 0] = 0.02 + 0.12 * nuclei
    hed[..., 2] = 0.10 * dab
    hed += rng.normal(0, 0.002, hed.shape).clip(-0.004, 0.004)
    return np.round(hed2rgb(np.clip(hed, 0, None)) * 255).astype(np.uint8), nuclei


def core(seed: int, *, glass: float = 1.0, bound: bool = False, size: int = 512) -> np.ndarray:
    """A core of nuclei at random on glass of this brightness; DAB in it is smooth noise, or on nuclei."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    inside = np.hypot(y - size / 2, x - size / 2) < 0.48 * size
    nuclei = np.zeros((size, size))
    for cy, cx in rng.integers(0, size, (900, 2)):
        nuclei[max(0, cy - 4) : cy + 4, max(0, cx - 4) : cx + 4] = 1
    nuclei = ndimage.gaussian_filter(nuclei, 1) * inside
    noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), 4)
    dab = np.clip(noise / noise.std() * 0.03 + 0.06, 0, None) * inside + 0.01 * bound * nuclei
    hed = np.stack([0.12 * nuclei + 0.005 * inside, 0 * dab, dab], axis=-1)
    light = glass * np.clip(hed2rgb(hed), 0, 1) * 255 + rng.normal(0, 1, (size, size, 3))
    return np.clip(light, 0, 255).round().astype(np.uint8)
