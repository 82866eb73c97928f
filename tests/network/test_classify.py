"""Votes, accuracies and intervals against loops; the merged tissues; predictions against plain PyTorch."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lib
from lib.network import classify, models, training

CLASSES = ["Colon", "Liver", "Lung"]
PORTAL = Path(lib.__file__).parents[2] / "shared/data/gtex/GTExPortal.csv"
PAPER_TISSUES = [
    *("Artery—Aorta", "Artery—Coronary", "Artery—Tibial", "Colon—Sigmoid", "Colon—Transverse"),
    *("Esophagus—Gastroesophageal Junction", "Esophagus—Muscularis", "Heart—Atrial Appendage"),
    *("Heart—Left Ventricle", "Skin—Not Sun Exposed", "Skin—Sun Exposed"),
]


@pytest.fixture
def tile_files(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for slide in range(3):
        file = str(tmp_path / f"slide_{slide}.npy")
        np.save(file, rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8))
        rows += [(file, index, f"sample_{slide}", f"sample_{slide}_0_{index}") for index in range(6)]
    frame = pd.DataFrame(rows, columns=["file", "stack_index", "sample_id", "tile_id"])
    return frame.sample(frac=1, random_state=1)  # neither sorted nor numbered from 0


def small_model(n_classes=3):
    torch.manual_seed(0)
    parts = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return nn.Sequential(*parts, nn.Dropout(0.5), nn.Linear(4, n_classes))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_probabilities_equal_a_plain_forward_pass(tile_files, n_workers):
    model = small_model().train()
    settings = {
        "architecture": "",
        "class_names": CLASSES,
        "batch_size": 5,
        "device": "cpu",
        "progress": False,
    }
    scores_df = classify.predict_tiles(model, tile_files, n_workers=n_workers, **settings)
    assert model.training  # put back
    assert scores_df.index.equals(tile_files.index)
    assert list(scores_df) == ["sample_id", "tile_id", "stack_index", *CLASSES]
    assert (scores_df.dtypes[CLASSES] == np.float32).all()
    model.eval()
    for row, tile in tile_files.iterrows():
        pixels = torch.from_numpy(np.load(tile["file"])[tile["stack_index"]]).permute(2, 0, 1).float() / 255
        image_t = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).view(3, 1, 1)
        wanted = torch.softmax(model(image_t[None])[0], 0).detach().numpy()
        np.testing.assert_allclose(scores_df.loc[row, CLASSES].to_numpy(float), wanted, rtol=1e-4)
        assert scores_df.loc[row, "tile_id"] == tile["tile_id"]


def test_prediction_refuses_what_does_not_fit(tile_files):
    settings = {"architecture": "", "device": "cpu", "progress": False}
    with pytest.raises(ValueError, match="3 outputs and 2 classes"):
        classify.predict_tiles(small_model(), tile_files, class_names=CLASSES[:2], **settings)
    with pytest.raises(ValueError, match="class names must differ"):
        classify.predict_tiles(small_model(), tile_files, class_names=["Liver", "Liver", "Lung"], **settings)
    with pytest.raises(ValueError, match="tile_id"):
        classify.predict_tiles(
            small_model(), tile_files, class_names=["Liver", "tile_id", "Lung"], **settings
        )
    with pytest.raises(ValueError, match="no tiles"):
        classify.predict_tiles(small_model(), tile_files.iloc[:0], class_names=CLASSES, **settings)
    model = small_model()
    model[-1].bias.data[0] = float("nan")
    with pytest.raises(
        RuntimeError, match=r"18 tiles have probabilities that are not finite, first tile \d of"
    ):
        classify.predict_tiles(model, tile_files, class_names=CLASSES, **settings)


def labelled(tile_files, n_px):
    """The tiles resized to n_px, with labels."""
    frame = tile_files.assign(label=np.arange(len(tile_files)) % 3)
    for file in frame["file"].unique():
        stack = np.load(file)
        np.save(file, np.repeat(np.repeat(stack, n_px // 8, axis=1), n_px // 8, axis=2))
    return frame


@pytest.mark.parametrize("untrained", [False, True])
def test_predictions_are_those_of_training_where_the_input_is_not_imagenets(tile_files, tmp_path, untrained):
    """timm's ViT takes mean and sd 0.5: the best epoch's validation figures come back from its tiles."""
    pytest.importorskip("timm")
    architecture = "timm:test_vit"
    assert models.normalisation(architecture)[0] == (0.5, 0.5, 0.5)
    tiles_df = labelled(tile_files, 160)
    torch.manual_seed(0)
    model = models.build(architecture, 3, input_px=160)
    train = training.keep_untrained if untrained else training.fit
    how = {"class_names": CLASSES, "architecture": architecture, "device": "cpu"}
    history_df = train(
        *(model, tiles_df, tiles_df), run_dir=tmp_path / "run", epochs=2, batch_size=6, progress=False, **how
    )
    best = history_df.loc[history_df["validation_accuracy"].idxmax()]
    model, class_names = models.load(tmp_path / "run/best.pt", architecture)
    scores = classify.predict_tiles(model, tiles_df, progress=False, **how)[class_names].to_numpy()
    assert (scores.argmax(1) == tiles_df["label"]).mean() == best["validation_accuracy"]
    loss = -np.log(scores[np.arange(len(scores)), tiles_df["label"]]).mean()
    assert loss == pytest.approx(best["validation_loss"], rel=1e-4)
    images_t = torch.from_numpy(np.stack([np.load(t.file)[t.stack_index] for t in tiles_df.itertuples()]))
    with torch.inference_mode():
        logits_t = model(images_t.permute(0, 3, 1, 2) / 127.5 - 1)
    np.testing.assert_allclose(torch.softmax(logits_t, 1).numpy(), scores, rtol=1e-3, atol=1e-5)


def test_out_of_memory_names_the_parameter_of_a_run(tile_files, monkeypatch):
    model = small_model()
    monkeypatch.setattr(model[0], "forward", lambda images_t: torch.empty(1 << 50))
    with pytest.raises(
        RuntimeError, match=r"with 8 tiles of 8 px at a time\. Try 4 \(inference_batch of a run"
    ):
        classify.predict_tiles(
            model,
            tile_files,
            architecture="",
            class_names=CLASSES,
            batch_size=8,
            device="cpu",
            progress=False,
        )


def random_votes(seed, n_tiles=400, n_samples=40, n_classes=4, decimals=1):
    """Coarse probabilities, so that votes and even means tie."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.dirichlet(np.ones(n_classes) * 0.7, n_tiles), decimals)
    return scores, [f"s{number}" for number in rng.integers(0, n_samples, n_tiles)]


@pytest.mark.parametrize("seed", range(5))
def test_votes_equal_a_loop(seed):
    scores, samples = random_votes(seed)
    names = ["d", "a", "c", "b"]
    truth = dict.fromkeys(samples, names[seed % 4])
    votes_df = classify.slide_votes(scores, samples, names, truth)
    assert votes_df.index.tolist() == list(dict.fromkeys(samples))
    n_ties = 0
    for sample, row in votes_df.iterrows():
        mine = [scores[place] for place in range(len(samples)) if samples[place] == sample]
        counts = Counter(int(np.argmax(tile)) for tile in mine)
        means = [sum(tile[k] for tile in mine) / len(mine) for k in range(4)]
        most = max(counts.values())
        tied = [k for k in range(4) if counts[k] == most]
        n_ties += len(tied) > 1
        winner = max(tied, key=lambda k: (means[k], -k))
        assert row["predicted"] == names[winner]
        assert row["n_tiles"] == len(mine)
        assert row["vote_fraction"] == pytest.approx(most / len(mine))
        assert row["mean_softmax"] == pytest.approx(means[winner])
        assert row["truth_fraction"] == pytest.approx(counts[seed % 4] / len(mine))
        assert row["correct"] == (winner == seed % 4)
    assert n_ties > 0


def test_tied_votes_go_to_the_higher_mean_softmax():
    scores = np.array([[0.6, 0.4, 0.0], [0.0, 0.9, 0.1], [0.5, 0.0, 0.5], [0.0, 0.3, 0.7]])
    votes_df = classify.slide_votes(scores, ["x", "x", "y", "y"], CLASSES, {"x": "Colon", "y": "Lung"})
    assert votes_df["predicted"].tolist() == ["Liver", "Lung"]  # 1 : 1 each; means 0.3 to 0.65, 0.25 to 0.6
    assert votes_df["correct"].tolist() == [False, True]


def test_samples_of_an_unknown_tissue_are_kept_and_flagged():
    scores = np.array([[0.6, 0.4, 0.0], [0.0, 0.9, 0.1]])
    votes_df = classify.slide_votes(scores, ["x", "y"], CLASSES, {"x": "Skin", "y": "Liver"})
    assert votes_df["known"].tolist() == [False, True]
    assert votes_df["correct"].tolist() == [False, True]
    assert np.isnan(votes_df.loc["x", "truth_fraction"])
    assert votes_df.loc["x", "tissue"] == "Skin"
    frame = votes_df.assign(split="test", donor=["d", "e"])
    table = classify.accuracy_table({"slide": frame}, class_names=CLASSES)
    assert table.loc[0, ["n", "correct", "n_unknown"]].tolist() == [1, 1, 1]
    assert not len(classify.most_wrong(votes_df))


def test_votes_without_truth():
    votes_df = classify.slide_votes(np.eye(3), ["x", "y", "z"], CLASSES)
    assert votes_df["tissue"].isna().all()
    assert not votes_df["known"].any()
    assert votes_df["predicted"].tolist() == CLASSES


def test_votes_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"shape \(3, 3\) do not fit 2 tiles"):
        classify.slide_votes(np.eye(3), ["x", "y"], CLASSES)
    with pytest.raises(ValueError, match="do not fit"):
        classify.slide_votes(np.zeros((0, 3)), [], CLASSES)
    with pytest.raises(ValueError, match="3 probabilities are not finite"):
        classify.slide_votes(np.vstack([np.eye(3), np.full(3, np.nan)]), list("wxyz"), CLASSES)
    with pytest.raises(ValueError, match=r"1 samples have no true tissue in the table, first \['z'\]"):
        classify.slide_votes(np.eye(3), ["x", "y", "z"], CLASSES, {"x": "Liver", "y": "Liver"})


def planted(n_donors, seed, accuracy=0.8, per_donor=4):
    """Predictions whose correctness goes by donor: each donor has its own accuracy, 0.8 on average."""
    rng = np.random.default_rng(seed)
    rows = []
    for donor in range(n_donors):
        own = rng.beta(2 * accuracy, 2 * (1 - accuracy))
        for _ in range(per_donor):
            tissue = CLASSES[rng.integers(3)]
            others = [name for name in CLASSES if name != tissue]
            rows.append((f"d{donor}", tissue, tissue if rng.random() < own else others[rng.integers(2)]))
    return pd.DataFrame(rows, columns=["donor", "tissue", "predicted"]).assign(split="test")


def test_accuracies_equal_a_loop():
    frame = pd.concat([planted(30, 0), planted(20, 1).assign(split="validation")], ignore_index=True)
    table = classify.accuracy_table(
        {"tile": frame, "slide": frame.iloc[::2]}, class_names=CLASSES, n_bootstrap=50
    )
    assert table[["level", "split"]].to_numpy().tolist() == [
        *(["tile", "test"], ["tile", "validation"], ["slide", "test"], ["slide", "validation"])
    ]
    recalls_df = classify.recall_table(frame, class_names=CLASSES, n_bootstrap=50)
    for _, row in table[table["level"] == "tile"].iterrows():
        part = frame[frame["split"] == row["split"]]
        right = sum(a == b for a, b in zip(part["tissue"], part["predicted"], strict=True))
        assert (row["n"], row["correct"]) == (len(part), right)
        assert row["accuracy"] == pytest.approx(right / len(part))
        recalls = []
        for tissue in CLASSES:
            of_tissue = part[part["tissue"] == tissue]
            recalls.append(sum(of_tissue["predicted"] == tissue) / len(of_tissue))
        found = recalls_df[recalls_df["split"] == row["split"]]
        assert found["recall"].tolist() == pytest.approx(recalls)
        assert found["n"].sum() == len(part)
        assert row["macro_accuracy"] == pytest.approx(np.mean(recalls))


def test_interval_equals_a_bootstrap_written_out():
    frame = planted(25, 3)
    row = classify.accuracy_table({"slide": frame}, class_names=CLASSES, n_bootstrap=4000, seed=1).iloc[0]
    rng, of_donor = np.random.default_rng(7), dict(list(frame.groupby("donor")))
    drawn, macro = [], []
    for _ in range(1000):
        sample = pd.concat([of_donor[donor] for donor in rng.choice(list(of_donor), len(of_donor))])
        right = sample["tissue"] == sample["predicted"]
        drawn.append(right.mean())
        macro.append(right.groupby(sample["tissue"]).mean().mean())
    assert (row["low"], row["high"]) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)
    assert (row["macro_low"], row["macro_high"]) == pytest.approx(np.percentile(macro, [2.5, 97.5]), abs=0.02)


def test_donor_intervals_cover_and_sample_intervals_would_not():
    """250 cohorts of donors with their own accuracy: near 95 % of intervals hold the truth, 0.8."""
    held, too_narrow = 0, 0
    for seed in range(250):
        frame = planted(40, seed, per_donor=6)
        row = classify.accuracy_table({"slide": frame}, class_names=CLASSES, n_bootstrap=400).iloc[0]
        held += row["low"] <= 0.8 <= row["high"]
        alone = classify.accuracy_table(
            {"slide": frame.assign(donor=range(len(frame)))}, class_names=CLASSES, n_bootstrap=400
        ).iloc[0]
        too_narrow += alone["low"] <= 0.8 <= alone["high"]
    assert 0.90 <= held / 250 <= 0.99
    assert too_narrow / 250 < 0.85


def test_a_single_donor_has_no_interval():
    row = classify.accuracy_table({"slide": planted(1, 0)}, class_names=CLASSES).iloc[0]
    assert np.isnan([row["low"], row["high"], row["macro_low"], row["macro_high"]]).all()
    assert row["n_donors"] == 1
    recalls_df = classify.recall_table(planted(1, 0), class_names=CLASSES)
    assert recalls_df[["low", "high"]].isna().all(axis=None)


def test_same_seed_same_interval():
    tables = [
        classify.accuracy_table({"slide": planted(20, 0)}, class_names=CLASSES, n_bootstrap=200, seed=seed)
        for seed in (1, 1, 2)
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])


def test_tables_name_missing_columns():
    with pytest.raises(ValueError, match=r"slide frame lacks \['donor'\]"):
        classify.accuracy_table({"slide": planted(3, 0).drop(columns="donor")}, class_names=CLASSES)
    without = planted(3, 0).assign(tissue=None)
    with pytest.raises(ValueError, match="true tissue of some rows"):
        classify.accuracy_table({"slide": without}, class_names=CLASSES)


def test_merging_takes_39_tissues_to_33():
    if not PORTAL.exists():
        pytest.skip(f"{PORTAL} is not here")
    tissues = sorted(set(pd.read_csv(PORTAL)["Tissue"]) - {"Kidney - Medulla"})
    assert len(tissues) == 39
    merged = classify.merge_tissues(tissues)
    assert len(set(merged)) == 33
    sizes = Counter(merged)
    assert {name: sizes[name] for name in classify.MERGED_GTEX} == {
        **{"Artery": 3, "Colon": 2, "Esophagus - Junction or Muscularis": 2, "Heart": 2, "Skin": 2}
    }
    kept = [new for old, new in zip(tissues, merged, strict=True) if old == new]
    assert len(kept) == 28


def test_every_member_is_spelt_as_the_portal_has_it():
    if not PORTAL.exists():
        pytest.skip(f"{PORTAL} is not here")
    tissues = set(pd.read_csv(PORTAL)["Tissue"])
    assert {member for members in classify.MERGED_GTEX.values() for member in members} <= tissues


@pytest.mark.parametrize("dash", ["—", "–", "-", " - ", " — ", "\u2212", "\u2010"])
def test_any_dash_is_understood(dash):
    merged = classify.merge_tissues([name.replace("—", dash) for name in PAPER_TISSUES])
    members = [member for members in classify.MERGED_GTEX.values() for member in members]
    assert Counter(merged) == Counter(classify.merge_tissues(members))
    assert set(merged) == set(classify.MERGED_GTEX)


def test_merging_own_groups():
    groups = {"Gut": ["Colon", "Stomach"]}
    assert classify.merge_tissues(["Colon", "Lung", "stomach"], groups).tolist() == ["Gut", "Lung", "Gut"]
    with pytest.raises(ValueError, match="in two groups"):
        classify.merge_tissues(["Colon"], {"A": ["Colon"], "B": ["Colon"]})


def test_what_stands_in_brackets_tells_tissues_apart():
    tumours = ["Tumour (primary)", "Tumour (metastatic)", "Necrosis"]
    one = {"A": ["Tumour (primary)", "Necrosis"]}
    assert classify.merge_tissues(tumours, one).tolist() == ["A", "Tumour (metastatic)", "A"]
    two = {"A": ["Tumour (primary)"], "B": ["Tumour (metastatic)"]}
    assert classify.merge_tissues(tumours, two).tolist() == ["A", "B", "Necrosis"]
    assert classify.merge_tissues(tumours, {"A": ["Tumour"]}).tolist() == tumours, "it could be either"
    assert classify.merge_tissues(["Tumour (primary)"], {"A": ["tumour"]}).tolist() == ["A"]
    # the answer does not depend on which labels happen to occur
    assert classify.merge_tissues(tumours[:1], {"A": ["Tumour"]}, tumours).tolist() == tumours[:1]


def test_own_groups_must_name_tissues_and_the_papers_need_not():
    tissues = ["Tumour (primary)", "Tumour (metastatic)", "Necrosis"]
    groups = classify.merged_groups({"A": ["tumour (primary)", "Necrosis"]}, tissues)
    assert groups == classify.MERGED_GTEX | {"A": ("tumour (primary)", "Necrosis")}
    for member, nearest in (("Necrossis", "Necrosis"), ("Tumour", "Tumour (primary)")):
        with pytest.raises(ValueError, match=rf"'{member}' of 'A' names no tissue .*{re.escape(nearest)}"):
            classify.merged_groups({"A": [member]}, tissues)


def test_merged_accuracy_forgives_confusion_within_a_group():
    names = ["Skin - Not Sun Exposed (Suprapubic)", "Skin - Sun Exposed (Lower leg)", "Lung"]
    frame = pd.DataFrame(
        {"tissue": [names[0], names[1], "Lung", "Lung"], "donor": list("abcd"), "split": "test"}
    )
    frame["predicted"] = [names[1], names[1], "Lung", names[0]]
    plain, merged = (
        classify.accuracy_table({"slide": frame}, class_names=names, groups=groups).iloc[0]
        for groups in (None, classify.MERGED_GTEX)
    )
    assert (plain["accuracy"], plain["n_classes"]) == (0.5, 3)
    assert (merged["accuracy"], merged["n_classes"]) == (0.75, 2)
    assert merged["macro_accuracy"] == pytest.approx((1 + 0.5) / 2)


def test_confusion_counts():
    frame = planted(40, 5)
    counts = classify.confusion(frame["predicted"], frame["tissue"], CLASSES)
    for truth in CLASSES:
        for predicted in CLASSES:
            wanted = sum((frame["tissue"] == truth) & (frame["predicted"] == predicted))
            assert counts.loc[truth, predicted] == wanted
    assert counts.to_numpy().sum() == len(frame)
    assert counts.index.name == "tissue"
    with pytest.raises(ValueError, match=r"true tissues that are not among the classes: \['Skin'\]"):
        classify.confusion(["Lung"], ["Skin"], CLASSES)
    with pytest.raises(ValueError, match=r"predicted tissues .* \['Skin'\]"):
        classify.confusion(["Skin"], ["Lung"], CLASSES)
    with pytest.raises(ValueError, match="1 predictions for 2"):
        classify.confusion(["Lung"], ["Lung", "Lung"], CLASSES)


def test_majority_baseline():
    assert classify.majority_baseline(["b", "b", "a"], ["b", "a", "c", "b"]) == ("b", 0.5)
    assert classify.majority_baseline(["b", "a"], ["a"]) == ("a", 1.0)
    with pytest.raises(ValueError, match="empty"):
        classify.majority_baseline([], ["a"])


def test_most_wrong_over_two_networks():
    truth = dict.fromkeys("wxyz", "Liver") | {"u": "Skin"}
    tiles = {"w": [1, 1, 1], "x": [0, 0, 1], "y": [0, 0, 0], "z": [2, 2, 1], "u": [0, 0, 0]}
    samples = [sample for sample, classes in tiles.items() for _ in classes]
    scores = np.eye(3)[[place for classes in tiles.values() for place in classes]]
    first = classify.slide_votes(scores, samples, CLASSES, truth)
    wrong = classify.most_wrong(first, 2)
    assert wrong.index.tolist() == ["y", "x"]  # y has no tile right; x and z one of three: by name
    assert wrong["predicted"].tolist() == ["Colon", "Colon"]
    assert wrong["truth_fraction"].tolist() == pytest.approx([0, 1 / 3])
    second = classify.slide_votes(np.eye(3)[[1, 1, 0, 2]], list("wxyz"), CLASSES, truth)
    both = classify.most_wrong(pd.concat([first, second]))
    assert both.index.tolist() == ["y", "z", "x"]
    assert both["times_wrong"].tolist() == [2, 2, 1]
    assert both["times_judged"].tolist() == [2, 2, 2]
