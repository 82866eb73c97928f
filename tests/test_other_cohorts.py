"""Cohorts unlike the paper's, from a TOML alone: one tissue, slides without RNA, a folder of JPEGs."""

import json

import numpy as np
import pandas as pd
import pytest
import small_cohort
import torch
from conftest import run_command
from PIL import Image
from safetensors.torch import save_file
from slide_factory import glass, textured
from sources.test_gdc import row, write_gdc_slide, write_rna, write_sheet
from sources.test_visium import write_run

from lib.artefacts import NOTEBOOKS
from lib.config import COHORTS_DIR, Config
from lib.errors import InputError
from lib.network import models
from lib.network.construction import construct
from lib.store import Store

pytestmark = pytest.mark.slow


def states(done):
    return {
        line.split()[0][:2]: " ".join(line.split()[1:-1])
        for line in done.stdout.splitlines()
        if " ran " in line
    }


def one_tissue(root, seed=0, **settings):
    """24 samples of one organ, without a column tissue; a gene follows how dark the slide is."""
    path = small_cohort.make(root, n=24, **settings)
    raw = root / "data/raw/mine"
    frame = pd.read_csv(raw / "samples.csv").drop(columns="tissue")
    frame.to_csv(raw / "samples.csv", index=False)
    rng = np.random.default_rng(seed)
    darkness = rng.uniform(0, 1, 24)
    for sample, dark in zip(frame["sample_id"], darkness, strict=True):
        image = glass(448, 512)
        colour = tuple(int(value - 70 * dark) for value in (215, 150, 190))
        image[32:416, 32:480] = textured(384, 448, seed=100 * seed + int(sample[1:]), colour=colour)
        small_cohort.write_slide(raw / f"slides/{sample}.svs", image)
    level = 5 + rng.normal(scale=0.5, size=(120, 24))
    level[:10] += 4 * darkness
    table_df = pd.DataFrame(np.exp2(level), [f"G{i}" for i in range(120)], frame["sample_id"].tolist())
    table_df.rename_axis("gene").to_csv(raw / "expression.csv.gz")
    return path


def test_one_tissue_is_not_trained_on(tmp_path):
    path = one_tissue(tmp_path)
    done = run_command(tmp_path, "--cohort", path, "--to", "02")
    assert done.returncode == 1
    assert "00_cohort failed" in done.stderr
    assert (
        "the 24 samples have 1 tissues to train on ('all samples'), and a classifier of one class"
        in done.stderr
    )
    assert "Either set encoder = 'imagenet', or a checkpoint" in done.stderr
    done = run_command(tmp_path, "--cohort", path, "--check")
    assert done.returncode == 1
    assert "1 problems" in done.stdout


def test_one_tissue_with_an_encoder_as_it_is(tmp_path):
    path = one_tissue(tmp_path, encoder="random", link_permutations=2000, n_cards=2, synthesis_steps=2)
    done = run_command(tmp_path, "--cohort", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "03_classify" not in done.stdout
    assert "07_conditional alexnet__untrained: left out (one tissue" in done.stdout
    store = Store(Config.load(str(path)), root=tmp_path)
    samples_df, links_df = store.load("samples"), store.load("links")
    assert samples_df["tissue"].unique().tolist() == ["all samples"]
    n_test = int((samples_df["split"] != "validation").sum())
    assert store.load("features_test").shape[1] == n_test, "all but the validation samples are tested"
    found = set(links_df["gene"].astype(str))
    planted = {f"G{i}" for i in range(10)}
    assert len(found & planted) >= 8
    assert len(found - planted) <= 3, "of 110 genes; on 1,000 null genes these features reject 5.8 % at .05"
    page = (tmp_path / "figures/mine/index.html").read_text()
    for word in ("accuracy", "through tissue", "confusion", "classify tissues"):
        assert word not in page.split("Parameters and versions")[1].split('id="parameters"')[0], word
    names = {path.name for path in (tmp_path / "figures/mine").iterdir()}
    assert not [name for name in names if "accuracy" in name or "confusion" in name or "survival" in name]


def test_links_are_looked_for_in_another_cohort(tmp_path):
    """--replicate runs the other cohort with this network, and says of each link whether it holds there."""
    path = one_tissue(tmp_path, encoder="random", link_permutations=2000)
    other = one_tissue(tmp_path / "there", seed=1, encoder="imagenet", tile_px=128)
    (tmp_path / "there/data/raw/mine").rename(tmp_path / "data/raw/other")
    other.rename(tmp_path / "other.toml")
    arguments = ("--cohort", path, "--to", "08", "--replicate", tmp_path / "other.toml")
    done = run_command(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    named = str((tmp_path / "other.toml").resolve())
    config = Config.load(str(path), overrides={"replicate_in": [named]})
    store = Store(config, root=tmp_path)
    assert set(store.load("ledger")["unit"]) == {"validation", "test", "other"}
    df = pd.read_csv(store.figures / f"replication__{config.run_name}.csv")
    there = df[df["unit"] == "other"].set_index("of").loc["strongest link of each gene"]
    assert there["links"] >= 8
    assert there["replicated"] >= 0.7
    assert_page_shows_the_ledger(store, there)
    assert (tmp_path / "data/derived/other").is_dir()
    again = run_command(tmp_path, *arguments)
    assert " ran " not in again.stdout, again.stdout


def assert_page_shows_the_ledger(store, there):
    """Cards and the first screen against the csv files; `there`: of each gene's strongest link."""
    ledger_df = pd.read_csv(
        store.figures / f"replication_ledger__{store.config.run_name}.csv", dtype={"feature": str}
    )
    page = (store.figures / "index.html").read_text()
    assert f"of the genes&#39; {there['links']:.0f} strongest links replicate in cohort other" in page
    assert f"<b>{there['replicated']:.0%}</b>" in page
    assert f"of the same sign: {there['same_sign']:.0%} (by chance 50%)" in page
    (shown,) = json.loads(page.split('id="data">')[1].split("</script>")[0])
    n_shown = 0
    for link in shown["tables"]["links"]["rows"]:
        own_df = ledger_df[(ledger_df["gene"] == link["gene"]) & (ledger_df["feature"] == link["feature"])]
        assert [shown["units"][one[0]] for one in link["units"]] == own_df["unit"].tolist()
        for one, expected in zip(link["units"], own_df.to_dict("records"), strict=True):
            assert one[1] == expected["role"]
            columns = ("n", "n_effective", "r", "low", "high", "p", "same_sign")
            assert one[2:-1] == pytest.approx([expected[name] for name in columns], rel=1e-3)
            assert (one[-1] is None) == (expected["role"] == "found")
            n_shown += 1
        other = own_df[own_df["unit"] == "other"].iloc[0]
        holds = np.sign(other["r"]) == np.sign(link["r_within"]) and other["q"] <= 0.05
        assert (link["elsewhere"], link["elsewhere_of"]) == (int(holds), 1)
    assert n_shown == len(ledger_df)


ENCODER = """
title = "a foundation model of right shapes"
architecture = "timm:vit_tiny_patch16_224"
arguments = { img_size = 32, patch_size = 8, depth = 2, embed_dim = 48, num_heads = 2, reg_tokens = 2 }
key_prefix = "backbone."
mean = [0.70, 0.58, 0.70]
sd = [0.21, 0.23, 0.18]
input_px = 32
mpp = 0.5
layers = ["blocks.*", "norm"]
"""


def test_a_foundation_model_from_a_file(tmp_path):
    """Made-up weights under a prefix, class token and registers apart, the null network beside it."""
    (tmp_path / "fm.toml").write_text(ENCODER)
    architecture = f"encoder:{tmp_path / 'fm.toml'}"
    torch.manual_seed(3)
    state = construct(architecture, 2, 32).state_dict()
    state = {f"backbone.{key}": value for key, value in state.items() if not key.startswith("head.")}
    save_file(state, tmp_path / "fm.safetensors")
    settings = {"encoder": str(tmp_path / "fm.toml"), "encoder_weights": str(tmp_path / "fm.safetensors")}
    path = one_tissue(tmp_path, **settings, link_permutations=2000, n_cards=2, synthesis_steps=2)
    path.write_text(
        "".join(x for x in path.read_text().splitlines(True) if not x.startswith(("arch", "input_px")))
    )
    done = run_command(tmp_path, "--cohort", path)
    assert done.returncode == 0, done.stdout + done.stderr
    config = Config.load(str(path))
    assert (config.input_px, config.network_kind) == (32, "as it is")
    store = Store(config, root=tmp_path)
    labels = models.feature_table(architecture)["layer_label"]
    assert {"norm, class token", "norm, registers", "norm, patches", "embedding"} <= set(labels)
    assert len(store.load("features_test")) == len(labels)
    found = set(store.load("links")["gene"].astype(str))
    assert len(found & {f"G{i}" for i in range(10)}) >= 8
    checkpoint = torch.load(store.path("network"), weights_only=True)
    assert checkpoint["mean"] == [0.7, 0.58, 0.7]
    kept = {f"backbone.{key}": value for key, value in checkpoint["state_dict"].items()}
    assert all(torch.equal(kept[key], value) for key, value in state.items())
    (page,) = (tmp_path / "figures/mine/notebooks").glob("02_train*.html")
    assert "was trained at 0.5 µm/px" in page.read_text()
    (tmp_path / "fm.toml").write_text(ENCODER.replace('"norm"]', '"norm"]\nparts = ["class"]'))
    listed = run_command(tmp_path, "--cohort", path, "--list").stdout
    assert "encoder_digest" in listed


def test_a_folder_of_the_gdc(tmp_path):
    """From manifest folders to links: eight genes follow how dark diagnostic slides are, two of some."""
    gdc = tmp_path / "data/raw/tcga/gdc"
    gdc.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, genes = [], [f"ENSG{i:011d}.1" for i in range(80)]
    for k in range(24):
        sample, dark = f"TCGA-{'ABCDEF'[k % 6]}1-{k:04d}-01A", rng.uniform()
        image = glass(448, 512)
        colour = tuple(int(value - 70 * dark) for value in (215, 150, 190))
        image[32:416, 32:480] = textured(384, 448, seed=k, colour=colour)
        for n in range(1, 3 if k % 4 == 0 else 2):
            write_gdc_slide(gdc, f"{sample[:-1]}Z-00-DX{n}", image)
        level = 5 + rng.normal(scale=0.5, size=80)
        level[:8] += 4 * dark
        rows.append(row(write_rna(gdc, sample, np.exp2(level), genes=genes), sample))
    write_sheet(gdc, rows)
    text = (COHORTS_DIR / "examples/tcga.toml").read_text().replace('"imagenet"', '"random"')
    kept = [
        x for x in small_cohort.TOML.splitlines(True) if not x.startswith(("architecture", "expression_f"))
    ]
    path = tmp_path / "tcga.toml"
    path.write_text(text.replace("resnet34", "alexnet") + "".join(kept))
    done = run_command(tmp_path, "--cohort", path, "--to", "08", "--set", "link_permutations=2000")
    assert done.returncode == 0, done.stdout + done.stderr
    store = Store(Config.load(str(path), overrides={"link_permutations": 2000}), root=tmp_path)
    samples_df = store.load("samples")
    assert samples_df.groupby("tissue_source_site")["split"].nunique().eq(1).all()
    assert samples_df["tissue"].unique().tolist() == ["TCGA-COAD"]
    assert samples_df["slide_id"].str.count(";").sum() == 6
    assert store.load("tiles")["slide_id"].nunique() == 30
    found = set(store.load("links")["gene"].astype(str))
    assert len(found & set(genes[:8])) >= 6
    steps_df = pd.read_csv(store.figures / "cohort_steps.csv")
    assert "slides with a barcode or in the sheet" in set(steps_df["step"])


def test_slides_without_rna_end_with_their_features(tmp_path):
    path = small_cohort.make(tmp_path, encoder="random")
    text = path.read_text().replace('expression_file = "expression.csv.gz"', 'expression_file = ""')
    path.write_text(text)
    (tmp_path / "data/raw/mine/expression.csv.gz").unlink()
    checked = run_command(tmp_path, "--cohort", path, "--check")
    assert checked.returncode == 0, checked.stdout
    assert "no expression_file: the run ends with the features" in checked.stdout
    done = run_command(tmp_path, "--cohort", path)
    assert done.returncode == 0, done.stdout + done.stderr
    store = Store(Config.load(str(path)), root=tmp_path)
    assert store.notebooks == tuple(name for name in NOTEBOOKS if name[:2] in ("00", "01", "02", "04"))
    features_df = store.load("features_test")
    assert features_df.shape == (2816, int((store.load("samples")["split"] != "validation").sum()))
    page = (tmp_path / "figures/mine/index.html").read_text()
    assert "There is no expression table" in page
    assert "was correlated with" not in page


def test_a_folder_of_jpegs_with_a_csv(tmp_path):
    path = small_cohort.make(tmp_path)
    raw = tmp_path / "data/raw/mine"
    frame = pd.read_csv(raw / "samples.csv")
    for i, (sample, tissue) in enumerate(zip(frame["sample_id"], frame["tissue"], strict=True)):
        (raw / f"slides/{sample}.svs").unlink()
        image = glass(448, 512)
        image[32:416, 32:480] = textured(384, 448, seed=i, colour=small_cohort.COLOURS[tissue])
        Image.fromarray(image).save(raw / f"slides/{sample}.JPG", quality=95)
    done = run_command(tmp_path, "--cohort", path, "--to", "01")
    assert done.returncode == 1
    assert "does not state its µm/px: fill in column mpp" in done.stderr
    frame.assign(mpp=0.4942).to_csv(raw / "samples.csv", index=False)
    done = run_command(tmp_path, "--cohort", path, "--to", "01")
    assert done.returncode == 0, done.stdout + done.stderr
    slides_df = Store(Config.load(str(path)), root=tmp_path).load("slides")
    assert slides_df["state"].tolist() == ["ok"] * 12


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"encoder": "imagenet", "null_network": "shuffled"}, "'shuffled' trains a network"),
        ({"encoder": "imagenet", "weights": "/a/b.pt"}, "contradict each other"),
        ({"encoder": ""}, "encoder"),
        ({"expression_file": "", "features_file": "f.csv"}, "features_file needs an expression_file"),
    ],
)
def test_contradictions_are_refused(values, said):
    with pytest.raises(InputError, match=said):
        Config.checked({"cohort": "mine"} | values)


@pytest.mark.parametrize(
    ("values", "name", "kind", "sets"),
    [
        ({"encoder": "imagenet"}, "vgg16__imagenet__as_it_is", "as it is", ("train", "test")),
        ({"encoder": "random"}, "vgg16__untrained", "untrained", ("train", "test")),
        ({"encoder": "/a/uni.pt"}, "vgg16__uni-031b0c__as_it_is", "as it is", ("train", "test")),
        ({"encoder": "imagenet", "test_on": "test"}, "vgg16__imagenet__as_it_is", "as it is", ("test",)),
        (
            {"encoder": "imagenet", "null_network": "untrained"},
            "vgg16__untrained",
            "untrained",
            ("train", "test"),
        ),
        ({"encoder": "random", "quantify_train": True}, "vgg16__untrained", "untrained", ("test",)),
        ({}, "vgg16", "trained", ("test",)),
    ],
)
def test_an_encoder_as_it_is(values, name, kind, sets):
    config = Config.checked({"cohort": "mine"} | values)
    assert (config.run_name, config.network_kind, config.test_sets) == (name, kind, sets)
    again = Config.checked(config.model_dump())
    assert again == config, "a configuration is its own dump"


def test_visium_sections_from_space_ranger_to_links(tmp_path):
    """Two sections, no clusters: links within sections, each section by itself, the wrong-section null."""
    raw = tmp_path / "data/raw/mine"
    genes = [f"ENSG{g:04d}" for g in range(150)]
    for k, name in enumerate("AB"):
        write_run(raw / name, raw / f"{name}.png", side=13, seed=k, genes=genes)
    lines = 'source = "visium"\nencoder = "random"\narchitecture = "alexnet"\ntile_px = 64\n'
    lines += "tile_mpp = 1.5\ninput_px = 64\nlink_permutations = 200\nn_permutations = 50\n"
    lines += "e_threshold = 0.0\nthresholds = [[0.4, 0.0]]\n[visium_sections]\n"
    lines += "".join(f'{n} = {{ folder = "{n}", image = "{n}.png" }}\n' for n in "AB")
    (tmp_path / "mine.toml").write_text(lines)
    done = run_command(tmp_path, "--cohort", tmp_path / "mine.toml", "--to", "09")
    assert done.returncode == 0, done.stdout + done.stderr
    config = Config.load(str(tmp_path / "mine.toml"))
    assert (config.expression_unit, config.covariates, config.test_on) == ("CP10K", ("log_counts",), "all")
    store = Store(config, root=tmp_path)
    assert len(store.load("samples")) == 2 * 168
    assert store.load("features_test").shape[1] + store.load("features_validation").shape[1] == 2 * 168
    null_df = store.saved_table("spatial_null")
    assert null_df["n_pairings"].max() == 14
    ledger_df = store.load("ledger")
    assert set(ledger_df["unit"]) <= {"A", "B"}
    table_df = pd.read_csv(store.figures / "representations.csv", index_col=0)
    assert table_df.index.tolist() == ["alexnet, untrained", "20 colours and textures"]
    page = (store.figures / "index.html").read_text()
    assert "within sections" in page
