"""The slides of a sample: one, or several whose tiles are pooled (sections and blocks of one biopsy).

In the samples table the ids of several slides stand in `slide_id`, joined by `;`, or the sample has a row for
each slide. Once read it has one row: `P1-a;P1-b`.
"""

from collections.abc import Collection, Iterable

import pandas as pd

from lib.errors import InputError

SEPARATOR = ";"
TILES_NAMED = "tiles_named"  # what the names of a sample's tiles on a slide begin with


def slides_of(slide_id: str) -> list[str]:
    """The slides that a cell of column slide_id names."""
    return [part.strip() for part in slide_id.split(SEPARATOR)]


def slide_ids(samples_df: pd.DataFrame) -> list[str]:
    """All slides of the samples, each once, in the order of the table."""
    return list(dict.fromkeys(i for cell in samples_df["slide_id"] for i in slides_of(cell)))


def pools_slides(samples_df: pd.DataFrame) -> bool:
    """Whether any sample has several slides."""
    return bool(samples_df["slide_id"].str.contains(SEPARATOR, regex=False).any())


def by_slide(samples_df: pd.DataFrame) -> pd.DataFrame:
    """The samples with a row for each of their slides, and what their tiles there are called.

    Tiles are called after their sample; those of a sample of several slides after the slide, so that no two
    have one name.
    """
    of_cell = samples_df["slide_id"].map(slides_of)
    rows_df = samples_df.assign(slide_id=of_cell, n_slides=of_cell.map(len)).explode("slide_id")
    named = rows_df["slide_id"].where(rows_df["n_slides"] > 1, rows_df["sample_id"])
    return rows_df.drop(columns="n_slides").assign(**{TILES_NAMED: named}).reset_index(drop=True)


def one_row_each(samples_df: pd.DataFrame, source: str) -> pd.DataFrame:
    """Rows of one sample_id that differ in nothing but slide_id as one row with all their slides.

    Raises
    ------
    InputError
        Rows of a sample that differ in another column, or name one slide.
    """
    repeated = samples_df["sample_id"].duplicated(keep=False)
    if not repeated.any():
        return samples_df
    rows_df = samples_df[repeated]
    of_sample = rows_df.drop(columns="slide_id").groupby("sample_id", sort=False)
    differ = of_sample.nunique(dropna=False) > 1
    if differ.to_numpy().any():
        ids, columns = differ.index[differ.any(axis=1)], differ.columns[differ.any()]
        place = of_sample.get_group(ids[0])[differ.columns[differ.loc[ids[0]]][0]]
        shown = ", ".join(repr(str(value)) for value in place.drop_duplicates().head(3))
        raise InputError(
            f"{source}: duplicated sample_id {', '.join(map(repr, ids[:3]))}; keep one row per sample, or a "
            f"row for each of its slides that differs in slide_id alone (these differ in {', '.join(columns)}"
            f"; {place.name} of {ids[0]}: {shown})"
        )
    joined = rows_df.groupby("sample_id", sort=False)["slide_id"].agg(SEPARATOR.join)
    one_df = samples_df.drop_duplicates("sample_id").reset_index(drop=True)
    return one_df.assign(slide_id=one_df["sample_id"].map(joined).fillna(one_df["slide_id"]))


def check(samples_df: pd.DataFrame, region: Collection[str], source: str) -> pd.DataFrame:
    """The samples, one row each, with their slides written alike; InputError for pools that cannot be.

    A pool's slides are whole, and its own.

    region : the region columns
    """
    cells = samples_df["slide_id"].map(slides_of)
    several = cells.map(len) > 1
    for sample_id, slides in zip(samples_df["sample_id"][several], cells[several], strict=True):
        if len(set(slides)) < len(slides):
            twice = next(i for i in slides if slides.count(i) > 1)
            raise InputError(f"{source}: sample {sample_id!r} lists slide {twice!r} twice; name it once")
    regions = samples_df.reindex(columns=list(region)).notna().any(axis=1) & several
    if regions.any():
        raise InputError(
            f"{source}: sample {samples_df['sample_id'][regions].iloc[0]!r} has several slides and a region "
            f"({', '.join(region)}); a region is of one slide: leave it empty, or make it a sample of its own"
        )
    checked_df = samples_df.assign(slide_id=cells.map(SEPARATOR.join))
    _refuse_shared(checked_df[several], checked_df, source)
    return checked_df


def _refuse_shared(pools_df: pd.DataFrame, samples_df: pd.DataFrame, source: str) -> None:
    """InputError where a slide of a pool is another sample's too, or has another sample's name."""
    rows_df = by_slide(samples_df)
    of_pools_df = by_slide(pools_df)
    claimed_df = rows_df[rows_df["slide_id"].isin(of_pools_df["slide_id"])]
    shared = claimed_df["slide_id"][claimed_df["slide_id"].duplicated()]
    if len(shared):
        slide_id = shared.iloc[0]
        owners = ", ".join(map(repr, claimed_df["sample_id"][claimed_df["slide_id"] == slide_id].head(3)))
        raise InputError(
            f"{source}: slide {slide_id!r} is listed for samples {owners}; a slide of a sample with several "
            "belongs to that sample alone, since all of its tiles count for it: keep it with one of them"
        )
    others = dict(zip(of_pools_df["slide_id"], of_pools_df["sample_id"], strict=True))
    for sample_id in samples_df["sample_id"]:
        if others.get(sample_id, sample_id) != sample_id:
            raise InputError(
                f"{source}: slide {sample_id!r} of sample {others[sample_id]!r} has the name of another "
                "sample, whose tiles would be called alike: rename one of them"
            )


def lacking(samples_df: pd.DataFrame, usable: Iterable[str]) -> pd.DataFrame:
    """Samples of several slides that lack some of them: they are kept with the rest.

    Parameters
    ----------
    usable : slides that are there, or gave tiles

    Returns
    -------
    DataFrame
        Index sample_id; n_slides, n_lacking, lacking (their ids).
    """
    usable = set(usable)
    rows = []
    for sample_id, cell in zip(samples_df["sample_id"], samples_df["slide_id"], strict=True):
        slides = slides_of(cell)
        without = [i for i in slides if i not in usable]
        if len(slides) > 1 and without:
            rows.append((sample_id, len(slides), len(without), ", ".join(without)))
    columns = ["sample_id", "n_slides", "n_lacking", "lacking"]
    return pd.DataFrame(rows, columns=columns).set_index("sample_id")
