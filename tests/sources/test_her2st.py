"""Spots as samples: geometry against known positions, slides as OpenSlide reads them, the her2st import."""

import gzip

import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image

from lib.sources import her2st, mirror
from lib.sources.her2st import Her2stCohort
from lib.sources.spot_regions import spot_samples

HER2ST = mirror.folder("her2st")
needs_her2st = pytest.mark.skipif(not (HER2ST and HER2ST.is_dir()), reason="DATA_MIRROR has no her2st")


def spots(step_x=(290.0, 3.0), step_y=(-2.0, 288.0), jitter=0.0, n=12, seed=0):
    x, y = (v.ravel() for v in np.meshgrid(np.arange(3, 3 + n), np.arange(5, 5 + n)))
    pixel = np.outer(x, step_x) + np.outer(y, step_y) + [40.0, -300.0]
    pixel += np.random.default_rng(seed).normal(0, jitter, pixel.shape) if jitter else 0
    return pd.DataFrame({"x": x, "y": y, "pixel_x": pixel[:, 0], "pixel_y": pixel[:, 1]})


# ----------------------------------------------------------------------------------------------- geometry


def test_pitch_is_found_exactly():
    grid = her2st.grid_mpp(spots())
    assert grid.pitch_x_px == pytest.approx(np.hypot(290, 3))
    assert grid.pitch_y_px == pytest.approx(np.hypot(2, 288))
    assert grid.mpp == pytest.approx(200 / ((np.hypot(290, 3) + np.hypot(2, 288)) / 2))
    assert grid.rotation_deg == pytest.approx(np.degrees(np.arctan2(3, 290)))
    assert grid.residual_px < 1e-6


def test_a_few_wrong_spots_do_not_bias_the_pitch():
    spots_df = spots(jitter=15)
    clean = her2st.grid_mpp(spots_df)
    spots_df.loc[[0, 50, 100], "pixel_x"] += [5000, -4000, 9000]
    robust = her2st.grid_mpp(spots_df)
    assert robust.n_outliers >= 3
    assert robust.mpp == pytest.approx(clean.mpp, rel=0.003)
    plain = np.linalg.lstsq(np.c_[spots_df[["x", "y"]], np.ones(144)], spots_df["pixel_x"], rcond=None)[0]
    assert abs(plain[0] - 290) > 5, "least squares alone would have been moved"


def test_turned_and_mirrored_grids():
    turned = her2st.grid_mpp(spots(step_x=(0, 290), step_y=(290, 0)))
    assert turned.mpp == pytest.approx(200 / 290)
    assert abs(turned.rotation_deg) == pytest.approx(90)


@pytest.mark.parametrize(
    ("spots_df", "said"),
    [
        (spots().head(3), "3 spots"),
        (spots().query("y == 5"), "on one line"),
        (spots(step_y=(0, 500)), "not form a square grid"),
        (spots(jitter=400), "not form a square grid"),
    ],
)
def test_spots_that_form_no_grid_are_refused(spots_df, said):
    with pytest.raises(ValueError, match=said):
        her2st.grid_mpp(spots_df)


def test_regions_are_centred_and_inside():
    spots_df = pd.DataFrame(
        {
            "sample_id": ["in", "left", "bottom", "corner"],
            "pixel_x": [500.0, 99.0, 500.0, 100.0],
            "pixel_y": [400.0, 400.0, 901.0, 100.0],
            "donor": "d",
            "tissue": "t",
            "depth": [1, 2, 3, 4],
        }
    )
    rows_df = spot_samples(spots_df, "slide", mpp=0.5, region_um=100, l0_width=1000, l0_height=1000)
    assert rows_df["sample_id"].tolist() == ["in", "corner"]
    assert rows_df[["l0_x", "l0_y", "l0_width", "l0_height"]].to_numpy().tolist() == [
        [400, 300, 200, 200],
        [0, 0, 200, 200],
    ]
    assert rows_df["depth"].tolist() == [1, 4]
    with pytest.raises(ValueError, match="under one pixel"):
        spot_samples(spots_df, "slide", mpp=0.5, region_um=0.1, l0_width=9, l0_height=9)


def test_openslide_reads_the_pyramid_and_its_resolution(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((1500, 1300), Image.Resampling.BICUBIC))
    her2st.write_pyramid(image, tmp_path / "s.tiff", mpp=0.6866)
    slide = openslide.OpenSlide(tmp_path / "s.tiff")
    assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.6866, rel=1e-6)
    assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.6866, rel=1e-6)
    assert slide.level_dimensions == ((1500, 1300), (750, 650), (375, 325))
    region = np.asarray(slide.read_region((0, 0), 0, (1500, 1300)).convert("RGB")).astype(int)
    assert np.abs(region - image).mean() < 2, "colours are those of the picture"
    assert [p.name for p in tmp_path.iterdir()] == ["s.tiff"]


# ------------------------------------------------------------------------------------------------- import


@pytest.fixture
def upstream(tmp_path):
    """Two tiny sections laid out as upstream, with one spot of each kind that has to be dropped."""
    root, rng = tmp_path / "up", np.random.default_rng(1)
    for section, genes in (("B1", ["GA", "GB", "GC"]), ("C2", ["GA", "GC", "GD"])):
        for folder in (
            "data/ST-cnts",
            f"data/ST-imgs/{section[0]}/{section}",
            "data/ST-spotfiles",
            "res/ST-cluster/lbl",
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(rng.integers(0, 255, (90, 100, 3), dtype=np.uint8)).resize((1000, 900))
        picture.save(root / f"data/ST-imgs/{section[0]}/{section}/{section}_HE.jpg")
        spots_df = spots(step_x=(100, 0), step_y=(0, 100), n=6)
        spots_df["pixel_x"] -= 140  # array x 3..8 -> 200..700
        spots_df["pixel_y"] -= 100  # array y 5..10 -> 100..600
        spots_df["selected"] = 1
        spots_df.loc[35, "selected"] = 0
        spots_df.loc[34, "pixel_x"] = 990.0  # its square leaves the slide
        spots_df.to_csv(root / f"data/ST-spotfiles/{section}_selection.tsv", sep="\t", index=False)
        keys = spots_df["x"].astype(str) + "x" + spots_df["y"].astype(str)
        counts_df = pd.DataFrame(rng.integers(1, 50, (36, 3)), index=keys, columns=genes)
        counts_df.iloc[0] = 0  # no counts at all
        counts_df = counts_df.drop(index=keys[1])  # not in the table
        counts_df.to_csv(root / f"data/ST-cnts/{section}.tsv.gz", sep="\t")
        labels_df = spots_df.drop(index=2).assign(label=lambda d: d["y"] % 2 + 1)  # spot 2 has no label
        labels_df.to_csv(root / f"res/ST-cluster/lbl/{section}-cluster-annotation.tsv.gz", sep="\t")
    return root


def test_import_counts_what_it_drops(upstream, tmp_path):
    out = tmp_path / "out"
    cohort = Her2stCohort(region_um=180, splits={"train": ["B1"], "test": ["C2"]})
    report_df = her2st.import_her2st(upstream, out, cohort)
    columns = ["n_spots", "dropped_no_counts", "dropped_no_label", "dropped_off_slide", "n_samples"]
    assert report_df[columns].to_numpy().tolist() == [[35, 2, 1, 1, 31]] * 2
    assert report_df["mpp"].tolist() == pytest.approx([2.0, 2.0], rel=0.01)
    assert report_df["genes_filled"].tolist() == [1, 1]
    samples_df = pd.read_csv(out / "samples.csv")
    assert len(samples_df) == 62
    first = samples_df.set_index("sample_id").loc["B1_6x5"]
    assert (first["slide_id"], first["donor"], first["split"]) == ("B1", "B", "train")
    assert (first["l0_x"] + first["l0_width"] / 2, first["l0_y"] + first["l0_height"] / 2) == (500, 100)
    assert first["l0_width"] == pytest.approx(180 / 2, abs=1)


def test_cluster_numbers_are_annotated_by_patient(upstream, tmp_path):
    her2st.import_her2st(upstream, tmp_path / "out", Her2stCohort(180))
    samples_df = pd.read_csv(tmp_path / "out/samples.csv").drop_duplicates("cluster").set_index("cluster")
    tissues = {"B:2": "immune", "B:1": "breast glands", "C:2": "cancer", "C:1": "immune"}
    assert samples_df["tissue"].to_dict() == tissues
    assert samples_df.loc["C:2", "annotation"] == "cancer 1"
    assert "split" not in samples_df


def test_expression_is_cp10k_of_the_union_of_genes(upstream, tmp_path):
    her2st.import_her2st(upstream, tmp_path / "out", Her2stCohort(180))
    scaled_df = pd.read_parquet(tmp_path / "out/expression.parquet")
    samples_df = pd.read_csv(tmp_path / "out/samples.csv")
    assert scaled_df.columns.tolist() == samples_df["sample_id"].tolist()
    assert scaled_df.index.tolist() == ["GA", "GB", "GC", "GD"]
    assert scaled_df.to_numpy().dtype == np.float32
    np.testing.assert_allclose(scaled_df.sum(), 1e4, rtol=1e-5)
    assert (scaled_df.loc["GD", samples_df["slide_id"].to_numpy() == "B1"] == 0).all()
    with gzip.open(upstream / "data/ST-cnts/C2.tsv.gz", "rt") as file:
        counts = pd.read_csv(file, sep="\t", index_col=0).loc["6x5"]
    np.testing.assert_allclose(scaled_df["C2_6x5"][counts.index], counts / counts.sum() * 1e4, rtol=1e-5)
    assert samples_df.set_index("sample_id").loc["C2_6x5", "n_counts"] == counts.sum()


def test_import_refuses(upstream, tmp_path, monkeypatch):
    def run(**splits):
        her2st.import_her2st(upstream, tmp_path / "out", Her2stCohort(180, splits))

    with pytest.raises(ValueError, match=r"\['C2'\] not at all"):
        run(train=["B1"])
    with pytest.raises(ValueError, match=r"\['B1'\] are named twice"):
        run(train=["B1", "C2"], test=["B1"])
    with monkeypatch.context() as patch:
        patch.setattr(her2st, "CLUSTERS_CSV", tmp_path / "clusters.csv")
        her2st.CLUSTERS_CSV.write_text("patient,cluster,annotation,coarse\nB,1,a,a\nB,2,b,b\nC,1,c,c\n")
        with pytest.raises(ValueError, match=r"section C2: clusters \['2'\] of patient C have no annotation"):
            run()
    (upstream / "data/ST-cnts/B1.tsv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"B1\.tsv\.gz"):
        run()
    with pytest.raises(FileNotFoundError, match="fetch the data first"):
        her2st.import_her2st(tmp_path / "empty", tmp_path / "out", Her2stCohort())
    assert not (tmp_path / "out/samples.csv").exists()


@needs_her2st
@pytest.mark.slow
def test_real_section(tmp_path):
    upstream = tmp_path / "C4 alone"
    (upstream / "data/ST-imgs/C").mkdir(parents=True)
    for path in ("data/ST-cnts", "data/ST-spotfiles", "data/ST-imgs/C/C4", "res"):
        (upstream / path).symlink_to(HER2ST / path)
    row = her2st.import_her2st(upstream, tmp_path, Her2stCohort()).iloc[0]
    assert (row["n_spots"], row["dropped_no_counts"], row["n_samples"], row["genes"]) == (187, 3, 184, 15842)
    assert 0.68 < row["mpp"] < 0.695
    samples_df = pd.read_csv(tmp_path / "samples.csv")
    assert set(samples_df["tissue"]) == {"cancer", "immune", "unknown"}
    slide = openslide.OpenSlide(tmp_path / "slides/C4.tiff")
    assert slide.dimensions == (9278, 9916)
    assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(samples_df["mpp"][0], abs=1e-4)
    spot = samples_df.iloc[0]
    pixels = np.asarray(slide.read_region((spot["l0_x"], spot["l0_y"]), 0, (225, 225)).convert("RGB"))
    assert pixels.std() > 10, "a spot under tissue is not blank"


@needs_her2st
def test_cluster_table_is_the_source_table():
    ours_df = pd.read_csv(her2st.CLUSTERS_CSV, comment="#")
    pd.testing.assert_frame_equal(ours_df, pd.read_csv(HER2ST / "cluster_annotations.csv"))
