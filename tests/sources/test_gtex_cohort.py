"""GTEx's tables found, or fetched from a local server, and turned into the inputs of a cohort."""

import gzip
import json
import shlex
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from gtex_factory import GTEX, needs_gtex, portal_rows, rna, write_portal
from local_server import Quiet, serving

from lib import gtex
from lib.cohort.expression import read_expression, read_gene_table
from lib.cohort.samples import read_samples
from lib.cohort_sources import source_of
from lib.config import Config
from lib.config_values import parse_setting
from lib.sources import gtex_cohort, gtex_fetch
from lib.sources.gtex_cohort import GtexCohort
from lib.sources.gtex_tables import read_portal
from lib.sources.http_session import Settings
from lib.sources.mirror import Places
from lib.store import Store

GTF = 'chr1\tH\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG1.1"; gene_type "protein_coding"; gene_name "A";\n'
RNA = [rna(row[0]) for row in portal_rows()]
GCT = (
    f"#1.2\n1\t{len(RNA)}\nName\tDescription\t" + "\t".join(RNA) + "\nENSG1.1\tA" + "\t1.5" * len(RNA) + "\n"
)
ATTRIBUTES = "SAMPID\tSMRIN\tSMTSISCH\n" + "".join(
    f"{name}\t{6 + i / 10:.1f}\t{100 * i}\n" for i, name in enumerate(RNA)
)
PHENOTYPES = "SUBJID\tSEX\tAGE\tDTHHRDY\n" + "".join(f"GTEX-1AB{d}\t1\t50-59\t0\n" for d in range(4))
FILES = {
    "tpm.gct.gz": gzip.compress(GCT.encode()),
    "attributes.txt": ATTRIBUTES.encode(),
    "phenotypes.txt": PHENOTYPES.encode(),
    "genes.gtf": GTF.encode(),
    "go-basic.obo": b"format-version: 1.2\n",
    "goa_human.gaf.gz": gzip.compress(b"!gaf-version: 2.1\n"),
}
RECORDS = [
    {
        "tissueSampleId": row[0], "histologyImageId": row[0], "tissueSiteDetail": row[1], "subjectId": row[2],
        "sex": row[3], "ageBracket": row[4], "hardyScale": None, "pathologyNotes": row[7],
        "pathologyNotesCategories": {"fibrosis": True, "steatosis": False} if row[6] else {},
    }
    for row in portal_rows()
]  # fmt: skip


class Portal(Quiet):
    """A release's files by name, and the portal's API, 5 records a page; `fail_pages` fail so often."""

    def do_GET(self):
        parts = urlsplit(self.path)
        name = parts.path.rpartition("/")[2]
        if name != "image":
            body = self.server.files.get(name)
            self.answer(404 if body is None else 200, body or b"")
            return
        page = int(parse_qs(parts.query)["page"][0])
        self.server.pages.append(page)
        if self.server.fail_pages.get(page, 0):
            self.server.fail_pages[page] -= 1
            self.answer(500)
            return
        info = {"numberOfPages": 3, "page": page, "totalNumberOfItems": self.server.promised}
        self.answer(200, json.dumps({"data": RECORDS[5 * page : 5 * page + 5], "paging_info": info}).encode())


def fetch_from(monkeypatch, base):
    """Every address of GTEx leads to `base`."""
    names = [name for name in FILES if not name.startswith("go")]
    monkeypatch.setitem(gtex_fetch.RELEASES, "v7", gtex_fetch.Release(*(f"{base}/{name}" for name in names)))
    monkeypatch.setattr(gtex_fetch, "PORTAL_API", base + "/api/v2/histology/image")
    monkeypatch.setattr(gtex_fetch, "GO", (base + "/go-basic.obo", base + "/goa_human.gaf.gz"))
    monkeypatch.setattr(gtex_fetch, "SETTINGS", Settings(1, 0.0, 1, 0.01))


@pytest.fixture
def portal(monkeypatch):
    with serving(Portal, files=dict(FILES), pages=[], fail_pages={}, promised=len(RECORDS)) as server:
        fetch_from(monkeypatch, server.base)
        yield server


@pytest.fixture
def nowhere(monkeypatch):
    """No network: every address is refused."""
    fetch_from(monkeypatch, "http://127.0.0.1:9")


def make_inputs(raw, tables=None, go=None, **choice):
    return GtexCohort(**choice).make_inputs(raw, Places(raw / "upstream", (tables or raw,), go))


def samples_of(raw):
    return read_samples(raw / "samples.csv")


# --------------------------------------------------------------------------------- the portal's API
def test_portal_from_the_api_equals_the_export(portal, tmp_path):
    portal.fail_pages = {1: 2}  # two failures of one page are tolerated
    path = gtex_fetch.portal("GTExPortal.csv", [tmp_path / "raw"])
    assert portal.pages == [0, 1, 1, 1, 2]
    exported_df = read_portal(write_portal(tmp_path / "export.csv", portal_rows()))
    exported_df["pathology_categories"] = exported_df["pathology_categories"].replace(
        "fibrosis, steatosis", "fibrosis"
    )
    pd.testing.assert_frame_equal(read_portal(path), exported_df)
    assert [p.name for p in path.parent.iterdir()] == ["GTExPortal.csv"]
    assert gtex_fetch.portal("GTExPortal.csv", [tmp_path / "raw"]) == path
    assert len(portal.pages) == 5, "a table that is present is not requested again"


def test_portal_that_breaks_its_promise_leaves_no_file(portal, tmp_path):
    portal.promised = 99
    with pytest.raises(RuntimeError, match="promised 99 rows and sent 12"):
        gtex_fetch.portal("GTExPortal.csv", [tmp_path])
    portal.promised, portal.fail_pages = 12, {2: 3}
    with pytest.raises(RuntimeError, match="500"):
        gtex_fetch.portal("GTExPortal.csv", [tmp_path])
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------- the inputs
def test_from_nothing_to_a_cohort(portal, tmp_path):
    raw, tables = tmp_path / "mine", tmp_path / "gtex"
    covariates = ["rin", "ischaemic_time_min", "age_years", "sex"]
    tissues = ["Liver", "Brain—Cerebellum"]
    record = make_inputs(raw, tables, tissues=tissues, covariates=covariates, genes_file="genes.csv.gz")
    samples_df = samples_of(raw)
    assert sorted(samples_df["tissue"].unique()) == ["Brain - Cerebellum", "Liver"]
    assert len(samples_df) == 8
    first = samples_df.set_index("sample_id").loc["GTEX-1AB1-0126"]
    assert (first["rin"], first["ischaemic_time_min"], first["hardy_scale"]) == (6.3, 300, "Ventilator case")
    assert (raw / "expression.gct.gz").resolve() == tables / "tpm.gct.gz"
    assert read_gene_table(raw / "genes.csv.gz").loc["ENSG1.1"].tolist() == ["A", "protein_coding"]
    wanted_df = pd.read_csv(raw / "slides_wanted.csv")
    assert wanted_df["sample_id"].tolist() == samples_df["sample_id"].tolist()
    assert json.loads(json.dumps(record)) == record
    assert [step["n_left"] for step in record["steps"]] == [12, 12, 12, 0, 12, 8, 8]
    assert sum(row["n"] for row in record["dropped"]) == 4
    assert {Path(row["file"]).name for row in record["files"]} >= {"GTExPortal.csv", "tpm.gct.gz"}


def test_pathology_becomes_columns(portal, tmp_path, monkeypatch):
    monkeypatch.setattr(gtex_cohort, "MIN_PATHOLOGY", 4)
    make_inputs(tmp_path)
    samples_df = samples_of(tmp_path)
    assert samples_df["pathology_fibrosis"].eq(samples_df["tissue"].eq("Liver").astype(int)).all()


def test_own_expression_file_is_used_and_a_link_replaced(portal, tmp_path):
    tables = tmp_path / "gtex"
    make_inputs(tmp_path, tables)
    assert (tmp_path / "expression.gct.gz").is_symlink()
    (tables / "tpm.gct.gz").rename(tables / "newer.gct.gz")
    portal.files = {"attributes.txt": FILES["attributes.txt"]}
    with pytest.raises(RuntimeError, match=r"tpm\.gct\.gz is in none of"):
        make_inputs(tmp_path, tables)
    (tmp_path / "expression.gct.gz").unlink()
    (tmp_path / "expression.gct.gz").write_bytes(FILES["tpm.gct.gz"])
    make_inputs(tmp_path, tables)
    assert not (tmp_path / "expression.gct.gz").is_symlink()
    make_inputs(tmp_path, tables, expression_file="newer.gct.gz")
    assert (tmp_path / "newer.gct.gz").resolve() == tables / "newer.gct.gz"


def test_published_list(portal, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("sample,dataset\nGTEX-1AB0-0125,training\nGTEX-1AB1-0126,test\nGTEX-7-0126,test\n")
    make_inputs(tmp_path, split_file=listed, max_slides=1)
    assert samples_of(tmp_path)["sample_id"].tolist() == ["GTEX-1AB0-0126", "GTEX-1AB1-0126"]


def test_slides_that_are_present_change_no_table(portal, tmp_path):
    (tmp_path / "slides").mkdir()
    for name in ("GTEX-1AB0-0125", "GTEX-1AB0-0126", "GTEX-1AB1-0125"):
        (tmp_path / "slides" / f"{name}.svs").write_bytes(b"")
    make_inputs(tmp_path)
    samples_df = samples_of(tmp_path)
    assert (samples_df["slide_id"] == samples_df["sample_id"]).all()


def test_the_gene_ontology_is_downloaded_or_its_lack_remarked(portal, tmp_path):
    record = make_inputs(tmp_path, go=tmp_path / "go")
    assert sorted(p.name for p in (tmp_path / "go").iterdir()) == ["go-basic.obo", "goa_human.gaf.gz"]
    assert record["steps"][-1]["step"] != "remark"
    assert Path(record["files"][-1]["file"]).name == "goa_human.gaf.gz"
    portal.files = {k: v for k, v in portal.files.items() if not k.startswith("go")}
    record = make_inputs(tmp_path, go=tmp_path / "other")
    assert "could not be downloaded: Table 6 needs it (python -m lib.gtex go)" in record["steps"][-1]["note"]


def test_own_gene_models_come_before_those_of_gencode_26(portal, tmp_path):
    spare = tmp_path / gtex_cohort.SPARE_GENES
    pd.DataFrame({"gene_id": ["ENSG1.9"], "gene_name": ["B"], "gene_biotype": ["lincRNA"]}).to_csv(spare)
    make_inputs(tmp_path, genes_file="genes.csv.gz")
    assert read_gene_table(tmp_path / "genes.csv.gz").index.tolist() == ["ENSG1.1"]
    (tmp_path / "genes.gtf").unlink()
    del portal.files["genes.gtf"]
    record = make_inputs(tmp_path, genes_file="genes.csv.gz")
    assert (tmp_path / "genes.csv.gz").resolve() == spare
    assert record["steps"][-1]["note"].startswith(
        "genes.gtf is missing: names and biotypes of genes are those"
    )
    portal.files["genes.gtf"] = GTF.encode()
    make_inputs(tmp_path, genes_file="genes.csv.gz")
    assert read_gene_table(tmp_path / "genes.csv.gz").index.tolist() == ["ENSG1.1"]
    assert pd.read_csv(spare)["gene_id"].tolist() == ["ENSG1.9"], "the target of a link is not overwritten"


def test_a_missing_parquet_does_not_become_a_link_to_a_gct(portal, tmp_path):
    own = {"expression_file": "expression.parquet"}
    message = r"expression\.parquet is missing; without expression_file tpm\.gct\.gz is found"
    with pytest.raises(FileNotFoundError, match=message):
        make_inputs(tmp_path, **own)
    assert not (tmp_path / "expression.parquet").exists()
    (tmp_path / "tpm.gct.gz").write_bytes(FILES["tpm.gct.gz"])
    expression_df, _ = read_expression(tmp_path / "tpm.gct.gz")
    expression_df.to_parquet(tmp_path / "mine.parquet")
    (tmp_path / "expression.parquet").symlink_to(tmp_path / "mine.parquet")
    make_inputs(tmp_path, **own)
    assert (tmp_path / "expression.parquet").resolve() == tmp_path / "mine.parquet"


# ---------------------------------------------------------------------------------------- bad input
def test_no_network_says_what_to_download_and_where_to_put_it(nowhere, tmp_path):
    with pytest.raises(
        RuntimeError, match=r"GTExPortal\.csv is in none of .*gtex, and downloading it failed"
    ):
        make_inputs(tmp_path, tmp_path / "gtex")
    write_portal(tmp_path / "GTExPortal.csv", portal_rows())
    with pytest.raises(RuntimeError, match=r"no server could be reached.*tpm\.gct\.gz on a machine with a"):
        make_inputs(tmp_path, tmp_path / "gtex")


def test_attributes_are_optional_unless_a_covariate_needs_them(nowhere, tmp_path):
    write_portal(tmp_path / "GTExPortal.csv", portal_rows())
    (tmp_path / "expression.gct.gz").write_bytes(FILES["tpm.gct.gz"])
    record = make_inputs(tmp_path, covariates=["sex"])
    assert record["steps"][-1]["note"].startswith("attributes.txt is missing, and so are rin, ischaemic_time")
    with pytest.raises(RuntimeError, match=r"covariates \['rin'\] come from.*--set 'covariates=") as raised:
        make_inputs(tmp_path, covariates=["sex", "rin"])
    advised = shlex.split(str(raised.value).rpartition("--set ")[2])
    config = Config.load("gtex", overrides=dict(parse_setting(text) for text in advised))
    assert list(config.covariates) == ["sex"]


def test_expression_of_other_samples_shows_both_sides(portal, tmp_path):
    other = GCT.replace("GTEX-", "TCGA-")
    (tmp_path / "expression.gct.gz").write_bytes(gzip.compress(other.encode()))
    with pytest.raises(ValueError, match=r"TCGA-1AB0-0126.*\(12\).*GTEX-1AB0-0126.*\(12\)"):
        make_inputs(tmp_path)


ERROR_PAGES = {
    "json": b'{"error": "rate limit"}',
    "xml": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "comment": b"<!-- portal --><html><body>maintenance</body></html>",
    "bom": b"\xef\xbb\xbf<!DOCTYPE html><html><title>x</title>",
    "empty": b"",
    "cut off": FILES["tpm.gct.gz"][:60],
    "another table": gzip.compress(b"Name\tDescription\n"),
}


@pytest.mark.parametrize("kind", ERROR_PAGES)
def test_an_error_page_does_not_get_the_name_of_a_table(portal, tmp_path, kind):
    portal.files |= dict.fromkeys(portal.files, ERROR_PAGES[kind])
    for url in (*gtex_fetch.RELEASES["v7"], *gtex_fetch.GO):
        if kind == "cut off" and not url.endswith(".gz"):
            continue
        with pytest.raises(RuntimeError, match=r"downloading it failed: .*(not usable|empty file|web page)"):
            gtex_fetch.table(url, [tmp_path])
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith((".part", ".part.json"))] == []


def test_a_wrong_file_that_is_present_is_named(portal, tmp_path):
    (tmp_path / "tpm.gct.gz").write_bytes(ERROR_PAGES["json"])
    with pytest.raises(ValueError, match=r"tpm\.gct\.gz: it is not gzip; it begins with .*delete it"):
        gtex_fetch.table(gtex_fetch.RELEASES["v7"].tpm, [tmp_path])
    assert gtex.main(["tables", "--folder", str(tmp_path), "--interval", "0"]) == 0
    assert (tmp_path / "tpm.gct.gz.unusable").is_file()
    assert gzip.decompress((tmp_path / "tpm.gct.gz").read_bytes()) == GCT.encode()


# ------------------------------------------------------------------------------------- command line
def test_tables_command(portal, tmp_path, capsys):
    folder = tmp_path / "raw" / "gtex"
    command = ["tables", "--folder", str(folder), "--interval", "0"]
    assert gtex.main([*command, "--dry-run"]) == 0
    assert "6 files, 0 already present" in capsys.readouterr().out
    assert not folder.exists()
    assert gtex.main(command) == 0
    assert "GTExPortal.csv: 12 tissue samples" in capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == [
        *("GTExPortal.csv", "attributes.txt", "genes.gtf", "phenotypes.txt", "tpm.gct.gz"),
    ]
    assert sorted(p.name for p in (tmp_path / "raw" / "go").iterdir()) == ["go-basic.obo", "goa_human.gaf.gz"]


def test_go_command_downloads_the_gene_ontology_alone(portal, tmp_path, capsys):
    assert gtex.main(["go", "--folder", str(tmp_path / "go"), "--interval", "0"]) == 0
    assert "2 downloaded" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["go-basic.obo", "goa_human.gaf.gz"]


# ------------------------------------------------------------------------- the cohort as configured
@needs_gtex
def test_configured_cohort_on_the_real_tables(nowhere, tmp_path, monkeypatch):
    overrides = {"gtex_release": "v8", "covariates": ["age_years", "sex"]}
    overrides["expression_file"] = "GTEx_v8_gene_reads.acmg_59.gct.gz"
    config = Config.load("gtex", overrides=overrides)
    store = Store(config, root=tmp_path)
    addresses = (f"http://127.0.0.1:9/{gtex_fetch.file_name(url)}" for url in gtex_fetch.RELEASES["v8"])
    monkeypatch.setitem(gtex_fetch.RELEASES, "v8", gtex_fetch.Release(*addresses))
    places = Places(tmp_path, (tmp_path / "none", GTEX), None)
    record = source_of(config).make_inputs(store.raw, places)
    samples_df = samples_of(store.raw)
    assert len(samples_df) == 1659
    assert samples_df["tissue"].nunique() == 39
    assert samples_df["tissue"].value_counts().max() == 46
    assert sum(row["n"] for row in record["dropped"]) == 25713 - 1659
    (note,) = (step["note"] for step in record["steps"] if step["step"].startswith("RNA samples whose"))
    assert "2146 brain region, no slide of its own" in note
