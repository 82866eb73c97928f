"""Synthetic images: the objective rises, the seed decides, colours come from the cohort's tiles."""

import numpy as np
import pytest
import torch
from network_factory import built, n_hooks, values_of

from lib.visualize import synthetic_images
from lib.visualize.feature_values import Network
from lib.visualize.synthetic_images import Ascent, ColourBasis

PX = 48
GREY = ColourBasis(np.zeros(3, np.float32), np.eye(3, dtype=np.float32))


def synthesise(network, features, *settings, colours=GREY):
    return synthetic_images.synthesise(
        network, features, Ascent(*settings), colours, input_px=PX, progress=False
    )


@pytest.fixture(scope="module")
def vgg() -> Network:
    return built("vgg11")


def stained_tiles(n_tiles: int = 6, size: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tiles whose logits vary mainly along one planted direction, and that direction."""
    rng = np.random.default_rng(seed)
    direction = np.array([0.5, 1.0, 0.4]) / np.linalg.norm([0.5, 1.0, 0.4])
    logit = np.array([1.2, 0.1, 1.0]) + rng.normal(0, 0.8, (n_tiles, size, size, 1)) * direction
    logit += rng.normal(0, 0.1, (n_tiles, size, size, 3))
    return np.uint8(255 / (1 + np.exp(-logit))), direction


@pytest.mark.parametrize("architecture", ["vgg11", "resnet34"])
def test_the_objective_rises_above_noise_and_above_any_tile_of_the_cohort(architecture):
    network = built(architecture)
    features = ["6_3", "6_1", "6_2", "9_4"]
    tiles, _ = stained_tiles(16, PX)
    images, curve_df = synthesise(network, features, 24)
    assert images.shape == (4, PX, PX, 3)
    assert images.dtype == np.uint8
    assert curve_df.columns.tolist() == ["image", "feature", "seed", "step", "objective"]
    for _, one_df in curve_df.groupby("image"):
        assert one_df["step"].tolist() == [0, 3, 6, 9, 12, 15, 18, 21, 24]
        assert one_df["objective"].iloc[-1] > one_df["objective"].iloc[0]
    of_tiles, of_images = (values_of(network, features, pixels) for pixels in (tiles, images))
    assert (of_images.diagonal() > of_tiles.max(axis=0)).all()
    # Each image was made for its own feature: it beats the images of the others there.
    assert (of_images.argmax(axis=0) == np.arange(4)).all()
    # The curve is of the picture as given back, but for its rounding to 8 bits.
    last = curve_df.query("step == 24")["objective"].to_numpy()
    np.testing.assert_allclose(last, of_images.diagonal(), rtol=0.02)


def test_same_seed_same_image_and_other_seed_another(vgg):
    one, one_df = synthesise(vgg, ["6_0"], 6, (5,))
    torch.rand(3)  # the global generators have no part in it
    np.random.default_rng().random()
    two, two_df = synthesise(vgg, ["6_0"], 6, (5,))
    other, _ = synthesise(vgg, ["6_0"], 6, (6,))
    np.testing.assert_array_equal(one, two)
    assert one_df.equals(two_df)
    assert (one != other).mean() > 0.5


def test_an_image_does_not_depend_on_the_others_in_its_batch(vgg):
    alone, alone_df = synthesise(vgg, ["6_3"], 8, (2,))
    together, together_df = synthesise(vgg, ["9_1", "6_3"], 8, [1, 2])
    labels = together_df.query("step == 0")[["feature", "seed"]]
    assert labels.to_numpy().tolist() == [["9_1", 1], ["9_1", 2], ["6_3", 1], ["6_3", 2]]
    assert np.abs(together[3].astype(int) - alone[0]).mean() < 1
    assert np.abs(together[2].astype(int) - alone[0]).mean() > 5
    np.testing.assert_allclose(
        together_df.query("image == 3")["objective"], alone_df["objective"], rtol=1e-2, atol=1e-3
    )


def test_the_network_is_not_changed(vgg):
    before = {name: value_t.clone() for name, value_t in vgg.model.state_dict().items()}
    with torch.no_grad():
        synthesise(vgg, ["6_0"], 2)
    assert all(torch.equal(before[name], value_t) for name, value_t in vgg.model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in vgg.model.parameters())
    assert n_hooks(vgg.model) == 0


def test_a_feature_dead_on_noise_becomes_active():
    network = built("vgg11")
    layers = network.model.features
    images_t = torch.rand(4, 3, PX, PX, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        input_t = network.normalised((images_t * 255).to(torch.uint8).permute(0, 2, 3, 1))
        layers[6].bias[0] -= 0.6 * float(layers[:6](input_t)[:, 0].abs().max()) + 1.5
    _, curve_df = synthesise(network, ["7_0"], 60)
    assert curve_df["objective"].iloc[0] == 0, "the feature was to be dead at the start"
    assert curve_df["objective"].iloc[-1] > 0


def test_a_constant_behind_dead_relus_becomes_active_too(monkeypatch):
    network = built("vgg11")
    with torch.no_grad():
        network.model.features[3].bias.fill_(-3.0)  # nothing passes the ReLU after it
        network.model.features[6].bias[0] = 1.0
    monkeypatch.setattr(synthetic_images, "LEARNING_RATE", 0.3)
    _, curve_df = synthesise(network, ["7_0", "7_1"], 30)
    constant = curve_df.loc[curve_df["image"] == 0, "objective"]
    assert constant.iloc[0] == pytest.approx(12 * 12), "1 at each of 12 x 12 positions"
    assert constant.iloc[-1] != constant.iloc[0]


def test_a_feature_that_cannot_become_active_stays_noise_and_stops_no_other():
    network = built("vgg11")
    with torch.no_grad():
        network.model.features[6].weight[0] = 0.0
        network.model.features[6].bias[0] = 1.0
    images, curve_df = synthesise(network, ["7_0", "7_1"], 8)
    flat, rising = (df["objective"] for _, df in curve_df.groupby("image"))
    assert flat.nunique() == 1
    assert rising.iloc[-1] > rising.iloc[0]
    (noise,), _ = synthesise(network, ["7_0"], 1)
    np.testing.assert_array_equal(images[0], noise)


def test_colour_basis_finds_the_planted_direction_and_its_spread():
    tiles, direction = stained_tiles()
    basis = synthetic_images.colour_decorrelation(tiles)
    np.testing.assert_allclose(basis.mean, [1.2, 0.1, 1.0], atol=0.05)
    lengths = np.linalg.norm(basis.matrix, axis=0)
    np.testing.assert_allclose(lengths, [0.806, 0.1, 0.1], rtol=0.1)
    assert basis.matrix[:, 0] @ direction / lengths[0] > 0.999
    gram = basis.matrix.T @ basis.matrix
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-5)
    # As a square root of the covariance of the logits, computed independently.
    share = (tiles.reshape(-1, 3) + 0.5) / 256
    np.testing.assert_allclose(
        basis.matrix @ basis.matrix.T, np.cov(np.log(share / (1 - share)).T), atol=1e-4
    )


def test_images_take_the_colours_of_the_cohort(vgg):
    tiles, direction = stained_tiles()
    along = []
    for colours in (synthetic_images.colour_decorrelation(tiles), GREY):
        images, _ = synthesise(vgg, ["6_0"], 30, [0, 1], colours=colours)
        share = (images.reshape(-1, 3) + 0.5) / 256
        covariance = np.cov(np.log(share / (1 - share)).T)
        along.append(direction @ covariance @ direction / np.trace(covariance))
    assert along[0] > 0.9 > along[1]


@pytest.mark.parametrize("input_px", [48, 47])
def test_noise_has_unit_variance_in_colour_space_at_any_size(input_px):
    spread_t = synthetic_images._equal_power(input_px)
    variances = []
    for seed in range(40):
        spectrum_t = torch.view_as_complex(synthetic_images._noise(input_px, seed)) / 0.1 * spread_t
        variances.append(torch.fft.irfft2(spectrum_t, s=(input_px, input_px), norm="ortho").square().mean())
    assert float(torch.stack(variances).mean()) == pytest.approx(1, rel=0.2)


def test_moves_stay_in_their_limits_and_a_shift_is_in_pixels():
    images_t = torch.rand(2, 3, 20, 20)
    still_t = torch.eye(3)[:2].repeat(2, 1, 1)
    torch.testing.assert_close(synthetic_images._moved(images_t, still_t), images_t, atol=1e-5, rtol=0)
    shift_t = torch.tensor([[[1.0, 0, 2 * 3 / 20], [0, 1, 0]]]).repeat(2, 1, 1)
    torch.testing.assert_close(
        synthetic_images._moved(images_t, shift_t)[..., :-3], images_t[..., 3:], atol=1e-4, rtol=0
    )
    moves = synthetic_images._moves(500, PX, seed=1).numpy()
    assert 7 * 2 / PX < np.abs(moves[:, :, 2]).max() <= 8 * 2 / PX + 1e-6
    zoom = 1 / np.sqrt(np.linalg.det(moves[:, :, :2]))
    assert 0.899 < zoom.min() < 0.91
    assert 1.09 < zoom.max() < 1.101
    angle = np.degrees(np.arctan2(moves[:, 1, 0], moves[:, 0, 0]))
    assert 9 < np.abs(angle).max() <= 10.001


def test_bad_input_is_refused(vgg):
    with pytest.raises(ValueError, match="'99_0' is not a feature of vgg11"):
        synthesise(vgg, ["99_0"], 2)
    for settings, message in (((0,), "n_steps is 0"), ((2, ()), "seeds 0"), ((2, (0,), 1), "n_recorded 1")):
        with pytest.raises(ValueError, match=message):
            Ascent(*settings)
    with pytest.raises(ValueError, match="input_px is 16"):
        synthetic_images.synthesise(vgg, ["6_0"], Ascent(2), GREY, input_px=16)
    training = built("vgg11")
    training.model.train()
    with pytest.raises(RuntimeError, match="training mode"):
        synthesise(training, ["6_0"], 2)
    broken = built("vgg11")
    broken.model.features[0].weight.data.fill_(float("nan"))
    with pytest.raises(RuntimeError, match=r"gradient of 6_0 \(seed 0\) is not finite"):
        synthesise(broken, ["6_0"], 2)
    with pytest.raises(ValueError, match="uint8 n x H x W x 3 RGB"):
        synthetic_images.colour_decorrelation(np.zeros((2, 8, 8, 3)))
    with pytest.raises(ValueError, match="the same colour"):
        synthetic_images.colour_decorrelation(np.full((2, 8, 8, 3), 240, dtype=np.uint8))
