"""Class probabilities of stored tiles, against plain PyTorch and against training's own validation."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lib.network import models, predict, training
from lib.network.recipe import Recipe
from lib.tiles.stored import read_tiles

CLASSES = ["Colon", "Liver", "Lung"]


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


def predicted(model, tiles_df, class_names=CLASSES, architecture="", **options):
    how = {"architecture": architecture, "class_names": class_names, "device": "cpu"} | options
    return predict.predict_tiles(model, tiles_df, **how)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_probabilities_equal_a_plain_forward_pass(tile_files, n_workers):
    model = small_model().train()
    scores_df = predicted(model, tile_files, batch_size=5, n_workers=n_workers)
    assert model.training  # put back
    assert scores_df.index.equals(tile_files.index)
    assert list(scores_df) == ["sample_id", "tile_id", "stack_index", *CLASSES]
    assert (scores_df.dtypes[CLASSES] == np.float32).all()
    model.eval()
    mean_t, sd_t = (torch.tensor(x).view(3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    pixels = read_tiles(tile_files)
    for place, (row, tile) in enumerate(tile_files.iterrows()):
        pixels_t = torch.from_numpy(pixels[place]).permute(2, 0, 1).float() / 255
        wanted = torch.softmax(model(((pixels_t - mean_t) / sd_t)[None])[0], 0).detach().numpy()
        np.testing.assert_allclose(scores_df.loc[row, CLASSES].to_numpy(float), wanted, rtol=1e-4)
        assert scores_df.loc[row, "tile_id"] == tile["tile_id"]


def test_prediction_refuses_what_does_not_fit(tile_files):
    model = small_model()
    for class_names, message in (
        (CLASSES[:2], "3 outputs, but 2 classes"),
        (["Liver", "Liver", "Lung"], "class names must differ"),
        (["Liver", "tile_id", "Lung"], "tile_id"),
    ):
        with pytest.raises(ValueError, match=message):
            predicted(model, tile_files, class_names)
    with pytest.raises(ValueError, match="no tiles"):
        predicted(model, tile_files.iloc[:0])
    model[-1].bias.data[0] = float("nan")
    with pytest.raises(RuntimeError, match=r"18 tiles have probabilities .* not finite, first tile \d of"):
        predicted(model, tile_files)


@pytest.mark.parametrize("epochs", [0, 2])
def test_predictions_are_those_of_training_where_the_input_is_not_imagenets(tile_files, tmp_path, epochs):
    """timm's ViT takes mean and sd 0.5: predictions reproduce the best epoch's validation figures."""
    pytest.importorskip("timm")
    architecture = "timm:test_vit"
    assert models.normalisation(architecture)[0] == (0.5, 0.5, 0.5)
    tiles_df = tile_files.assign(label=np.arange(len(tile_files)) % 3)
    for file in tiles_df["file"].unique():
        np.save(file, np.load(file).repeat(20, axis=1).repeat(20, axis=2))
    recipe = Recipe(architecture=architecture, device="cpu", epochs=epochs, batch_size=6)
    model = training.initial_network(recipe, 3, 160, None)
    run = {"class_names": CLASSES, "run_dir": tmp_path, "recipe": recipe}
    history_df = training.fit(model, tiles_df, tiles_df, **run)
    best = history_df.loc[history_df["validation_accuracy"].idxmax()]
    model, class_names = models.load(tmp_path / "best.pt", architecture)
    scores = predicted(model, tiles_df, class_names, architecture)[class_names].to_numpy()
    assert (scores.argmax(1) == tiles_df["label"]).mean() == best["validation_accuracy"]
    loss = -np.log(scores[np.arange(len(scores)), tiles_df["label"]]).mean()
    assert loss == pytest.approx(best["validation_loss"], rel=1e-4)
    images_t = torch.from_numpy(read_tiles(tiles_df))
    with torch.inference_mode():
        logits_t = model(images_t.permute(0, 3, 1, 2) / 127.5 - 1)
    np.testing.assert_allclose(torch.softmax(logits_t, 1).numpy(), scores, rtol=1e-3, atol=1e-5)


def test_out_of_memory_takes_fewer_tiles_at_a_time(tile_files, monkeypatch, capsys):
    model, sizes = small_model(), []
    expected_df = predicted(model, tile_files, batch_size=3)
    forward = model[0].forward

    def limited(images_t):
        sizes.append(len(images_t))
        return forward(images_t) if len(images_t) <= 3 else torch.empty(1 << 50)

    monkeypatch.setattr(model[0], "forward", limited)
    pd.testing.assert_frame_equal(predicted(model, tile_files, batch_size=8), expected_df, atol=1e-6)
    assert sizes == [6, 3, 3, 3, 3, 3, 3], "18 tiles in batches of at most 8 are three of 6"
    assert "with 6 tiles at a time: going on with 3 (inference_batch = 3" in capsys.readouterr().out
    monkeypatch.setattr(model[0], "forward", lambda images_t: torch.empty(1 << 50))
    with pytest.raises(RuntimeError, match=r"out of memory on cpu with 1 tiles of 8 px"):
        predicted(model, tile_files, batch_size=8)
