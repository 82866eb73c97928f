"""gtex_fetch and gtex_cohort: tables found or fetched from a local server, a cohort's inputs made."""

import gzip
import json
import os
import shlex
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from gtex_factory import portal_rows, rna, write_portal

import lib
from lib import gtex
from lib.cohort.expression import read_expression, read_gene_table
from lib.cohort.samples import read_samples
from lib.config import Config, parse_setting
from lib.sources import gtex_cohort, gtex_fetch
from lib.sources.gtex_tables import read_portal
from lib.store import Store

MIRROR = Path(os.environ.get("DATA_MIRROR", Path(lib.__file__).parents[2] / "shared" / "data")) / "gtex"
GTF = 'chr1\tH\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG1.1"; gene_type "protein_coding"; gene_name "A";\n'
SAMPLES = [row[0] for row in portal_rows()]
RNA = [rna(sample) for sample in SAMPLES]
GCT = (
    f"#1.2\n1\t{len(RNA)}\nName\tDescription\t" + "\t".join(RNA) + "\nENSG1.1\tA" + "\t1.5" * len(RNA) + "\n"
)
ATTRIBUTES = "SAMPID\tSMRIN\tSMTSISCH\n" + "".join(
    f"{name}\t{6 + i / 10:.1f}\t{100 * i}\n" for i, name in enumerate(RNA)
)
PHENOTYPES = "SUBJID\tSEX\tAGE\tDTHHRDY\n" + "".join(f"GTEX-1AB{d}\t1\t50-59\t0\n" for d in range(4))
RECORDS = [
    {
        "tissueSampleId": row[0], "histologyImageId": row[0], "tissueSiteDetail": row[1], "subjectId": row[2],
        "sex": row[3], "ageBracket": row[4], "hardyScale": None, "pathologyNotes": row[7],
        "pathologyNotesCategories": {"fibrosis": True, "steatosis": False} if row[6] else {},
    }
    for row in portal_rows()
]  # fmt: skip


class Portal(BaseHTTPRequestHandler):
    """A release's files by name, and the portal's API, 5 records a page; `fail_pages` fail so often."""

    def log_message(self, *_):
        pass

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
            self.answer(500, b"")
            return
        info = {"numberOfPages": 3, "page": page, "totalNumberOfItems": self.server.promised}
        self.answer(200, json.dumps({"data": RECORDS[5 * page : 5 * page + 5], "paging_info": info}).encode())

    def answer(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def portal(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Portal)
    base = f"http://127.0.0.1:{server.server_address[1]}/"
    names = ("tpm.gct.gz", "attributes.txt", "phenotypes.txt", "genes.gtf")
    server.files = {
        "tpm.gct.gz": gzip.compress(GCT.encode()),
        "attributes.txt": ATTRIBUTES.encode(),
        "phenotypes.txt": PHENOTYPES.encode(),
        "genes.gtf": GTF.encode(),
        "go-basic.obo": b"format-version: 1.2\n",
        "goa_human.gaf.gz": gzip.compress(b"!gaf-version: 2.1\n"),
    }
    server.pages, server.fail_pages, server.promised = [], {}, len(RECORDS)
    monkeypatch.setitem(gtex_fetch.RELEASES, "v7", gtex_fetch.Release(*(base + name for name in names)))
    monkeypatch.setattr(gtex_fetch, "PORTAL_API", base + "api/v2/histology/image")
    monkeypatch.setattr(gtex_fetch, "GO", (base + "go-basic.obo", base + "goa_human.gaf.gz"))
    monkeypatch.setattr(gtex_fetch.time, "sleep", lambda _: None)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


@pytest.fixture
def nowhere(monkeypatch):
    """No network: every address is refused."""
    urls = (f"http://127.0.0.1:9/{name}" for name in ("tpm.gct.gz", "attributes.txt", "pheno.txt", "g.gtf"))
    monkeypatch.setitem(gtex_fetch.RELEASES, "v7", gtex_fetch.Release(*urls))
    monkeypatch.setattr(gtex_fetch, "PORTAL_API", "http://127.0.0.1:9/image")
    monkeypatch.setattr(gtex_fetch.time, "sleep", lambda _: None)


# --------------------------------------------------------------------------------- the portal's API
def test_portal_from_the_api_equals_the_export(portal, tmp_path):
    portal.fail_pages = {1: 2}  # two failures of one page are borne
    path = gtex_fetch.portal("GTExPortal.csv", [tmp_path / "raw"])
    assert portal.pages == [0, 1, 1, 1, 2]
    exported_df = read_portal(write_portal(tmp_path / "export.csv", portal_rows()))
    exported_df["pathology_categories"] = exported_df["pathology_categories"].replace(
        "fibrosis, steatosis", "fibrosis"
    )
    pd.testing.assert_frame_equal(read_portal(path), exported_df)
    assert [p.name for p in path.parent.iterdir()] == ["GTExPortal.csv"]
    assert gtex_fetch.portal("GTExPortal.csv", [tmp_path / "raw"]) == path
    assert len(portal.pages) == 5, "what is here is not asked for again"


def test_portal_that_breaks_its_promise_leaves_no_file(portal, tmp_path):
    portal.promised = 99
    with pytest.raises(RuntimeError, match="promised 99 rows and gave 12"):
        gtex_fetch.portal("GTExPortal.csv", [tmp_path])
    portal.promised, portal.fail_pages = 12, {2: 3}
    with pytest.raises(RuntimeError, match="500"):
        gtex_fetch.portal("GTExPortal.csv", [tmp_path])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------- preparing
def test_from_nothing_to_a_cohort(portal, tmp_path):
    raw, shared = tmp_path / "mine", tmp_path / "gtex"
    choice = {"covariates": ["rin", "ischaemic_time_min", "age_years", "sex"], "genes_file": "genes.csv.gz"}
    record = gtex_cohort.prepare(raw, [shared], tissues=["Liver", "Brain—Cerebellum"], **choice)
    samples_df = read_samples(raw / "samples.csv")
    assert sorted(samples_df["tissue"].unique()) == ["Brain - Cerebellum", "Liver"]
    assert len(samples_df) == 8
    first = samples_df.set_index("sample_id").loc["GTEX-1AB1-0126"]
    assert (first["rin"], first["ischaemic_time_min"], first["hardy_scale"]) == (6.3, 300, "Ventilator case")
    assert (raw / "expression.gct.gz").resolve() == shared / "tpm.gct.gz"
    assert read_gene_table(raw / "genes.csv.gz").loc["ENSG1.1"].tolist() == ["A", "protein_coding"]
    wanted_df = pd.read_csv(raw / "slides_wanted.csv")
    assert wanted_df["sample_id"].tolist() == samples_df["sample_id"].tolist()
    assert json.loads(json.dumps(record)) == record
    assert [step["n_left"] for step in record["steps"]] == [12, 12, 12, 0, 12, 8, 8]
    assert sum(row["n"] for row in record["dropped"]) == 4
    assert {Path(row["file"]).name for row in record["files"]} >= {"GTExPortal.csv", "tpm.gct.gz"}


def test_pathology_becomes_columns(portal, tmp_path, monkeypatch):
    monkeypatch.setattr(gtex_cohort, "MIN_PATHOLOGY", 4)
    gtex_cohort.prepare(tmp_path, [tmp_path])
    samples_df = read_samples(tmp_path / "samples.csv")
    assert samples_df["pathology_fibrosis"].eq(samples_df["tissue"].eq("Liver").astype(int)).all()


def test_own_expression_file_is_taken_and_a_link_replaced(portal, tmp_path):
    gtex_cohort.prepare(tmp_path, [tmp_path / "gtex"])
    assert (tmp_path / "expression.gct.gz").is_symlink()
    (tmp_path / "gtex" / "tpm.gct.gz").rename(tmp_path / "gtex" / "newer.gct.gz")
    portal.files = {"attributes.txt": ATTRIBUTES.encode()}
    with pytest.raises(RuntimeError, match=r"tpm\.gct\.gz is in none of"):
        gtex_cohort.prepare(tmp_path, [tmp_path / "gtex"])
    (tmp_path / "expression.gct.gz").unlink()
    (tmp_path / "expression.gct.gz").write_bytes(gzip.compress(GCT.encode()))
    gtex_cohort.prepare(tmp_path, [tmp_path / "gtex"])
    assert not (tmp_path / "expression.gct.gz").is_symlink()
    gtex_cohort.prepare(tmp_path, [tmp_path / "gtex"], expression_file="newer.gct.gz")
    assert (tmp_path / "newer.gct.gz").resolve() == tmp_path / "gtex" / "newer.gct.gz"


def test_published_list(portal, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("sample,dataset\nGTEX-1AB0-0125,training\nGTEX-1AB1-0126,test\nGTEX-7-0126,test\n")
    gtex_cohort.prepare(tmp_path, [tmp_path], split_file=listed, max_slides=1)
    assert read_samples(tmp_path / "samples.csv")["sample_id"].tolist() == [
        "GTEX-1AB0-0126",
        "GTEX-1AB1-0126",
    ]


def test_slides_that_are_here_change_no_table(portal, tmp_path):
    (tmp_path / "slides").mkdir()
    for name in ("GTEX-1AB0-0125", "GTEX-1AB0-0126", "GTEX-1AB1-0125"):
        (tmp_path / "slides" / f"{name}.svs").write_bytes(b"")
    gtex_cohort.prepare(tmp_path, [tmp_path])
    samples_df = read_samples(tmp_path / "samples.csv")
    assert (samples_df["slide_id"] == samples_df["sample_id"]).all()


def test_the_gene_ontology_is_fetched_or_its_lack_remarked(portal, tmp_path):
    record = gtex_cohort.prepare(tmp_path, [tmp_path], go_folder=tmp_path / "go")
    assert sorted(p.name for p in (tmp_path / "go").iterdir()) == ["go-basic.obo", "goa_human.gaf.gz"]
    assert record["steps"][-1]["step"] != "remark"
    assert Path(record["files"][-1]["file"]).name == "goa_human.gaf.gz"
    portal.files = {k: v for k, v in portal.files.items() if not k.startswith("go")}
    record = gtex_cohort.prepare(tmp_path, [tmp_path], go_folder=tmp_path / "other")
    assert "could not be fetched: Table 6 needs it (python -m lib.gtex go)" in record["steps"][-1]["note"]


def test_own_gene_models_come_before_those_of_gencode_26(portal, tmp_path):
    spare = tmp_path / gtex_cohort.SPARE_GENES
    pd.DataFrame({"gene_id": ["ENSG1.9"], "gene_name": ["B"], "gene_biotype": ["lincRNA"]}).to_csv(spare)
    gtex_cohort.prepare(tmp_path, [tmp_path], genes_file="genes.csv.gz")
    assert read_gene_table(tmp_path / "genes.csv.gz").index.tolist() == ["ENSG1.1"]
    (tmp_path / "genes.gtf").unlink()
    del portal.files["genes.gtf"]
    record = gtex_cohort.prepare(tmp_path, [tmp_path], genes_file="genes.csv.gz")
    assert (tmp_path / "genes.csv.gz").resolve() == spare
    assert record["steps"][-1]["note"].startswith("no genes.gtf: names and biotypes of genes are those of")
    portal.files["genes.gtf"] = GTF.encode()
    gtex_cohort.prepare(tmp_path, [tmp_path], genes_file="genes.csv.gz")
    assert read_gene_table(tmp_path / "genes.csv.gz").index.tolist() == ["ENSG1.1"]
    assert pd.read_csv(spare)["gene_id"].tolist() == ["ENSG1.9"], "what a link led to is not written over"


def test_a_parquet_that_is_not_there_is_no_link_to_a_gct(portal, tmp_path):
    message = r"expression\.parquet is missing; without expression_file tpm\.gct\.gz is found"
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=message):
            gtex_cohort.prepare(tmp_path, [tmp_path], expression_file="expression.parquet")
        assert not (tmp_path / "expression.parquet").exists()
    (tmp_path / "tpm.gct.gz").write_bytes(gzip.compress(GCT.encode()))
    (tmp_path / "expression.parquet").symlink_to(tmp_path / "tpm.gct.gz")  # of an earlier version
    with pytest.raises(FileNotFoundError, match=message):
        gtex_cohort.prepare(tmp_path, [tmp_path], expression_file="expression.parquet")
    (tmp_path / "expression.parquet").unlink()
    expression_df, _ = read_expression(tmp_path / "tpm.gct.gz")
    expression_df.to_parquet(tmp_path / "mine.parquet")
    (tmp_path / "expression.parquet").symlink_to(tmp_path / "mine.parquet")
    gtex_cohort.prepare(tmp_path, [tmp_path], expression_file="expression.parquet")
    assert (tmp_path / "expression.parquet").resolve() == tmp_path / "mine.parquet"


# ---------------------------------------------------------------------------------------- bad input
def test_no_network_says_what_to_fetch_and_where_to_put_it(nowhere, tmp_path):
    with pytest.raises(RuntimeError, match=r"GTExPortal\.csv is in none of .*gtex, and fetching it failed"):
        gtex_cohort.prepare(tmp_path, [tmp_path / "gtex"])
    write_portal(tmp_path / "GTExPortal.csv", portal_rows())
    with pytest.raises(RuntimeError, match=r"No server could be reached.*tpm\.gct\.gz on a machine with a"):
        gtex_cohort.prepare(tmp_path, [tmp_path / "gtex"])


def test_attributes_are_optional_unless_a_covariate_needs_them(nowhere, tmp_path):
    write_portal(tmp_path / "GTExPortal.csv", portal_rows())
    (tmp_path / "expression.gct.gz").write_bytes(gzip.compress(GCT.encode()))
    record = gtex_cohort.prepare(tmp_path, [tmp_path], covariates=["sex"])
    assert record["steps"][-1]["note"].startswith("no attributes.txt: rin, ischaemic_time_min")
    with pytest.raises(RuntimeError, match=r"covariates \['rin'\] come from.*--set 'covariates=") as raised:
        gtex_cohort.prepare(tmp_path, [tmp_path], covariates=["sex", "rin"])
    advised = shlex.split(str(raised.value).rpartition("--set ")[2])
    config = Config.load("gtex", overrides=dict(parse_setting(text) for text in advised))
    assert list(config.covariates) == ["sex"]


def test_expression_of_another_world_shows_both_sides(portal, tmp_path):
    other = GCT.replace("GTEX-", "TCGA-")
    (tmp_path / "expression.gct.gz").write_bytes(gzip.compress(other.encode()))
    with pytest.raises(ValueError, match=r"TCGA-1AB0-0126.*\(12\).*GTEX-1AB0-0126.*\(12\)"):
        gtex_cohort.prepare(tmp_path, [tmp_path])


# ------------------------------------------------------------------------------------- command line
def test_tables_command(portal, tmp_path, capsys):
    folder = tmp_path / "raw" / "gtex"
    assert gtex.main(["tables", "--folder", str(folder), "--interval", "0", "--dry-run"]) == 0
    assert "6 files, 0 already here" in capsys.readouterr().out
    assert not folder.exists()
    assert gtex.main(["tables", "--folder", str(folder), "--interval", "0"]) == 0
    assert "GTExPortal.csv: 12 tissue samples" in capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == [
        *("GTExPortal.csv", "attributes.txt", "genes.gtf", "phenotypes.txt", "tpm.gct.gz"),
    ]
    assert sorted(p.name for p in (tmp_path / "raw" / "go").iterdir()) == ["go-basic.obo", "goa_human.gaf.gz"]


def test_go_command_fetches_that_alone(portal, tmp_path, capsys):
    assert gtex.main(["go", "--folder", str(tmp_path / "go"), "--interval", "0"]) == 0
    assert "2 downloaded" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["go-basic.obo", "goa_human.gaf.gz"]


ERROR_PAGES = {
    "json": b'{"error": "rate limit"}',
    "xml": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "comment": b"<!-- portal --><html><body>maintenance</body></html>",
    "bom": b"\xef\xbb\xbf<!DOCTYPE html><html><title>x</title>",
    "empty": b"",
    "cut off": gzip.compress(GCT.encode())[:60],
    "another table": gzip.compress(b"Name\tDescription\n"),
}


@pytest.mark.parametrize("kind", ERROR_PAGES)
def test_what_is_no_table_does_not_get_its_name(portal, tmp_path, kind):
    portal.files |= dict.fromkeys(portal.files, ERROR_PAGES[kind])
    settings = gtex_fetch.download.Settings(1, 0.0, 1, 0.01)
    for url in (*gtex_fetch.RELEASES["v7"], *gtex_fetch.GO):
        if kind == "cut off" and not url.endswith(".gz"):
            continue
        with pytest.raises(RuntimeError, match=r"fetching it failed: .*(not usable|empty file|web page)"):
            gtex_fetch.table(url, [tmp_path], settings)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith((".part", ".part.json"))] == []


def test_a_wrong_file_that_is_here_is_named(portal, tmp_path):
    (tmp_path / "tpm.gct.gz").write_bytes(ERROR_PAGES["json"])
    with pytest.raises(ValueError, match=r"tpm\.gct\.gz: it is not gzip; it begins with .*Delete it"):
        gtex_fetch.table(gtex_fetch.RELEASES["v7"].tpm, [tmp_path])
    assert gtex.main(["tables", "--folder", str(tmp_path), "--interval", "0"]) == 0
    assert (tmp_path / "tpm.gct.gz.unusable").is_file()
    assert gzip.decompress((tmp_path / "tpm.gct.gz").read_bytes()) == GCT.encode()


def test_a_list_that_is_not_there_is_not_the_whole_portal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    write_portal(tmp_path / "GTExPortal.csv", portal_rows())
    typed = ["download", "--list", str(tmp_path / "wantd.csv"), "--tissue", "Liver", "--dry-run"]
    assert gtex.main(typed) == 2
    assert f"--list {tmp_path / 'wantd.csv'}: no such file" in capsys.readouterr().err
    assert gtex.main(["download", "--dry-run"]) == 2
    assert "slides_wanted.csv is not there" in capsys.readouterr().err
    (tmp_path / "data/raw/gtex").mkdir(parents=True)
    (tmp_path / "data/raw/gtex/slides_wanted.csv").write_text("sample_id,tissue\n")
    assert gtex.main(["download"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out


def test_download_takes_the_prepared_list(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    raw = tmp_path / "data" / "raw" / "gtex"
    raw.mkdir(parents=True)
    rows = "".join(f"{row[0]},{row[0]},{row[1]}\n" for row in portal_rows())
    (raw / "slides_wanted.csv").write_text("sample_id,slide_id,tissue\n" + rows)
    chosen = ["download", "--tissue", "brain—cerebellum", "--max-slides", "3"]
    assert gtex.main([*chosen, "--base-url", "http://127.0.0.1:9", "--interval", "0"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith(f"3 of 12 slides of {raw / 'slides_wanted.csv'}")
    assert "No server could be reached" in err
    (raw / "slides_wanted.csv").write_text("slide,organ\nx,y\n")
    assert gtex.main(chosen) == 2
    assert "columns ['sample_id', 'tissue'] are missing" in capsys.readouterr().err


def test_how_to_fetch_names_what_is_not_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HISTOCORR_ROOT", str(tmp_path))
    raw = tmp_path / "data" / "raw"
    assert gtex.how_to_fetch(raw / "gtex", raw / "gtex" / "slides", 10).endswith(
        "3 GB; --dry-run asks the server for size and time): python -m lib.gtex download"
    )
    other = gtex.how_to_fetch(raw / "mine", tmp_path / "s", 1)
    assert other.endswith(f"download --list {raw / 'mine' / 'slides_wanted.csv'} --folder {tmp_path / 's'}")


# ------------------------------------------------------------------------- the cohort as configured
@pytest.mark.skipif(not MIRROR.is_dir(), reason=f"no GTEx tables in {MIRROR}")
def test_configured_cohort_on_the_real_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(MIRROR.parent))
    overrides = {"gtex_release": "v8", "covariates": ["age_years", "sex"]}
    overrides["expression_file"] = "GTEx_v8_gene_reads.acmg_59.gct.gz"
    config = Config.load("gtex", overrides=overrides)
    store = Store(config, root=tmp_path)
    folders = [tmp_path / "none", *store.gtex_folders[1:]]
    monkeypatch.setattr(gtex_fetch, "table", only_found)
    record = gtex_cohort.prepare(store.raw, folders, **config.gtex_choice)
    samples_df = read_samples(store.raw / "samples.csv")
    assert len(samples_df) == 1659
    assert samples_df["tissue"].nunique() == 39
    assert samples_df["tissue"].value_counts().max() == 46
    assert sum(row["n"] for row in record["dropped"]) == 25713 - 1659
    assert {row["outcome"]: row["n"] for row in record["rna"]}["brain region, no slide of its own"] == 2146
    shutil.rmtree(store.raw)


def only_found(url, folders, settings=None):
    """gtex_fetch.table without its network."""
    here = gtex_fetch.find(gtex_fetch.file_name(url), folders)
    if here is None:
        raise RuntimeError(f"{url} is not here")
    return here
