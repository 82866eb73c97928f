"""Synthetic images: the objective rises, the seed decides, colours come from the cohort's tiles."""

import numpy as np
import pytest
import torch
from torch import nn

from lib.network import models
from lib.visualize import attribution, synthetic_images

QUIET = {"progress": False, "input_px": 48, "jitter_px": 3}


def built(architecture: str, seed: int = 0) -> nn.Module:
    """A network with random weights and biases, without its large classifier."""
    with torch.device("meta"):
        model = models.build(architecture, 4)
    if hasattr(model, "classifier"):
        model.classifier = nn.Identity()
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    for name, value_t in model.state_dict().items():
        if value_t.dim() > 1:
            value_t.normal_(0, (2 / value_t[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("running_var", "weight")):
            value_t.fill_(1)
        elif value_t.is_floating_point():
            value_t.normal_(0, 0.05, generator=generator)
    return model


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    return built("vgg11")


def stained_tiles(n_tiles: int = 6, size: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tiles whose logits vary mainly along one planted direction, and that direction."""
    rng = np.random.default_rng(seed)
    direction = np.array([0.5, 1.0, 0.4]) / np.linalg.norm([0.5, 1.0, 0.4])
    logit = np.array([1.2, 0.1, 1.0]) + rng.normal(0, 0.8, (n_tiles, size, size, 1)) * direction
    logit += rng.normal(0, 0.1, (n_tiles, size, size, 3))
    return np.uint8(255 / (1 + np.exp(-logit))), direction


@pytest.mark.parametrize(("architecture", "fourier"), [("vgg11", True), ("vgg11", False), ("resnet34", True)])
def test_the_objective_rises_above_noise_and_above_any_tile_of_the_cohort(architecture, fourier):
    model = built(architecture)
    features = ["6_3", "6_1", "6_2", "9_4"]
    tiles, _ = stained_tiles(16, 48)
    images, curve_df = synthetic_images.synthesise(
        model, architecture, features, n_steps=24, fourier=fourier, **QUIET
    )
    assert images.shape == (4, 48, 48, 3)
    assert images.dtype == np.uint8
    assert curve_df.columns.tolist() == ["image", "feature", "seed", "step", "objective"]
    for _, one_df in curve_df.groupby("image"):
        assert one_df["step"].tolist() == [0, 3, 6, 9, 12, 15, 18, 21, 24]
        assert one_df["objective"].iloc[-1] > one_df["objective"].iloc[0]
    with torch.no_grad():
        of_tiles = attribution.feature_sums(
            model, architecture, features, models.normalise(torch.from_numpy(tiles))
        ).numpy()
        of_images = attribution.feature_sums(
            model, architecture, features, models.normalise(torch.from_numpy(images))
        ).numpy()
    assert (of_images.diagonal() > of_tiles.max(axis=0)).all()
    # Each image was made for its own feature: it beats the images of the others there.
    assert (of_images.argmax(axis=0) == np.arange(4)).all()
    # The curve is of the picture as given back, but for its rounding to 8 bits.
    last = curve_df.query("step == 24")["objective"].to_numpy()
    np.testing.assert_allclose(last, of_images.diagonal(), rtol=0.02)


def test_same_seed_same_image_and_other_seed_another(vgg):
    one, one_df = synthetic_images.synthesise(vgg, "vgg11", ["6_0"], n_steps=6, seed=5, **QUIET)
    torch.rand(3)  # the global generators have no part in it
    np.random.default_rng().random()
    two, two_df = synthetic_images.synthesise(vgg, "vgg11", ["6_0"], n_steps=6, seed=5, **QUIET)
    other, _ = synthetic_images.synthesise(vgg, "vgg11", ["6_0"], n_steps=6, seed=6, **QUIET)
    np.testing.assert_array_equal(one, two)
    assert one_df.equals(two_df)
    assert (one != other).mean() > 0.5


def test_an_image_does_not_depend_on_its_company(vgg):
    alone, alone_df = synthetic_images.synthesise(vgg, "vgg11", ["6_3"], n_steps=8, seed=2, **QUIET)
    together, together_df = synthetic_images.synthesise(
        vgg, "vgg11", ["9_1", "6_3"], n_steps=8, seed=[1, 2], **QUIET
    )
    labels = together_df.query("step == 0")[["feature", "seed"]]
    assert labels.to_numpy().tolist() == [["9_1", 1], ["9_1", 2], ["6_3", 1], ["6_3", 2]]
    assert np.abs(together[3].astype(int) - alone[0]).mean() < 1
    assert np.abs(together[2].astype(int) - alone[0]).mean() > 5
    np.testing.assert_allclose(
        together_df.query("image == 3")["objective"], alone_df["objective"], rtol=1e-2, atol=1e-3
    )


def test_the_network_is_left_as_it_was(vgg):
    before = {name: value_t.clone() for name, value_t in vgg.state_dict().items()}
    with torch.no_grad():
        synthetic_images.synthesise(vgg, "vgg11", ["6_0"], n_steps=2, **QUIET)
    assert all(torch.equal(before[name], value_t) for name, value_t in vgg.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in vgg.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vgg.modules())


def test_a_feature_dead_on_noise_is_woken():
    model = built("vgg11")
    images_t = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        reached = float(model.features[:6](networks_input(images_t))[:, 0].abs().max())
        model.features[6].bias[0] -= 0.6 * reached + 1.5
    _, curve_df = synthetic_images.synthesise(model, "vgg11", ["7_0"], n_steps=60, **QUIET)
    assert curve_df["objective"].iloc[0] == 0, "the feature was to be dead at the start"
    assert curve_df["objective"].iloc[-1] > 0


def test_a_constant_behind_dead_relus_is_woken_too():
    model = built("vgg11")
    with torch.no_grad():
        model.features[3].bias.fill_(-3.0)  # nothing passes the ReLU after it
        model.features[6].bias[0] = 1.0
    how = QUIET | {"learning_rate": 0.3}
    _, curve_df = synthetic_images.synthesise(model, "vgg11", ["7_0", "7_1"], n_steps=30, **how)
    constant = curve_df.loc[curve_df["image"] == 0, "objective"]
    assert constant.iloc[0] == pytest.approx(12 * 12), "1 at each of 12 x 12 positions"
    assert constant.iloc[-1] != constant.iloc[0]


def test_what_nothing_wakes_stays_noise_and_stops_no_other():
    model = built("vgg11")
    with torch.no_grad():
        model.features[6].weight[0] = 0.0
        model.features[6].bias[0] = 1.0
    images, curve_df = synthetic_images.synthesise(model, "vgg11", ["7_0", "7_1"], n_steps=8, **QUIET)
    flat, rising = (df["objective"] for _, df in curve_df.groupby("image"))
    assert flat.nunique() == 1
    assert rising.iloc[-1] > rising.iloc[0]
    (noise,), _ = synthetic_images.synthesise(model, "vgg11", ["7_0"], n_steps=1, **QUIET)
    np.testing.assert_array_equal(images[0], noise)


def networks_input(images_t: torch.Tensor) -> torch.Tensor:
    return models.normalise((images_t * 255).to(torch.uint8).permute(0, 2, 3, 1))


def test_colour_basis_finds_the_planted_direction_and_its_spread():
    tiles, direction = stained_tiles()
    basis = synthetic_images.colour_decorrelation(tiles)
    np.testing.assert_allclose(basis.mean, [1.2, 0.1, 1.0], atol=0.05)
    lengths = np.linalg.norm(basis.matrix, axis=0)
    np.testing.assert_allclose(lengths, [0.806, 0.1, 0.1], rtol=0.1)
    assert basis.matrix[:, 0] @ direction / lengths[0] > 0.999
    gram = basis.matrix.T @ basis.matrix
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-5)
    # As a square root of the covariance of the logits, computed anew.
    share = (tiles.reshape(-1, 3) + 0.5) / 256
    np.testing.assert_allclose(
        basis.matrix @ basis.matrix.T, np.cov(np.log(share / (1 - share)).T), atol=1e-4
    )


def test_images_take_the_colours_of_the_cohort(vgg):
    tiles, direction = stained_tiles()
    basis = synthetic_images.colour_decorrelation(tiles)
    images, _ = synthetic_images.synthesise(
        vgg, "vgg11", ["6_0"], n_steps=30, seed=[0, 1], colour_basis=basis, **QUIET
    )
    share = (images.reshape(-1, 3) + 0.5) / 256
    covariance = np.cov(np.log(share / (1 - share)).T)
    assert direction @ covariance @ direction / np.trace(covariance) > 0.9
    plain, _ = synthetic_images.synthesise(vgg, "vgg11", ["6_0"], n_steps=30, seed=[0, 1], **QUIET)
    share = (plain.reshape(-1, 3) + 0.5) / 256
    covariance = np.cov(np.log(share / (1 - share)).T)
    assert direction @ covariance @ direction / np.trace(covariance) < 0.9


@pytest.mark.parametrize("input_px", [48, 47])
def test_noise_has_unit_variance_in_colour_space_whatever_the_size(input_px):
    spread_t = synthetic_images._equal_power(input_px)
    variances = []
    for seed in range(40):
        spectrum_t = torch.view_as_complex(synthetic_images._noise(input_px, True, seed)) / 0.1 * spread_t
        variances.append(torch.fft.irfft2(spectrum_t, s=(input_px, input_px), norm="ortho").square().mean())
    assert float(torch.stack(variances).mean()) == pytest.approx(1, rel=0.2)


def test_no_move_leaves_the_image_and_a_shift_is_in_pixels():
    images_t = torch.rand(2, 3, 20, 20)
    still_t = synthetic_images._moves(1, 0, 0.0, (1.0, 1.0), 20, seed=0).repeat(2, 1, 1)
    torch.testing.assert_close(synthetic_images._moved(images_t, still_t), images_t, atol=1e-5, rtol=0)
    shift_t = torch.tensor([[[1.0, 0, 2 * 3 / 20], [0, 1, 0]]]).repeat(2, 1, 1)
    torch.testing.assert_close(
        synthetic_images._moved(images_t, shift_t)[..., :-3], images_t[..., 3:], atol=1e-4, rtol=0
    )
    moves = synthetic_images._moves(500, 4, 10.0, (0.8, 1.25), 20, seed=1).numpy()
    assert np.abs(moves[:, :, 2]).max() <= 4 * 2 / 20 + 1e-6
    zoom = 1 / np.sqrt(np.linalg.det(moves[:, :, :2]))
    assert 0.79 < zoom.min() < 0.83
    assert 1.2 < zoom.max() < 1.26
    angle = np.degrees(np.arctan2(moves[:, 1, 0], moves[:, 0, 0]))
    assert 9 < np.abs(angle).max() <= 10.001


def test_bad_input_is_refused(vgg):
    def make(features=("6_0",), **settings):
        return synthetic_images.synthesise(
            vgg, "vgg11", list(features), **(QUIET | {"n_steps": 2} | settings)
        )

    with pytest.raises(ValueError, match="'99_0' is no feature of vgg11"):
        make(["99_0"])
    with pytest.raises(ValueError, match="0 features and 1 seeds"):
        make([])
    with pytest.raises(ValueError, match="n_steps is 0"):
        make(n_steps=0)
    with pytest.raises(ValueError, match="jitter_px is 24"):
        make(jitter_px=24)
    with pytest.raises(ValueError, match="scale_range is"):
        make(scale_range=(1.1, 0.9))
    with pytest.raises(RuntimeError, match="training mode"):
        synthetic_images.synthesise(built("vgg11").train(), "vgg11", ["6_0"], **QUIET)
    broken = built("vgg11")
    broken.features[0].weight.data.fill_(float("nan"))
    with pytest.raises(RuntimeError, match=r"gradient of 6_0 \(seed 0\) is not finite"):
        synthetic_images.synthesise(broken, "vgg11", ["6_0"], **QUIET)
    with pytest.raises(ValueError, match="uint8 n x H x W x 3 RGB"):
        synthetic_images.colour_decorrelation(np.zeros((2, 8, 8, 3)))
    with pytest.raises(ValueError, match="have one colour"):
        synthetic_images.colour_decorrelation(np.full((2, 8, 8, 3), 240, dtype=np.uint8))
