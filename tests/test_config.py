"""Configuration: the paper's defaults, errors that name the key, settings of the command line."""

import pytest

from lib.config import COHORTS_DIR, Config
from lib.config_values import parse_setting
from lib.network.recipe import Recipe


def test_defaults_are_the_papers():
    c = Config(cohort="any")
    assert (c.tile_px, c.tile_mpp, c.input_px, c.min_tissue) == (512, 0.9884, 224, 0.5)
    assert (c.epochs, c.learning_rate, c.lr_step_epochs, c.momentum, c.weight_decay) == (
        90,
        0.01,
        30,
        0.9,
        1e-4,
    )
    assert c.recipe.batch_size == 40
    assert Config(cohort="any", architecture="alexnet").recipe.batch_size == 256
    assert c.split_fractions == (0.6, 0.2, 0.2)
    assert (c.r_threshold, c.e_threshold) == (0.7, 7.0)


@pytest.mark.parametrize("path", sorted(COHORTS_DIR.glob("*.toml")), ids=lambda p: p.stem)
def test_cohort_files_are_valid(path):
    assert Config.load(path.stem).cohort == path.stem
    assert Config.load(str(path)) == Config.load(path.stem)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"tile_px": "large"}, "tile_px = 'large'"),
        ({"min_tissue": 1.5}, "min_tissue = 1.5: Input should be less than or equal to 1"),
        ({"aggregate": "median"}, "'mean' or 'sum'"),
        ({"split_fractions": [0.5, 0.2, 0.2]}, "sum to 1"),
        ({"r_threshold": 0.9}, "lower r_threshold"),
        ({"cohort": "../elsewhere"}, "cohort"),
    ],
)
def test_wrong_parameters_say_key_value_and_remedy(override, says):
    with pytest.raises(ValueError, match="demo") as caught:
        Config.load("demo", overrides=override)
    assert says in str(caught.value)


def test_unknown_cohort_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match="demo"):
        Config.load("dmeo")


def test_broken_toml(tmp_path):
    (tmp_path / "mine.toml").write_text("title = ")
    with pytest.raises(ValueError, match="not valid TOML"):
        Config.load(str(tmp_path / "mine.toml"))


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config(cohort="a").epochs = 2


def test_parse_setting():
    assert parse_setting("epochs=3") == ("epochs", 3)
    assert parse_setting("split_fractions=[0.5, 0.2, 0.3]") == ("split_fractions", [0.5, 0.2, 0.3])
    assert parse_setting("architecture=vgg16") == ("architecture", "vgg16")
    assert parse_setting("covariates=['rin']") == ("covariates", ["rin"])
    with pytest.raises(ValueError, match="key=value"):
        parse_setting("epochs")


def test_null_network_has_its_own_folder():
    assert Config(cohort="a", null_network="shuffled").run_name == "vgg16__shuffled"
    assert Config(cohort="a", architecture="timm:vit_tiny").run_name == "timm_vit_tiny"


def test_width_of_a_tile_in_um():
    assert Config(cohort="x").tile_um == pytest.approx(506, abs=0.1)


@pytest.mark.parametrize(
    ("weights", "null_network", "run_name", "shown"),
    [
        ("", "untrained", "vgg16__untrained", ("vgg16", "untrained")),
        ("imagenet", "", "vgg16__imagenet", ("vgg16 (imagenet)", "trained")),
        ("imagenet", "untrained", "vgg16__imagenet__as_it_is", ("vgg16 (imagenet)", "as it is")),
        ("imagenet", "shuffled", "vgg16__imagenet__shuffled", ("vgg16 (imagenet)", "shuffled")),
        ("runs/my own (1).pt", "", "vgg16__my_own_1_-b22924", ("vgg16 (my_own_1_-b22924)", "trained")),
        ("/a/untrained.pt", "", "vgg16__untrained-8c7b9a", ("vgg16 (untrained-8c7b9a)", "trained")),
        ("/b/untrained.pt", "", "vgg16__untrained-7473ac", ("vgg16 (untrained-7473ac)", "trained")),
    ],
)
def test_weights_have_their_own_folder_and_name(weights, null_network, run_name, shown):
    config = Config(cohort="a", weights=weights, null_network=null_network)
    assert config.run_name == run_name
    assert (config.network_name, config.network_kind) == shown


def test_recipe_has_the_parameters_of_the_run():
    changes = {"architecture": "alexnet", "learning_rate": 0.1, "augment": ("flip",), "loader_workers": 0}
    assert Config(cohort="a", **changes).recipe == Recipe(**changes, batch_size=256)
    assert Config(cohort="a", null_network="untrained").recipe.epochs == 0


def test_training_samples_are_tested_only_with_an_encoder_that_did_not_see_them():
    assert Config.load("demo").test_sets == ("test",)
    apart = {"test_on": "all", "quantify_train": False}
    with pytest.raises(ValueError, match="needs an encoder which was not trained"):
        Config.load("demo", overrides=apart)
    with pytest.raises(ValueError, match="needs an encoder which was not trained"):
        Config.load("demo", overrides=apart | {"null_network": "shuffled"})
    elsewhere = apart | {"null_network": "untrained"}
    assert Config.load("demo", overrides=elsewhere).test_sets == ("train", "test")
    assert Config.load("demo", overrides=apart | {"features_file": "f.parquet"}).test_sets == (
        "train",
        "test",
    )
    with pytest.raises(ValueError, match="quantify_train = false"):
        Config.load("demo", overrides=elsewhere | {"quantify_train": True})
