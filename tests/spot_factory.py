"""Sections of spots on square, hexagonal and irregular grids, and fields that vary smoothly over them."""

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist


def places(kind, n=12, seed=0):
    """float64 [spots, 2], in pitches."""
    x, y = (v.ravel().astype(float) for v in np.meshgrid(np.arange(n), np.arange(n)))
    if kind == "hexagonal":
        return np.stack([x + 0.5 * (y % 2), y * np.sqrt(3) / 2], axis=1)
    if kind == "irregular":
        return np.stack([x, y], axis=1) + np.random.default_rng(seed).uniform(-0.3, 0.3, (n * n, 2))
    return np.stack([x, y], axis=1)


def section(xy, name="A", donor="d", pitch_px=200, mpp=0.5, **columns):
    """A samples table: a region of 100 px around each place."""
    corner = np.rint(xy * pitch_px + 1000).astype(int)
    return pd.DataFrame({
        "sample_id": [f"{name}_{i}" for i in range(len(xy))], "slide_id": name, "donor": donor, "tissue": "t",
        "mpp": mpp, "l0_x": corner[:, 0], "l0_y": corner[:, 1], "l0_width": 100, "l0_height": 100,
    } | columns)  # fmt: skip


def smooth(xy, n_rows, length, rng, noise=0.5):
    """float64 [n_rows, spots]: Gaussian fields with covariance exp(-distance / length), and noise."""
    root = np.linalg.cholesky(np.exp(-cdist(xy, xy) / length) + 1e-9 * np.eye(len(xy)))
    return rng.normal(size=(n_rows, len(xy))) @ root.T + noise * rng.normal(size=(n_rows, len(xy)))


def frame(rows, samples_df, prefix):
    return pd.DataFrame(rows, [f"{prefix}{k}" for k in range(len(rows))], samples_df["sample_id"].tolist())
