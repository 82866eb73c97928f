"""A small cohort with planted links within tissues, and the links found in it."""

import numpy as np
import pandas as pd

from lib.statistics import effective_size, link_lookup, link_table, link_tests, permutations


def cohort(n_genes=80, n_features=120, n_true=8, donor_sd=0.6, seed=0, n=120):
    rng = np.random.default_rng(seed)
    tissue, donor = np.sort(rng.integers(0, 6, n)), rng.integers(0, 40, n)
    samples_df = pd.DataFrame(
        {"sample_id": [f"s{i}" for i in range(n)], "tissue": [f"t{t}" for t in tissue], "donor": donor}
    )
    x, y = (
        rng.standard_normal((k, n)) + donor_sd * rng.standard_normal((k, 40))[:, donor]
        for k in (n_genes, n_features)
    )
    x[:n_true] += 1.3 * y[:n_true]
    sides = [rows + 3 * rng.standard_normal((len(rows), 6))[:, tissue] for rows in (x, y)]
    names = [f"g{i}" for i in range(n_genes)], [f"1_{i}" for i in range(n_features)]
    frames = [
        pd.DataFrame(rows, index=index, columns=samples_df["sample_id"])
        for rows, index in zip(sides, names, strict=True)
    ]
    return *frames, samples_df


def links_of(log_df, features_df, samples_df, n_shuffles=999, basis=None, **plan):
    shuffles = permutations.draw("within_tissue", n_shuffles, samples_df, 0)
    basis = np.zeros((len(samples_df), 0)) if basis is None else basis
    classes = effective_size.donor_classes(samples_df, shuffles.groups)
    sides = link_tests.prepare(log_df, features_df, shuffles, basis, classes)
    return link_tests.of_sides(sides, shuffles, link_tests.Plan(progress=False, **plan)), shuffles


def lookup_of(log_df, features_df, samples_df, n_shuffles=200, q_threshold=0.05):
    """Any pair of these genes and features, from a run of the test of links."""
    shuffles = permutations.draw("within_tissue", n_shuffles, samples_df, 0)
    plan = link_tests.Plan(progress=False)
    tests = link_tests.run(log_df, features_df, samples_df, shuffles, None, plan)
    medians_df = pd.DataFrame({"symbol": log_df.index, "tissue": "t"}, index=log_df.index)
    tissues = sorted(samples_df["tissue"].unique())
    context = link_table.Context(log_df, features_df, medians_df, tissues)
    links_df = link_table.describe({"within_tissue": tests}, q_threshold, context)
    return tests, link_lookup.build(tests.sides, link_table.null_table(tests), links_df)
