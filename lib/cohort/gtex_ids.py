"""GTEx's ids of samples, slides and RNA, and the spellings of its tissues.

A tissue sample `GTEX-11NSD-0526` has one slide and any number of RNA samples `GTEX-11NSD-0526-SM-5A5LT`.
Names of slide files and some published lists end in 5 where the portal and the RNA ids end in 6
(notebooks/README.md, section 1).
"""

import difflib
import re
from collections.abc import Iterable, Sequence

import pandas as pd

from lib.errors import InputError


def tissue_sample_id(text: str) -> str:
    """First three dash-separated fields of a slide, RNA or tile name: `GTEX-11NSD-0526`."""
    return "-".join(str(text).split("-")[:3])


def match_tissue(name: str, vocabulary: Iterable[str]) -> str:
    """The tissue of `vocabulary` (SMTSD names) that `name` stands for.

    Accepts the paper's `Brain—Cerebellum`, the portal's `Brain_Cerebellum` and names without their bracket
    (`Skin—Sun Exposed`). Raises ValueError with the nearest tissues otherwise.
    """
    vocabulary = list(dict.fromkeys(vocabulary))
    by_key: dict[str, set[str]] = {}
    for tissue in vocabulary:
        for key in {_tissue_key(tissue), _tissue_key(re.sub(r"\(.*?\)", "", tissue))}:
            by_key.setdefault(key, set()).add(tissue)
    found = {name} if name in vocabulary else by_key.get(_tissue_key(name), set())
    if len(found) == 1:
        return next(iter(found))
    if found:
        raise InputError(f"tissue {name!r} is ambiguous: {sorted(found)}; give the full name")
    near = difflib.get_close_matches(name, vocabulary, n=3, cutoff=0.3) or sorted(vocabulary)[:3]
    raise InputError(f"no tissue {name!r} among {len(vocabulary)}; nearest: {near}")


def tissue_samples(ids: Iterable[str]) -> pd.Series:
    """`tissue_sample_id` of each id."""
    return pd.Series([tissue_sample_id(text) for text in ids], dtype=object)


def rna_tissue_samples(rna_ids: Sequence[str]) -> pd.Series:
    """The tissue sample of each RNA id; RNA of brain regions (`…-R11a-SM-…`) has no slide, so it gets keys
    that no tissue sample has.
    """
    rna = pd.Series(list(rna_ids), dtype=object)
    return tissue_samples(rna).where(~rna.str.match(r"[^-]+-[^-]+-[^-]+-R\d"), "brain " + rna)


def five_as_six(keys: pd.Series, known: Iterable[str]) -> tuple[pd.Series, pd.Series]:
    """Ids of slides or lists (first three fields) as the portal and the RNA ids have them.

    A key ending in 5 that is not in `known` is read as ending in 6 if `known` has that and no other key
    claims it. Returns the keys, and a bool for each: whether it was changed.
    """
    known = pd.Series(list(known), dtype=object)
    as_six = keys.str.replace(r"5$", "6", regex=True)
    mapped = keys.str.endswith("5") & ~keys.isin(known) & as_six.isin(known) & ~as_six.isin(keys)
    return keys.where(~mapped, as_six), mapped.astype(bool)


def match_sample_ids(ids: Sequence[str], known: Iterable[str]) -> pd.DataFrame:
    """Match ids of slides or of a list to tissue samples by their first three fields.

    Returns
    -------
    DataFrame
        A row per id in the given order: id, sample_id ("" if there is none), ends_mapped (bool: the final 5
        was read as 6, see `five_as_six`).
    """
    known = list(known)
    keys, mapped = five_as_six(tissue_samples(ids), known)
    return pd.DataFrame(
        {"id": list(ids), "sample_id": keys.where(keys.isin(known), ""), "ends_mapped": mapped}
    )


def _tissue_key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
