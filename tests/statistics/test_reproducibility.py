"""The comparison block by block against the whole matrices in memory."""

import numpy as np
import pandas as pd
import pytest

from lib.statistics import reproducibility


def make_set(seed, n, truth):
    rng = np.random.default_rng(seed)
    ids = [f"r{seed}_{i}" for i in range(n)]
    y = rng.normal(size=(30, n))
    x = rng.normal(size=(50, n)) + truth @ y
    log_df = pd.DataFrame(x, index=[f"g{i}" for i in range(50)], columns=ids)
    return log_df, pd.DataFrame(y, index=[f"1_{i}" for i in range(30)], columns=ids)


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 30)) * (rng.uniform(size=(50, 30)) < 0.1) * 1.5
    return make_set(1, 40, truth), make_set(2, 55, truth)


def dense(log_df, features_df):
    return np.corrcoef(log_df, features_df)[: len(log_df), len(log_df) :].ravel()


@pytest.fixture(params=["numba", "numpy"])
def scan(request, monkeypatch):
    """Each of the two passes over a block."""
    if request.param == "numpy":
        monkeypatch.setattr(reproducibility, "_kernel", lambda: None)


@pytest.mark.usefixtures("scan")
@pytest.mark.parametrize("gene_block", [7, 256])
def test_matches_dense(sets, gene_block, monkeypatch):
    (x1, y1), (x2, y2) = sets
    monkeypatch.setattr(reproducibility, "GENE_BLOCK", gene_block)
    result = reproducibility.compare((x1, y1), (x2.iloc[::-1], y2.iloc[::-1]))
    a, b = dense(x1, y1), dense(x2, y2)
    assert result.r_raw == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-6)
    assert result.r_fisher == pytest.approx(np.corrcoef(np.arctanh(a), np.arctanh(b))[0, 1], abs=1e-6)
    assert result.density.sum() == result.n_pairs == 1500
    expected = np.histogram2d(a, b, [result.edges, result.edges])[0]
    assert np.abs(result.density - expected).sum() <= 4  # float32 on an edge
    in_z = np.histogram2d(np.arctanh(a), np.arctanh(b), [result.z_edges, result.z_edges])[0]
    assert np.abs(result.density - in_z).sum() <= 4
    table = result.by_threshold_df.set_index("r_threshold")
    for t in (0.0, 0.3, 0.5):
        hits = np.abs(b) >= t
        same = hits & (np.sign(a) == np.sign(b))
        assert table.loc[t, "n_test"] == hits.sum()
        assert table.loc[t, "same_sign"] == pytest.approx(same.sum() / hits.sum(), abs=2e-3)
        both = same & (np.abs(a) >= t)
        assert table.loc[t, "replicated"] == pytest.approx(both.sum() / hits.sum(), abs=2e-3)
    assert table.loc[0.5, "replicated"] > 0.5 > 5 * table.loc[0.5, "expected"]


def test_expected_share_is_that_of_shuffled_genes(sets):
    (x1, y1), (x2, y2) = sets
    shuffled_df = x1.iloc[np.random.default_rng(0).permutation(50)].set_axis(x1.index)
    table = reproducibility.compare((shuffled_df, y1), (x2, y2)).by_threshold_df
    assert (table["replicated"] - table["expected"]).abs().iloc[:5].max() < 0.05
    assert table["same_sign"].iloc[0] == pytest.approx(0.5, abs=0.05)


def test_within_tissue(sets):
    """A tissue effect alone makes correlations replicate; none of it is left within tissues."""
    rng = np.random.default_rng(3)
    frames = []
    effect_x, effect_y = rng.normal(size=(50, 4)) * 3, rng.normal(size=(30, 4)) * 3
    tissues = {}
    for k, n in enumerate((40, 60)):
        t = np.arange(n) % 4
        ids = [f"t{k}_{i}" for i in range(n)]
        tissues |= dict(zip(ids, t.astype(str), strict=True))
        x = effect_x[:, t] + rng.normal(size=(50, n))
        y = effect_y[:, t] + rng.normal(size=(30, n))
        frames.append(
            (pd.DataFrame(x, index=range(50), columns=ids), pd.DataFrame(y, index=range(30), columns=ids))
        )
    raw = reproducibility.compare(*frames)
    within = reproducibility.compare(*frames, tissues=pd.Series(tissues))
    assert raw.r_raw > 0.9
    assert abs(within.r_raw) < 0.15
    centred = [tuple(df.T.sub(df.T.groupby(tissues).transform("mean")).T for df in pair) for pair in frames]
    assert within.r_raw == pytest.approx(np.corrcoef(dense(*centred[0]), dense(*centred[1]))[0, 1], abs=1e-6)


@pytest.mark.usefixtures("scan")
def test_perfect_r_and_constant_rows(sets):
    (x1, y1), (x2, y2) = ((x.copy(), y.copy()) for x, y in sets)
    x1.loc["g3"], x2.loc["g3"] = y1.loc["1_4"], y2.loc["1_4"]  # r = 1 on both sets
    x1.loc["g7"], y2.loc["1_9"] = 5.1, 0.1
    result = reproducibility.compare((x1, y1), (x2, y2))
    assert np.isfinite([result.r_raw, result.r_fisher]).all()
    assert result.n_pairs == 49 * 29 == result.density.sum()
    assert result.density[-1, -1] >= 1


def test_bad_input(sets):
    first, second = sets
    with pytest.raises(ValueError, match=r"1 genes are in one set only, first \['g0'\]"):
        reproducibility.compare((first[0].drop(index="g0"), first[1]), second)
    with pytest.raises(
        ValueError, match=r"0 of 39 only in the expression table .* 1 of 40 only in the feature table"
    ):
        reproducibility.compare((first[0].iloc[:, 1:], first[1]), second)
    with pytest.raises(ValueError, match="3 slides"):
        reproducibility.compare((first[0].iloc[:, :3], first[1].iloc[:, :3]), second)
    nan_df = first[0].copy()
    nan_df.iloc[2, 3] = np.nan
    with pytest.raises(ValueError, match="gene 'g2' is nan in sample 'r1_3'"):
        reproducibility.compare((nan_df, first[1]), second)
    with pytest.raises(ValueError, match="2 samples have no tissue"):
        reproducibility.compare(first, second, tissues=pd.Series("a", index=first[0].columns[2:]))
    with pytest.raises(ValueError, match="no gene or no feature varies"):
        reproducibility.compare((first[0] * 0, first[1]), second)
