"""Where the file of an encoder's weights lies: a path, an installed package, or a model hub.

Weights stay where their licence wants them: a gated file is fetched with the user's own login of the hub, or
downloaded by hand and given as a path.
"""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import requests

from lib.errors import InputError, MissingInputError
from lib.network.encoder_files import HUB, PACKAGE

REACH_S = 5.0  # a hub that does not answer within so many seconds is out of reach


def local_file(weights: str, root: Path) -> Path | None:
    """The file that `weights` names on this machine: a path from `root`, or in a package; None of a hub.

    MissingInputError where the package is not installed or lacks the file.
    """
    if weights.startswith(HUB):
        return None
    if not weights.startswith(PACKAGE):
        return root / weights
    module, _, name = weights.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for folder in folders if (path := Path(folder) / name).is_file()]
    if not found:
        state = f"has no file {name}" if folders else "is not installed"
        raise MissingInputError(
            f"weights = {weights!r}: the Python package {module} {state}: pip install "
            f"{module.replace('_', '-')}, or set encoder_weights to the path of the file"
        )
    return found[0]


def fetched(weights: str) -> Path:
    """The file `hub:<owner>/<repository>/<file>` in the hub's cache, downloaded at first use.

    Raises
    ------
    InputError
        Not of that form; or the hub refuses it: a licence to accept, a login that is missing.
    RuntimeError
        The hub is out of reach; said within seconds.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    owner, _, rest = weights.removeprefix(HUB).partition("/")
    repository, _, name = rest.partition("/")
    if not (owner and repository and name):
        raise InputError(f"weights = {weights!r}: write hub:<owner>/<repository>/<file>")
    repository = f"{owner}/{repository}"
    try:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
    except ValueError as error:  # a name that no repository can have
        raise InputError(f"weights = {weights!r}: {error}") from error
    if isinstance(cached, str):
        return Path(cached)
    require_reachable(f"{repository}/{name}")
    page = f"https://huggingface.co/{repository}"
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"{page} does not give {name} ({str(error).splitlines()[0][:200]}): accept its licence on that "
            "page and log in (`hf auth login`), or download the file and set encoder_weights to its path"
        ) from error


def is_cached(repository: str, names: Sequence[str]) -> bool:
    """Whether one of these files of a repository lies in the hub's cache."""
    import huggingface_hub

    return any(isinstance(huggingface_hub.try_to_load_from_cache(repository, n), str) for n in names)


def require_reachable(wanted: str) -> None:
    """RuntimeError, within seconds and with what to do instead, where the hub cannot be reached."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        if not offline:
            requests.head(endpoint, timeout=REACH_S)
            return
        why = "HF_HUB_OFFLINE is set"
    except requests.RequestException as error:
        why = f"{endpoint}: {type(error).__name__}"
    raise RuntimeError(
        f"{wanted} cannot be fetched, the model hub is out of reach ({why}): download it elsewhere and set "
        "encoder_weights (or weights) to its path, or put it into the hub's cache"
    )
