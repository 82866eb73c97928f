"""Images of the Human Protein Atlas for the cards of a cohort: command, notebook, figure and report."""

import threading
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from atlas_factory import LICENCE_PAGE, antibody, jpeg, page, patient, tissue
from local_server import Quiet, serving

from lib import protein_atlas as command
from lib.errors import InputError
from lib.explore import report_pairs
from lib.sources import protein_atlas
from lib.sources.http_session import Session
from lib.sources.protein_atlas_fetch import POLITE, Atlas
from lib.store import Store

GENE, OTHER, THIRD = "ENSG00000092054", "ENSG00000163631", "ENSG00000005961"


class Site(Quiet):
    def do_GET(self):
        with self.server.lock:
            self.server.seen[self.path] += 1
        body = self.server.answers.get(self.path)
        self.answer(200 if body else 404, body or b"")


@pytest.fixture
def site():
    with serving(Site, lock=threading.Lock(), seen=Counter(), answers={}) as server:
        server.answers["/about/licence"] = LICENCE_PAGE.encode()
        for gene, name in ((GENE, "Skeletal muscle"), (OTHER, "Liver")):
            url = f"{server.base}/images/{gene}.jpg"
            stained = antibody(f"HPA{gene[-3:]}", tissue(name, patient(1, url)))
            server.answers[f"/{gene}.xml"] = page(gene, stained).encode()
            server.answers[f"/images/{gene}.jpg"] = jpeg()
        yield server


def cards_table(*rows):
    return pd.DataFrame(rows, columns=["gene", "symbol", "tile_tissue"])


CARDS = cards_table(
    (f"{GENE}.12", "MYH7", "Muscle - Skeletal"),
    (f"{OTHER}.1", None, "Liver"),
    (f"{THIRD}.2", "ITGA2B", "Whole Blood"),
)


def atlas_of(store, base):
    return Atlas(store.raw_path("ihc_dir"), Session(POLITE._replace(interval_s=0.0, backoff_s=0.01)), base)


def test_images_of_cards_are_found_by_gene_and_tissue(make_store, site, capsys):
    store = make_store()
    told = command.fetch(store, CARDS, atlas_of(store, site.base))
    folder = store.raw_path("ihc_dir")
    assert told == f"2 of 3 images of the Human Protein Atlas are in {folder}"
    printed = capsys.readouterr().out
    assert printed.startswith("no image of ITGA2B in Whole Blood: the Atlas does not")
    muscle = store.ihc_path("MYH7", f"{GENE}.9", tissue="Muscle - Skeletal")
    assert muscle == folder / f"{GENE}_skeletal_muscle.jpg"
    assert store.ihc_path("MYH7", f"{GENE}.9", tissue="Liver") is None
    assert store.ihc_path("MYH7", f"{GENE}.9") is None
    assert store.ihc_record("MYH7", GENE, tissue="Muscle - Skeletal")["antibody"] == "HPA054"
    assert store.unused_ihc([]) == [], "images of other networks' cards are not left over"
    (folder / "MYH7.png").write_bytes(jpeg())
    assert store.ihc_path("MYH7", GENE, tissue="Muscle - Skeletal") == folder / "MYH7.png", "one's own first"
    assert store.ihc_record("MYH7", GENE, tissue="Muscle - Skeletal") == {}
    assert command.wanted(store, CARDS)["gene"].tolist() == [f"{OTHER}.1", f"{THIRD}.2"]
    credits = command.credits_of(store, CARDS)
    words = "HPA631, Liver\nHuman Protein Atlas, CC BY-SA 4.0"
    assert credits == {f"{OTHER}.1": (words, f"https://v25.proteinatlas.org/{OTHER}")}


def test_a_recorded_name_cannot_leave_the_folder(make_store, site):
    store = make_store()
    command.fetch(store, CARDS, atlas_of(store, site.base))
    folder = store.raw_path("ihc_dir")
    (folder.parent / "secret.jpg").write_bytes(jpeg())
    records_df = protein_atlas.read_records(folder).replace(f"{OTHER}_liver.jpg", "../secret.jpg")
    protein_atlas.write_records(folder, records_df)
    assert store.ihc_path(f"{OTHER}.1", tissue="Liver") is None


def test_a_gene_named_by_its_symbol_is_found_in_the_table_of_genes(make_store, monkeypatch):
    store = make_store()
    genes_df = pd.DataFrame({"symbol": ["MYH7", "ALB"]}, index=[f"{GENE}.12", "ALB"])
    monkeypatch.setattr(Store, "is_current", lambda self, name: name == "genes")
    monkeypatch.setattr(Store, "load", lambda self, name: genes_df)
    pairs_df = cards_table(("MYH7", np.nan, "Liver"), ("ALB", "ALB", "Liver"))
    assert command.wanted(store, pairs_df)["ensembl"].tolist() == [GENE, ""]


def test_without_a_network_there_is_a_message_and_a_blank(make_store, capsys):
    store = make_store()
    with serving(Site, lock=threading.Lock(), seen=Counter(), answers={}) as gone:
        pass
    assert command.fetch(store, CARDS, atlas_of(store, gone.base)).startswith("0 of 3 images")
    assert "2 more images were not asked for" in capsys.readouterr().out
    folder = store.raw_path("ihc_dir")
    folder.mkdir(exist_ok=True)
    (folder / protein_atlas.RECORDS).write_text("nonsense\n")
    with pytest.raises(InputError, match="lacks the columns"):
        command.fetch(store, CARDS, atlas_of(store, gone.base))


def test_the_command_fetches_what_cards_need_or_else_the_strongest_links(
    make_store, site, monkeypatch, capsys
):
    store = make_store(n_cards=2)
    links_df = cards_table(
        (f"{GENE}.12", "MYH7", "Muscle - Skeletal"),
        (f"{GENE}.12", "MYH7", "Liver"),
        (f"{OTHER}.1", "ALB", "Liver"),
        (f"{THIRD}.2", "ITGA2B", "Lung"),
    ).rename(columns={"tile_tissue": "carried_by"})
    tables = {"links": links_df}
    monkeypatch.setattr(Store, "is_current", lambda self, name: name in tables)
    monkeypatch.setattr(Store, "load", lambda self, name: tables[name])
    monkeypatch.setattr(command.Config, "load", lambda *_: store.config)
    monkeypatch.setenv("HISTOCORR_ROOT", str(store.root))
    arguments = ["fetch", "--cohort", "mine", "--site", site.base + "/", "--interval", "0"]
    assert command.main(arguments) == 0
    assert capsys.readouterr().out.startswith("2 of 2 images")
    assert set(site.seen) - {"/about/licence"} == {
        f"/{g}{end}" for g in (GENE, OTHER) for end in (".xml",)
    } | {f"/images/{g}.jpg" for g in (GENE, OTHER)}
    tables["cards"] = cards_table((f"{THIRD}.2", "ITGA2B", "Lung"))
    site.answers[f"/{THIRD}.xml"] = b"<broken"
    assert command.main(arguments) == 1, "what failed can be tried again"
    assert "0 of 1 images" in capsys.readouterr().out


def test_a_card_has_the_picture_its_credit_and_its_page_or_why_there_is_none(make_store, site):
    store = make_store()
    command.fetch(store, CARDS, atlas_of(store, site.base))
    muscle, _, blood = (report_pairs._stained(store, pair) for pair in CARDS.itertuples())
    assert muscle["ihc"].startswith("data:image/webp;base64,")
    assert muscle["ihc_credit"] == "HPA054, Skeletal muscle; Human Protein Atlas, CC BY-SA 4.0"
    assert muscle["ihc_page"] == f"https://v25.proteinatlas.org/{GENE}"
    assert blood["ihc"] is None
    assert f"{THIRD}.xml" in blood["ihc_note"]
    folder = store.raw_path("ihc_dir")
    records_df = protein_atlas.read_records(folder)
    protein_atlas.write_records(folder, records_df.assign(page_url="javascript:alert(1)"))
    assert report_pairs._stained(store, next(CARDS.itertuples()))["ihc_page"] == ""
