"""The artefacts that `python -m lib.export` reads, of four samples, as the notebooks of a run leave them."""

import numpy as np
import pandas as pd

IDS = ["s1", "s2", "s3", "s4"]
FEATURES = ["1_0", "1_1", "29_499"]


def samples(spots=True):
    df = pd.DataFrame({
        "sample_id": IDS, "slide_id": ["A", "A", "B", "B"], "donor": ["p", "p", "q", "q"], "tissue": "liver",
        "split": ["train", "test", "validation", "test"], "age": [50.0, np.nan, 61.0, 40.0],
    })  # fmt: skip
    region = {"l0_x": [10.0, 20, 30, 40], "l0_y": [0.0, 5, 6, 7], "l0_width": 8.0, "l0_height": 6.0}
    return df.assign(**region) if spots else df


def run(store, spots=True, links=True):
    """Save them; returns the expression."""
    weights = store.root / "weights.pt"
    weights.write_bytes(b"weights")
    store.save("samples", samples(spots))
    genes = pd.Index(["ENSG2", "ENSG1"], name="gene")
    values_df = pd.DataFrame(np.arange(8.0).reshape(2, 4), genes, IDS[::-1], dtype=np.float32)
    store.save("expression", values_df)
    store.save("genes", pd.DataFrame({"symbol": ["B", "A"], "biotype": ["", "lncRNA"]}, genes))
    store.save("tiles", samples())
    store.save("network", weights)
    index = pd.Index(FEATURES, name="feature")
    store.save("features_validation", pd.DataFrame({"s3": [1.0, 2, 3]}, index))
    store.save("features_test", pd.DataFrame({"s4": [4.0, 5, 6], "s2": [7.0, 8, 9]}, index))
    if links:
        medians = {"tissue": "liver", "max_median_log2": np.float32([1, 2]), "symbol": ["B", "A"]}
        store.save("gene_medians", pd.DataFrame(medians, genes))
        pairs = {"gene": ["ENSG1"] * 2, "feature": ["1_1", "29_499"], "clump": ["1_0", "29_499"]}
        store.save("links", pd.DataFrame(pairs).astype("category"))
        store.save("gene_significance", pd.DataFrame({"q": [0.2, 0.01]}, genes))
    return values_df
