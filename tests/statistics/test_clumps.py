"""lib.statistics.clumps: every member near its lead, greedy by the number of near-copies."""

import numpy as np
import pandas as pd
import pytest

from lib.statistics.clumps import find_clumps


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    sources = rng.standard_normal((40, 120))
    copies = np.repeat(np.arange(40), rng.integers(1, 12, 40))
    rows = sources[copies] * rng.choice([-1, 1], len(copies))[:, None]
    rows = rows + 0.25 * rng.standard_normal(rows.shape)
    return np.concatenate([rows, np.zeros((2, 120))]), copies


def test_members_are_near_their_lead_and_leads_lead_themselves(features):
    rows, _ = features
    names = pd.Index([f"1_{i}" for i in range(len(rows))])
    df = find_clumps(rows, names)
    at = {name: i for i, name in enumerate(names)}
    for name, (clump, r_lead) in df.iterrows():
        r = 1.0 if name == clump else np.corrcoef(rows[at[name]], rows[at[clump]])[0, 1]
        assert r == pytest.approx(r_lead, abs=0.03)  # residuals are not centred again
        assert abs(r_lead) >= 0.9 - 1e-6
        assert df.loc[clump, "clump"] == clump


def test_copies_fall_into_few_clumps_and_constants_stay_alone(features):
    rows, copies = features
    df = find_clumps(rows, pd.Index([f"1_{i}" for i in range(len(rows))]))
    assert 40 <= df["clump"].nunique() <= 60
    together = df.iloc[: len(copies)].groupby(copies)["clump"].nunique()
    assert together.median() == 1
    assert df["clump"].tolist()[-2:] == df.index.tolist()[-2:]


def test_agrees_with_the_greedy_rule_on_the_whole_matrix(features):
    rows, _ = features
    names = pd.Index([f"1_{i}" for i in range(len(rows))])
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    near = np.abs(unit @ unit.T) >= 0.9
    lead = np.full(len(rows), -1)
    for i in np.argsort(-near.sum(axis=1), kind="stable"):
        if lead[i] < 0:
            lead[near[i] & (lead < 0)] = i
            lead[i] = i
    assert find_clumps(rows, names)["clump"].tolist() == names[lead].tolist()
