"""The rehearsal: real ids, whole donors, planted structure that is there, and a run without slides."""

import json
import os
import re

import numpy as np
import pandas as pd
import pytest

import run_all
from lib.artefacts import WITHOUT_SLIDES
from lib.cohort import summary
from lib.config import ROOT
from lib.features import from_file
from lib.network import models
from lib.simulated import demo_cohort, rehearsal, rehearsal_samples
from lib.simulated.rehearsal_values import draw_features, plan_genes
from lib.sources.gtex_tables import read_portal
from lib.statistics import correlation

N_SAMPLES = (60, 120, 160)
N_GENES = 900
TISSUES_CSV = ROOT / "data" / "reference" / "gtex_tissues.csv"


def paper_tissues():
    return pd.read_csv(TISSUES_CSV).query("in_paper")["tissue"].tolist()


def write_portal(path, n_donors=120):
    """A portal table of invented donors: each gave two thirds of the paper's tissues and a kidney medulla."""
    rng = np.random.default_rng(0)
    rows = []
    for donor in range(n_donors):
        for place, tissue in enumerate([*paper_tissues(), "Kidney - Medulla"]):
            if rng.random() < 2 / 3:
                name = f"GTEX-1{donor:03d}Z"
                rows.append([f"{name}-{place + 1:02d}26", tissue, name, "male", "50-59", "", "", ""])
    columns = ["Tissue Sample ID", "Tissue", "Subject ID", "Sex", "Age Bracket", "Hardy Scale"]
    table_df = pd.DataFrame(rows, columns=[*columns, "Pathology Categories", "Pathology Notes"])
    path.parent.mkdir(parents=True, exist_ok=True)
    table_df.to_csv(path, index=False)
    return path


def write_genes(path, n):
    rows = {"gene_id": [f"ENSG{i:011d}.1" for i in range(1, n + 1)], "gene_biotype": "protein_coding"}
    pd.DataFrame(rows | {"gene_name": [f"GENE{i}" for i in range(n)]}).to_csv(path, index=False)
    return path


HOW = {"architecture": "alexnet", "n_samples": N_SAMPLES, "n_genes": N_GENES, "seed": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What make says, its folder, and the folder of the tables it took."""
    root = tmp_path_factory.mktemp("rehearsal")
    write_portal(root / "gtex/GTExPortal.csv")
    write_genes(root / "gtex" / rehearsal.GENES_FILE, N_GENES - 2)
    said = rehearsal.make(root / "raw", [root / "gtex"], tissues=paper_tissues(), **HOW)
    return said, root / "raw", root / "gtex"


@pytest.fixture(scope="module")
def tables(made):
    _, raw, _ = made
    expression_df = pd.read_parquet(raw / "expression.parquet").set_index("gene")
    return pd.read_csv(raw / "samples.csv"), expression_df, pd.read_parquet(raw / "features.parquet")


def log2_of(expression_df, samples_df):
    """log2(1 + TPM) of the first RNA sample of each sample."""
    first = {i.split("-SM-")[0]: i for i in expression_df.columns[:1:-1]}
    values_df = expression_df[[first[i] for i in samples_df["sample_id"]]]
    return correlation.log2_expression(values_df.set_axis(samples_df["sample_id"].tolist(), axis=1))


def test_sizes_and_ids(made, tables):
    said, _, gtex = made
    samples_df, expression_df, features_df = tables
    assert samples_df["split"].value_counts()[["train", "validation", "test"]].tolist() == list(N_SAMPLES)
    portal_df = read_portal(gtex / "GTExPortal.csv").set_index("sample_id")
    assert (portal_df.loc[samples_df["sample_id"], "tissue"].to_numpy() == samples_df["tissue"]).all()
    assert samples_df["tissue"].nunique() == 39
    steps_df = pd.DataFrame(said["steps"])
    assert steps_df["n_left"].tolist()[-2:] == [sum(N_SAMPLES)] * 2
    assert (steps_df["n_left"].shift(1)[1:] - steps_df["n_dropped"][1:] == steps_df["n_left"][1:]).all()
    dropped_df = pd.DataFrame(said["dropped"])
    assert dropped_df["n"].sum() == steps_df["n_dropped"].sum() == len(portal_df) - sum(N_SAMPLES)
    of_tissue = dropped_df.set_index("reason")["n"]
    assert of_tissue["not in 39 tissues"] == (portal_df["tissue"] == "Kidney - Medulla").sum()
    left_df = summary.left_out(samples_df, samples_df, said["dropped"])
    assert left_df.loc["total", ["known", "kept"]].tolist() == [len(portal_df), sum(N_SAMPLES)]
    assert (samples_df.groupby("donor")["split"].nunique() == 1).all(), "a donor on two sides"
    assert said["n_invented_gene_ids"] == 2
    assert len(expression_df) == N_GENES
    assert expression_df.index.is_unique
    rna = expression_df.columns[2:]
    assert len(rna) == said["n_rna_samples"] == sum(N_SAMPLES) + round(108 / 1670 * sum(N_SAMPLES))
    assert {i.split("-SM-")[0] for i in rna} == set(samples_df["sample_id"])
    assert features_df.index.tolist() == models.feature_names("alexnet")
    assert set(features_df.columns) == set(samples_df.loc[samples_df["split"] != "train", "sample_id"])


def test_the_same_seed_gives_the_same_values(made, tables, tmp_path):
    _, _, gtex = made
    rehearsal.make(tmp_path, [gtex], tissues=paper_tissues(), **HOW)
    again_df = pd.read_parquet(tmp_path / "expression.parquet").set_index("gene")
    pd.testing.assert_frame_equal(again_df, tables[1], check_exact=True)
    again_df = pd.read_parquet(tmp_path / "features.parquet")
    pd.testing.assert_frame_equal(again_df, tables[2], check_exact=True)


def test_planted_structure_is_there(made, tables):
    """Direct genes follow their quantity within tissues, markers their tissue alone, nulls nothing."""
    _, raw, _ = made
    samples_df, expression_df, _ = tables
    quantities_df, truth_df = demo_cohort.read_truth(raw)
    log_df = log2_of(expression_df, samples_df).astype(float)
    within_df = log_df - log_df.T.groupby(samples_df["tissue"].to_numpy()).transform("mean").T
    hidden_df = quantities_df.loc[samples_df["sample_id"], list(demo_cohort.QUANTITIES)]
    hidden_df -= hidden_df.groupby(samples_df["tissue"].to_numpy()).transform("mean")
    varying = within_df.std(axis=1) > 0
    r_df = within_df[varying].T.corrwith
    r = {name: r_df(hidden_df[name]) for name in demo_cohort.QUANTITIES}
    direct_df = truth_df[truth_df["kind"] == "direct"]
    assert set(direct_df["quantity"]) == set(demo_cohort.QUANTITIES)
    for gene, row in direct_df.iterrows():
        assert np.sign(row["effect"]) * r[row["quantity"]][gene] > 0.4
    others = truth_df.index[truth_df["kind"].isin(["null", "marker"])].intersection(within_df.index[varying])
    assert max(np.quantile(r[name].loc[others].abs(), 0.99) for name in r) < 0.25
    medians_df = log_df.T.groupby(samples_df["tissue"].to_numpy()).median()
    markers_df = truth_df[truth_df["kind"] == "marker"]
    assert (medians_df[markers_df.index].idxmax() == markers_df["tissue"]).mean() > 0.95
    silent = (expression_df.iloc[:, 2:].max(axis=1) == 0).mean()
    assert 0.05 < silent < 0.2, "some genes are never seen, as in GTEx"


def test_features_give_pairs_of_both_kinds(made, tables):
    _, raw, _ = made
    samples_df, expression_df, features_df = tables
    test_df = samples_df[samples_df["split"] == "test"]
    log_df = log2_of(expression_df, test_df)
    table_df = correlation.highest_median(log_df, test_df.set_index("sample_id")["tissue"])
    result = correlation.correlate(
        log_df, features_df[log_df.columns], genes_table=table_df, r_threshold=0.7, progress=False
    )
    kind = demo_cohort.read_truth(raw)[1]["kind"].loc[result.pairs_df["gene"]]
    assert {"marker", "direct"} <= set(kind)
    assert (result.pairs_df["r"] < 0).any()
    assert result.constant_features, "some channels are dead"


def test_too_small_a_portal_says_what_it_has(made):
    _, _, gtex = made
    portal_df = read_portal(gtex / "GTExPortal.csv")
    with pytest.raises(ValueError, match=r"the train set wants 20,000 samples, and the portal table has \d"):
        rehearsal_samples.plan_samples(portal_df, paper_tissues(), (20_000, 10, 10), 0)


def test_even_quotas():
    available = pd.Series({"a": 3, "b": 50, "c": 50})
    assert rehearsal_samples.even_quotas(available, 24, "it").to_dict() == {"a": 3, "b": 10, "c": 11}
    assert rehearsal_samples.even_quotas(available, 103, "it").sum() == 103


def test_networks_that_are_no_plain_chain_are_refused(made):
    _, _, gtex = made
    portal_df = read_portal(gtex / "GTExPortal.csv")
    plan_df = rehearsal_samples.plan_samples(portal_df, paper_tissues(), N_SAMPLES, 0)
    with pytest.raises(ValueError, match="plain chains"):
        draw_features(models.feature_table("resnet34"), plan_df, 0)


def test_too_few_genes_for_the_planted():
    ids_df = pd.DataFrame({"gene": list("abc"), "symbol": list("abc"), "biotype": ""})
    with pytest.raises(ValueError, match="3 genes are too few for 46 planted"):
        plan_genes(ids_df, paper_tissues(), 0)


@pytest.mark.skipif(not os.environ.get("DATA_MIRROR"), reason="DATA_MIRROR names no folder with gtex/")
def test_the_papers_sizes_from_the_real_portal_table():
    mirror = ROOT / os.environ["DATA_MIRROR"] / "gtex"
    plan_df = rehearsal_samples.plan_samples(
        read_portal(mirror / "GTExPortal.csv"), paper_tissues(), (1006, 330, 334), 0
    )
    assert plan_df["split"].value_counts().to_dict() == {"train": 1006, "validation": 330, "test": 334}
    assert (plan_df.groupby(["split", "tissue"]).size().unstack("split") > 0).all().all()
    assert (plan_df.groupby("donor")["split"].nunique() == 1).all()


# ------------------------------------------------------------------------------- feature tables


def test_a_feature_table_is_checked(tmp_path):
    names = models.feature_names("alexnet")
    values = np.arange(2.0 * len(names)).reshape(-1, 2)
    good_df = pd.DataFrame(values, index=names[::-1], columns=["a", "b"])
    good_df.to_csv(tmp_path / "f.csv")
    read_df = from_file.read_features(tmp_path / "f.csv", "alexnet")
    assert read_df.index.tolist() == names
    assert read_df.loc[names[-1]].tolist() == [0.0, 1.0]
    with pytest.raises(FileNotFoundError, match="features_file"):
        from_file.read_features(tmp_path / "none.csv", "alexnet")
    with pytest.raises(ValueError, match=r"not of vgg11: it lacks \d,\d+ of 6,976 features \(first \['"):
        from_file.read_features(tmp_path / "f.csv", "vgg11")
    good_df.replace(3.0, np.nan).to_csv(tmp_path / "nan.csv")
    with pytest.raises(ValueError, match=f"'{names[-2]}' is missing or infinite in sample 'b', as are 1 val"):
        from_file.read_features(tmp_path / "nan.csv", "alexnet")
    good_df.assign(b="x").to_csv(tmp_path / "text.csv")
    with pytest.raises(ValueError, match="no numbers, first 'b'"):
        from_file.read_features(tmp_path / "text.csv", "alexnet")
    (tmp_path / "f.xlsx").touch()
    with pytest.raises(ValueError, match=r"\.parquet or \.csv"):
        from_file.read_features(tmp_path / "f.xlsx", "alexnet")


def test_features_by_set():
    features_df = pd.DataFrame(1.0, index=["0_0"], columns=["v2", "t1", "v1", "other"])
    samples_df = pd.DataFrame(
        {"sample_id": ["v1", "v2", "t1", "x"], "split": ["validation", "validation", "test", "train"]}
    )
    validation_df, test_df = from_file.by_set(features_df, samples_df)
    assert validation_df.columns.tolist() == ["v1", "v2"]
    assert test_df.columns.tolist() == ["t1"]
    with pytest.raises(ValueError, match=r"none of the 1 test samples: they are \['t1'\]"):
        from_file.by_set(features_df.drop(columns="t1"), samples_df)


# --------------------------------------------------------------------------------- the whole run


@pytest.mark.slow
def test_run_without_slides(tmp_path, monkeypatch, capsys):
    """00, then 05 to 08, on a tiny rehearsal; nothing is done twice; notebooks with slides are refused."""
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cohort = (ROOT / "data/cohorts/gtex-rehearsal.toml").read_text()
    sizes = "rehearsal_samples = [80, 120, 160]\nrehearsal_genes = 700\nn_permutations = 60\n"
    tiny = tmp_path / "tiny.toml"
    tiny.write_text(sizes + cohort.replace('"vgg16"', '"alexnet"'))
    write_portal(tmp_path / "data/raw/gtex/GTExPortal.csv")
    write_genes(tmp_path / "data/raw/gtex" / rehearsal.GENES_FILE, 700)
    assert run_all.main(["--cohort", str(tiny)]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^(\d\d_\w+)(?: \S+)? +ran", said, re.M) == list(WITHOUT_SLIDES)
    assert "direct genes found" in said
    assert "accuracy" not in said, "no network was run"
    (pairs,) = (tmp_path / "data/derived/tiny").rglob("pairs.parquet")
    assert len(pd.read_parquet(pairs)) > 50
    caption = json.loads(next((tmp_path / "figures/tiny").glob("s3_fig_rep*.png.json")).read_text())
    assert caption["caption"].endswith("Synthetic data.")
    assert run_all.main(["--cohort", str(tiny), "--list"]) == 0
    assert capsys.readouterr().out.count("up to date") == len(WITHOUT_SLIDES)
    for arguments, words in (
        (["--only", "02"], "stands for slides"),
        (["--null-networks", "shuffled"], "one"),
    ):
        assert run_all.main(["--cohort", str(tiny), *arguments]) == 2
        assert words in capsys.readouterr().err
