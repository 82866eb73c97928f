"""The search for a gene or a feature by what a person types."""

import pandas as pd
import pytest

from lib.explore import name_search


@pytest.fixture(scope="module")
def names():
    """Forty genes GENE0 to GENE39 with versioned ids, and 25 features."""
    ids = [f"ENSG{i:011d}.{i % 7}" for i in range(40)]
    symbols = pd.Series([f"GENE{i}" for i in range(40)], index=ids)
    return name_search.index_names(symbols, pd.Index([f"{k // 8}_{k % 8}" for k in range(25)]))


@pytest.mark.parametrize(
    ("typed", "kind", "name"),
    [
        ("GENE7", "gene", "ENSG00000000007.0"),
        (" gene7 ", "gene", "ENSG00000000007.0"),
        ("ensg00000000008.1", "gene", "ENSG00000000008.1"),
        ("ENSG00000000008", "gene", "ENSG00000000008.1"),
        ("GENE7 · ENSG00000000007.0", "gene", "ENSG00000000007.0"),
        ("1_3", "feature", "1_3"),
    ],
)
def test_find(names, typed, kind, name):
    assert name_search.find(names, typed) == (kind, name)


def test_what_is_misspelt_finds_its_neighbours(names):
    with pytest.raises(LookupError, match=r"no gene or feature 'GNEE12'; nearest: .*GENE12 ·"):
        name_search.find(names, "GNEE12")
    assert name_search.suggest(names, "GNEE12", 3)[0].startswith("GENE12 ")
    with pytest.raises(LookupError, match="nearest: none"):
        name_search.find(names, "§§§")
    with pytest.raises(LookupError, match="''"):
        name_search.find(names, "  ")


def test_suggestions_begin_with_what_was_typed_shortest_first(names):
    shown = [text.split(" ")[0] for text in name_search.suggest(names, "gene1", 5)]
    assert shown[:2] == ["GENE1", "GENE10"]
    assert all(word.startswith("GENE1") for word in shown)
    assert name_search.suggest(names, "", 5) == []
    assert "2_0" in name_search.suggest(names, "2_", 5)


def test_a_symbol_of_two_genes_asks_for_the_id():
    twins = pd.Series(["TWIN", "TWIN"], index=["ENSG1.1", "ENSG2.1"])
    names = name_search.index_names(twins, pd.Index(["1_0"]))
    with pytest.raises(LookupError, match=r"'twin' is the symbol of 2 genes, ENSG1\.1, ENSG2\.1: give an id"):
        name_search.find(names, "twin")
