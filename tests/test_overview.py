"""Tables of the cohort page."""

import pandas as pd
from table_factory import table

from lib import overview


def test_overviews():
    samples_df = table(
        4,
        slide_id=["a", "a", "b", "c"],
        donor=["x", "x", "y", "x"],
        tissue=["Liver", "Lung", "Lung", "Lung"],
        split=["train", "train", "validation", "test"],
    )
    tiles_df = pd.DataFrame({"sample_id": ["s0", "s0", "s1", "s3"]})
    counts_df = overview.slides_per_tissue(samples_df, tiles_df)
    assert counts_df.loc["Lung"].tolist() == [3, 3, 2, 1, 1, 1, 2, 1, 0, 1]
    assert counts_df.loc["total"].tolist() == [4, 3, 2, 2, 1, 1, 4, 3, 0, 1]
    assert overview.donor_overlap(samples_df).to_numpy().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert overview.tissues_per_donor(samples_df).to_dict("index") == {
        "x": {"Lung": 2, "Liver": 1},
        "y": {"Lung": 1, "Liver": 0},
    }
