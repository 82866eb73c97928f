"""This run's numbers beside the paper's, with a remark where the two are not comparable."""

from collections.abc import Mapping

import pandas as pd
from pandas.api.types import is_numeric_dtype

NOT_COMPARABLE = "another cohort: not comparable"


def beside(run: Mapping[str, float], paper_df: pd.DataFrame, comparable: bool) -> pd.DataFrame:
    """Two columns, this run and the paper, for quantities named as in data/reference/paper_text.csv.

    Parameters
    ----------
    run : item -> value of this run; every item must be in the reference table.
    paper_df : columns item, value, unit, where.
    comparable : whether the cohort is the paper's.

    KeyError on an item that the reference table lacks.
    """
    table_df = paper_df.set_index("item")
    missing = [item for item in run if item not in table_df.index]
    if missing:
        raise KeyError(f"no such items in the paper's reference table: {missing}")
    rows = table_df.loc[list(run)]
    remark = "" if comparable else NOT_COMPARABLE
    return pd.DataFrame(
        {"this run": pd.Series(run), "paper": rows["value"], "where": rows["where"], "remark": remark},
        index=pd.Index(list(run), name="item"),
    )


def table_beside(
    run_df: pd.DataFrame, paper_df: pd.DataFrame, keys: list[str], comparable: bool
) -> pd.DataFrame:
    """A table of this run with the paper's columns of the same name beside it, as `<column> (paper)`.

    Rows are matched on `keys`; rows that only the paper has are left out.
    """
    shared = [column for column in run_df if column in paper_df and column not in keys]
    renamed = paper_df[keys + shared].rename(columns={column: f"{column} (paper)" for column in shared})
    numbers = {key: float for key in keys if is_numeric_dtype(run_df[key])}  # 0.5 beside whole numbers
    joined = run_df.astype(numbers).merge(renamed.astype(numbers), on=keys, how="left")
    joined = joined.astype({key: run_df[key].dtype for key in numbers})
    return joined if comparable else joined.assign(remark=NOT_COMPARABLE)
