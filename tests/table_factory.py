"""Small samples tables and text files for tests."""

import pandas as pd


def table(n=4, **columns):
    """A samples table of n samples s0, s1, … of donors and slides of their own; columns override."""
    base = {
        "sample_id": [f"s{i}" for i in range(n)],
        "slide_id": [f"slide{i}" for i in range(n)],
        "donor": [f"d{i}" for i in range(n)],
        "tissue": ["Liver"] * n,
    }
    return pd.DataFrame(base | columns)


def written(tmp_path, text, name="samples.csv"):
    """The path of a text file with this content."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path
