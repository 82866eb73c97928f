"""A folder as the GDC's download tool leaves it, made in the documented forms, becomes a cohort."""

import gzip
import hashlib

import numpy as np
import pandas as pd
import pytest
from local_server import serving
from slide_factory import glass, textured, write_slide

from lib import gdc as command
from lib.cohort.splits import assign_splits
from lib.errors import InputError, MissingInputError
from lib.sources.gdc import GdcCohort
from lib.sources.mirror import Places

GENES = [f"ENSG{i:011d}.{i % 7 + 1}" for i in range(40)]
COLUMNS = "gene_id gene_name gene_type unstranded stranded_first stranded_second tpm_unstranded"
COLUMNS += " fpkm_unstranded fpkm_uq_unstranded"


def uuid(*parts):
    text = hashlib.md5("".join(parts).encode()).hexdigest()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def write_rna(folder, sample, values, aliquot="", packed=False, genes=GENES):
    """One file of STAR counts in a folder of its own; its name, which says nothing of the sample."""
    name = f"{uuid(sample, aliquot)}.rna_seq.augmented_star_gene_counts.tsv" + ".gz" * packed
    lines = ["# gene-model: GENCODE v36", "\t".join(COLUMNS.split())]
    lines += [f"{n}\t\t\t{k}\t{k}\t{k}\t\t\t" for k, n in enumerate(("N_unmapped", "N_multimapping"))]
    lines += [
        f"{g}\tS{i}\tprotein_coding\t5\t3\t2\t{v:.4f}\t1\t1"
        for i, (g, v) in enumerate(zip(genes, values, strict=True))
    ]
    (folder / uuid("file", sample, aliquot)).mkdir(parents=True, exist_ok=True)
    text = ("\n".join(lines) + "\n").encode()
    path = folder / uuid("file", sample, aliquot) / name
    path.write_bytes(gzip.compress(text, mtime=0) if packed else text)
    return name


def write_gdc_slide(folder, name, image=None):
    place = folder / uuid("slide", name)
    place.mkdir(parents=True)
    image = glass(64, 64) if image is None else image
    return write_slide(place / f"{name}.{uuid(name).upper()}.svs", image)


def row(name, sample, kind="Primary Tumor", project="TCGA-COAD"):
    case = sample.rsplit("-", 1)[0]
    return {"File ID": uuid(name), "File Name": name, "Project ID": project} | {
        "Case ID": case, "Sample ID": sample, "Sample Type": kind
    }  # fmt: skip


def write_sheet(folder, rows):
    pd.DataFrame(rows).to_csv(folder / "gdc_sample_sheet.2026-11-01.tsv", sep="\t", index=False)


@pytest.fixture
def folder(tmp_path):
    """Three cases: one with two aliquots and two diagnostic slides, one with normal tissue, one frozen."""
    gdc = tmp_path / "gdc"
    gdc.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for sample, aliquot, kind in (
        ("TCGA-AA-0001-01A", "a", "Primary Tumor"),
        ("TCGA-AA-0001-01A", "b", "Primary Tumor"),
        ("TCGA-BB-0002-01A", "a", "Primary Tumor"),
        ("TCGA-BB-0002-11A", "a", "Solid Tissue Normal"),
        ("TCGA-CC-0003-01B", "a", "Primary Tumor"),
        ("TCGA-DD-0004-01A", "a", "Primary Tumor"),
    ):
        name = write_rna(gdc, sample, rng.uniform(0, 9, 40), aliquot, packed=sample.endswith("01B"))
        rows.append(row(name, sample, kind))
    for name in ("TCGA-AA-0001-01Z-00-DX2", "TCGA-AA-0001-01Z-00-DX1", "TCGA-AA-0001-01A-01-TS1"):
        write_gdc_slide(gdc, name)
    for name in ("TCGA-BB-0002-01Z-00-DX1", "TCGA-BB-0002-11A-01-TS1"):
        write_gdc_slide(gdc, name)
    for name in ("TCGA-CC-0003-01A-01-TS1", "TCGA-CC-0003-01B-01-BS1"):
        write_gdc_slide(gdc, name)
    write_sheet(gdc, rows)
    return tmp_path


def made(raw, **options):
    facts = GdcCohort("gdc", **options).make_inputs(raw, Places(raw, (), None))
    samples_df = pd.read_csv(raw / "samples.csv", dtype=str, keep_default_na=False)
    return facts, samples_df, pd.read_parquet(raw / "expression.parquet")


def test_diagnostic_slides_of_tumours(folder):
    facts, samples_df, expression_df = made(folder)
    assert samples_df["sample_id"].tolist() == ["TCGA-AA-0001-01", "TCGA-BB-0002-01"]
    assert samples_df["donor"].tolist() == ["TCGA-AA-0001", "TCGA-BB-0002"]
    assert set(samples_df["tissue"]) == {"TCGA-COAD"}
    slides = samples_df["slide_id"].str.split(";")
    assert [[name.partition(".")[0][-3:] for name in of] for of in slides] == [["DX1", "DX2"], ["DX1"]]
    assert samples_df["tissue_source_site"].tolist() == ["AA", "BB"]
    assert all((folder / f"slides/{slide}.svs").resolve().is_file() for slide in slides.sum())
    assert expression_df.columns.tolist() == samples_df["sample_id"].tolist()
    assert expression_df.index.tolist() == GENES, "without the counts of unmapped reads"
    genes_df = pd.read_csv(folder / "genes.csv")
    assert genes_df.iloc[3].tolist() == [GENES[3], "S3", "protein_coding"]
    left = {step["step"]: step["n_left"] for step in facts["steps"]}
    assert left["RNA files"] == 6
    assert left["of sample type Primary Tumor"] == 5
    assert left["cases and sample types with RNA (of several aliquots the first)"] == 4
    assert left["of kind DX"] == 3
    assert left["samples; the slides of one are pooled"] == 2


def test_a_slide_scanned_twice_counts_once(folder):
    name = "TCGA-AA-0001-01Z-00-DX1"
    twice = folder / "gdc" / uuid("another scan")
    twice.mkdir()
    write_slide(twice / f"{name}.{uuid('another scan').upper()}.svs", glass(64, 64))
    facts, samples_df, _ = made(folder)
    assert samples_df["slide_id"].str.count(name).tolist() == [1, 0]
    left = {step["step"]: step["n_left"] for step in facts["steps"]}
    assert left["... of each sample's preferred kind"] - left["... of a slide scanned twice the first"] == 1


def test_values_are_those_of_the_file(folder):
    _, _, expression_df = made(folder)
    (path,) = (folder / "gdc" / uuid("file", "TCGA-BB-0002-01A", "a")).iterdir()
    by_hand = [line.split("\t") for line in path.read_text().splitlines()[4:]]
    np.testing.assert_allclose(
        expression_df["TCGA-BB-0002-01"], [float(cells[6]) for cells in by_hand], rtol=1e-6
    )


def test_frozen_slides_are_of_the_vial_of_the_rna(folder):
    facts, samples_df, _ = made(folder, slides=("TS", "BS"), sample_types=())
    kinds = samples_df.set_index("sample_id")["slide_kind"].to_dict()
    assert kinds == {"TCGA-AA-0001-01": "TS", "TCGA-BB-0002-11": "TS", "TCGA-CC-0003-01": "BS"}
    tissues = samples_df.set_index("sample_id")["tissue"].to_dict()
    assert tissues["TCGA-BB-0002-11"] == "TCGA-COAD, Solid Tissue Normal"
    left = {step["step"]: step["n_left"] for step in facts["steps"]}
    assert left["... frozen ones of the same vial only"] == 3
    assert left["slides of these cases and sample types"] == 4


def test_projects_without_barcodes_join_through_the_sheet(tmp_path):
    gdc = tmp_path / "gdc"
    gdc.mkdir()
    rows = []
    for k in range(3):
        rows.append(row(write_rna(gdc, f"C3L-{k:05d}-01", np.ones(40)), f"C3L-{k:05d}-01", project="CPTAC-3"))
        slide = write_gdc_slide(gdc, f"C3L-{k:05d}-21")
        rows.append(row(slide.name, f"C3L-{k:05d}-01", project="CPTAC-3"))
    write_sheet(gdc, rows)
    _, samples_df, _ = made(tmp_path)
    assert samples_df["sample_id"].tolist() == [f"C3L-{k:05d}-01" for k in range(3)]
    assert samples_df["donor"].tolist() == [f"C3L-{k:05d}" for k in range(3)]


def test_what_is_missing_is_said(folder, tmp_path):
    gdc = folder / "gdc"
    with pytest.raises(MissingInputError, match=r"nowhere is no folder: give gdc_folder"):
        GdcCohort("nowhere").make_inputs(folder, Places(folder, (), None))
    with pytest.raises(InputError, match=r"\['Metastatic'\]; there are: Primary Tumor, Solid"):
        made(folder, sample_types=("Metastatic",))
    with pytest.raises(InputError, match=r"no slide is of gdc_slides \['MS'\]"):
        made(folder, slides=("MS",))
    (sheet,) = gdc.glob("gdc_sample_sheet*")
    text = sheet.read_text()
    sheet.write_text(text.replace("Sample Type", "Kind"))
    with pytest.raises(InputError, match=r"lacks columns \['Sample Type'\]"):
        made(folder)
    sheet.unlink()
    with pytest.raises(MissingInputError, match="choose Sample Sheet"):
        made(folder)
    sheet.write_text(text)
    (path,) = (gdc / uuid("file", "TCGA-BB-0002-01A", "a")).iterdir()
    whole = path.read_text()
    path.write_text(whole.replace(GENES[7], "ENSG9"))
    with pytest.raises(InputError, match=r"other genes than .* two gene models"):
        made(folder)
    path.write_text("\n".join(whole.splitlines()[:10]).rsplit("\t", 4)[0])
    with pytest.raises(InputError, match=r"other genes|tpm_unstranded of"):
        made(folder)
    path.write_text("<html>an error page</html>")
    with pytest.raises(InputError, match=r"cannot be read|lacks columns"):
        made(folder)


def test_centres_stay_together_in_a_split():
    rng = np.random.default_rng(0)
    site = rng.integers(0, 12, 200)
    samples_df = pd.DataFrame(
        {"sample_id": [f"s{i}" for i in range(200)], "tissue_source_site": site.astype(str)}
    )
    samples_df = samples_df.assign(
        slide_id=samples_df["sample_id"], donor=samples_df["sample_id"], tissue="T"
    )
    splits = assign_splits(samples_df, split_by="tissue_source_site")
    assert splits.groupby(samples_df["tissue_source_site"]).nunique().eq(1).all()
    assert set(splits) == {"train", "validation", "test"}
    with pytest.raises(InputError, match="choose one of donor, slide, sample, or a column"):
        assign_splits(samples_df, split_by="centre")
    with pytest.raises(InputError, match="1 samples have no value there"):
        assign_splits(samples_df.assign(c=["", *["a"] * 199]), split_by="c")
    with pytest.raises(InputError, match=r"donors with several of its values .*'d'"):
        assign_splits(samples_df.assign(donor="d"), split_by="tissue_source_site")


def test_a_manifest_is_downloaded_checked_and_continued(tmp_path, capsys):
    bodies = {uuid(str(k)): bytes([k]) * (1000 + k) for k in range(3)}
    lines = ["id\tfilename\tmd5\tsize\tstate"]
    for k, (name, body) in enumerate(bodies.items()):
        md5 = hashlib.md5(body).hexdigest() if k else "0" * 32
        lines.append(f"{name}\tfile{k}.svs\t{md5}\t{len(body)}\treleased")
    manifest = tmp_path / "gdc_manifest.txt"
    manifest.write_text("\n".join(lines) + "\n")
    (tmp_path / "data").mkdir()
    for name, body in bodies.items():
        (tmp_path / "data" / name).write_bytes(body)
    options = ["--manifest", str(manifest), "--folder", str(tmp_path / "gdc")]
    with serving(folder=tmp_path) as server:
        options += ["--base-url", f"{server.base}/data/"]
        assert command.main(["download", *options]) == 1
        said = capsys.readouterr()
        assert "2 downloaded, 1 failed in" in said.out
        assert "has md5" in said.err
        md5 = hashlib.md5(next(iter(bodies.values()))).hexdigest()
        manifest.write_text(manifest.read_text().replace("0" * 32, md5))
        assert command.main(["download", *options]) == 0
    for k, (name, body) in enumerate(bodies.items()):
        assert (tmp_path / "gdc" / name / f"file{k}.svs").read_bytes() == body
    manifest.write_text("id\tfilename\tmd5\tsize\n../x\ta.svs\t0\t1\n")
    assert command.main(["download", *options]) == 2
    assert "'../x' has a path separator" in capsys.readouterr().err


def test_slides_with_tissue_become_samples(tmp_path):
    """The files that notebook 00 writes are ones that it reads."""
    gdc = tmp_path / "gdc"
    gdc.mkdir()
    rows = []
    for k in range(2):
        sample = f"TCGA-AA-000{k}-01A"
        rows.append(row(write_rna(gdc, sample, np.ones(40)), sample))
        image = glass(256, 256)
        image[32:224, 32:224] = textured(192, 192, seed=k)
        write_gdc_slide(gdc, f"TCGA-AA-000{k}-01Z-00-DX1", image)
    write_sheet(gdc, rows)
    _, samples_df, _ = made(tmp_path)
    assert len(samples_df) == 2
    _ = made(tmp_path)  # again, over what is there
