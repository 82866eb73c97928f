"""Space Ranger's folders: real ones read, made ones turned into a cohort, and what does not fit named."""

import gzip
import json

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from real_data import MIRROR
from scipy import io, sparse
from spot_factory import places

from lib.cohort.samples import read_samples
from lib.config import Config
from lib.errors import InputError, MissingInputError
from lib.sources import space_ranger
from lib.sources.mirror import Places
from lib.sources.visium import VisiumCohort, _with_split
from lib.sources.visium_section import Section
from lib.statistics import spots

REAL = MIRROR / "visium"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real Space Ranger folders here")
PX_PER_UM = 1 / 1.6
GENES = [f"ENSG{k:03d}" for k in range(20)]


def write_run(folder, image, *, side=9, form="h5", header=True, genes=GENES, scale=1.0, seed=0, hires=0.25):
    """A Space Ranger folder of side x side spots over an image; counts of spot k sum to 40 + k."""
    rng, xy = np.random.default_rng(seed), places("hexagonal", side)
    n = len(xy)
    counts = rng.multinomial(40, np.full(len(genes), 1 / len(genes)), n).T
    counts[0] += np.arange(n)
    barcodes = [f"{'ACGT'[k % 4]}{k:04d}-1" for k in range(n)]
    (folder / "spatial").mkdir(parents=True)
    pixel = (xy * 100 + 90) * PX_PER_UM * scale
    positions_df = pd.DataFrame({
        "barcode": barcodes, "in_tissue": 1, "array_row": np.arange(n) // side,
        "array_col": 2 * (np.arange(n) % side) + (np.arange(n) // side) % 2,
        "pxl_row_in_fullres": pixel[:, 1], "pxl_col_in_fullres": pixel[:, 0],
    })  # fmt: skip
    positions_df.loc[3, "in_tissue"] = 0
    name = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    positions_df.to_csv(folder / "spatial" / name, index=False, header=header)
    factors = {
        "spot_diameter_fullres": 65 * PX_PER_UM,
        "tissue_hires_scalef": hires,
        "tissue_lowres_scalef": 0.1,
    }
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(factors))
    size = tuple(int((side + 1) * 100 * PX_PER_UM) for _ in range(2))
    Image.fromarray(rng.integers(90, 220, (size[1], size[0], 3), dtype=np.uint8)).save(image)
    Image.new("RGB", [round(edge * hires) for edge in size]).save(folder / "spatial/tissue_hires_image.png")
    kinds = ["Gene Expression"] * len(genes)
    if form == "h5":
        matrix = sparse.csc_array(counts)
        with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
            group = file.create_group("matrix")
            for part in ("data", "indices", "indptr", "shape"):
                group[part] = np.asarray(getattr(matrix, part))
            group["barcodes"] = np.array(barcodes, "S")
            for part, values in (
                ("id", genes),
                ("name", [g.lower() for g in genes]),
                ("feature_type", kinds),
            ):
                group[f"features/{part}"] = np.array(values, "S")
    else:
        where = folder / "filtered_feature_bc_matrix"
        where.mkdir()
        lines = "\n".join(f"{g}\t{g.lower()}\tGene Expression" for g in genes)
        (where / "features.tsv.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
        (where / "barcodes.tsv.gz").write_bytes(gzip.compress("\n".join(barcodes).encode(), mtime=0))
        io.mmwrite(where / "matrix.mtx", sparse.coo_array(counts))
    return counts, positions_df


def cohort(raw, sections):
    VisiumCohort(sections).make_inputs(raw, Places(raw, (), None))
    return read_samples(raw / "samples.csv"), pd.read_parquet(raw / "expression.parquet")


# ----------------------------------------------------------------------------------------------- real files


@needs_real
def test_real_folders_are_read():
    folder = REAL / "spaceranger"
    counts = space_ranger.read_counts(folder)
    assert counts.matrix.shape == (len(counts.genes), len(counts.barcodes))
    assert counts.matrix.data.min() > 0
    positions_df = space_ranger.read_positions(folder)
    assert set(counts.barcodes) <= set(positions_df["barcode"])
    scale = space_ranger.read_scale(folder, positions_df)
    assert scale.mpp == pytest.approx(65 / 89.4275, rel=0.02), "pitch and diameter agree"
    assert (scale.pitch_um, scale.bin_um) == (100, 0)


@needs_real
def test_real_matrix_market_folder_is_read():
    folder = REAL / "mtx_outs"
    counts = space_ranger.read_counts(folder)
    assert counts.matrix.shape == (50, 50)
    assert counts.symbols[0] == "Xkr4"
    assert counts.matrix.sum() > 0
    scale = space_ranger.read_scale(folder, space_ranger.read_positions(folder))
    assert scale.mpp == pytest.approx(65 / 89.4448, rel=0.02)


@needs_real
def test_positions_scaled_to_the_hires_image_are_noticed():
    positions_df = space_ranger.read_positions(REAL / "spaceranger")
    positions_df[["pixel_x", "pixel_y"]] *= 0.150015
    with pytest.raises(InputError, match=r"pixels of the hires image: divide them by 0\.150015"):
        space_ranger.read_scale(REAL / "spaceranger", positions_df)


# ------------------------------------------------------------------------------------------------ the cohort


@pytest.mark.parametrize(("form", "header"), [("h5", True), ("mtx", False)])
def test_a_section_becomes_samples_and_expression(tmp_path, form, header):
    counts, positions_df = write_run(tmp_path / "A/outs", tmp_path / "A.jpg", form=form, header=header)
    (tmp_path / "clusters.csv").write_text(
        "Barcode,Cluster\n" + "\n".join(f"{b},{k % 2}" for k, b in enumerate(positions_df["barcode"]))
    )
    section = Section(folder="A/outs", image="A.jpg", donor="P1", clusters="clusters.csv")
    samples_df, expression_df = cohort(tmp_path, {"A": section})
    assert len(samples_df) == 80, "one spot is not under tissue"
    assert samples_df["donor"].unique().tolist() == ["P1"]
    assert sorted(samples_df["tissue"].unique()) == ["0", "1"]
    assert samples_df["mpp"].to_numpy() == pytest.approx(1.6, rel=0.01)
    row = samples_df.set_index("sample_id").loc["A_C0005-1"]
    spot = positions_df.iloc[5]
    assert row["l0_x"] + row["l0_width"] / 2 == pytest.approx(spot["pxl_col_in_fullres"], abs=1)
    assert row["l0_y"] + row["l0_height"] / 2 == pytest.approx(spot["pxl_row_in_fullres"], abs=1)
    assert row["l0_width"] * 1.6 == pytest.approx(100, abs=1.7), "the pitch of the spots"
    assert row["n_counts"] == 45
    expected = counts[:, 5] / 45 * 1e4
    np.testing.assert_allclose(expression_df["A_C0005-1"].reindex(GENES), expected, rtol=1e-5)
    assert pd.read_csv(tmp_path / "genes.csv").set_index("gene").loc["ENSG003", "symbol"] == "ensg003"
    assert (tmp_path / "slides/A.jpg").resolve() == (tmp_path / "A.jpg").resolve()
    assert spots.are_spots(samples_df)
    assert samples_df["split"].value_counts(normalize=True).round(1).to_dict() == {
        "train": 0.6, "validation": 0.2, "test": 0.2
    }  # fmt: skip


def test_strips_do_not_mix_and_three_sections_are_split_whole(tmp_path):
    write_run(tmp_path / "A", tmp_path / "A.png")
    samples_df, _ = cohort(tmp_path, {"A": Section(folder="A", image="A.png")})
    axis = max(("l0_x", "l0_y"), key=lambda name: np.ptp(samples_df[name]))
    ranges = samples_df.groupby("split")[axis].agg(["min", "max"])
    assert ranges.loc["train", "max"] <= ranges.loc["validation", "min"]
    assert ranges.loc["validation", "max"] <= ranges.loc["test", "min"]
    three_df = pd.DataFrame({"sample_id": list("abc"), "slide_id": list("ABC")})
    assert "split" not in _with_split(three_df)


def test_sections_are_joined_by_gene_and_their_sets_are_kept(tmp_path):
    write_run(tmp_path / "A", tmp_path / "A.png")
    write_run(tmp_path / "B", tmp_path / "B.png", genes=[*GENES[5:], "ENSG900"], seed=1)
    sections = {
        "A": Section(folder="A", image="A.png", split="train"),
        "B": Section(folder="B", image="B.png", split="test"),
    }
    samples_df, expression_df = cohort(tmp_path, sections)
    assert sorted(expression_df.index) == GENES[5:], "genes that both know"
    assert samples_df.groupby("slide_id")["split"].unique().str[0].to_dict() == {"A": "train", "B": "test"}
    assert samples_df["donor"].nunique() == 2
    sections["B"] = Section(folder="B", image="B.png")
    with pytest.raises(InputError, match="B name no split, others do"):
        cohort(tmp_path, sections)


def test_visium_hd_bins_are_read_with_their_stated_scale(tmp_path):
    n = 12
    bins = [(r, c) for r in range(n) for c in range(n)]
    (tmp_path / "spatial").mkdir()
    df = pd.DataFrame(bins, columns=["array_row", "array_col"])
    df.insert(0, "in_tissue", 1)
    df.insert(0, "barcode", [f"s_008um_{r:05d}_{c:05d}-1" for r, c in bins])
    df["pxl_row_in_fullres"], df["pxl_col_in_fullres"] = df["array_row"] * 29.2, df["array_col"] * 29.2
    df.to_parquet(tmp_path / "spatial/tissue_positions.parquet")
    factors = {"bin_size_um": 8.0, "microns_per_pixel": 0.274, "spot_diameter_fullres": 29.2}
    (tmp_path / "spatial/scalefactors_json.json").write_text(json.dumps(factors))
    scale = space_ranger.read_scale(tmp_path, space_ranger.read_positions(tmp_path))
    assert scale.mpp == pytest.approx(8 / 29.2)
    assert (scale.pitch_um, scale.bin_um) == (8, 8)


def test_more_bins_than_the_cap_are_drawn_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.sources.visium.MOST_SPOTS", 50)
    write_run(tmp_path / "A", tmp_path / "A.png")
    samples_df, _ = cohort(tmp_path, {"A": Section(folder="A", image="A.png")})
    assert len(samples_df) == 50
    assert pd.read_csv(tmp_path / "import_report.csv")["dropped_over_cap"].tolist() == [30]


# ----------------------------------------------------------------------------------------------- bad input


def test_what_does_not_fit_is_named(tmp_path):
    write_run(tmp_path / "A", tmp_path / "A.png")
    with pytest.raises(InputError, match="source = 'visium' needs visium_sections"):
        cohort(tmp_path, {})
    for section, said in (
        (Section(folder="B", image="A.png"), "B is no folder"),
        (Section(folder="A", image="B.png"), "no image at"),
        (
            Section(folder="A/spatial", image="A.png"),
            "has neither filtered_feature_bc_matrix.h5",
        ),
        (Section(folder="A", image="A.png", clusters="none.csv"), "no such table of clusters"),
        (Section(folder="A", image="A/spatial/scalefactors_json.json"), "neither a slide nor an image"),
        (Section(folder="A", image="A/spatial/tissue_hires_image.png"), "give that one .not the hires image"),
    ):
        with pytest.raises((InputError, MissingInputError), match=said):
            cohort(tmp_path, {"A": section})
    with pytest.raises(InputError, match="name without slashes"):
        cohort(tmp_path, {"../x": Section(folder="A", image="A.png")})
    with pytest.raises(ValueError, match=r"(?s)visium_sections\.A.*give its folder"):
        Config(cohort="mine", source="visium", visium_sections={"A": {"image": "A.png"}})


def test_damaged_files_are_named(tmp_path):
    write_run(tmp_path / "A", tmp_path / "A.png")
    positions = tmp_path / "A/spatial/tissue_positions.csv"
    text = positions.read_text()
    positions.write_text(text.replace("pxl_row_in_fullres,", "").replace(",1,0,0,", ",1,0,"))
    with pytest.raises((InputError, ValueError), match="columns"):
        space_ranger.read_positions(tmp_path / "A")
    positions.write_text(text.replace(",1,0,2,", ",1,0,x,"))
    with pytest.raises(InputError, match="1 rows are not numbers"):
        space_ranger.read_positions(tmp_path / "A")
    positions.unlink()
    with pytest.raises(MissingInputError, match=r"has none of tissue_positions\.parquet"):
        space_ranger.read_positions(tmp_path / "A")
    matrix = tmp_path / "A/filtered_feature_bc_matrix.h5"
    matrix.write_bytes(matrix.read_bytes()[:400])
    with pytest.raises(InputError, match="no readable matrix of Space Ranger"):
        space_ranger.read_counts(tmp_path / "A")
    (tmp_path / "A/spatial/scalefactors_json.json").write_text("{")
    with pytest.raises(InputError, match="is not a table of numbers"):
        space_ranger.read_scale(tmp_path / "A", pd.DataFrame(columns=space_ranger.POSITIONS))


def test_sections_of_other_references_are_named(tmp_path):
    write_run(tmp_path / "A", tmp_path / "A.png")
    write_run(tmp_path / "B", tmp_path / "B.png", genes=[f"ENSMUSG{k}" for k in range(20)])
    sections = {name: Section(folder=name, image=f"{name}.png") for name in "AB"}
    with pytest.raises(InputError, match="references of different species"):
        cohort(tmp_path, sections)
