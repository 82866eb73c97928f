"""Inputs that once went wrong, each with what is right: read, or an InputError that says what to do.

The numbers are those of the cases in tests/README.md. Some kinds have their own tests elsewhere: words for
missing values (cohort/test_samples.py), damaged GCT (cohort/test_gct.py).
"""

import gzip
import os
import unicodedata

import numpy as np
import pandas as pd
import pytest
import small_cohort
import tifffile
from conftest import run_command
from slide_factory import glass, samples, textured, write_slide
from table_factory import table, written

from lib import errors
from lib.cohort import expression, pairing, table_files
from lib.cohort.samples import read_samples
from lib.config import Config
from lib.errors import HistocorrError, InputError, MissingInputError
from lib.explore import notebook_pages
from lib.features import from_file
from lib.network import models
from lib.saved_figures import save_table
from lib.statistics import link_tests, permutations
from lib.tiles.cut_all import cut_slides
from lib.tiles.tiling import Tiling

TILING = Tiling(tile_px=64, tile_mpp=0.9884, input_px=64, min_tissue=0.5, mask_mpp=8.0, reader="auto")
HEAD = "sample_id,slide_id,donor,tissue"


def slide(path, seed=0, **options):
    image = glass(512, 512)
    image[64:448, 64:448] = textured(384, 384, seed=seed)
    return write_slide(path, image, **options)


# ------------------------------------------------------------------------------------------------ tables


def test_3_a_column_called_gene_wins_over_row_numbers(tmp_path):
    frame = pd.DataFrame({"gene": ["A1", "B2"], "S00": [1.5, 2], "S01": [0, 3.25]})
    frame.to_csv(tmp_path / "expression.csv")
    values_df, _ = expression.read_expression(tmp_path / "expression.csv")
    assert values_df.index.tolist() == ["A1", "B2"]
    assert values_df.columns.tolist() == ["S00", "S01"]
    frame.loc[1, "gene"] = "A1"
    frame.to_csv(tmp_path / "twice.csv")
    with pytest.raises(InputError, match="duplicated gene id 'A1'"):
        expression.read_expression(tmp_path / "twice.csv")
    frame.drop(columns="gene").to_csv(tmp_path / "nameless.csv")
    with pytest.raises(InputError, match=r"gene ids are row numbers \('0', '1'\)"):
        expression.read_expression(tmp_path / "nameless.csv")


@pytest.mark.parametrize("ids", [["1-Mar", "TP53"], ["TP53", "Sep-02"], ["2023-03-01 00:00:00", "TP53"]])
def test_dates_for_genes_are_refused(tmp_path, ids):
    path = written(tmp_path, f"gene,a\n{ids[0]},1\n{ids[1]},2\n", "e.csv")
    with pytest.raises(InputError, match=r"1 gene ids are dates, which a spreadsheet made"):
        expression.read_expression(path)


def test_9_a_sample_in_two_columns_of_a_feature_table(tmp_path):
    names = models.feature_names("alexnet")
    lines = ["feature,A,B,A", *(f"{name},1,2,3" for name in names)]
    path = written(tmp_path, "\n".join(lines), "features.csv")
    with pytest.raises(InputError, match=r"1 samples occur twice, first \['A'\]"):
        from_file.read_features(path, "alexnet")


ROWS = "S1,L1,Dé,Liver\nS2,L2,D2,Lung\n"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (f"{HEAD}\n{ROWS}".encode("utf-8-sig"), "s.csv"),
        (f"{HEAD}\n{ROWS}".encode("utf-16"), "s.csv"),
        (f"{HEAD}\n{ROWS}".replace("\n", "\r").encode(), "s.csv"),
        (f"{HEAD}\n{ROWS}".replace("\n", "\r\n").encode(), "s.csv"),
        (f"{HEAD}\n{ROWS}".encode(), "s.csv.gz"),  # not gzipped
        (gzip.compress(f"{HEAD}\n{ROWS}".encode(), mtime=0), "s.csv"),
        (f"{HEAD}\n{ROWS}".replace(",", "\t").encode(), "s.csv"),
        (f"{HEAD}\n{ROWS}".replace(",", ";").encode(), "s.csv"),
        (f"{HEAD},,\n{ROWS}".replace("r\n", "r,,\n").replace("g\n", "g,,\n").encode(), "s.csv"),
        (f",{HEAD}\n0,{ROWS}".replace("\nS2", "\n1,S2").encode(), "s.csv"),
        (f"{HEAD}\n\n{ROWS}\n\n".encode(), "s.csv"),
        (f"{HEAD}\n{ROWS}".replace("é", "e\u0301").encode(), "s.csv"),  # NFD
    ],
)
def test_12_13_what_programs_write_is_read(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    samples_df = read_samples(tmp_path / name)
    assert samples_df.columns.tolist() == HEAD.split(",")
    assert samples_df["donor"].tolist() == ["Dé", "D2"]
    assert samples_df["tissue"].tolist() == ["Liver", "Lung"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{HEAD}\n{ROWS}".encode("latin-1"), r"line 2 is not UTF-8 near .*save the table as UTF-8"),
        (f"{HEAD}\n{ROWS}".replace("é", "e").encode("utf-16-le"), "zero bytes"),
        (f"{HEAD}\n{ROWS}".replace("S2", "S\r2").encode(), "carriage return inside line 3"),
        (f"{HEAD}\n{ROWS}".replace("S2", '"S2').encode(), r"line \d: unexpected end of data.*quotation"),
        (f"{HEAD}\nS1,L1,D1\n".encode(), "line 2 has 3 cells, the header 4"),
        (f"{HEAD}\nS1,L1,D1,Liver,x\n".encode(), "line 2 has 5 cells, the header 4"),
        (f"{HEAD},\nS1,L1,D1,Liver,x\n".encode(), "column 5 has no name but holds 'x'"),
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not UTF-8"),
        ((HEAD + "\n" + "x" * (2 << 20) + ",a,b,c\n").encode(), r"line \d: field larger than field limit"),
    ],
)
def test_12_13_what_cannot_be_read_with_certainty_is_named(tmp_path, content, said):
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"s\.csv: .*{said}"):
        read_samples(tmp_path / "s.csv")


@pytest.mark.parametrize(
    "cells", [("2,213.4", "1,004.0"), ("437,5", "12,25"), ("437,5", "12"), ("1.5", "n.d."), ("3", "1'200")]
)
def test_13_numbers_with_commas_are_no_categories(tmp_path, cells):
    lines = [f'S{i},L{i},D{i},Liver,"{cell}"' for i, cell in enumerate((cells[0], *["1.5"] * 8, cells[1]))]
    path = written(tmp_path, "\n".join([f"{HEAD},rin", *lines]))
    with pytest.raises(InputError, match=r"column 'rin' holds numbers, but \d cells are not"):
        read_samples(path)


def test_13_the_cell_of_an_expression_table_is_named(tmp_path):
    path = written(tmp_path, 'gene,a,b\nX,1,"2,213.4"\n', "e.csv")
    with pytest.raises(InputError, match=r"'2,213.4' at gene X, sample b"):
        expression.read_expression(path)
    path = written(tmp_path, "gene,a,b,,\nX,1,2,,\n", "t.csv")
    assert expression.read_expression(path)[0].columns.tolist() == ["a", "b"]
    path = written(tmp_path, "gene,a,b,\nX,1,2,3\n", "u.csv")
    with pytest.raises(InputError, match="column 4 has no name but holds values"):
        expression.read_expression(path)
    (tmp_path / "l.csv").write_bytes("gene,a\nÉ1,2\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        expression.read_expression(tmp_path / "l.csv")


@pytest.mark.parametrize("column", ["tissue", "donor"])
@pytest.mark.parametrize("twins", [("Liver", "liver"), ("Adipose  tissue", "Adipose tissue")])
def test_names_that_differ_in_case_or_blanks_alone(tmp_path, column, twins):
    lines = [f"S{i},L{i},{twins[i % 2]},{twins[i % 2]}" for i in range(5)]
    path = written(tmp_path, "\n".join([HEAD, *lines]))
    with pytest.raises(InputError, match=rf"written in several ways: '{twins[0]}' \(3 samples\) and"):
        read_samples(path)


def test_unicode_forms_of_a_name_are_one_name(tmp_path):
    lines = [
        f"S{i},L{i},D{i},{unicodedata.normalize(form, 'Oesophagé')}" for i, form in enumerate(("NFC", "NFD"))
    ]
    assert read_samples(written(tmp_path, "\n".join([HEAD, *lines])))["tissue"].nunique() == 1


@pytest.mark.parametrize(("ours", "theirs"), [("007", "7"), ("a1", "A1"), ("S-01", "S-1")])
def test_15_ids_that_a_spreadsheet_changed(ours, theirs):
    samples_df = table(3, sample_id=[ours, "x", "y"])
    with pytest.raises(InputError, match=rf"1 samples have no RNA .*'{ours}' and '{theirs}'"):
        pairing.pair_rna(samples_df, [theirs, "x", "y"])


def test_10_spots_in_pixels_of_a_smaller_image(tmp_path):
    x, y = np.meshgrid(np.arange(12) * 200, np.arange(12) * 200)
    spots_df = table(144, slide_id="one", l0_x=x.ravel(), l0_y=y.ravel(), l0_width=155, l0_height=155)
    spots_df.to_csv(tmp_path / "good.csv", index=False)
    assert len(read_samples(tmp_path / "good.csv")) == 144
    spots_df[["l0_x", "l0_y"]] = spots_df[["l0_x", "l0_y"]] * 0.17
    spots_df.to_csv(tmp_path / "hires.csv", index=False)
    with pytest.raises(InputError, match=r"100% of the 144 regions of slide one overlap another one"):
        read_samples(tmp_path / "hires.csv")


def test_21_genes_and_features_that_follow_depth_alone(tmp_path):
    """Two tissues, 200 samples: with the covariate out there is no link; without, every gene has one."""
    rng = np.random.default_rng(0)
    samples_df = table(200, tissue=["Liver", "Lung"] * 100)
    depth = rng.normal(size=200) + np.arange(200) % 2
    names = samples_df["sample_id"].tolist()
    frames = [
        pd.DataFrame(depth + 0.5 * rng.normal(size=(n, 200)), [f"{letter}{i}" for i in range(n)], names)
        for n, letter in ((100, "g"), (80, "f"))
    ]
    shuffles = permutations.draw("within_tissue", 1000, samples_df, 0)
    covariates_df = pd.DataFrame({"log_counts": depth}, index=names)
    found = []
    for given in (None, covariates_df):
        test = link_tests.run(*frames, samples_df, shuffles, given, link_tests.Plan(10))
        found.append(int((test.genes_df["q"] <= 0.05).sum()))
    assert found[0] == 100
    assert found[1] <= 2, "at most the false ones that q = .05 allows now and then"


@pytest.mark.slow
def test_24_several_samples_of_a_slide_with_given_features(tmp_path):
    """48 samples of 24 slides, features from elsewhere: no tiles are asked for."""
    path = small_cohort.make(tmp_path, n=24, features_file="features.parquet")
    raw, rng = tmp_path / "data/raw/mine", np.random.default_rng(0)
    frame = pd.concat(
        [
            pd.read_csv(raw / "samples.csv").assign(sample_id=lambda df, end=end: df["sample_id"] + end)
            for end in "ab"
        ]
    )
    frame.to_csv(raw / "samples.csv", index=False)
    ids = frame["sample_id"].tolist()
    level = 3 + 3 * (frame["tissue"] == "Liver").to_numpy() + rng.normal(scale=0.5, size=(120, 48))
    pd.DataFrame(np.exp2(level), [f"G{i}" for i in range(120)], ids).rename_axis("gene").to_csv(
        raw / "expression.csv.gz"
    )
    names = models.feature_names("alexnet")
    pd.DataFrame(rng.normal(size=(len(names), 48)), names, ids).rename_axis("feature").to_parquet(
        raw / "features.parquet"
    )
    done = run_command(tmp_path, "--cohort", path, "--to", "05")
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"best_feature_r": 0.5}, "best_feature_r = 0.5, but pairs below r_threshold = 0.7 are not kept"),
        ({"thresholds": []}, "thresholds"),
        ({"e_threshold": float("inf")}, "e_threshold"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"device": "rm -rf"}, "device"),
    ],
)
def test_16_parameters_are_refused_when_they_are_read(values, said):
    with pytest.raises(InputError, match=said):
        Config.checked({"cohort": "mine"} | values)


def test_12_a_toml_file_with_a_byte_order_mark_or_in_another_encoding(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes('title = "é"\n'.encode("utf-8-sig"))
    assert Config.load(str(path)).title == "é"
    path.write_bytes('title = "é"\n'.encode("latin-1"))
    with pytest.raises(InputError, match=r"mine.toml is not UTF-8 text"):
        Config.load(str(path))


# ------------------------------------------------------------------------------------------------ slides


def cut(tmp_path, slide_ids, paths):
    frame = pd.DataFrame({"sample_id": slide_ids, "slide_id": slide_ids})
    return cut_slides(frame, paths, tmp_path / "stacks", TILING)


def test_4_a_good_file_in_place_of_a_damaged_one_of_equal_size(tmp_path):
    path = slide(tmp_path / "a.svs")
    slide(tmp_path / "b.svs", seed=1)
    good, paths = path.read_bytes(), {i: tmp_path / f"{i}.svs" for i in "ab"}
    n = len(good)
    path.write_bytes(good[: n // 10] + b"\0" * (n // 2 - n // 10) + good[n // 2 :])
    before_df = cut(tmp_path, ["a", "b"], paths)[1].set_index("slide_id")
    path.write_bytes(good)
    os.utime(path, (1e9, 1e9))
    tiles_df, after_df = cut(tmp_path, ["a", "b"], paths)
    assert after_df["state"].tolist() == ["ok", "ok"]
    assert before_df.loc["b"].equals(after_df.set_index("slide_id").loc["b"])
    fresh_df = cut_slides(samples("a"), {"s": path}, tmp_path / "fresh", TILING)[0]
    stacks = np.load(tmp_path / "stacks/a.npy"), np.load(tmp_path / "fresh/s.npy")
    assert np.array_equal(*stacks)
    assert (tiles_df["slide_id"] == "a").sum() == len(fresh_df)


@pytest.mark.parametrize("wrong", [9.884, 0.04942])
def test_5_a_resolution_that_cannot_be_right_stops_with_the_slides_name(tmp_path, wrong):
    paths = {i: slide(tmp_path / f"{i}.svs", seed=k) for k, i in enumerate("abc")}
    paths["odd"] = slide(tmp_path / "odd.svs", mpp=wrong)
    with pytest.raises(InputError, match=rf"1 slides state a resolution .*odd: {wrong:g} µm/px"):
        cut(tmp_path, [*"abc", "odd"], paths)


def test_11_a_turned_tiff_is_refused(tmp_path):
    pixels = textured(512, 512, seed=0)
    options = {"photometric": "rgb", "tile": (128, 128), "resolution": (1e4 / 0.5, 1e4 / 0.5)}
    options |= {"resolutionunit": "CENTIMETER", "compression": "lzw", "metadata": None}
    tifffile.imwrite(tmp_path / "up.tiff", pixels, **options)
    tifffile.imwrite(tmp_path / "turned.tiff", pixels, extratags=[(274, 3, 1, 3, True)], **options)
    paths = {"up": tmp_path / "up.tiff", "turned": tmp_path / "turned.tiff"}
    slides_df = cut(tmp_path, ["up", "turned"], paths)[1].set_index("slide_id")
    assert slides_df["state"].tolist() == ["ok", "failed"]
    assert "TIFF orientation 3" in slides_df.loc["turned", "reason"]


def test_23_each_slide_keeps_its_whole_reason(tmp_path):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    paths = {"good": slide(folder / "good.svs"), "mute": slide(folder / "mute.svs", mpp=None)}
    paths["strips"] = folder / "strips.tif"
    tifffile.imwrite(paths["strips"], textured(64, 64, seed=0), photometric="rgb", rowsperstrip=16)
    paths["pipe"] = folder / "pipe.svs"
    os.mkfifo(paths["pipe"])
    paths["folder"] = folder / "folder.svs"
    paths["folder"].mkdir()
    paths["gone"] = folder / "gone.svs"
    paths["gone"].symlink_to(folder / "nowhere")
    paths["loop"] = folder / "loop.svs"
    paths["loop"].symlink_to(paths["loop"])
    slides_df = cut(tmp_path, list(paths), paths)[1].set_index("slide_id")
    assert slides_df["state"].tolist() == ["ok"] + ["failed"] * 6
    said = {"mute": "does not state its µm/px", "strips": "does not state its µm/px", "pipe": "pipe"}
    said |= {"folder": "is a folder", "gone": "does not exist", "loop": ""}
    for name, words in said.items():
        assert words in slides_df.loc[name, "reason"], name


@pytest.fixture
def store(make_store):
    return make_store()


def test_14_slides_are_found_whatever_their_suffix(store):
    folder = store.raw / "slides"
    for name in ("S00.TIFF", "S01.ome.tif", "S02.svs", "S03.Svs", "é.ndpi"):
        (folder / unicodedata.normalize("NFD", name)).touch()
    (folder / "S04.svs").symlink_to(folder / "nowhere")
    ids = ["S00", "S01", "S02.svs", "S03", "é", "S04", "S05"]
    paths = store.slide_paths(pd.DataFrame({"slide_id": ids}))
    assert [path.is_file() for path in paths.values()] == [True] * 5 + [False] * 2
    assert paths["S05"] == folder / "S05.svs"
    assert store.slide_path("S01").name == "S01.ome.tif"


def test_6_broken_links_leave_what_is_done_current(store):
    frame = pd.DataFrame({"slide_id": ["a"]})
    (store.raw / "slides/gone.svs").symlink_to(store.raw / "nowhere")
    (store.raw / "slides/loop.svs").symlink_to(store.raw / "slides/loop.svs")
    store.save("samples", frame)
    store.save("tiles", frame)
    assert store.is_current("tiles")
    assert store.missing_slides(pd.DataFrame({"slide_id": ["a", "gone", "loop"]})) == ["gone", "loop"]


# ---------------------------------------------------------------------------------- what changes meanwhile


def test_19_slides_that_arrive_while_others_are_cut_are_cut(store):
    store.save("samples", pd.DataFrame({"slide_id": ["a"]}))
    seen = []

    def make():
        seen.append(sorted(path.name for path in (store.raw / "slides").iterdir()))
        if len(seen) == 1:
            (store.raw / "slides/late.svs").write_bytes(b"late")
        return pd.DataFrame({"n": [len(seen[-1])]})

    assert store.cached("tiles", make)["n"].tolist() == [2]
    assert seen == [["a.svs"], ["a.svs", "late.svs"]]
    assert store.is_current("tiles")


def test_19_a_folder_that_never_rests_is_said(store):
    store.save("samples", pd.DataFrame({"slide_id": ["a"]}))

    def make():
        n = len(list((store.raw / "slides").iterdir()))
        (store.raw / f"slides/{n}.svs").write_bytes(b"late")
        return pd.DataFrame({"n": [n]})

    with pytest.raises(InputError, match=r"slides changed while it was read: let its download"):
        store.cached("tiles", make)
    assert not store.is_current("tiles")


def test_19_a_table_that_changes_after_it_was_read_leaves_its_results_stale(store):
    path = store.to_read("samples_file")
    path.write_text("sample_id\nb\n")
    with pytest.raises(InputError, match=r"samples.csv changed while it was read"):
        store.cached("samples", lambda: pd.DataFrame({"sample_id": ["a"]}))
    store.save("samples", pd.DataFrame({"sample_id": ["a"]}))
    assert "raw:samples_file" in store.why_stale("samples")


# ------------------------------------------------------------------------------------------ hostile input


def test_25_a_line_without_end_is_refused_in_a_moment(tmp_path):
    (tmp_path / "s.csv.gz").write_bytes(gzip.compress(b"1" * (200 << 20)))
    with pytest.raises(InputError) as caught:
        read_samples(tmp_path / "s.csv.gz")
    assert len(str(caught.value)) < 1000


def test_26_names_like_placeholders_formulas_and_markup(tmp_path):
    frame = pd.DataFrame(
        {"gene": ["=cmd|' /C calc'!A0", "-1.5", "@x", "plain"], "n": [-1.5, 2, 3, 4]},
        index=["+a", "b", "c", "d"],
    )
    save_table(tmp_path, "t", frame.rename_axis("id"))
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", "'+a", "b", "c", "d"]
    assert [line.split(",")[1] for line in lines[1:]] == ["'=cmd|' /C calc'!A0", "-1.5", "'@x", "plain"]
    assert [float(line.split(",")[2]) for line in lines[1:]] == [-1.5, 2, 3, 4]


def test_26_a_gene_called_like_a_placeholder_does_not_break_the_page(tmp_path):
    import nbformat

    cells = [nbformat.v4.new_markdown_cell("$x^2$ EQUATION7END EQUATION0END")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    page = notebook_pages.export_html(tmp_path / "n.ipynb").read_text()
    assert "EQUATION7END EQUATION0END" in page
    assert "<math" in page


def test_every_error_is_of_the_family():
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == "lib.errors"
    ]
    assert {kind.__name__ for kind in kinds} >= {"InputError", "MissingInputError", "DamagedFileError"}
    assert all(issubclass(kind, HistocorrError) for kind in kinds)
    assert issubclass(InputError, ValueError)
    assert issubclass(MissingInputError, FileNotFoundError)


def test_letters_are_composed():
    assert table_files.composed(" e\u0301 ") == "é"
