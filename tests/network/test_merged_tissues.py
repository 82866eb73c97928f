"""The paper's merged tissues and a cohort's own, in every spelling."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from lib.network.merged_tissues import MERGED_GTEX, merge_tissues, merged_groups
from lib.sources import mirror

PORTAL = (mirror.folder("gtex") or Path("no mirror")) / "GTExPortal.csv"
PAPER_TISSUES = [
    *("Artery—Aorta", "Artery—Coronary", "Artery—Tibial", "Colon—Sigmoid", "Colon—Transverse"),
    *("Esophagus—Gastroesophageal Junction", "Esophagus—Muscularis", "Heart—Atrial Appendage"),
    *("Heart—Left Ventricle", "Skin—Not Sun Exposed", "Skin—Sun Exposed"),
]


@pytest.fixture(scope="module")
def portal_tissues():
    if not PORTAL.exists():
        pytest.skip(f"{PORTAL} is missing")
    return sorted(set(pd.read_csv(PORTAL)["Tissue"]) - {"Kidney - Medulla"})


def test_merging_takes_39_tissues_to_33(portal_tissues):
    assert len(portal_tissues) == 39
    merged = merge_tissues(portal_tissues)
    assert len(set(merged)) == 33
    sizes = Counter(merged)
    assert {name: sizes[name] for name in MERGED_GTEX} == {
        **{"Artery": 3, "Colon": 2, "Esophagus - Junction or Muscularis": 2, "Heart": 2, "Skin": 2}
    }
    assert sum(merged == portal_tissues) == 28
    assert {member for members in MERGED_GTEX.values() for member in members} <= set(portal_tissues)


@pytest.mark.parametrize("dash", ["—", "–", "-", " - ", " — ", "\u2212", "\u2010"])
def test_any_dash_is_understood(dash):
    merged = merge_tissues([name.replace("—", dash) for name in PAPER_TISSUES])
    members = [member for members in MERGED_GTEX.values() for member in members]
    assert Counter(merged) == Counter(merge_tissues(members))
    assert set(merged) == set(MERGED_GTEX)


def test_merging_own_groups():
    groups = {"Gut": ["Colon", "Stomach"]}
    assert merge_tissues(["Colon", "Lung", "stomach"], groups).tolist() == ["Gut", "Lung", "Gut"]
    with pytest.raises(ValueError, match="in two groups"):
        merge_tissues(["Colon"], {"A": ["Colon"], "B": ["Colon"]})


def test_what_stands_in_brackets_tells_tissues_apart():
    tumours = ["Tumour (primary)", "Tumour (metastatic)", "Necrosis"]
    one = {"A": ["Tumour (primary)", "Necrosis"]}
    assert merge_tissues(tumours, one).tolist() == ["A", "Tumour (metastatic)", "A"]
    two = {"A": ["Tumour (primary)"], "B": ["Tumour (metastatic)"]}
    assert merge_tissues(tumours, two).tolist() == ["A", "B", "Necrosis"]
    assert merge_tissues(tumours, {"A": ["Tumour"]}).tolist() == tumours, "it could be either"
    assert merge_tissues(["Tumour (primary)"], {"A": ["tumour"]}).tolist() == ["A"]
    # the answer does not depend on which labels happen to occur
    assert merge_tissues(tumours[:1], {"A": ["Tumour"]}, tumours).tolist() == tumours[:1]


def test_own_groups_must_name_tissues_and_the_papers_need_not():
    tissues = ["Tumour (primary)", "Tumour (metastatic)", "Necrosis"]
    groups = merged_groups({"A": ["tumour (primary)", "Necrosis"]}, tissues)
    assert groups == MERGED_GTEX | {"A": ("tumour (primary)", "Necrosis")}
    for member, nearest in (("Necrossis", "Necrosis"), ("Tumour", "Tumour (primary)")):
        with pytest.raises(ValueError, match=rf"'{member}' of 'A' names no tissue .*{re.escape(nearest)}"):
            merged_groups({"A": [member]}, tissues)
