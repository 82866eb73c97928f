"""The whole run on a small simulated cohort, headlessly: up to date, stale, failed, killed; other cohorts."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, run_command, run_small
from scipy import stats

from lib.artefacts import WORK_FOLDERS
from lib.config import ROOT, Config
from lib.config_values import parse_setting
from lib.explore import inspection, pair_files
from lib.network.models import feature_table
from lib.store import Store
from lib.tiles import tile_quality

pytestmark = pytest.mark.slow


def states(done):
    """Notebook -> state, from the table that run_all prints at its end."""
    line = r"^(\d\d_\w+)(?: \S+)? +(ran|up to date|failed|not reached) +[\d.]+$"
    return dict(re.findall(line, done.stdout, re.MULTILINE))


def artefact(root, name):
    (path,) = (root / "data/derived").rglob(name)
    return pd.read_parquet(path)


def test_every_notebook_ran_and_left_its_pages(finished):
    root, done = finished
    assert set(states(done).values()) == {"ran"}
    assert str(root / "figures/demo/index.html") in done.stdout
    pages = {path.name for path in (root / "figures/demo/notebooks").glob("*.html")}
    assert {"00_cohort.html", "05_correlate__alexnet.html"} <= pages
    index = (root / "figures/demo/index.html").read_text()
    assert "fig3_genes_per_layer__alexnet.png" in index
    assert "synthetic" in index, "simulated data must be labelled"
    n_features = len(artefact(root, "features_test.parquet"))
    assert f"({n_features:,} in all)" in index[index.index("Methods, in words") :]
    plain_df = artefact(root, "plain_correlates.parquet")
    assert plain_df.index.tolist() == artefact(root, "features_test.parquet").index.tolist()
    assert set(plain_df["most_like"]) <= {"", *tile_quality.SAMPLE_MEASURES}
    for page in [index, *[p.read_text() for p in (root / "figures/demo/notebooks").glob("*.html")]]:
        assert not re.search(r'(src|href)="https?://[^"]+\.(js|css)', page), "pages must not fetch anything"


def test_figures_of_executed_notebooks_are_pictures(finished):
    root, _ = finished
    n_pictures = 0
    for path in (root / "figures/demo/notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for data in (output.get("data", {}) for output in cell.get("outputs", [])):
                if str(data.get("text/plain", "")).startswith("<Figure"):
                    assert "image/png" in data, (
                        f"{path.name} names a figure and does not show it:\n{cell.source}"
                    )
                    n_pictures += 1
    assert n_pictures > 20


def test_pairs_are_the_correlations_they_say(finished):
    """pairs.parquet against scipy, from the artefacts on disk alone."""
    root, _ = finished
    pairs_df, features_df = artefact(root, "pairs.parquet"), artefact(root, "features_test.parquet")
    expression_df, samples_df = artefact(root, "expression.parquet"), artefact(root, "samples.parquet")
    test = samples_df.loc[samples_df["split"] == "test", "sample_id"]
    assert set(features_df.columns) <= set(test)
    assert len(pairs_df) > 100
    for pair in pairs_df.sample(25, random_state=1).itertuples():
        x = np.log2(1 + expression_df.loc[pair.gene, features_df.columns].astype(float))
        assert pair.r == pytest.approx(stats.pearsonr(x, features_df.loc[pair.feature])[0], abs=1e-5)
        medians = x.groupby(samples_df.set_index("sample_id")["tissue"]).median()
        assert pair.max_median_log2 == pytest.approx(medians.max(), abs=1e-4)
        assert medians[pair.tissue] == pytest.approx(medians.max(), abs=1e-4)


def test_the_code_saved_with_a_pair_makes_its_figures_again(finished, tmp_path, monkeypatch):
    """In another folder, byte for byte (with the time in PDF files held still)."""
    root, _ = finished
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    config = Config.load("demo", "", dict(map(parse_setting, SMALL)))
    run = inspection.load(Store(config, "11_inspect", root))
    gene, feature = run.start
    slide = str(inspection.slides_by_value(run, feature).index[0])
    inspection.slide_values(run, feature, slide)
    inspection.feature_view(run, feature)
    monkeypatch.chdir(tmp_path)
    slides = set()
    for _ in range(2):  # with a value for each tile, then with one for each position
        *pictures, code = pair_files.save(run, gene, feature, slide)
        saved = {path.name: path.read_bytes() for path in pictures if path.suffix == ".pdf"}
        assert len(pictures) == 2 * len(saved) == 6
        runpy.run_path(str(code))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == saved
        slides.add(next(content for name, content in saved.items() if "_slide_" in name))
        inspection.slide_maps(run, feature, slide)
    assert len(slides) == 2


def test_contract_of_samples_and_tiles(finished):
    root, _ = finished
    samples_df, tiles_df = artefact(root, "samples.parquet"), artefact(root, "tiles.parquet")
    assert {"sample_id", "slide_id", "donor", "tissue", "split"} <= set(samples_df)
    donors = samples_df.groupby("donor")["split"].nunique()
    assert (donors == 1).all(), "a donor on two sides"
    assert (
        tiles_df["tile_id"]
        == tiles_df["sample_id"] + "_" + tiles_df["column"].astype(str) + "_" + tiles_df["row"].astype(str)
    ).all()
    assert (tiles_df["l0_size"] == 256).all(), "128 px at 0.9884 is 256 px at 0.4942 µm/px"
    found = (root / "data/derived/demo").rglob("*.parquet.json")
    records = [path for path in found if path.parent.name not in WORK_FOLDERS]
    assert records
    assert all({"config", "inputs", "versions", "seed"} <= set(json.loads(p.read_text())) for p in records)


def test_second_run_repeats_nothing(finished):
    root, _ = finished
    done = run_small(root, "--wait")  # for a test beside this one that saves there
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(states(done).values()) == {"up to date"}


def test_a_transformer_runs_like_the_others_and_is_compared(finished, tmp_path):
    """A timm encoder by name, as a null network, through every notebook; 09 sets it beside AlexNet."""
    whole, _ = finished
    root = tmp_path / "run"
    # The store replaces files and never writes into them, so that links serve as a copy.
    shutil.copytree(whole / "data", root / "data", copy_function=os.link)
    shutil.copytree(whole / "figures", root / "figures")
    done = run_small(root, "--architectures", "timm:test_vit", settings=["null_network='untrained'"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(done)["02_train"] == states(done)["09_architectures"] == "ran"
    (path,) = (root / "data/derived/demo").rglob("timm_test_vit__untrained/features_test.parquet")
    features_df, table_df = pd.read_parquet(path), feature_table("timm:test_vit")
    assert features_df.index.tolist() == table_df["feature"].tolist()
    assert {"Conv2d", "LayerNorm", "Linear", "GELU"} <= set(table_df["layer_kind"]), "tokens and maps"
    varies = features_df.std(axis=1).gt(0)
    assert varies.mean() > 0.97, "they vary from slide to slide, but for class tokens that attended to none"
    before = table_df["layer_label"].isin(["blocks.0.norm1, class token", "blocks.0.attn.qkv, class token"])
    assert varies[~before.to_numpy()].mean() > 0.99
    for stem in ("tab2_tile_accuracy", "tab3_slide_accuracy", "tab4_pairs", "networks_learned"):
        rows_df = pd.read_csv(root / f"figures/demo/{stem}.csv")
        found = list(zip(rows_df["architecture"], rows_df["network"], strict=True))
        assert found == [("alexnet", "trained"), ("timm:test_vit", "untrained")]
    pairs_df = pd.read_parquet(path.with_name("pairs.parquet"))
    expected = ((pairs_df["r"] >= 0.8) & (pairs_df["max_median_log2"] >= 10)).sum()
    counts_df = pd.read_csv(root / "figures/demo/tab4_pairs.csv").set_index("architecture")
    assert counts_df.loc["timm:test_vit", "n_pairs"] == expected
    sizes_df = pd.read_csv(root / "figures/demo/tab1_networks.csv")
    assert len(sizes_df) == 13
    assert sizes_df["as_printed"].all()


def test_changed_parameter_repeats_what_depends_on_it(finished):
    root, _ = finished
    listed = run_small(root, "--list", settings=["r_threshold=0.6"]).stdout
    assert "r_threshold" in listed
    needed = {line.split()[0] for line in listed.splitlines() if not line.endswith("up to date")}
    assert needed
    assert min(needed) == "05_correlate", needed


def test_wrong_configuration_stops_before_any_kernel(tmp_path):
    """Other wrong requests: test_run_all.py."""
    done = run_small(tmp_path, settings=["epoch=3"])
    assert done.returncode == 2
    assert "did you mean 'epochs'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_failing_notebook_is_named(tmp_path):
    """A broken input: exit code 1, the notebook, the cell, the error and the executed copy."""
    (tmp_path / "mine.toml").write_text('samples_file = "samples.csv"\nexpression_file = "expression.csv"\n')
    raw = tmp_path / "data/raw/mine"
    raw.mkdir(parents=True)
    (raw / "samples.csv").write_text("sample_id,slide_id,donor,tissue\nA1,A1,d1,liver\nA2,A2,d2,lung\n")
    (raw / "expression.csv").write_text("gene,X1,X2\ng1,1,2\n")
    done = run_command(tmp_path, "--cohort", tmp_path / "mine.toml")
    assert done.returncode == 1
    assert states(done)["00_cohort"] == "failed"
    assert states(done)["01_tiles"] == "not reached"
    assert re.search(r"00_cohort failed in cell \d+: InputError", done.stderr)
    assert "A1" in done.stderr
    assert "X1" in done.stderr, "an empty join shows ids of both sides"
    assert (tmp_path / "figures/mine/notebooks/00_cohort.ipynb").is_file()


def test_killed_run_resumes_to_the_same_artefacts(finished, tmp_path):
    """SIGKILL in the middle of the work, twice; the run after that ends where an uninterrupted one ends."""
    whole, _ = finished
    command = [sys.executable, str(ROOT / "run_all.py"), "--cohort", "demo", "--set", *SMALL]
    environment = os.environ | {"HISTOCORR_ROOT": str(tmp_path)}
    for sign in ("stacks/[!.]*.parquet", "training/last.pt"):  # what has appeared when we kill
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL
        )
        deadline = time.time() + 300
        while not list((tmp_path / "data").rglob(sign)) and process.poll() is None and time.time() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not list((tmp_path / "data").rglob("features_test.parquet")), "killed too late to test anything"
    done = run_small(tmp_path, "--to", "05")
    assert done.returncode == 0, done.stderr
    for name in ("samples", "expression", "tiles", "predictions", "features_test", "pairs"):
        mine, theirs = artefact(tmp_path, f"{name}.parquet"), artefact(whole, f"{name}.parquet")
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True, obj=name)


def test_own_cohort_needs_no_code(finished, tmp_path):
    """A TOML, a samples table, an expression csv and slides elsewhere on the disk; VGG16, at 32 px."""
    root, _ = finished
    theirs = root / "data/raw/demo"
    (tmp_path / "mine.toml").write_text(
        f'title = "Mine"\nslides_dir = "{theirs / "slides"}"\nexpression_file = "expression.csv"\n'
        'architecture = "vgg16"\nsplit_by = "slide"\nsplit_fractions = [0.4, 0.2, 0.4]\ntile_px = 128\n'
        "input_px = 32\nepochs = 1\nn_permutations = 50\nlink_permutations = 1000\n"
        'n_cards = 3\nsynthesis_steps = 4\ngene_sets = "sets.gmt"\n'
    )
    raw = tmp_path / "data/raw/mine"
    raw.mkdir(parents=True)
    samples_df = artefact(root, "samples.parquet").drop(columns="split")
    samples_df.loc[0, "slide_id"] = "lost"  # one slide is missing: recorded, and the run goes on
    samples_df.to_csv(raw / "samples.csv", index=False)
    expression_df = artefact(root, "expression.parquet").head(200)
    expression_df.to_csv(raw / "expression.csv")
    high = expression_df.median(axis=1).nlargest(24).index
    sets = {"all high": high, "half": high[::2], "few": high[:5]}
    (raw / "sets.gmt").write_text("".join("\t".join([name, "", *of]) + "\n" for name, of in sets.items()))
    done = run_command(tmp_path, "--cohort", tmp_path / "mine.toml", "--to", "11")
    assert done.returncode == 0, done.stdout + done.stderr
    lost = artefact(tmp_path, "slides.parquet").set_index("slide_id").loc["lost"]
    assert lost["state"] == "failed"
    assert "lost.svs" in lost["reason"]
    tested = artefact(tmp_path, "gene_sets.parquet")
    assert tested["n_genes"].to_dict() == {"all high": 24, "half": 12}
    assert tested["p"].between(0, 1, inclusive="right").all()
    features = artefact(tmp_path, "features_test.parquet").index
    assert (len(features), features[0], features[-1]) == (9920, "0_0", "30_511")
    assert "Scorecard against the planted truth" not in done.stdout


@pytest.mark.skipif(
    not os.environ.get("DATA_MIRROR"), reason="DATA_MIRROR names no folder with the her2st files"
)
def test_her2st_one_epoch(tmp_path):
    """Real tissue, spots as samples, whole sections as sets."""
    settings = ("epochs=1", "n_permutations=50", "link_permutations=300", "n_cards=3", "synthesis_steps=4")
    settings += ("e_threshold=2.0", "thresholds=[[0.4,2.0]]")  # 600 genes, those that vary most smoothly
    done = run_command(tmp_path, "--cohort", "her2st", "--to", "11", "--set", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    samples_df = artefact(tmp_path, "samples.parquet")
    assert samples_df.groupby("slide_id")["split"].nunique().eq(1).all()
    assert artefact(tmp_path, "tiles.parquet")["sample_id"].is_unique, "one tile per spot"
    figures = tmp_path / "figures/her2st"
    null_df = pd.read_csv(figures / "spatial_null__alexnet.csv").set_index(["test", "genes", "level"])
    rate = null_df["rejected"]
    for genes in ("all", "highest Moran's I"):
        # AlexNet after 20 epochs: 5.1 and 5.2 % (data/README.md).
        assert 0.025 < rate["pair, effective size", genes, 0.05] < 0.06
        assert 0.0002 < rate["pair, effective size", genes, 0.001] < 0.002
    assert rate["pair, spots as if independent", "highest Moran's I", 0.05] > 0.08
    ledger_df = artefact(tmp_path, "ledger.parquet")
    roles = {unit: set(df["role"]) for unit, df in ledger_df.groupby("unit")}
    assert roles["C3"] == {"section"}
    assert set(roles) == {"C3", "C4", "C5"}
    assert roles["C4"] | roles["C5"] <= {"found", "left out"}
    assert (ledger_df["q"].isna() == (ledger_df["role"] == "found")).all()
    left_df = artefact(tmp_path, "sections_left_out.parquet")
    assert left_df["section"].tolist() == ["C3", "C4", "C5"]
    assert (left_df["same_sign"].dropna() > 0.65).all(), "half of them by chance; none where none is found"
