"""Timings of the statistics: that they measure what they say, on a tiny size; not speed itself."""

import pandas as pd
import pytest

from lib.benchmarks import gct, gpu, inspector, networks, run, spatial, statistics, tiles, timing
from lib.benchmarks.statistics import Size
from lib.figures import benchmark_plots

TINY = Size(
    n_genes=120, n_features=80, n_slides=90, n_pairs=30, n_permutations=12, n_max_genes=40,
    n_max_permutations=6, n_repeats=1, n_peer_calls=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return statistics.statistics_rows(TINY)


def test_every_comparison_is_there(rows):
    table_df = timing.table(rows)
    assert list(table_df) == [*timing.COLUMNS, "met"]
    assert (table_df[["ours_s", "peer_s"]] > 0).all().all()
    assert table_df["ratio"].tolist() == pytest.approx((table_df["ours_s"] / table_df["peer_s"]).tolist())
    peers = " ".join(table_df["limit_or_peer"])
    for peer in ("bare float32 product", "torch, plain passes", "numpy.corrcoef", "scipy.stats.pearsonr"):
        assert peer in peers
    assert "pingouin.partial_corr" in peers
    works = " ".join(table_df["work"])
    for work in ("all pairs, threshold", "p of 30 pairs, 12 permutations, within_tissue", "three partial"):
        assert work in works
    for work in (
        "40 genes x 80 features, 6 permutations, z",
        "peak memory of correlate",
        "peak memory of the max statistic of 120 genes with covariates, 12 permutations, 78 slides",
        "validation against",
    ):
        assert work in works
    assert table_df["measured_on"].str.fullmatch(r"\d{4}-\d\d-\d\d").all()
    assert table_df["versions"].str.contains("torch ").all()


def test_rows_of_a_gpu_with_the_cpu_in_its_place(monkeypatch, capsys):
    """The code of the GPU's rows on a tiny size; p equal; what no time is left for is named."""
    monkeypatch.setattr(gpu, "Size", lambda **changes: TINY._replace(**changes))
    small = networks.Size(input_px=32, n_classes=3, n_tiles=8, n_repeats=1)
    monkeypatch.setattr(gpu, "SIZE", small)
    monkeypatch.setattr(gpu, "TRAINED", small)
    every = gpu._measurements("cpu")
    kept = [(name, measure) for name, measure in every if "256" not in name and "inception" not in name]
    monkeypatch.setattr(gpu, "_measurements", lambda device: kept[:3] + kept[-4:-2])
    table_df = gpu.gpu_table(5, "cpu")
    works = table_df["work"].tolist()
    assert "120 genes x 80 features, 12 permutations" in works[0]
    assert works[1].startswith("max statistic within tissues, 120 genes x 80 features, 12 permutations")
    assert (table_df["limit_or_peer"][2], table_df["ours_s"][2]) == ("tolerance", 0)
    assert works[3].startswith("loader alone, 32 px, batch 64, 0 threads")
    assert table_df["tiles_per_s"].notna().tolist() == [False, False, False, True, False]
    assert (table_df["met"] != "").all()
    assert gpu.gpu_table(-1, "cpu").empty
    assert "no time or memory was left for 5 rows: null maxima, test of links" in capsys.readouterr().out


def test_met():
    table_df = pd.DataFrame(
        [("a", 3.0, 1.2, "<= 1.3"), ("b", 3.0, 1.0, "< 1"), ("c", 3.0, 0.1, "2 s"), ("d", 1.5, 9.0, "1.5 GB")]
        + [("e", 1.0, 1.0, "")],
        columns=["work", "ours_s", "ratio", "target"],
    )
    assert timing.met(table_df).tolist() == ["yes", "no", "no", "yes", ""]
    with pytest.raises(ValueError, match=r"target .fast. of .a. is none of"):
        timing.met(table_df.assign(target="fast"))


def test_the_rings_of_spots_are_timed():
    of_links, alone = spatial.spatial_rows(n_genes=50, n_features=60, edge=6, n_repeats=1)
    work = "effective size, 4 rings: 0 M pairs, 36 spots"
    assert of_links["work"] == f"{work}; as links take it, r at hand"
    assert alone["work"] == f"{work}; alone"
    assert min(of_links["ratio"], alone["ratio"]) > 0


def test_command_saves_the_table(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "networks_rows", lambda *args, **kwargs: [])
    monkeypatch.setattr(gct, "gct_rows", lambda quick: [])
    monkeypatch.setattr(tiles, "tiles_rows", lambda quick: [])
    monkeypatch.setattr(inspector, "inspector_rows", lambda quick: [])
    monkeypatch.setattr(run, "statistics_rows", lambda size: rows)
    monkeypatch.setattr(spatial, "spatial_rows", lambda *size: [])
    monkeypatch.setattr(run, "BENCHMARK_FILE", tmp_path / "benchmark.csv")
    run.main(["--quick"])
    assert not (tmp_path / "benchmark.csv").exists(), "a quick run must not replace the committed table"
    run.main([])
    saved_df = pd.read_csv(tmp_path / "benchmark.csv")
    assert saved_df["work"].tolist() == [row["work"] for row in rows]
    assert "saved to" in capsys.readouterr().out
    figure = benchmark_plots.timings(saved_df.fillna({"target": "", "met": ""}))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(labels) == (~saved_df["work"].str.contains("GB")).sum()
