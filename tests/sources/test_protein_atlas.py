"""Stained images from a local server with pages in the form of the Human Protein Atlas, which misbehaves."""

import shutil
import threading
from collections import Counter

import pandas as pd
import pytest
from atlas_factory import LICENCE_PAGE, antibody, jpeg, page, patient, tissue
from local_server import Quiet, serving
from PIL import Image

from lib.config import ROOT
from lib.errors import InputError
from lib.sources import protein_atlas
from lib.sources.http_session import Session
from lib.sources.protein_atlas_fetch import POLITE, Atlas, fetch_images

GENE, OTHER = "ENSG00000092054", "ENSG00000163631"
QUICK = POLITE._replace(interval_s=0.0, backoff_s=0.01, n_retries=2, timeout_s=2.0)
HTML = b"<!doctype html><html><title>Sorry</title></html>"


class Site(Quiet):
    """Answers of `server.answers` by path: the body, or a list of (status, body) for one request each."""

    def do_GET(self):
        with self.server.lock:
            self.server.seen[self.path] += 1
            self.server.agents.add(self.headers["User-Agent"])
            answer = self.server.answers.get(self.path, (404, b"nothing here"))
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
        code, body = answer if isinstance(answer, tuple) else (200, answer)
        kind = "text/html" if body.lstrip().startswith(b"<!doctype") else "application/octet-stream"
        self.answer(code, body, [("Content-Type", kind)])


@pytest.fixture
def site():
    with serving(Site, lock=threading.Lock(), seen=Counter(), agents=set(), answers={}) as server:
        server.answers["/about/licence"] = LICENCE_PAGE.encode()
        yield server


def wanted(*rows):
    columns = ["gene", "symbol", "tissue", "ensembl", "atlas_tissue", "reason"]
    return pd.DataFrame(rows, columns=columns)


MUSCLE = (f"{GENE}.12", "MYH7", "Muscle - Skeletal", GENE, "Skeletal muscle", "")
LIVER = (f"{OTHER}.3", "ALB", "Liver", OTHER, "Liver", "")


def put(site, gene, *stained, name="HPA001", picture=None):
    """A page of a gene whose antibody stained these tissues, an image of each."""
    tissues = []
    for word in stained:
        path = f"/images/{gene}_{word.replace(' ', '_')}.jpg"
        site.answers[path] = picture or jpeg()
        tissues.append(tissue(word, patient(7, site.base + path)))
    site.answers[f"/{gene}.xml"] = page(gene, antibody(name, *tissues)).encode()


def run(site, folder, *rows):
    """All records by gene, and what was said."""
    said = []
    atlas = Atlas(folder, Session(QUICK), site.base)
    records_df = fetch_images(wanted(*rows), atlas, said.append)
    return records_df.set_index("gene"), said


# -- pages -------------------------------------------------------------------------------------------------


def read(tmp_path, text):
    path = tmp_path / "page.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return protein_atlas.read_page(path)


def test_a_page_gives_images_of_normal_tissue_alone(tmp_path):
    cancer = tissue("liver cancer", patient(1, "https://images.proteinatlas.org/1/c.jpg"))
    url = "https://images.proteinatlas.org/1/a_b.jpg"
    found = read(tmp_path, page(GENE, antibody("HPA1", tissue("Liver", patient(5, url)), cancer=[cancer])))
    assert found[:3] == (GENE, "25", f"https://v25.proteinatlas.org/{GENE}")
    assert found.images == [("HPA1", "approved", "Liver", "5", url)]


def test_a_page_of_an_older_schema_is_read(tmp_path):
    text = page(GENE, antibody("HPA1", tissue("liver", patient(5, "http://v18.proteinatlas.org/a.jpg"))))
    text = text.replace('technology="IHC"', 'technology="IH"')
    text = text.replace("<proteinAtlas ", '<proteinAtlas xmlns="http://www.proteinatlas.org" ')
    (image,) = read(tmp_path, text).images
    assert image.tissue == "liver"


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>
<proteinAtlas><entry><name>&b;</name></entry></proteinAtlas>"""
EXTERNAL = '<?xml version="1.0"?><!DOCTYPE a SYSTEM "file:///etc/passwd"><proteinAtlas/>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "entities"),
        (EXTERNAL, "document type"),
        (page(GENE)[:-40], "damaged"),
        ("<proteinAtlas><entry/></proteinAtlas>", "not a gene's page"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', "damaged"),
        (HTML, "damaged"),
        (b"\x00\xff\x00", "damaged"),
        ("", "damaged"),
    ],
)
def test_what_is_no_page_is_refused(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        read(tmp_path, text)


def test_the_best_validated_antibody_is_chosen_then_the_first_by_id(tmp_path):
    def of(name, validation, *patients):
        return antibody(name, tissue("Skin 2", *patients), validation=validation)

    first = [patient(4011, "https://a/x.jpg"), patient(560, "https://a/y.jpg", level="Not detected")]
    antibodies = [
        of("HPA9", "enhanced", patient(1, "https://a/9.jpg")),
        of("CAB7", "enhanced", *first),
        of("CAB1", "uncertain", patient(2, "https://a/1.jpg")),
        antibody("HPA0", tissue("Liver", patient(3, "https://a/0.jpg")), validation="enhanced"),
    ]
    for order in (antibodies, antibodies[::-1]):
        chosen = protein_atlas.choose(read(tmp_path, page(GENE, *order)), "skin")
        assert (chosen.antibody, chosen.patient, chosen.url) == ("CAB7", "560", "https://a/y.jpg")
    found = read(tmp_path, page(GENE, *antibodies))
    assert protein_atlas.choose(found, "Kidney") is None
    numbered = [tissue(f"Skin {n}", patient(n, f"https://a/{n}.jpg")) for n in (2, 1)]
    assert (
        protein_atlas.choose(read(tmp_path, page(GENE, antibody("A", *numbered))), "Skin").tissue == "Skin 1"
    )


def test_ids_lose_their_version_and_files_have_safe_names():
    assert protein_atlas.ensembl_id("MYH7", float("nan"), f"{GENE}.12") == GENE
    assert protein_atlas.ensembl_id(f"{GENE}.13_PAR_Y") == GENE
    assert protein_atlas.ensembl_id("ENSMUSG00000092054", "ENSG1", f"{GENE}/../x", None) == ""
    name = protein_atlas.file_name(GENE, "Skin 1", "https://a/b.PNG?x=.php")
    assert name == f"{GENE}_skin.png"
    assert protein_atlas.file_name(GENE, "../../etc", "https://a/b.php") == f"{GENE}_etc.jpg"
    for gene, word in (("../x", "Skin"), (GENE, "/")):
        with pytest.raises(InputError):
            protein_atlas.file_name(gene, word, "https://a/b.jpg")


def test_licences_are_named_as_the_site_does():
    for words, short in (
        ("Attribution-ShareAlike 4.0 International", "CC BY-SA 4.0"),
        ("Attribution-NonCommercial-NoDerivatives 4.0 International", "CC BY-NC-ND 4.0"),
        ("Attribution 4.0 International", "CC BY 4.0"),
    ):
        licence = protein_atlas.licence_named(f"<p>under the <a>Creative\nCommons {words} License</a></p>")
        assert licence == f"Creative Commons {words}"
        record = {"licence": licence, "antibody": "HPA1", "atlas_tissue": "Liver"}
        assert protein_atlas.credit(record) == f"HPA1, Liver\nHuman Protein Atlas, {short}"
    assert protein_atlas.licence_named("<p>All rights reserved</p>") == ""


# -- fetching ----------------------------------------------------------------------------------------------


def test_an_image_is_kept_with_its_record_and_not_fetched_again(site, tmp_path):
    put(site, GENE, "Skeletal muscle", "Liver")
    records_df, said = run(site, tmp_path, MUSCLE)
    assert said == []
    record = records_df.loc[MUSCLE[0]]
    with Image.open(tmp_path / record["image"]) as image:
        assert image.size == (48, 48)
    assert record["image"] == f"{GENE}_skeletal_muscle.jpg"
    expected = {
        "symbol": "MYH7",
        "tissue": "Muscle - Skeletal",
        "atlas_tissue": "Skeletal muscle",
        "antibody": "HPA001",
        "image_url": f"{site.base}/images/{GENE}_Skeletal_muscle.jpg",
        "page_url": f"https://v25.proteinatlas.org/{GENE}",
        "version": "25",
        "licence": "Creative Commons Attribution-ShareAlike 4.0 International",
        "licence_url": f"{site.base}/about/licence",
        "missing": "",
    }
    assert record[list(expected)].to_dict() == expected
    assert len(record["fetched_on"]) == 10
    asked, stamp = site.seen.copy(), (tmp_path / protein_atlas.RECORDS).stat().st_mtime_ns
    assert asked == {f"/{GENE}.xml": 1, f"/images/{GENE}_Skeletal_muscle.jpg": 1, "/about/licence": 1}
    assert all("histocorr" in agent for agent in site.agents)
    run(site, tmp_path, MUSCLE)
    assert site.seen == asked
    assert (tmp_path / protein_atlas.RECORDS).stat().st_mtime_ns == stamp
    run(site, tmp_path, (MUSCLE[0], "MYH7", "Liver", GENE, "Liver", ""))
    assert site.seen - asked == {f"/images/{GENE}_Liver.jpg": 1}, "the page and the licence are kept"
    assert len(protein_atlas.read_records(tmp_path)) == 2
    shutil.rmtree(tmp_path / ".protein_atlas")
    asked = site.seen.copy()
    run(site, tmp_path, MUSCLE)
    assert site.seen == asked, "an image with its record needs no page"


def test_an_interrupted_run_goes_on_where_it_stopped(site, tmp_path):
    put(site, OTHER, "Liver", picture=jpeg((10, 90, 10)))
    put(site, GENE, "Skeletal muscle")
    good = site.answers[f"/images/{GENE}_Skeletal_muscle.jpg"]

    class StoppedError(BaseException):
        pass

    def stop(session, url, **headers):
        if "Skeletal" in url:
            raise StoppedError
        return Session.get(session, url, **headers)

    session = Session(QUICK)
    session.get = lambda url, **headers: stop(session, url, **headers)
    with pytest.raises(StoppedError):
        fetch_images(wanted(LIVER, MUSCLE), Atlas(tmp_path, session, site.base), print)
    assert list(protein_atlas.read_records(tmp_path)["gene"]) == [LIVER[0]], "what was done is recorded"
    asked = site.seen.copy()
    records_df, said = run(site, tmp_path, LIVER, MUSCLE)
    assert said == []
    assert site.seen - asked == {f"/images/{GENE}_Skeletal_muscle.jpg": 1}
    assert (tmp_path / records_df.loc[MUSCLE[0], "image"]).read_bytes() == good


def test_what_the_atlas_lacks_is_recorded_with_the_reason(site, tmp_path):
    put(site, GENE, "Liver")
    artery = (f"{GENE}.12", "MYH7", "Artery - Tibial", GENE, "", "no counterpart: it has no blood vessels")
    named = ("TRBC2", "TRBC2", "Liver", "", "Liver", "")
    records_df, said = run(site, tmp_path, LIVER, MUSCLE, artery, named)
    assert said == []
    reasons = records_df.set_index("tissue", append=True)["missing"]
    assert f"{OTHER}.xml" in reasons[LIVER[0], "Liver"], "404"
    assert reasons[MUSCLE[0], MUSCLE[2]] == "the Atlas shows no Skeletal muscle stained for this gene"
    assert reasons[artery[0], artery[2]] == artery[5]
    assert "no Ensembl id" in reasons["TRBC2", "Liver"]
    assert set(records_df["image"]) == {""}
    assert site.seen == {f"/{OTHER}.xml": 1, f"/{GENE}.xml": 1}, "nothing else is asked for"
    put(site, OTHER, "Liver")
    assert run(site, tmp_path, LIVER)[0].loc[LIVER[0], "missing"] == "", "what appears later is fetched"


def test_a_server_that_fails_once_is_asked_again(site, tmp_path):
    put(site, GENE, "Skeletal muscle")
    for path in (f"/{GENE}.xml", f"/images/{GENE}_Skeletal_muscle.jpg"):
        site.answers[path] = [(500, b"broken"), (200, site.answers[path])]
    records_df, said = run(site, tmp_path, MUSCLE)
    assert said == []
    assert records_df.loc[MUSCLE[0], "image"]
    assert site.seen[f"/{GENE}.xml"] == 2


@pytest.mark.parametrize("body", [page(GENE)[:-30].encode(), BOMB.encode(), page(OTHER).encode(), HTML])
def test_a_damaged_page_is_said_and_the_next_gene_tried(site, tmp_path, body):
    put(site, OTHER, "Liver")
    site.answers[f"/{GENE}.xml"] = body
    records_df, (line,) = run(site, tmp_path, MUSCLE, LIVER)
    assert line.startswith(f"MYH7 ({GENE}.12), Muscle - Skeletal:")
    assert list(records_df.index) == [LIVER[0]], "a failure leaves no record"
    assert not list((tmp_path / ".protein_atlas").glob(f"{GENE}*"))


@pytest.mark.parametrize(
    "body", [HTML, b"\xff\xd8\xff no image", jpeg(None, edge=200)[:-2000], b"GIF89a" + bytes(40)]
)
def test_an_image_that_is_none_is_refused(site, tmp_path, body):
    put(site, GENE, "Skeletal muscle", picture=body)
    records_df, (line,) = run(site, tmp_path, MUSCLE)
    assert "Muscle - Skeletal" in line
    assert records_df.empty
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".jpg"]


def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(jpeg(edge=48))
    protein_atlas.check_image(tmp_path / "a.jpg")
    monkeypatch.setattr(protein_atlas, "MOST_PIXELS", 47 * 48)
    with pytest.raises(InputError, match="48 x 48 px"):
        protein_atlas.check_image(tmp_path / "a.jpg")


def test_a_page_larger_than_allowed_is_not_read(site, tmp_path):
    put(site, GENE, "Skeletal muscle")
    atlas = Atlas(tmp_path, Session(QUICK._replace(most_bytes=1000)), site.base)
    said = []
    assert fetch_images(wanted(MUSCLE), atlas, said.append).empty
    assert len(said) == 1
    assert site.seen[f"/{GENE}.xml"] == 1


@pytest.mark.parametrize("url", ["http://elsewhere.example/a.jpg", "file:///etc/passwd", "http://[x/a.jpg"])
def test_an_image_that_lies_elsewhere_is_not_fetched(site, tmp_path, url):
    stained = antibody("HPA1", tissue("Skeletal muscle", patient(1, url)))
    site.answers[f"/{GENE}.xml"] = page(GENE, stained).encode()
    records_df, (line,) = run(site, tmp_path, MUSCLE)
    assert "lies elsewhere" in line
    assert records_df.empty


def test_without_a_network_nothing_more_is_asked(tmp_path):
    with serving(Site, lock=threading.Lock(), seen=Counter(), agents=set(), answers={}) as gone:
        pass
    records_df, said = run(gone, tmp_path, MUSCLE, LIVER)
    assert records_df.empty
    assert len(said) == 2
    assert said[1].startswith("1 more images were not asked for")


def test_a_server_that_always_fails_is_left_alone_after_three_genes(site, tmp_path):
    rows = [(f"ENSG{i:011d}", f"G{i}", "Liver", f"ENSG{i:011d}", "Liver", "") for i in range(6)]
    site.answers |= {f"/{row[0]}.xml": (503, b"busy") for row in rows}
    said = run(site, tmp_path, *rows)[1]
    assert len(said) == 4
    assert said[-1].startswith("3 more images")
    assert len(site.seen) == 3


def test_failures_between_answers_do_not_end_the_run(site, tmp_path):
    rows = [(f"ENSG{i:011d}", f"G{i}", "Liver", f"ENSG{i:011d}", "Liver", "") for i in range(7)]
    site.answers |= {f"/{row[0]}.xml": (503, b"busy") for row in rows[::2]}  # the others are not there
    records_df, said = run(site, tmp_path, *rows)
    assert len(said) == 4
    assert len(records_df) == 3


def test_a_licence_that_cannot_be_read_is_asked_for_once(site, tmp_path):
    site.answers["/about/licence"] = (503, b"busy")
    put(site, GENE, "Skeletal muscle")
    put(site, OTHER, "Liver")
    records_df, said = run(site, tmp_path, MUSCLE, LIVER)
    assert said == []
    assert set(records_df["licence"]) == {f"see {site.base}/about/licence"}
    assert site.seen["/about/licence"] == 1 + QUICK.n_retries


def test_records_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / protein_atlas.RECORDS).write_text("gene,image\na,b\n")
    with pytest.raises(InputError, match="lacks the columns"):
        protein_atlas.read_records(tmp_path)
    assert protein_atlas.read_records(tmp_path / "nowhere").empty


def test_counterparts_are_of_gtex_and_each_has_a_name_or_a_reason():
    reference = ROOT / "data/reference"
    df = pd.read_csv(reference / "protein_atlas_tissues.csv")
    gtex_df = pd.read_csv(reference / "gtex_tissues.csv")
    assert sorted(df["tissue"]) == sorted(gtex_df.loc[gtex_df["has_histology"], "tissue"])
    assert (df["atlas_tissue"].isna() == df["reason"].notna()).all()
    assert protein_atlas.atlas_tissue("Muscle - Skeletal", df) == ("Skeletal muscle", "")
    assert protein_atlas.atlas_tissue("Tonsil", df) == ("Tonsil", ""), "any other name is the Atlas's own"
    name, why = protein_atlas.atlas_tissue("Artery - Tibial", df)
    assert name == ""
    assert "Artery - Tibial" in why
    assert "blood vessels" in why
