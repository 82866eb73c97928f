"""Real data by name: pinned addresses, sha256 sums, a mirror folder in place of the network.

`data/reference/registry.csv` lists each file: dataset, path (inside the dataset, as upstream has it),
n_bytes, sha256, url (pinned to a commit; empty where nobody serves these exact bytes). A mirror is a folder
that has `<dataset>/<path>`; the environment variable DATA_MIRROR names it.
"""

import hashlib
import os
import shutil
from pathlib import Path

import pandas as pd
import pooch
from tqdm.auto import tqdm

from lib.sources import mirror

REGISTRY_CSV = Path(__file__).resolve().parents[2] / "data" / "reference" / "registry.csv"
GO_HINT = (
    "Or take any release of the Gene Ontology, for example "
    "http://release.geneontology.org/2022-07-01/ontology/go.obo and .../annotations/goa_human.gaf.gz, "
    "and name the two files as go_obo_file and go_gaf_file in the cohort's TOML. "
)


def files(dataset: str, registry_csv: Path = REGISTRY_CSV) -> pd.DataFrame:
    """The registry's rows for one dataset: columns path, n_bytes, sha256, url.

    Raises
    ------
    ValueError
        Unknown dataset; the known ones are named.
    """
    registry_df = pd.read_csv(registry_csv, dtype={"n_bytes": "int64"}, keep_default_na=False)
    rows_df = registry_df[registry_df["dataset"] == dataset].drop(columns="dataset").reset_index(drop=True)
    if rows_df.empty:
        raise ValueError(
            f"Unknown dataset {dataset!r}; the registry has {sorted(set(registry_df['dataset']))}."
        )
    return rows_df


def fetch(
    dataset: str,
    dest: str | Path,
    *,
    progress: bool = True,
    registry_csv: Path = REGISTRY_CSV,
) -> Path:
    """Bring every file of a dataset to `dest`, checked; files already there and right are left alone.

    Parameters
    ----------
    dest : folder that will have the dataset's own layout. Files of the mirror (`lib.sources.mirror`) are
        linked where the file system allows it, else copied; what the mirror lacks is downloaded.

    Returns
    -------
    Path
        `dest`. A file under its final name is always whole: it is checked under another name, then renamed.

    Raises
    ------
    FileNotFoundError
        A file has neither mirror nor address, or the mirror folder does not exist.
    RuntimeError
        The network failed; the message names both ways.
    ValueError
        A file of the mirror or the network has another sha256.
    """
    dest = Path(dest)
    folder = mirror.folder(dataset)
    if folder is not None and not folder.parent.is_dir():
        raise FileNotFoundError(
            f"The mirror {folder.parent} (DATA_MIRROR) is not a folder. Correct or unset it."
        )
    rows_df = files(dataset, registry_csv)
    todo_df = rows_df[[not _is_right(dest / row.path, row) for row in rows_df.itertuples()]]
    with tqdm(
        total=int(todo_df["n_bytes"].sum()), desc=dataset, unit="B", unit_scale=True, disable=not progress
    ) as bar:
        for row in todo_df.itertuples():
            target = dest / row.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if folder is not None and (folder / row.path).is_file():
                _from_mirror(folder / row.path, target, row)
            else:
                _from_network(dataset, target, row, folder)
            bar.update(row.n_bytes)
    return dest


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_right(path: Path, row) -> bool:
    return path.is_file() and path.stat().st_size == row.n_bytes and sha256(path) == row.sha256


def _from_mirror(source: Path, target: Path, row) -> None:
    found = sha256(source)
    if found != row.sha256:
        raise ValueError(
            f"{source} has sha256 {found[:12]}… ({source.stat().st_size:,} bytes), the registry has "
            f"{row.sha256[:12]}… ({row.n_bytes:,} bytes). The copy is damaged or another version; replace it."
        )
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:  # another file system, or links not allowed
        shutil.copyfile(source, partial)
    os.replace(partial, target)


def _from_network(dataset: str, target: Path, row, folder: Path | None) -> None:
    looked = f"It is not in the mirror ({folder / row.path})." if folder else "No mirror is set."
    ways = (
        f"Put a folder with {dataset}/{row.path} in place and set DATA_MIRROR to it. "
        f"{GO_HINT if dataset == 'go' else ''}{looked}"
    )
    if not row.url:
        raise FileNotFoundError(f"{dataset}/{row.path} has no public address with these exact bytes. {ways}")
    try:
        pooch.retrieve(row.url, f"sha256:{row.sha256}", fname=target.name, path=target.parent)
    except ValueError as error:
        raise ValueError(f"{row.url} does not have the sha256 of the registry: {error}") from error
    except OSError as error:  # requests' errors are OSErrors too
        raise RuntimeError(
            f"Could not download {row.url}: {error}. Either connect to the network and run again, "
            f"or work without it. {ways}"
        ) from error
