"""The transcribed tables of the paper agree with each other and with the text."""

from pathlib import Path

import pandas as pd
import pytest

import lib

REFERENCE = Path(lib.__file__).parents[1] / "data" / "reference"
ARCHITECTURES = [
    "alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn",
    "resnet34", "inception_v3", "vgg16_1fc", "vgg16_avg1fc",
]  # fmt: skip


def table(name: str, **kwargs) -> pd.DataFrame:
    return pd.read_csv(REFERENCE / f"{name}.csv", **kwargs)


@pytest.fixture(scope="module")
def text() -> pd.Series:
    return table("paper_text").set_index("item")["value"]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_architecture_tables(number):
    df = table(f"paper_table{number}")
    expected = [a for a in ARCHITECTURES if not (number == 4 and a == "vgg19_bn")]
    assert df["architecture"].tolist() == expected
    assert (df["paper_name"].str.lower() == df["architecture"]).all()


def test_table1_features_are_the_channels_of_the_printed_modules(text):
    df = table("paper_table1").set_index("architecture")
    channels, total = 0, 0
    modules = df.loc["vgg16", "modules"].split("; ")
    assert [int(m.split()[0]) for m in modules] == list(range(38))
    for module in modules[: int(text["n_layers_vgg16"])]:
        if "Conv2d" in module:
            channels = int(module.split(",")[1].rstrip(")"))
        total += channels
    assert total == df.loc["vgg16", "n_features"] == text["n_features_vgg16"] == 9920
    assert df.loc["vgg16_1fc", "n_features"] == total
    assert df.loc["vgg16_avg1fc", "n_features"] == total + 512


def test_table1_parameters(text):
    n = table("paper_table1").set_index("architecture")["n_parameters"]
    assert n["vgg16"] == text["n_parameters_vgg16"]
    assert n["vgg16_1fc"] == text["n_parameters_vgg16_1fc"]
    # the two heads differ by one linear layer: 25088 or 512 inputs to 39 classes
    assert n["vgg16_1fc"] - n["vgg16_avg1fc"] == (25088 - 512) * 39
    # batch norm adds a scale and a shift per convolution channel: half of the features it adds, twice
    features = table("paper_table1").set_index("architecture")["n_features"]
    for name in ("vgg11", "vgg13", "vgg16", "vgg19"):
        assert n[f"{name}_bn"] - n[name] == 2 * (features[f"{name}_bn"] - features[name])


def test_slide_accuracies_are_whole_slides(text):
    df = table("paper_table3")
    for column, n_slides in (
        ("validation_accuracy_percent", text["n_slides_validation"]),
        ("test_accuracy_percent", text["n_slides_test"]),
    ):
        n_right = df[column] * n_slides / 100
        assert (abs(n_right.round() / n_slides * 100 - df[column]) < 0.006).all()
    vgg16 = df.set_index("architecture").loc["vgg16", "test_accuracy_percent"]
    assert vgg16 == text["slide_accuracy_vgg16_percent"]


def test_tile_accuracies():
    df = table("paper_table2").set_index("architecture")
    assert df["test_accuracy_percent"].idxmin() == "alexnet"
    assert (df["validation_accuracy_percent"] > df["test_accuracy_percent"]).all()
    assert df["test_accuracy_percent"].max() == 81.56


def test_tables_4_5_and_7_agree_with_each_other_and_the_text(text):
    counts = ["n_pairs", "n_genes", "n_features", "n_tissues"]
    four = table("paper_table4").set_index("architecture")
    five = table("paper_table5").set_index(["correlation_threshold", "log2_expression_threshold"])
    seven = table("paper_table7").set_index(["correlation_threshold", "log2_expression_threshold"])
    assert five.index.is_unique
    assert four.loc["vgg16", counts].tolist() == five.loc[(0.8, 10), counts].tolist()
    assert (five["n_pairs"] >= five["n_genes"]).all()
    assert (five["n_tissues"] <= text["n_tissues"]).all()
    for r, e, tag in ((0.7, 7, "0_7_and_7"), (0.8, 10, "0_8_and_10"), (0.75, 7, "0_75_and_7")):
        for what in ("pairs", "genes", "features"):
            assert five.loc[(r, e), f"n_{what}"] == text[f"{what}_at_{tag}"]
    for what in ("pairs", "genes", "features"):
        assert four.loc["vgg16_bn", f"n_{what}"] == text[f"{what}_vgg16_bn"]
    assert five.iloc[-1].tolist() == [27671, 995, 1947, 36]
    assert (seven["n_pairs"] == five.loc[seven.index, "n_pairs"]).all()


def test_table5_loosens_with_its_thresholds():
    df = table("paper_table5")
    for a in df.itertuples():
        for b in df.itertuples():
            looser = b.correlation_threshold <= a.correlation_threshold
            if looser and b.log2_expression_threshold <= a.log2_expression_threshold:
                assert b.n_pairs >= a.n_pairs
                assert b.n_genes >= a.n_genes
                assert b.n_features >= a.n_features
                assert b.n_tissues >= a.n_tissues


def test_table7_patterns_shrink_with_alpha():
    df = table("paper_table7")
    for pattern in ("g_t_f", "f_g_t", "g_f_t"):
        loose, strict = df[f"n_{pattern}_alpha_05"], df[f"n_{pattern}_alpha_01"]
        assert (loose <= strict).all()
        assert (strict <= df["n_pairs"]).all()


def test_table6(text):
    df = table("paper_table6")
    tissues = table("gtex_tissues").set_index("tissue")
    assert len(df) == 192
    assert df["gene"].is_unique
    assert df["gene"].str.fullmatch(r"[A-Z0-9]+(-\d+)?").all()
    layers = df["feature"].str.extract(r"^(\d+)_(\d+)$").astype(float)
    assert layers.notna().all(axis=None)
    assert layers[0].between(0, 30).all()
    assert layers[1].between(0, 511).all()
    assert df["r"].between(0.75, 1).all()
    assert df["max_median_log2"].between(7, 17).all()
    named = df["tissue"].str.split("; ").explode()
    assert set(named) <= set(tissues.index[tissues["in_paper"]])
    assert df.loc[df["tissue"].str.contains("; "), "gene"].tolist() == ["NR5A1"]
    assert df.set_index("gene").loc["PAX8", "r"] == text["r_pax8_29_499"]
    assert (df["paper_tissue"].str.count("—") == df["tissue"].str.count(" - ")).all()
    assert len(df) <= text["genes_at_0_75_and_7"]
    # grouped by tissue, sorted by r within each group, as printed
    assert (df["tissue"] != df["tissue"].shift()).sum() == df["tissue"].nunique()
    assert df.groupby("tissue", sort=False)["r"].apply(lambda r: r.is_monotonic_decreasing).all()
    # no channel beyond the width of its layer of VGG16
    width = {**dict.fromkeys(range(5), 64), **dict.fromkeys(range(5, 10), 128)}
    width |= dict.fromkeys(range(10, 17), 256)
    assert all(channel < width.get(int(layer), 512) for layer, channel in layers.to_numpy())


def test_text_sums(text):
    assert table("paper_text")["item"].is_unique
    slides = text[["n_slides_training", "n_slides_validation", "n_slides_test"]]
    tiles = text[["n_tiles_training", "n_tiles_validation", "n_tiles_test"]]
    assert slides.tolist() == [1006, 330, 334]
    assert tiles.tolist() == [349340, 114123, 116025]
    assert slides.sum() == text["n_slides"] == 1670
    assert tiles.sum() == text["n_tiles"] == 579488
    assert text["n_rna_samples"] - text["n_slides"] == text["n_slides_with_duplicate_rna"] == 108
    assert text["n_genes"] * text["n_features_vgg16"] == text["n_gene_feature_pairs"] == 557523840
    assert round(text["tile_px"] * text["tile_mpp"]) == text["tile_um"]
    assert text["tile_mpp"] == 2 * text["level0_mpp"]


def test_gtex_tissues(text):
    df = table("gtex_tissues", keep_default_na=False)
    assert len(df) == 54
    for column in ("tissue", "tissue_id", "abbreviation"):
        assert df[column].is_unique
    assert df["color"].str.fullmatch(r"#[0-9A-F]{6}").all()
    assert df["has_histology"].sum() == 40
    paper = df[df["in_paper"]]
    assert len(paper) == text["n_tissues"]
    assert paper["merged_tissue"].nunique() == text["n_tissues_merged"]
    assert (df["merged_tissue"].eq("") == ~df["has_histology"]).all()
    brain = df["tissue"].str.startswith("Brain")
    assert brain.sum() == 13
    assert set(df.loc[brain, "color"]) == {"#EEEE00"}


def test_every_table_has_its_columns_described():
    readme = (REFERENCE / "README.md").read_text(encoding="utf-8")
    for path in sorted(REFERENCE.glob("*.csv")):
        assert f"| {path.name} |" in readme
        for column in pd.read_csv(path, nrows=1, comment="#").columns:
            assert column in readme, f"{path.name}: column {column} is not in data/reference/README.md"


def test_transcription_against_the_paper_itself(text):
    paper = REFERENCE.parents[2] / "shared" / "paper" / "badea_stanescu_2020.txt"
    if not paper.is_file():
        pytest.skip(f"the paper's text is not at {paper}")
    printed = paper.read_text(encoding="utf-8")
    for row in table("paper_table6", dtype=str).itertuples():
        fields = [row.gene, row.gene_name, row.paper_tissue, row.max_median_log2, row.feature, row.r]
        assert "\t".join(fields) in printed
    for name in ("paper_table2", "paper_table3"):
        for row in table(name, dtype=str).itertuples():
            values = (row.validation_accuracy_percent, row.test_accuracy_percent)
            assert f"{row.paper_name}\t{values[0]}%\t{values[1]}%" in printed
    for row in table("paper_table4").itertuples():
        counts = (row.n_pairs, row.n_genes, row.n_features, row.n_tissues)
        assert "\t".join([row.paper_name, *(f"{n:,}" for n in counts)]) in printed
    for row in table("paper_text", dtype=str, keep_default_na=False).itertuples():
        if row.item == "permutation_p_upper_bound":
            assert "$p < 10^{-3}$" in printed
            continue
        grouped = f"{int(row.value):,}" if row.value.isdigit() else row.value
        assert grouped in printed or row.value in printed, row.item
