"""Files of public data sets by pinned address and sha256, from the mirror or the network.

`data/reference/registry.csv` lists each file: dataset, path (inside the dataset, as its publisher has it),
n_bytes, sha256, url (pinned to a commit; empty where nobody serves these exact bytes).
"""

import os
import shutil
from pathlib import Path

import pandas as pd

from lib.errors import InputError, MissingInputError
from lib.sources import download, mirror
from lib.sources.http_session import Settings
from lib.whole_files import fingerprint, whole_file

REGISTRY_CSV = Path(__file__).resolve().parents[2] / "data" / "reference" / "registry.csv"
SETTINGS = Settings()
GO_HINT = (
    ", or take any release of the Gene Ontology, for example"
    " http://release.geneontology.org/2022-07-01/ontology/go.obo and .../annotations/goa_human.gaf.gz,"
    " and name the two files as go_obo_file and go_gaf_file in the cohort's TOML"
)


def files(dataset: str) -> pd.DataFrame:
    """The registry's rows for one dataset: columns path, n_bytes, sha256, url.

    Raises ValueError for an unknown dataset, naming the known ones.
    """
    registry_df = pd.read_csv(REGISTRY_CSV, dtype={"n_bytes": "int64"}, keep_default_na=False)
    rows_df = registry_df[registry_df["dataset"] == dataset].drop(columns="dataset").reset_index(drop=True)
    if rows_df.empty:
        known = sorted(set(registry_df["dataset"]))
        raise InputError(f"unknown dataset {dataset!r}: the registry has {known}")
    return rows_df


def fetch(dataset: str, dest: str | Path) -> Path:
    """Bring every file of a dataset to `dest`, checked; correct files already there are left alone.

    Parameters
    ----------
    dest : folder that will have the dataset's own layout. Files of the mirror (`lib.sources.mirror`) are
        linked where the file system allows it, else copied; what the mirror lacks is downloaded.

    Returns
    -------
    Path
        `dest`. A file under its final name is always complete: it is checked before it is renamed.

    Raises
    ------
    FileNotFoundError
        A file has neither mirror nor address, or the mirror folder does not exist.
    RuntimeError
        A download failed, or brought other bytes; the message names both ways to get the file.
    ValueError
        A file of the mirror has another sha256.
    """
    dest, folder = Path(dest), mirror.folder(dataset)
    if folder is not None and not folder.parent.is_dir():
        raise MissingInputError(f"DATA_MIRROR is {folder.parent}, which is not a folder: correct or unset it")
    rows_df = files(dataset)
    sha256_of = {dest / path: sha256 for path, sha256 in zip(rows_df["path"], rows_df["sha256"], strict=True)}
    to_download = []
    for path, url in zip(rows_df["path"], rows_df["url"], strict=True):
        target = dest / path
        if target.is_file() and fingerprint(target) == sha256_of[target]:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if folder is not None and (folder / path).is_file():
            _from_mirror(folder / path, target, sha256_of[target])
        elif url:
            to_download.append(download.File(target, (url,)))
        else:
            raise MissingInputError(
                f"{dataset}/{path} has no public address with these exact bytes: {_by_hand(dataset, path)}"
            )
    if to_download:
        _from_network(dataset, dest, to_download, sha256_of)
    return dest


def _from_mirror(source: Path, target: Path, sha256: str) -> None:
    found = fingerprint(source)
    if found != sha256:
        raise InputError(
            f"{source} ({source.stat().st_size:,} bytes) has sha256 {found[:12]}…, the registry has"
            f" {sha256[:12]}…: the copy is damaged or another version; replace it"
        )
    with whole_file(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another file system, or links not allowed
            shutil.copyfile(source, temporary)


def _from_network(dataset: str, dest: Path, wanted: list[download.File], sha256_of: dict[Path, str]) -> None:
    def check(path: Path) -> None:
        found, sha256 = fingerprint(path), sha256_of[path.with_name(path.name.removesuffix(".part"))]
        if found != sha256:
            raise InputError(f"it has sha256 {found[:12]}…, the registry has {sha256[:12]}…")

    try:
        report_df = download.fetch_all(wanted, check, SETTINGS)
        failed_df = report_df[report_df["state"].eq("failed")]
        reason = "; ".join(failed_df["reason"].head(3))
        failed = failed_df["path"].tolist()
    except RuntimeError as error:
        reason, failed = str(error), [str(file.path) for file in wanted]
    if failed:
        path = Path(failed[0]).relative_to(dest).as_posix()
        raise RuntimeError(
            f"{len(failed)} of {len(wanted)} files of {dataset} could not be downloaded ({reason}): either"
            f" connect to the network and run again, or work without it: {_by_hand(dataset, path)}"
        )


def _by_hand(dataset: str, path: str) -> str:
    """What to do without a network, for one file."""
    folder = mirror.folder(dataset)
    looked = f"it is not in the mirror ({folder / path})" if folder else "no mirror is set"
    hint = GO_HINT if dataset == "go" else ""
    return f"set DATA_MIRROR to a folder with {dataset}/{path}{hint}; {looked}"
