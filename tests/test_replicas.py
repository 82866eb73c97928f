"""Another cohort under this cohort's network: its parameters, genes matched, links held against it."""

import pandas as pd
import pytest

from lib import replicas
from lib.config import Config
from lib.config_values import parse_setting
from lib.errors import InputError, StaleArtefactError
from lib.store import Store


def symbols(**pairs):
    return pd.Series(pairs, dtype=object)


def test_genes_match_by_id_whatever_their_version():
    other_df = pd.DataFrame({"symbol": ["X", "Y", "Z"]}, index=["ENSG01.3", "ENSG02.1", "ENSG09"])
    names, said = replicas.matched(
        pd.Index(["ENSG01.7", "ENSG02", "ENSG05"]), symbols(**{"ENSG01.7": "A", "ENSG02": "B"}), other_df
    )
    assert names.to_dict() == {"ENSG01.7": "ENSG01.3", "ENSG02": "ENSG02.1"}
    assert said == "2 of 3 genes matched by id"


def test_genes_match_by_symbol_where_that_gives_more():
    other_df = pd.DataFrame({"symbol": ["GFAP", "ALB", "TTR", None]}, index=["GFAP", "ALB", "TTR", "lost"])
    here = pd.Index(["ENSG1", "ENSG2", "ENSG3"])
    names, said = replicas.matched(here, symbols(ENSG1="GFAP", ENSG2="ALB", ENSG3=None), other_df)
    assert names.to_dict() == {"ENSG1": "GFAP", "ENSG2": "ALB"}
    assert said == "2 of 3 genes matched by symbol"


def test_two_genes_that_are_one_there_count_once_and_repeats_take_the_first():
    other_df = pd.DataFrame({"symbol": ["A", "A"]}, index=["first", "second"])
    names, _ = replicas.matched(pd.Index(["x", "y"]), symbols(x="A", y="A"), other_df)
    assert names.to_dict() == {"x": "first"}


def test_another_species_is_named():
    other_df = pd.DataFrame({"symbol": ["Gfap", "Alb"]}, index=["ENSMUSG1", "ENSMUSG2"])
    with pytest.raises(InputError, match=r"2 symbols match when case is ignored: another species"):
        replicas.matched(pd.Index(["ENSG1", "ENSG2"]), symbols(ENSG1="GFAP", ENSG2="ALB"), other_df)
    with pytest.raises(InputError, match=r"by id or symbol$"):
        replicas.matched(pd.Index(["ENSG1"]), symbols(ENSG1="TTR"), other_df)


@pytest.fixture
def cohorts(tmp_path):
    """TOML files of two cohorts; this one's store."""
    for name, lines in {
        "here": 'architecture = "alexnet"\ntile_px = 64\ninput_px = 63\np = 2.0\n',
        "there": 'tile_px = 512\ncovariates = ["age"]\nquantify_train = true\nweights = "imagenet"\n',
        "stated": 'encoder = "a.pt"\nencoder_normalisation = [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]\n',
        "given": 'features_file = "f.csv"\n',
    }.items():
        (tmp_path / f"{name}.toml").write_text(lines)
    return Store(Config.load(str(tmp_path / "here.toml")), root=tmp_path), tmp_path


def test_the_other_cohort_is_measured_as_this_one(cohorts):
    store, folder = cohorts
    other = replicas.store_of(store, str(folder / "there.toml"))
    config = other.config
    assert (config.architecture, config.tile_px, config.input_px, config.p) == ("alexnet", 64, 63, 2.0)
    assert config.covariates == ("age",), "what is its own stays"
    assert config.weights == str(store.path("network"))
    assert (config.network_kind, config.test_on, config.classifies) == ("as it is", "all", False)
    words = replicas.command(store, str(folder / "there.toml"))
    assert words[:4] == ["--cohort", str(folder / "there.toml"), "--to", "04"]
    given = dict(parse_setting(text) for text in words[5:])
    assert Config.load(str(folder / "there.toml"), overrides=given) == config, "the command gives the same"


def test_what_is_missing_is_said_with_the_command(cohorts):
    store, folder = cohorts
    links_df = pd.DataFrame({"gene": ["a"], "feature": ["0_0"]})
    with pytest.raises(
        StaleArtefactError, match=r"'samples' of cohort .* is missing .*run_all\.py --cohort .*there"
    ):
        replicas.elsewhere(
            store, str(folder / "there.toml"), links_df, pd.DataFrame({"symbol": ["a"]}, ["a"])
        )


@pytest.mark.parametrize(
    ("other", "said"),
    [("here", "is this cohort itself"), ("given", "needs slides"), ("stated", "of its own encoder")],
)
def test_cohorts_that_cannot_serve_are_refused(cohorts, other, said):
    store, folder = cohorts
    with pytest.raises(InputError, match=said):
        replicas.store_of(store, str(folder / f"{other}.toml"))
    given = Store(Config.load(str(folder / "given.toml")), root=folder)
    with pytest.raises(InputError, match="features_file: these features were computed elsewhere"):
        replicas.store_of(given, str(folder / "here.toml"))
