"""GTEx's names: ids of samples, slides and RNA, and tissues in all their spellings.

A tissue sample `GTEX-11NSD-0526` has one slide and none, one or several RNA samples
`GTEX-11NSD-0526-SM-5A5LT`. Slide files and some published lists end in 5 where the portal and the RNA ids end
in 6 (METHOD section 1).
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

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


def match_sample_ids(ids: Sequence[str], known: Iterable[str]) -> pd.DataFrame:
    """Pair RNA, slide-file or list ids with tissue samples on their first three fields.

    Returns
    -------
    DataFrame, a row per id in the given order: id, sample_id (`""` when there is none), ends_mapped (True
    where the final 5 of the id had to be read as 6; never done when the id exists as it is).
    """
    known = set(known)
    keys = [tissue_sample_id(text) for text in ids]
    sixes = [key[:-1] + "6" if key.endswith("5") else key for key in keys]
    mapped = [key not in known and six in known for key, six in zip(keys, sixes, strict=True)]
    chosen = [six if m else key for key, six, m in zip(keys, sixes, mapped, strict=True)]
    return pd.DataFrame(
        {"id": list(ids), "sample_id": [c if c in known else "" for c in chosen], "ends_mapped": mapped}
    )


def find_slides(folder: str | Path, sample_ids: Iterable[str]) -> pd.DataFrame:
    """The `.svs` files of a folder and their tissue samples: path, sample_id (`""` for a file that belongs to
    none of `sample_ids`), ends_mapped (the file's final 5 was read as 6).

    Raises ValueError when two files belong to one sample.
    """
    paths = sorted(Path(folder).glob("*.svs"))
    found_df = match_sample_ids([path.stem for path in paths], sample_ids)
    found_df.insert(0, "path", [str(path) for path in paths])
    twice = found_df[found_df["sample_id"].ne("") & found_df["sample_id"].duplicated(keep=False)]
    if not twice.empty:
        raise ValueError(
            f"{folder}: {len(twice)} files share samples, first {twice['path'].tolist()[:2]}; keep one."
        )
    return found_df.drop(columns="id")


def _tissue_key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
