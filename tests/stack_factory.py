"""Small stacks of random tiles for tests, written with NumPy alone."""

from pathlib import Path

import numpy as np
import pandas as pd

PX = 12


def write_stacks(folder: Path) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Three stacks of 5, 17 and 9 tiles by file, and the frame of all their tiles in a scrambled order."""
    rng = np.random.default_rng(0)
    arrays, rows = {}, []
    for number, n_tiles in enumerate((5, 17, 9)):
        file = str(folder / f"slide_{number}.npy")
        arrays[file] = rng.integers(0, 256, (n_tiles, PX, PX, 3), dtype=np.uint8)
        np.save(file, arrays[file])
        rows += [(file, index, number) for index in range(n_tiles)]
    tiles_df = pd.DataFrame(rows, columns=["file", "stack_index", "label"])
    return arrays, tiles_df.sample(frac=1, random_state=1).reset_index(drop=True)


def expected_tiles(arrays: dict[str, np.ndarray], tiles_df: pd.DataFrame, rows) -> np.ndarray:
    """The tiles of some rows of the frame."""
    return np.stack([arrays[tiles_df["file"][row]][tiles_df["stack_index"][row]] for row in rows])
