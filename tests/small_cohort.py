"""A cohort of files small enough for the whole pipeline in a test: drawn slides of two tissues, some RNA."""

import gzip
import json

import numpy as np
import pandas as pd
from slide_factory import glass, textured, write_slide

COLOURS = {"Liver": (200, 110, 120), "Lung": (225, 150, 190)}
TOML = """
expression_file = "expression.csv.gz"
architecture = "alexnet"
tile_px = 64
input_px = 64
epochs = 1
split_fractions = [0.4, 0.2, 0.4]
link_permutations = 200
n_permutations = 20
e_threshold = 1.0
r_threshold = 0.5
best_feature_r = 0.5
thresholds = [[0.5, 1.0]]
device = "cpu"
"""


def make(root, n=12, n_genes=120, **settings):
    """Write the cohort "mine" below a root; returns the path of its TOML file."""
    raw = root / "data/raw/mine"
    (raw / "slides").mkdir(parents=True)
    tissues = [list(COLOURS)[i % 2] for i in range(n)]
    ids = [f"S{i:02d}" for i in range(n)]
    frame = pd.DataFrame({"sample_id": ids, "slide_id": ids, "donor": ids, "tissue": tissues})
    frame.to_csv(raw / "samples.csv", index=False)
    for i, (name, tissue) in enumerate(zip(ids, tissues, strict=True)):
        image = glass(448, 512)
        image[32:416, 32:480] = textured(384, 448, seed=i, colour=COLOURS[tissue])
        write_slide(raw / f"slides/{name}.svs", image)
    rng = np.random.default_rng(0)
    level = np.where((np.arange(n_genes)[:, None] + np.arange(n)) % 2, 6.0, 3.0)
    tpm = np.exp2(level + rng.normal(scale=0.7, size=level.shape))
    lines = ["gene," + ",".join(ids)]
    lines += [f"G{g}," + ",".join(f"{v:.3f}" for v in tpm[g]) for g in range(n_genes)]
    (raw / "expression.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    path = root / "mine.toml"
    kept = [line for line in TOML.splitlines() if line.split(" = ")[0] not in settings]
    tables = {key: settings.pop(key) for key in list(settings) if isinstance(settings[key], dict)}
    lines = kept + [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    for name, values in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path.write_text("\n".join([*lines, ""]))
    return path


def slide_of_mpp(folder, mpp):
    """A slide that states this µm/px."""
    folder.mkdir(exist_ok=True)
    return write_slide(folder / "odd.svs", textured(256, 256, seed=0), mpp=mpp)
