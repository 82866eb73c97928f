"""The rehearsal: real ids, whole donors, planted structure that can be measured, and a run without slides."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from gtex_factory import GTEX, needs_gtex
from gtex_factory import write_portal as write_rows

import run_all
from lib.artefacts import WITHOUT_SLIDES
from lib.config import ROOT
from lib.network import models
from lib.simulated import demo_cohort, rehearsal
from lib.simulated.slides import QUANTITIES
from lib.sources.gtex_tables import read_portal
from lib.statistics import correlation, expression_levels

N_SAMPLES = (60, 120, 160)
N_GENES = 900
SIZES = ["--samples", *map(str, N_SAMPLES), "--genes", str(N_GENES), "--architecture", "alexnet"]


def write_portal(path, n_donors=120):
    """A portal table of invented donors: each gave two thirds of the paper's tissues and a kidney medulla."""
    rng = np.random.default_rng(0)
    tissues = pd.read_csv(rehearsal.TISSUES_CSV).query("in_paper")["tissue"].tolist()
    rows = []
    for donor in range(n_donors):
        for place, tissue in enumerate([*tissues, "Kidney - Medulla"]):
            if rng.random() < 2 / 3:
                name = f"GTEX-1{donor:03d}Z"
                rows.append([f"{name}-{place + 1:02d}26", tissue, name, "male", "50-59", "", "", ""])
    return write_rows(path, rows)


def write_genes(path, n):
    rows = {"gene_id": [f"ENSG{i:011d}.1" for i in range(1, n + 1)], "gene_biotype": "protein_coding"}
    pd.DataFrame(rows | {"gene_name": [f"GENE{i}" for i in range(n)]}).to_csv(path, index=False)
    return path


def plan(portal_df, n_samples=N_SAMPLES):
    rng = np.random.default_rng(0)
    return rehearsal.plan_samples(portal_df, rehearsal.paper_tissues(portal_df), n_samples, rng)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The folder of a small rehearsal; beside it that of the tables it was made from."""
    root = tmp_path_factory.mktemp("rehearsal")
    write_portal(root / "gtex" / rehearsal.PORTAL_FILE)
    write_genes(root / "gtex" / rehearsal.GENES_FILE, N_GENES - 2)
    assert rehearsal.main([str(root / "raw"), *SIZES]) == 0
    return root / "raw"


@pytest.fixture(scope="module")
def portal_df(raw):
    return read_portal(raw.parent / "gtex" / rehearsal.PORTAL_FILE)


@pytest.fixture(scope="module")
def tables(raw):
    expression_df = pd.read_parquet(raw / "expression.parquet").set_index("gene")
    return pd.read_csv(raw / "samples.csv"), expression_df, pd.read_parquet(raw / "features.parquet")


def log2_of(expression_df, samples_df):
    """log2(1 + TPM) of the first RNA sample of each sample."""
    first = {i.split("-SM-")[0]: i for i in expression_df.columns[:1:-1]}
    values_df = expression_df[[first[i] for i in samples_df["sample_id"]]]
    return expression_levels.log2_expression(values_df.set_axis(samples_df["sample_id"].tolist(), axis=1))


def test_sizes_and_ids(portal_df, tables):
    samples_df, expression_df, features_df = tables
    assert samples_df["split"].value_counts()[["train", "validation", "test"]].tolist() == list(N_SAMPLES)
    of_sample = portal_df.set_index("sample_id")["tissue"]
    assert (of_sample.loc[samples_df["sample_id"]].to_numpy() == samples_df["tissue"]).all()
    assert samples_df["tissue"].nunique() == 39
    assert "Kidney - Medulla" not in set(samples_df["tissue"])
    assert (samples_df.groupby("donor")["split"].nunique() == 1).all(), "a donor in two sets"
    assert len(expression_df) == N_GENES
    assert expression_df.index.is_unique
    assert expression_df["symbol"].str.startswith("SYN").sum() == 2, "two more genes than known ids"
    rna = expression_df.columns[2:]
    assert len(rna) == sum(N_SAMPLES) + round(108 / 1670 * sum(N_SAMPLES))
    assert {i.split("-SM-")[0] for i in rna} == set(samples_df["sample_id"])
    assert features_df.index.tolist() == models.feature_names("alexnet")
    assert set(features_df.columns) == set(samples_df.loc[samples_df["split"] != "train", "sample_id"])


def test_the_same_seed_gives_the_same_values(raw, tables, tmp_path):
    assert rehearsal.main([str(tmp_path), "--tables", str(raw.parent / "gtex"), *SIZES]) == 0
    again_df = pd.read_parquet(tmp_path / "expression.parquet").set_index("gene")
    pd.testing.assert_frame_equal(again_df, tables[1], check_exact=True)
    again_df = pd.read_parquet(tmp_path / "features.parquet")
    pd.testing.assert_frame_equal(again_df, tables[2], check_exact=True)


def test_planted_structure_is_there(raw, tables):
    """Direct genes follow their quantity within tissues, markers their tissue alone, nulls nothing."""
    samples_df, expression_df, _ = tables
    quantities_df, truth_df = demo_cohort.read_truth(raw)
    log_df = log2_of(expression_df, samples_df).astype(float)
    within_df = log_df - log_df.T.groupby(samples_df["tissue"].to_numpy()).transform("mean").T
    hidden_df = quantities_df.loc[samples_df["sample_id"], list(QUANTITIES)]
    hidden_df -= hidden_df.groupby(samples_df["tissue"].to_numpy()).transform("mean")
    varying = within_df.std(axis=1) > 0
    r_df = within_df[varying].T.corrwith
    r = {name: r_df(hidden_df[name]) for name in QUANTITIES}
    direct_df = truth_df[truth_df["kind"] == "direct"]
    assert set(direct_df["quantity"]) == set(QUANTITIES)
    for gene, row in direct_df.iterrows():
        assert np.sign(row["effect"]) * r[row["quantity"]][gene] > 0.4
    others = truth_df.index[truth_df["kind"].isin(["null", "marker"])].intersection(within_df.index[varying])
    assert max(np.quantile(r[name].loc[others].abs(), 0.99) for name in r) < 0.25
    medians_df = log_df.T.groupby(samples_df["tissue"].to_numpy()).median()
    markers_df = truth_df[truth_df["kind"] == "marker"]
    assert (medians_df[markers_df.index].idxmax() == markers_df["tissue"]).mean() > 0.95
    silent = (expression_df.iloc[:, 2:].max(axis=1) == 0).mean()
    assert 0.05 < silent < 0.2, "some genes are never seen, as in GTEx"


def test_features_give_pairs_of_both_kinds(raw, tables):
    samples_df, expression_df, features_df = tables
    test_df = samples_df[samples_df["split"] == "test"]
    log_df = log2_of(expression_df, test_df)
    table_df = expression_levels.highest_median(log_df, test_df.set_index("sample_id")["tissue"])
    result = correlation.correlate(
        log_df, features_df[log_df.columns], genes_table=table_df, r_threshold=0.7, progress=False
    )
    kind = demo_cohort.read_truth(raw)[1]["kind"].loc[result.pairs_df["gene"]]
    assert {"marker", "direct"} <= set(kind)
    assert (result.pairs_df["r"] < 0).any()
    left_out_df = correlation.left_out(log_df, features_df).set_index("left_out")
    assert left_out_df.loc["constant features", "n"], "some channels are dead"


def test_too_small_a_portal_says_what_it_has(portal_df):
    with pytest.raises(ValueError, match=r"the train set needs 20,000 samples, but its donors gave \d"):
        plan(portal_df, (20_000, 10, 10))


def test_tissues_are_as_even_as_the_portal_allows():
    counts = {"a": 3, "b": 50, "c": 50}
    rows = [(f"{tissue}{i}", tissue, "donor") for tissue, n in counts.items() for i in range(n)]
    portal_df = pd.DataFrame(rows, columns=["sample_id", "tissue", "donor"])
    plan_df = rehearsal.plan_samples(portal_df, list(counts), (24, 0, 0), np.random.default_rng(0))
    assert sorted(plan_df["tissue"].value_counts()) == [3, 10, 11]


def test_the_command_says_why_it_failed(raw, tmp_path, capsys):
    command = [str(tmp_path / "none"), "--tables", str(raw.parent / "gtex"), *SIZES]
    assert rehearsal.main([*command, "--architecture", "resnet34"]) == 2
    assert "plain chains" in capsys.readouterr().err
    assert rehearsal.main([*command, "--genes", "40"]) == 2
    assert "n_genes = 40 is too few for 46 planted genes" in capsys.readouterr().err


@needs_gtex
def test_the_papers_sizes_from_the_real_portal_table():
    plan_df = plan(read_portal(GTEX / rehearsal.PORTAL_FILE), rehearsal.N_SAMPLES)
    assert plan_df["split"].value_counts().to_dict() == {"train": 1006, "validation": 330, "test": 334}
    assert (plan_df.groupby(["split", "tissue"]).size().unstack("split") > 0).all().all()
    assert (plan_df.groupby("donor")["split"].nunique() == 1).all()


# --------------------------------------------------------------------------------- the whole run


@pytest.mark.slow
def test_run_without_slides(tmp_path, monkeypatch, capsys):
    """The command, then 00 and 05 to 08; nothing is done twice; notebooks with slides are refused."""
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cohort = (ROOT / "data/cohorts/gtex-rehearsal.toml").read_text()
    tiny = tmp_path / "tiny.toml"
    tiny.write_text("n_permutations = 60\n" + cohort.replace('"vgg16"', '"alexnet"'))
    assert run_all.main(["--cohort", str(tiny)]) == 2
    command = f"python -m lib.simulated.rehearsal {tmp_path}/data/raw/tiny"
    assert f"samples.csv is missing: make it with {command}" in capsys.readouterr().err
    write_portal(tmp_path / "data/raw/gtex" / rehearsal.PORTAL_FILE)
    write_genes(tmp_path / "data/raw/gtex" / rehearsal.GENES_FILE, 700)
    sizes = ["--samples", "80", "120", "160", "--genes", "700", "--architecture", "alexnet"]
    assert rehearsal.main([*command.split()[3:], *sizes]) == 0
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
    for arguments in (["--only", "02"], ["--null-networks", "shuffled"]):
        assert run_all.main(["--cohort", str(tiny), *arguments]) == 2
        assert "features_file" in capsys.readouterr().err
