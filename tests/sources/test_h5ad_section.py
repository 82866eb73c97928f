"""A Visium section in an .h5ad file: samples as from Space Ranger's folder, and what does not fit."""

import h5ad_factory
import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from real_data import MIRROR
from scipy import sparse
from spot_factory import places

from lib.cohort.samples import read_samples
from lib.config import Config
from lib.errors import InputError, MissingInputError
from lib.sources import h5ad_section, space_ranger
from lib.sources.mirror import Places
from lib.sources.visium import VisiumCohort
from lib.sources.visium_section import Section

REAL = MIRROR / "visium"
PX_PER_UM, SIDE = 1 / 1.6, 9
GENES = [f"ENSG{k:03d}" for k in range(20)]
FACTORS = {"spot_diameter_fullres": 65 * PX_PER_UM, "tissue_hires_scalef": 0.25, "tissue_lowres_scalef": 0.1}


def section(seed=0):
    """Counts [spots, genes], x and y in px, array row and column of a hexagonal array."""
    rng, n = np.random.default_rng(seed), SIDE**2
    counts = rng.multinomial(40, np.full(len(GENES), 1 / len(GENES)), n)
    counts[:, 0] += np.arange(n)
    row, column = np.arange(n) // SIDE, 2 * (np.arange(n) % SIDE) + (np.arange(n) // SIDE) % 2
    return counts, (places("hexagonal", SIDE) * 100 + 90) * PX_PER_UM, row, column


def write(path, *, factors=FACTORS, xy=None, libraries=("A",), array=True, hires=None, **changes):
    counts, places_px, row, column = section()
    n = len(counts)
    uns = {"spatial": {name: {"scalefactors": factors, "images": {}} for name in libraries}}
    uns["spatial"]["is_single"] = True  # as CELLxGENE has it
    if hires is not None:
        uns["spatial"]["A"]["images"]["hires"] = np.zeros((*hires, 3), np.uint8)
    given = {
        "x": sparse.csr_array(counts.astype(np.float32)),
        "obs": [f"{'ACGT'[k % 4]}{k:04d}-1" for k in range(n)],
        "var": [gene.lower() for gene in GENES],
        "obs_columns": {
            "in_tissue": (np.arange(n) != 3).astype(int),
            "leiden": [str(k % 2) for k in range(n)],
        },
        "var_columns": {"gene_ids": GENES, "feature_types": ["Gene Expression"] * len(GENES)},
        "obsm": {"spatial": places_px if xy is None else xy},
    }
    if array:
        given["obs_columns"] |= {"array_row": row, "array_col": column}
    given |= {key: value for key, value in changes.items() if key != "uns"}
    return h5ad_factory.write(path, uns=uns | changes.get("uns", {}), **given)


def cohort(raw, **said):
    edge = int((SIDE + 1) * 100 * PX_PER_UM)
    pixels = np.random.default_rng(0).integers(90, 220, (edge, edge, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(raw / "A.png")
    VisiumCohort({"A": Section(h5ad="A.h5ad", image="A.png", **said)}).make_inputs(raw, Places(raw, (), None))
    return read_samples(raw / "samples.csv").set_index("sample_id"), pd.read_parquet(
        raw / "expression.parquet"
    )


def test_a_section_becomes_samples_and_expression(tmp_path):
    write(tmp_path / "A.h5ad")
    samples_df, expression_df = cohort(tmp_path, donor="P1", clusters="leiden")
    counts, xy, *_ = section()
    assert len(samples_df) == 80, "one spot is not under tissue"
    assert samples_df["donor"].unique().tolist() == ["P1"]
    assert samples_df["tissue"].value_counts().to_dict() == {"0": 41, "1": 39}
    assert samples_df["mpp"].to_numpy() == pytest.approx(1.6, rel=0.01)
    row = samples_df.loc["A_G0006-1"]
    assert row["l0_x"] + row["l0_width"] / 2 == pytest.approx(xy[6, 0], abs=1)
    assert row["l0_y"] + row["l0_height"] / 2 == pytest.approx(xy[6, 1], abs=1)
    assert row["n_counts"] == 46
    np.testing.assert_allclose(expression_df[row.name].reindex(GENES), counts[6] / 46 * 1e4, rtol=1e-5)
    symbols = pd.read_csv(tmp_path / "genes.csv").set_index("gene")["symbol"]
    assert symbols["ENSG003"] == "ensg003"
    assert pd.read_csv(tmp_path / "import_report.csv")["counts_from"].tolist() == ["X"]


def test_without_array_positions_the_nearest_spots_give_the_scale(tmp_path):
    by_array = h5ad_section.read_section(write(tmp_path / "A.h5ad"))
    by_distance = h5ad_section.read_section(write(tmp_path / "B.h5ad", array=False))
    assert by_array.scale.mpp == pytest.approx(1.6)
    assert by_distance.scale.mpp == pytest.approx(1.6)
    assert by_distance.positions_df["in_tissue"].sum() == 80


# ------------------------------------------------------------------------------------ counts and logarithms


def counts_of(path):
    read = h5ad_section.read_section(path)
    return read.counts.matrix.toarray().T, read.counts_from


def normalised(counts, target=1e4):
    return counts / counts.sum(axis=1, keepdims=True) * target


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, sparse.csc_array])
@pytest.mark.parametrize("base", [None, 2.0])
def test_logarithms_are_taken_back_to_their_counts(tmp_path, form, base):
    counts = section()[0]
    logged = np.log1p(normalised(counts)) / np.log(base or np.e)
    x = form(logged.astype(np.float32))
    read, said = counts_of(write(tmp_path / "A.h5ad", x=x, uns={"log1p": {"base": base}}))
    np.testing.assert_array_equal(read, counts)
    assert "restored" in said


def test_the_layer_of_counts_comes_first_and_raw_last(tmp_path):
    counts = section()[0]
    logged, log1p = np.log1p(normalised(counts)), {"log1p": {"base": None}}
    layers = {"counts": sparse.csr_array(counts + 1)}
    read, said = counts_of(write(tmp_path / "A.h5ad", x=logged, layers=layers, uns=log1p))
    np.testing.assert_array_equal(read, counts + 1)
    assert said == "layers['counts']"
    path = write(tmp_path / "B.h5ad", x=logged - 1)  # scaled: negative; as CELLxGENE, raw.X has the counts
    with h5py.File(path, "r+") as file:
        raw = file.create_group("raw")
        h5ad_factory.put(raw, "X", counts[:, :5])
        h5ad_factory.put_frame(raw, "var", GENES[:5], {})
    read, said = counts_of(path)
    np.testing.assert_array_equal(read, counts[:, :5])
    assert said == "raw.X"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": {"counts": np.log1p(normalised(section()[0]))}}, r"layers\['counts'\] has .* no counts"),
        ({"x": np.log1p(normalised(section()[0]))}, r"no counts of the spots: X has .* first .* in A0000-1"),
        ({"x": normalised(section()[0])}, r"X has .* that are no counts"),
        (
            {"x": np.log1p(normalised(section()[0])) - 0.1, "uns": {"log1p": {}}},
            "no whole counts give the log",
        ),
        (
            {"x": np.log1p(normalised(section()[0])) * 1.1, "uns": {"log1p": {}}},
            "no whole counts give the log",
        ),
        ({"x": -section()[0]}, "X has"),
        ({"x": None}, "it has no X"),
    ],
)
def test_what_holds_no_counts_is_refused(tmp_path, changes, said):
    with pytest.raises(InputError, match=rf"(?s)A\.h5ad.*{said}.*layers\['counts'\] = adata\.X\.copy"):
        h5ad_section.read_section(write(tmp_path / "A.h5ad", **changes))


# ------------------------------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"obsm": {}}, r"no obsm\['spatial'\] \(obsm holds nothing\)"),
        ({"obsm": {"X_pca": np.ones((81, 2))}}, r"obsm holds 'X_pca'"),
        ({"xy": np.ones((80, 2))}, r"obsm\['spatial'\] is \(80, 2\).*of 81 spots"),
        ({"xy": np.ones((81, 3))}, r"obsm\['spatial'\] is \(81, 3\)"),
        ({"xy": np.where(np.arange(162).reshape(81, 2) == 5, np.nan, 1.0)}, "1 positions .* are missing"),
        ({"xy": section()[1] * 0.25}, r"pixels of the hires image: divide them by 0\.25"),
        ({"xy": section()[1] * 0.25, "array": False}, r"pixels of the hires image: divide them by 0\.25"),
        ({"xy": np.ones((81, 2)), "array": False}, "most spots lie on another one"),
        (
            {"obs_columns": {"array_row": np.zeros(81), "array_col": np.zeros(81)}},
            "on one line: µm/px needs 4",
        ),
        ({"libraries": ()}, r"no spot_diameter_fullres .*write it again with adata\.uns"),
        ({"factors": {"tissue_hires_scalef": 0.25}}, "no spot_diameter_fullres"),
        ({"libraries": ("A", "B")}, "holds 2 sections, 'A', 'B': write one file for each"),
        ({"obs": ["a"] * 81}, "duplicated obs name 'a'"),
        ({"var": ["g"] * 20, "var_columns": {}}, "duplicated gene 'g'"),
        ({"x": section()[0][:80]}, r"a matrix of \(80, 20\), but obs and var give \(81, 20\)"),
        ({"var_columns": {"feature_types": ["Antibody Capture"] * 20}}, "no 'Gene Expression' feature"),
        ({"obs_columns": {"in_tissue": ["yes"] * 81}}, r"81 values of obs\['in_tissue'\] are no numbers"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, said):
    with pytest.raises(InputError, match=rf"(?s)A\.h5ad.*{said}"):
        h5ad_section.read_section(write(tmp_path / "A.h5ad", **changes))


def test_features_that_are_no_genes_are_left_out(tmp_path):
    kinds = ["Gene Expression"] * 18 + ["Antibody Capture"] * 2
    path = write(tmp_path / "A.h5ad", var_columns={"gene_ids": GENES, "feature_types": kinds})
    counts = h5ad_section.read_section(path).counts
    assert counts.genes == GENES[:18]
    np.testing.assert_array_equal(counts.matrix.toarray(), section()[0][:, :18].T)


def test_files_and_images_that_do_not_fit(tmp_path):
    with pytest.raises(MissingInputError, match=r"A\.h5ad: no such \.h5ad file"):
        cohort(tmp_path)
    edge = int((SIDE + 1) * 100 * PX_PER_UM)
    write(tmp_path / "A.h5ad", hires=(edge // 4, edge // 4))
    assert len(cohort(tmp_path)[0]) == 80
    write(tmp_path / "A.h5ad", hires=(edge // 4, edge // 3))
    with pytest.raises(InputError, match=f"{edge} x {edge} px, but the image that Space Ranger was given"):
        cohort(tmp_path)
    write(tmp_path / "A.h5ad")
    with pytest.raises(InputError, match="clusters = 'louvain' is no column of obs: 'in_tissue', 'leiden'"):
        cohort(tmp_path, clusters="louvain")


def test_a_section_has_one_input():
    for values in ({}, {"folder": "A", "h5ad": "A.h5ad"}):
        with pytest.raises(ValueError, match="one of the two"):
            Section(image="A.png", **values)
    sections = {"A": {"h5ad": "A.h5ad", "image": "A.png"}}
    config = Config(cohort="mine", source="visium", visium_sections=sections)
    assert Config(**config.model_dump()) == config


@pytest.mark.skipif(not REAL.is_dir(), reason="no real Space Ranger folders here")
def test_real_counts_come_back_from_their_logarithms():
    """Normalised to the median as scanpy does it, in float32."""
    counts = sparse.csr_array(space_ranger.read_counts(REAL / "spaceranger").matrix.T)
    totals = np.maximum(counts.sum(axis=1), 1)
    scaled = sparse.csr_array(counts * (np.median(totals) / totals)[:, None])
    restored = h5ad_section.restored_counts(scaled.log1p().astype(np.float32), np.e)
    assert restored is not None
    np.testing.assert_array_equal(restored.toarray(), counts.toarray())
