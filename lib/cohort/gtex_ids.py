"""GTEx's names: ids of samples, slides and RNA, and tissues in all their spellings.

A tissue sample `GTEX-11NSD-0526` has one slide and none, one or several RNA samples
`GTEX-11NSD-0526-SM-5A5LT`. Slide files and some published lists end in 5 where the portal and the RNA ids end
in 6 (METHOD section 1).
"""

import difflib
import re
from collections.abc import Iterable, Sequence

import pandas as pd


def tissue_sample_id(text: str) -> str:
    """First three dash-separated fields of a slide, RNA or tile name: `GTEX-11NSD-0526`."""
    return "-".join(str(text).split("-")[:3])


def match_tissue(name: str, vocabulary: Iterable[str]) -> str:
    """The tissue of `vocabulary` (SMTSD names) that `name` means.

    The paper's `Brain—Cerebellum`, the portal's `Brain_Cerebellum` and names without their bracket (`Skin—Sun
    Exposed`) are understood. Raises ValueError naming the nearest tissues otherwise.
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
        raise ValueError(f"tissue {name!r} can mean {sorted(found)}; give the full name.")
    near = difflib.get_close_matches(name, vocabulary, n=3, cutoff=0.3)
    raise ValueError(
        f"no tissue {name!r} among {len(vocabulary)}; nearest: {near or sorted(vocabulary)[:3]}."
    )


def tissue_samples(ids: Iterable[str]) -> pd.Series:
    """`tissue_sample_id` of each id."""
    return pd.Series([tissue_sample_id(text) for text in ids], dtype=object)


def rna_tissue_samples(rna_ids: Sequence[str]) -> pd.Series:
    """The tissue sample of each RNA id. RNA of a brain region (`…-R11a-SM-…`) has no slide: it keeps a key of
    its own, which no tissue sample has.
    """
    rna = pd.Series(list(rna_ids), dtype=object)
    return tissue_samples(rna).where(~rna.str.match(r"[^-]+-[^-]+-[^-]+-R\d"), "brain " + rna)


def five_as_six(keys: pd.Series, known: Iterable[str]) -> tuple[pd.Series, pd.Series]:
    """Slides' or lists' ids (first three fields) as the portal and RNA have them (METHOD section 1).

    A key ending in 5 that `known` lacks is read with a 6 where `known` has that and no other key claims it.
    Ids of `known` are never changed. Returns the keys, and which of them were read so (bool).
    """
    known = pd.Series(list(known), dtype=object)
    as_six = keys.str.replace(r"5$", "6", regex=True)
    mapped = keys.str.endswith("5") & ~keys.isin(known) & as_six.isin(known) & ~as_six.isin(keys)
    return keys.where(~mapped, as_six), mapped.astype(bool)


def match_sample_ids(ids: Sequence[str], known: Iterable[str]) -> pd.DataFrame:
    """Pair the ids of slides or of a list with tissue samples on their first three fields.

    Returns
    -------
    DataFrame, a row per id in the given order: id, sample_id (`""` when there is none), ends_mapped (True
    where the final 5 of the id had to be read as 6, see `five_as_six`).
    """
    known = list(known)
    keys, mapped = five_as_six(tissue_samples(ids), known)
    return pd.DataFrame(
        {"id": list(ids), "sample_id": keys.where(keys.isin(known), ""), "ends_mapped": mapped}
    )


def _tissue_key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
