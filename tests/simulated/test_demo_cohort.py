"""The demo cohort: Aperio slides, planted truth that can be measured, the same files every time."""

import gzip
import re
import shutil
from dataclasses import replace

import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from lib.simulated import aperio, demo_cohort, drawing
from lib.simulated import genes as planted
from lib.simulated.demo_cohort import DemoCohort
from lib.simulated.slides import EOSIN, HAEMATOXYLIN, QUANTITIES, SlideSpec, draw
from lib.simulated.tissues import HARD_PAIR, TISSUES

GENES = planted.GeneCounts(150, direct=4, markers=3, covariate=6)
SMALL = DemoCohort(slides_per_tissue=3, genes=GENES, slide_um=150)
UNMIX = np.linalg.pinv(np.stack([HAEMATOXYLIN, EOSIN]))


def average(**quantities: float) -> dict[str, float]:
    return {**dict.fromkeys(QUANTITIES, 0.0), **quantities}


def drawn(tissue: str, seed: int = 0, size_um: float = 300, **look) -> np.ndarray:
    """A slide of average quantities."""
    return draw(SlideSpec(tissue, average(), size_um=size_um, **look), np.random.default_rng(seed))


def read(path) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    SMALL.make_inputs(folder)
    return folder


def test_openslide_takes_a_slide_for_an_aperio_scan_without_a_10x_level(small):
    paths = sorted((small / "slides").glob("*.svs"))
    assert len(paths) == 24
    with openslide.OpenSlide(paths[0]) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.4942, abs=1e-9)
        assert slide.properties["openslide.objective-power"] == "20"
        assert "thumbnail" in slide.associated_images
        assert all(abs(down - 2) > 0.5 for down in slide.level_downsamples)
    with tifffile.TiffFile(paths[0]) as tiff:
        assert tiff.pages[0].is_tiled
        assert not tiff.pages[1].is_tiled


def test_pyramid_of_a_default_sized_slide(tmp_path):
    path = tmp_path / "a.svs"
    aperio.write_svs(path, np.full((1216, 1216, 3), 200, np.uint8))
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((1216, 1216), (304, 304))


def test_colours_come_back_within_jpeg_tolerance(tmp_path):
    # RGB passed as YCbCr would be off by 49 grey levels on average.
    image = drawn("Thyroid", pen="green")
    path = tmp_path / "a.svs"
    aperio.write_svs(path, image)
    blocks = [
        a.astype(float).reshape(len(a) // 8, 8, len(a) // 8, 8, 3).mean((1, 3)) for a in (image, read(path))
    ]
    assert np.abs(blocks[0] - blocks[1]).mean() < 1.0
    assert np.abs((blocks[0] - blocks[1]).mean((0, 1))).max() < 0.7
    with tifffile.TiffFile(path) as tiff:
        assert all(page.photometric == tifffile.PHOTOMETRIC.YCBCR for page in tiff.pages)


def test_flat_colours_are_exact_to_two_levels(tmp_path):
    image = np.zeros((240, 720, 3), np.uint8)
    for i, colour in enumerate([(200, 90, 160), (70, 50, 130), (20, 140, 70)]):
        image[:, 240 * i : 240 * (i + 1)] = colour
    aperio.write_svs(tmp_path / "a.svs", image)
    assert np.abs(read(tmp_path / "a.svs").astype(int) - image).max() <= 2


def test_write_svs_refuses_what_is_not_an_image(tmp_path):
    with pytest.raises(ValueError, match="uint8 array"):
        aperio.write_svs(tmp_path / "a.svs", np.zeros((10, 10)))
    with pytest.raises(ValueError, match="separates"):
        aperio.write_svs(tmp_path / "a.svs", np.zeros((240, 240, 3), np.uint8), stamp="a|b")
    assert list(tmp_path.iterdir()) == []


def test_stamp_of_a_truncated_foreign_or_missing_file_is_none(tmp_path):
    path = tmp_path / "a.svs"
    aperio.write_svs(path, drawn("Liver", size_um=150), stamp="x")
    assert aperio.read_stamp(path) == "x"
    whole = path.read_bytes()
    for share in (0.01, 0.5, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert aperio.read_stamp(path) is None, share
    path.write_bytes(b"not a slide")
    assert aperio.read_stamp(path) is None
    assert aperio.read_stamp(tmp_path / "none.svs") is None


def test_same_seed_same_bytes_for_any_number_of_workers(small, tmp_path):
    replace(SMALL, n_workers=1).make_inputs(tmp_path)
    names = sorted(p.relative_to(small) for p in small.rglob("*") if p.is_file())
    assert len(names) == 24 + 6
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()) == names
    for name in names:
        assert (small / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_another_seed_gives_other_slides_and_other_expression(small, tmp_path):
    replace(SMALL, seed=1).make_inputs(tmp_path)
    expression = "expression.gct.gz"
    assert (tmp_path / expression).read_bytes() != (small / expression).read_bytes()
    quantities_df, _ = demo_cohort.read_truth(small)
    other_df, _ = demo_cohort.read_truth(tmp_path)
    assert not np.allclose(quantities_df[list(QUANTITIES)], other_df[list(QUANTITIES)])


def test_an_interrupted_cohort_is_resumed_to_the_same_files(tmp_path, monkeypatch):
    cohort = replace(SMALL, n_tissues=2, n_workers=1)
    cohort.make_inputs(tmp_path / "whole")
    calls = []

    def stop_at_third(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return aperio.write_svs(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(demo_cohort, "write_svs", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            cohort.make_inputs(tmp_path / "half")
    assert not (tmp_path / "half" / "samples.csv").exists()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "half" / "slides").glob("*.svs")}
    assert 2 <= len(done) < 6
    assert cohort.make_inputs(tmp_path / "half")["n_kept"] == len(done)
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    for path in (tmp_path / "whole" / "slides").glob("*.svs"):
        assert path.read_bytes() == (tmp_path / "half" / "slides" / path.name).read_bytes()


def test_broken_and_outdated_slides_are_drawn_again(tmp_path):
    cohort = replace(SMALL, n_tissues=1)
    cohort.make_inputs(tmp_path)
    victim = sorted((tmp_path / "slides").glob("*.svs"))[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    assert cohort.make_inputs(tmp_path) == {"n_drawn": 1, "n_kept": 2}
    assert victim.read_bytes() == whole
    assert replace(cohort, slide_um=160).make_inputs(tmp_path)["n_drawn"] == 3


def test_samples_name_slides_donors_and_covariates_but_nothing_hidden(small):
    samples_df = pd.read_csv(small / "samples.csv")
    assert list(samples_df) == demo_cohort.COLUMNS
    assert not set(samples_df) & set(QUANTITIES)
    assert samples_df["sample_id"].is_unique
    assert samples_df["sample_id"].str.fullmatch(r"GTEX-[0-9A-Z]{5}-\d{4}").all()
    assert all((small / "slides" / f"{slide}.svs").is_file() for slide in samples_df["slide_id"])
    assert samples_df.groupby("tissue").size().to_dict() == dict.fromkeys(TISSUES, 3)
    assert not samples_df.duplicated(["donor", "tissue"]).any()
    assert (samples_df.groupby("donor").size() > 1).any()


def test_gct_is_what_its_header_says_and_pairs_with_the_samples(small):
    with gzip.open(small / "expression.gct.gz", "rt") as lines:
        version, sizes = next(lines).strip(), next(lines).split()
    tpm_df = pd.read_csv(small / "expression.gct.gz", sep="\t", skiprows=2, index_col=0)
    assert version == "#1.2"
    assert [int(size) for size in sizes] == [len(tpm_df), tpm_df.shape[1] - 1] == [150, 25]
    rna = tpm_df.columns[1:]
    assert rna.str.fullmatch(r"GTEX-[0-9A-Z]{5}-\d{3}6-SM-[0-9A-Z]{5}").all()
    assert rna.is_unique
    stems = pd.Series(rna).str.split("-").str[:3].str.join("-")
    assert set(stems) == set(pd.read_csv(small / "samples.csv")["sample_id"])
    assert stems.duplicated().sum() == 1
    assert tpm_df.index.str.fullmatch(r"ENSG\d{11}\.\d+").all()
    assert tpm_df.index.is_unique
    assert (tpm_df.iloc[:, 1:].to_numpy() >= 0).all()


@pytest.fixture(scope="module")
def full_tables():
    plan_df = demo_cohort.plan_samples(list(TISSUES), 30, seed=0)
    genes_df = planted.plan_genes(list(TISSUES), QUANTITIES, planted.GeneCounts(3000, 30, 25, 60), 0)
    tpm_df = planted.simulate_expression(plan_df, genes_df, 0)
    tpm_df = tpm_df.loc[:, ~tpm_df.columns.str[:15].duplicated()]
    tpm_df.columns = tpm_df.columns.str[:15]
    return plan_df.set_index("sample_id"), genes_df, np.log2(1 + tpm_df[plan_df["sample_id"]])


def within(frame: pd.DataFrame, tissue: pd.Series) -> pd.DataFrame:
    """Columns centred within each tissue; rows are samples."""
    return frame - frame.groupby(tissue).transform("mean")


def test_quantities_are_standard_and_independent_of_each_other_and_of_tissue(full_tables):
    plan_df, _, _ = full_tables
    by_tissue = plan_df.groupby("tissue")[list(QUANTITIES)]
    assert np.allclose(by_tissue.mean(), 0, atol=1e-9)
    assert np.allclose(by_tissue.std(ddof=0), 1)
    r = plan_df[[*QUANTITIES, *planted.COVARIATES]].corr().to_numpy()[:5]
    assert np.abs(r[~np.eye(5, 7, dtype=bool)]).max() < 0.2
    assert 60 <= plan_df["donor"].nunique() <= 80
    assert 5 <= (plan_df["pen"] != "").sum() <= 15
    assert 4 <= plan_df["blur"].sum() <= 12


def test_planted_genes_follow_their_driver_within_tissue_and_nulls_and_markers_do_not(full_tables):
    plan_df, genes_df, log2_df = full_tables
    tissue = plan_df["tissue"]
    z = within(log2_df.T, tissue)
    drivers = within(plan_df[[*QUANTITIES, *planted.COVARIATES]], tissue)
    length = np.maximum(np.linalg.norm(z, axis=0), 1e-12)[:, None] * np.linalg.norm(drivers, axis=0)
    r = pd.DataFrame(z.to_numpy().T @ drivers.to_numpy() / length, index=z.columns, columns=drivers.columns)
    driver = genes_df["quantity"] + genes_df["covariate"]
    own = pd.Series({gene: r.at[gene, driver[gene]] for gene in genes_df.index[driver != ""]})
    assert len(own) == 5 * 30 + 60
    assert own.abs().between(0.72, 0.97).all()
    assert (np.sign(own) == np.sign(genes_df.loc[own.index, "effect"])).all()
    assert np.abs(own.abs() - genes_df.loc[own.index, "r_planned"]).mean() < 0.03
    for kind, limit in (("null", 0.30), ("marker", 0.25)):
        loose = r.loc[genes_df.index[genes_df["kind"] == kind], list(QUANTITIES)].abs()
        assert loose.max().max() < limit, kind
        assert loose.mean().mean() < 0.08, kind


def test_markers_belong_to_one_tissue_with_unequal_variances_and_thresholds_have_content(full_tables):
    plan_df, genes_df, log2_df = full_tables
    medians_df = log2_df.T.groupby(plan_df["tissue"]).median().T
    markers_df = genes_df[genes_df["kind"] == "marker"]
    assert (medians_df.loc[markers_df.index].idxmax(axis=1) == markers_df["tissue"]).all()
    variance_df = log2_df.loc[markers_df.index].T.groupby(plan_df["tissue"]).var().T
    own = np.array([variance_df.at[gene, tissue] for gene, tissue in markers_df["tissue"].items()])
    assert own.max() / own.min() > 4
    highest = medians_df.max(axis=1).groupby(genes_df["kind"])
    assert (highest.apply(lambda m: (m >= 7).mean())[["direct", "marker"]] > 0.8).all()
    assert (highest.apply(lambda m: (m >= 10).mean())[["direct", "marker"]] > 0.3).all()
    symbols = set(markers_df["symbol"])
    assert {"TG", "PAX8", "ALB", "APOA2", "FABP4", "KRT10", "TTN", "NEUROD1", "UMOD", "PRSS1"} <= symbols
    null_df = log2_df.loc[genes_df["kind"] == "null"]
    assert (null_df.max(axis=1) == 0).any()
    assert ((null_df.nunique(axis=1) == 1) & (null_df.max(axis=1) > 0)).any()


def test_counting_noise_is_larger_for_low_genes():
    genes_df = planted.plan_genes(list(TISSUES), QUANTITIES, planted.GeneCounts(1500, 1, 1, 2), 1)
    genes_df = genes_df[genes_df["kind"] == "null"]
    genes_df["sd"] = np.where(genes_df["sd"] > 0, 1e-6, 0)
    plan_df = demo_cohort.plan_samples(list(TISSUES), 12, seed=1)
    tpm_df = planted.simulate_expression(plan_df, genes_df, 1)
    mean, variation = tpm_df.mean(axis=1), tpm_df.std(axis=1) / tpm_df.mean(axis=1)
    assert variation[mean > 200].median() == pytest.approx(np.sqrt(planted.DISPERSION), rel=0.1)
    assert variation[mean.between(0.005, 0.05)].median() > 0.5


def test_read_truth_gives_both_tables(small):
    quantities_df, genes_df = demo_cohort.read_truth(small)
    assert quantities_df.index.tolist() == pd.read_csv(small / "samples.csv")["sample_id"].tolist()
    assert set(genes_df["kind"]) == set(planted.KINDS)
    null_df = genes_df[genes_df["kind"] == "null"]
    assert (null_df[["quantity", "covariate", "tissue"]] == "").all(axis=None)
    assert quantities_df["blur"].dtype == bool


@pytest.mark.parametrize(
    ("name", "pattern", "new", "message"),
    [
        ("genes.csv", ",marker,", ",markre,", "24 genes without a valid driver, first ENSG"),
        ("genes.csv", ",direct,nuclear_size,", ",direct,,", "4 genes without a valid driver"),
        ("genes.csv", r"\n(.*)\n$", r"\n\1\n\1\n", "1 occur more than once"),
        ("quantities.csv", r"(?<=\d),-?[\d.]+,(,|blue|green|black)", r",,\1", "quantities are missing"),
    ],
)
def test_a_damaged_truth_is_refused(small, tmp_path, name, pattern, new, message):
    shutil.copytree(small / "truth", tmp_path / "truth")
    path = tmp_path / "truth" / name
    path.write_text(re.sub(pattern, new, path.read_text()))
    with pytest.raises(ValueError, match=message):
        demo_cohort.read_truth(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        demo_cohort.read_truth(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_tissues": 9}, "n_tissues = 9"),
        ({"slides_per_tissue": 1}, "slides_per_tissue = 1"),
        ({"genes": planted.GeneCounts(10)}, "n_genes = 10"),
        ({"slide_um": 20}, "size_um = 20"),
    ],
)
def test_sizes_that_cannot_be_met_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change).make_inputs(tmp_path)


def test_slides_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="Spleen"):
        SlideSpec("Spleen", average())
    with pytest.raises(ValueError, match="red"):
        SlideSpec("Liver", average(), pen="red")
    with pytest.raises(ValueError, match="exactly"):
        SlideSpec("Liver", {"lumen_size": 1.0})


@pytest.mark.parametrize("tissue", TISSUES)
def test_tissue_covers_most_of_the_slide_and_looks_like_haematoxylin_and_eosin(tissue):
    image = drawn(tissue, seed=1).astype(float)
    covered = ndimage.gaussian_filter(255 - image.min(axis=-1), 4) > 18
    assert 0.58 < covered.mean() < 0.82
    corners = np.concatenate([image[:10, :10], image[:10, -10:], image[-10:, :10]]).reshape(-1, 3)
    assert (np.median(corners, axis=0) > 235).all()
    red, green, blue = image[covered].mean(axis=0)
    assert red > blue > green  # pink to purple


def test_pen_and_blur_change_the_picture_as_they_should():
    plain, inked, blurred = (
        drawn("Liver", seed=2, **look).astype(float) for look in ({}, {"pen": "green"}, {"blur": True})
    )
    green = (inked[..., 1] > inked[..., 0] + 40) & (inked[..., 1] > inked[..., 2] + 10)
    assert 0.02 < green.mean() < 0.35
    sharpness = [np.abs(ndimage.laplace(image[..., 0])).mean() for image in (plain, blurred)]
    assert sharpness[1] < 0.35 * sharpness[0]


def slide_statistics(image: np.ndarray) -> dict[str, float]:
    """A few plain measures of a slide at 10x: stains unmixed, dark spots counted, clear holes, texture."""
    n = len(image) // 2
    half = image[: 2 * n, : 2 * n].reshape(n, 2, n, 2, 3).mean((1, 3))
    density = -np.log(np.maximum(half, 1) / 244)
    h, e = np.moveaxis(np.maximum(density @ UNMIX, 0), -1, 0)
    dark = density.mean(axis=-1)
    tissue = ndimage.binary_closing(ndimage.gaussian_filter(dark, 1) > 0.045, iterations=6)
    tissue = ndimage.binary_fill_holes(tissue)
    clear = tissue & (dark < 0.08)
    blurred = [ndimage.gaussian_filter(h, sigma) for sigma in (1.2, 2.4, 4.0)]
    spots = blurred[0] - blurred[2]
    brown = (density[..., 2] > 1.1 * density[..., 1]) & (dark > 0.25)  # the stains absorb more green
    peaks = (ndimage.maximum_filter(spots, 5) == spots) & (spots > 0.35 * np.percentile(spots, 99.5)) & tissue
    peaks &= ~ndimage.binary_dilation(brown, iterations=2)
    return {
        "nuclear_density": peaks.sum() / tissue.sum(),
        "nuclear_size": -(blurred[0] - blurred[1])[tissue].std() / (blurred[1] - blurred[2])[tissue].std(),
        "lumen_size": clear.sum() / tissue.sum(),
        "pigment": brown.sum() / tissue.sum(),
        "eosin_strength": np.percentile(e[tissue], 90),
    }


@pytest.mark.slow
@pytest.mark.parametrize("tissue", TISSUES)
def test_each_quantity_shows_within_its_tissue(tissue):
    plan_df = demo_cohort.plan_samples([tissue], 16, seed=5)
    measured = []
    for index, row in enumerate(plan_df.to_dict("records")):
        look = {name: row[name] for name in ("likeness", "coverage", "h_gain", "e_gain")}
        quantities = {name: row[name] for name in QUANTITIES}
        spec = SlideSpec(tissue, quantities, size_um=420, **look)
        measured.append(slide_statistics(draw(spec, np.random.default_rng(index))))
    r = pd.DataFrame(measured).corrwith(plan_df[list(QUANTITIES)].reset_index(drop=True))
    least = {"nuclear_density": 0.75, "nuclear_size": 0.6, "lumen_size": 0.6, "pigment": 0.75}
    least["eosin_strength"] = 0.8
    assert (r > pd.Series(least).reindex(r.index)).all(), r.round(2).to_dict()


def test_the_hard_pair_overlaps_by_design():
    plan_df = demo_cohort.plan_samples(list(TISSUES), 200, seed=3)
    pair_df = plan_df[plan_df["tissue"].isin(HARD_PAIR)]
    right = (pair_df["likeness"] > 0) == (pair_df["tissue"] == HARD_PAIR[1])
    assert 0.7 < right.mean() < 0.88
    assert (plan_df.loc[~plan_df["tissue"].isin(HARD_PAIR), "likeness"] == 0).all()


def test_nuclei_are_drawn_where_they_are_put():
    table = np.array([[40.0, 60.0, 4.0, 3.5, 0.0, 1.0], [90.0, 30.0, 8.0, 2.0, np.pi / 2, 1.0]])
    ink = drawing.stamp(table, 240, np.random.default_rng(0))
    labels, count = ndimage.label(ink > 0.3)
    assert count == 2
    centres = np.array(ndimage.center_of_mass(ink, labels, [1, 2])) * drawing.MPP
    assert np.abs(centres[np.argsort(centres[:, 0])] - [[30, 90], [60, 40]]).max() < 0.6
    rows, columns = np.nonzero(labels == labels[int(30 / drawing.MPP), int(90 / drawing.MPP)])
    assert np.ptp(rows) > 2.5 * np.ptp(columns)  # the long axis points down
    assert (ink > 0.3).sum() * drawing.MPP**2 == pytest.approx(np.pi * (4 * 3.5 + 8 * 2), rel=0.15)
