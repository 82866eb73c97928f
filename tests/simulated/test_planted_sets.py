"""planted_sets: what is planted, the same for a seed, and how found sets are scored."""

import numpy as np
import pandas as pd

from lib.cohort.gene_set_files import read_gmt
from lib.simulated import planted_sets
from lib.simulated.genes import GeneCounts, plan_genes
from lib.simulated.slides import QUANTITIES


def plan(seed=0):
    return plan_genes(["Thyroid", "Liver"], QUANTITIES, GeneCounts(total=1500), seed)


def test_two_in_three_genes_of_a_planted_set_follow_its_quantity(tmp_path):
    genes_df = plan()
    (tmp_path / "truth").mkdir()
    planted_sets.write_sets(tmp_path, genes_df, 0)
    sets, truth_df = read_gmt(tmp_path / "gene_sets.gmt"), planted_sets.read_sets(tmp_path)
    assert list(sets) == list(truth_df.index)
    assert truth_df["kind"].value_counts().to_dict() == {
        "shuffled": planted_sets.N_SHUFFLED, "planted": len(QUANTITIES), "covariate": 2, "marker": 2,
    }  # fmt: skip
    by_symbol = genes_df.set_index("symbol")
    for name, row in truth_df[truth_df["kind"] == "planted"].iterrows():
        of_genes = by_symbol.loc[sets[name], "quantity"]
        assert (of_genes == row["quantity"]).sum() == planted_sets.N_OF_DRIVER
        assert (of_genes == "").sum() == planted_sets.N_OTHERS
    assert sets == {name: genes for name, (_, _, genes) in planted_sets.plan_sets(plan(), 0).items()}
    assert sets != {name: genes for name, (_, _, genes) in planted_sets.plan_sets(plan(), 1).items()}
    assert planted_sets.read_sets(tmp_path / "elsewhere") is None


def test_score():
    kinds = {"u": "planted", "v": "planted", "w": "planted", "x": "shuffled", "y": "shuffled", "z": "marker"}
    truth_df = pd.DataFrame({"kind": kinds, "quantity": {"u": "a", "v": "b", "w": "b"}}).fillna("")
    q = {"u": 0.01, "v": 0.01, "w": 0.2, "x": 0.01, "y": 0.9, "z": 0.9}
    features = {"u": "1_0", "v": "1_0", "w": "1_1", "x": "1_1", "y": "1_0", "z": "1_0"}
    sets_df = pd.DataFrame({"q": q, "feature": features})
    r_df = pd.DataFrame(np.array([[0.9, 0.1], [0.0, -0.8]]), index=["1_0", "1_1"], columns=["a", "b"])
    scores = planted_sets.score_sets(sets_df, truth_df, r_df, 0.05)
    assert [detail for _, detail in scores.values()] == ["2 of 3", "1 of 3", "2 of 3", "1 of 2"]
    assert [round(float(value), 3) for value, _ in scores.values()] == [0.667, 0.333, 0.667, 0.5]
