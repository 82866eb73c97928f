"""Values of a configuration: those that others set, and those of the command line."""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

from lib.errors import InputError
from lib.network import encoder_files

SCHEDULER = r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):\d{1,5}"
TRAINED_HERE = "trained here"  # the encoder that a cohort trains itself


def parse_setting(text: str) -> tuple[str, Any]:
    """Split `key=value` of the command line; the value is read as TOML, or else is a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set takes key=value, got {text!r}")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


# What the inputs that a source writes need, where a cohort does not say otherwise.
SOURCE_DEFAULTS: dict[str, dict[str, Any]] = {
    "gdc": {"expression_file": "expression.parquet", "genes_file": "genes.csv"},
    "visium": {
        **{"expression_file": "expression.parquet", "expression_unit": "CP10K", "genes_file": "genes.csv"},
        **{"covariates": ["log_counts"], "split_by": "slide"},
        **{"tile_px": 224, "tile_mpp": 0.44, "min_tissue": 0.0},  # 98.6 µm: a tile of each spot's 100 µm
        **{"r_threshold": 0.4, "best_feature_r": 0.4, "e_threshold": 0.5},
        "thresholds": [[0.6, 1.0], [0.5, 1.0], [0.4, 1.0], [0.6, 0.5], [0.5, 0.5], [0.4, 0.5]],
        "link_permutations": 2000,
    },
}


def completed(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a configuration with what its source and its encoder say of others."""
    of_source = SOURCE_DEFAULTS.get(str(values.get("source")), {})
    return with_encoder(with_encoder_file(of_source | values))


def with_encoder_file(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a configuration, where the encoder is a file: its architecture, weights and input.

    Both `encoder = "uni"` and `architecture = "encoder:uni"` say so. The tiles are those of the encoder
    unless the cohort, or its source, says otherwise.
    """
    encoder, architecture = str(values.get("encoder", TRAINED_HERE)), str(values.get("architecture", ""))
    if encoder_files.names_file(encoder):
        own = encoder_files.PREFIX + encoder
        if architecture not in ("", own):
            raise InputError(f"encoder = {encoder!r} is no {architecture}: leave architecture out")
        architecture = own
    if not encoder_files.is_file(architecture):
        return values | {"encoder_digest": ""}
    name = architecture.removeprefix(encoder_files.PREFIX)
    if encoder == TRAINED_HERE and (not values.get("weights") or values.get("null_network") == "untrained"):
        encoder = name
    stated = encoder_files.read(architecture)
    tiles = {"input_px": stated.input_px}
    if stated.mpp and "tile_px" not in values:
        tiles |= {"tile_px": stated.input_px, "tile_mpp": stated.mpp}
    of_file = {"architecture": architecture, "encoder": encoder}
    of_file |= {"encoder_digest": encoder_files.digest(architecture)}
    return tiles | values | of_file | {"encoder_normalisation": (stated.mean, stated.sd)}


def encoder_of(architecture: str, values: dict[str, Any]) -> dict[str, Any]:
    """The parameter `encoder`, where another architecture takes the place of an encoder file."""
    if not encoder_files.names_file(str(values.get("encoder", ""))):
        return {}
    own = encoder_files.is_file(architecture)
    return {"encoder": architecture.removeprefix(encoder_files.PREFIX) if own else TRAINED_HERE}


def with_network(values: dict[str, Any], architecture: str) -> dict[str, Any]:
    """A whole configuration's values with another architecture; what an encoder file says goes with it."""
    values = values | {"architecture": architecture}
    own = encoder_files.is_file(architecture)
    if not (own or values["encoder_digest"]):
        return values
    elsewhere = own and values["weights"] not in ("", encoder_files.read(architecture).weights)
    values |= {"encoder": TRAINED_HERE, "encoder_normalisation": None}
    return values | {"encoder_weights": values["weights"] if elsewhere else ""}


def with_encoder(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a configuration, where an encoder as it is sets `weights`, `null_network`, `test_on`.

    With null_network = "untrained" given, the weights stay random: that is what the encoder is judged by.
    """
    encoder = values.get("encoder", TRAINED_HERE)
    if encoder == TRAINED_HERE:
        return values
    weights, null_network = values.get("weights") or "", values.get("null_network") or ""
    if null_network == "shuffled":
        raise InputError(f"null_network = 'shuffled' trains a network, encoder = {encoder!r} does not")
    own = "" if encoder == "random" else encoder
    if encoder_files.names_file(encoder):
        own = values.get("encoder_weights") or encoder_files.read(encoder_files.PREFIX + encoder).weights
        if not own:
            raise InputError(f"encoder = {encoder!r} states no weights: set encoder_weights to their path")
    if weights not in ("", own):
        raise InputError(f"weights = {weights!r} and encoder = {encoder!r} contradict each other: give one")
    if not null_network:
        weights, null_network = own, "untrained"
    tested = "test" if values.get("quantify_train") else "all"  # of which training slides stay apart
    return {"test_on": tested} | values | {"weights": weights, "null_network": null_network}


def require_consistent(config: Any) -> None:
    """InputError where parameters of a configuration contradict each other."""
    if config.cluster not in ("local", "slurm") and not re.fullmatch(SCHEDULER, config.cluster):
        raise InputError(
            f'cluster = {config.cluster!r}: give "local", "slurm", or the address of a dask scheduler such '
            'as "tcp://10.0.0.1:8786"'
        )
    if unknown := [name for name in config.categorical_covariates if name not in config.covariates]:
        raise InputError(
            f"categorical_covariates {unknown} are not among covariates {list(config.covariates)}"
        )
    if abs(sum(config.split_fractions) - 1) > 1e-6:
        raise InputError(f"split_fractions must sum to 1, got {config.split_fractions}")
    if config.slides_only and config.features_file:
        raise InputError("features_file needs an expression_file: features alone are nothing to do")
    lowest_r = min(r for r, _ in config.thresholds)
    if lowest_r < config.r_threshold:
        raise InputError(
            f"thresholds asks for r >= {lowest_r}, but pairs below r_threshold = {config.r_threshold} "
            "are not kept: lower r_threshold"
        )
    if config.encoder_weights and not config.encoder_digest:
        raise InputError("encoder_weights are of an encoder file: set encoder to its name")
    if config.encoder_normalisation and not (config.weights_file or config.encoder_digest):
        raise InputError("encoder_normalisation is of a checkpoint: set encoder to its path")
    if config.best_feature_r < config.r_threshold:
        raise InputError(
            f"best_feature_r = {config.best_feature_r}, but pairs below r_threshold = {config.r_threshold} "
            "are not kept: lower r_threshold or raise best_feature_r"
        )


def architecture_name(architecture: str) -> str:
    """A name for the folder of an architecture; of an encoder file elsewhere with a digest of its path."""
    if architecture.endswith(".toml"):
        return "encoder_" + weights_name(architecture.removeprefix(encoder_files.PREFIX))
    return architecture.replace(":", "_").replace("/", "_")


def weights_name(path: str) -> str:
    """A name for the folder of a checkpoint: the stem of its file in safe characters and a digest of its
    path, so that two files of one name have two folders.
    """
    stem = re.sub(r"[^A-Za-z0-9.-]+", "_", Path(path).stem)
    return f"{stem}-{hashlib.sha256(path.encode()).hexdigest()[:6]}"
