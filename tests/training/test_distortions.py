"""Distorted digits: the paper's ranges, by what comes out; the same everywhere, and new in every epoch."""

import hashlib
import json

import numpy as np
import pytest
import torch

from stn_ext.training import data, datasets, distortions
from stn_ext.training.data import ImageSet
from stn_ext.training.distortions import DISTORTIONS, homography
from stn_ext.training.errors import UserError

SHAPES = {  # (channels, height, width) of distorted digits
    "r": (1, 28, 28), "rts": (1, 42, 42), "p": (1, 28, 28), "e": (1, 28, 28), "tc": (1, 60, 60),
    "add": (2, 42, 42), "sim2": (1, 96, 96), "seq": (1, 64, 128), "coloc": (1, 84, 84),
    "coloc_t": (1, 84, 84),
}  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return data.load("mnist", "nowhere", train=False, limit=300)


def arrows(count: int, background: int = 0) -> ImageSet:
    """Bars from the middle to the right, brighter than the background by 200."""
    images = torch.full((count, 1, 28, 28), background, dtype=torch.uint8)
    images[:, :, 12:16, 14:24] = background + 200
    return ImageSet(images, torch.arange(count) % 10, tuple("0123456789"))


def centre(images: torch.Tensor) -> torch.Tensor:
    """The centres of mass (x, y), in pixels from the middle, (N, 2)."""
    values = images[:, 0].double()
    weight = values.sum((1, 2))
    y, x = (torch.arange(length) - (length - 1) / 2 for length in values.shape[1:])
    return torch.stack(((values.sum(1) * x).sum(1), (values.sum(2) * y).sum(1)), 1) / weight[:, None]


@pytest.mark.parametrize("name", DISTORTIONS)
def test_shapes_labels_and_classes(digits, name):
    made = DISTORTIONS[name].apply(digits, "a")
    assert made.shape == SHAPES[name] and made.images.dtype == torch.uint8
    if name == "add":
        assert made.classes == tuple(map(str, range(19)))
        other = made.labels - digits.labels
        assert set(other.tolist()) == set(range(10))
    elif name == "seq":
        assert made.classes == ("misread", "read") and made.objective == "sequence"
        assert made.labels.shape == (len(digits), 5) and made.labels.dtype == torch.int64
    elif name.startswith("coloc"):
        assert made.classes == ("missed", "located") and made.objective == "colocalisation"
        assert made.labels.shape == (len(digits), 2) and made.labels.dtype == torch.int64
    else:
        assert made.classes == digits.classes and torch.equal(made.labels, digits.labels)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_the_same_words_give_the_same_images_and_others_others(digits, name):
    first, again, other = (DISTORTIONS[name].apply(digits, words).images for words in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert (first != other).flatten(1).any(1).float().mean() > 0.99


@pytest.mark.parametrize("name", DISTORTIONS)
def test_float32_differs_by_roundings_alone(digits, name):
    exact = DISTORTIONS[name].fixed(digits, "a").images.int()
    quick = DISTORTIONS[name].apply(digits, "a").images.int()
    assert (exact - quick).abs().max() <= 1
    assert (exact != quick).double().mean() < 1e-3


@pytest.mark.parametrize("name", DISTORTIONS)
def test_what_is_filled_in_is_background(name):
    """Ink on grey paper comes out as on black paper, but for the grey: no frame around."""
    on_black, on_grey = (DISTORTIONS[name].fixed(arrows(200, background), "a") for background in (0, 40))
    assert torch.equal(on_grey.images, on_black.images + 40)


def test_rotation_is_uniform_over_half_a_turn():
    moved = centre(DISTORTIONS["r"].fixed(arrows(4000), "a").images)
    angle = torch.atan2(moved[:, 1], moved[:, 0]) * 180 / torch.pi
    assert -90 <= angle.min() < -85 and 85 < angle.max() <= 90
    # A bar's centre is found to within a degree; 4000 uniform angles fill ten bins to within 5 deviations.
    counts = torch.histc(angle, 10, -90, 90)
    assert (counts - 400).abs().max() < 5 * 19
    assert moved.norm(dim=1).std() < 0.1


def test_placing_turns_scales_and_moves_within_the_canvas():
    bars = arrows(4000)
    made = DISTORTIONS["rts"].fixed(bars, "a").images
    # Ink grows with the square of the scale.
    scale = (made.double().sum((1, 2, 3)) / bars.images[0].double().sum()).sqrt()
    assert 0.68 < scale.min() < 0.72 and 1.18 < scale.max() < 1.22
    assert abs(scale.mean() - 0.95) < 0.01
    # Each scale has its own room: half of 42 less half of what 28 pixels become.
    moved = centre(made)
    assert (moved.abs() <= (21 - 14 * scale[:, None]) + 5 * scale[:, None] + 0.1).all()
    assert moved.mean(0)[1].abs() < 0.3 and moved[:, 1].std() > 3
    assert (made[:, :, 0].max() == 0) and (made[:, :, :, 0].max() == 0)  # bars stay inside


def test_sequences_are_lines_of_one_to_five_digits_and_an_end(digits):
    made = DISTORTIONS["seq"].fixed(digits, "a")
    lengths = (made.labels != 10).sum(1)
    assert set(lengths.tolist()) == {1, 2, 3, 4, 5}
    behind = torch.arange(5) >= lengths[:, None]
    assert (made.labels[behind] == 10).all() and made.labels[~behind].unique().tolist() == list(range(10))
    assert torch.equal(made.labels[:, 0], digits.labels)  # the first is the image's own
    # Ink grows with the length, to the right of where it begins: a line of n digits is n - 1 steps longer.
    columns = made.images.amax((1, 2)) > 30
    first, last = columns.int().argmax(1), 127 - columns.flip(1).int().argmax(1)
    width = (last - first).double()
    means = torch.stack([width[lengths == n].mean() for n in range(1, 6)])
    # 300 images, 60 of each length: means of widths whose deviation is some 10 pixels for long lines.
    assert ((means[1:] - means[:-1]) - 22 * 0.8).abs().max() < 8
    rows = made.images.amax((1, 3)) > 30
    assert not rows[:, 0].any() and not rows[:, -1].any() and not columns[:, 0].any()


def test_sim2_turns_to_any_angle_enlarges_and_strews_clutter():
    alone = distortions.placed(96, np.pi, (1.0, 2.4))
    bars = arrows(4000)
    made = distortions.Distortion(alone).fixed(bars, "a").images
    scale = (made.double().sum((1, 2, 3)) / bars.images[0].double().sum()).sqrt()
    assert 0.98 < scale.min() < 1.02 and 2.37 < scale.max() < 2.43 and abs(scale.mean() - 1.7) < 0.02
    x, y = centre(made).T
    assert min(x.min(), y.min()) < -30 and max(x.max(), y.max()) > 30  # of 48 pixels to the border
    # A bar turned by any angle is more level than upright as often as not.
    spread = []
    for axis in (2, 3):
        weight = made.double().sum((1, axis))
        where = torch.arange(96.0).double()
        mean = (weight * where).sum(1) / weight.sum(1)
        spread.append((weight * (where - mean[:, None]).square()).sum(1) / weight.sum(1))
    level = (spread[0] > spread[1]).double().mean()
    assert abs(level - 0.5) < 5 * 0.5 / 4000**0.5
    few = bars[:300]  # which alone draw other numbers
    strewn, made = (
        DISTORTIONS["sim2"].fixed(few, "a").images,
        distortions.Distortion(alone).fixed(few, "a").images,
    )
    extra = (strewn > 0).sum((1, 2, 3)) - (made > 0).sum((1, 2, 3))
    assert extra.double().mean() > 5 and extra.max() <= 6 * 36  # the bars have little ink


def test_sim2_is_made_once_of_the_published_sizes():
    training, validation = datasets.load_training("mnist_sim2", "nowhere", seed=1, limit=100)
    assert training.epoch(1) is training.epoch(2) and (len(training), len(validation)) == (90, 10)
    again = datasets.load_training("mnist_sim2", "nowhere", seed=2, limit=100)[0]
    assert torch.equal(training.images.images, again.images.images)
    assert DISTORTIONS["sim2"].sizes == (10_000, 5_000, 50_000)
    part, more = (datasets.load_test("mnist_sim2", "nowhere", limit=limit) for limit in (30, 1010))
    assert len(part) == 30 and len(more) == 1010 and torch.equal(part.images, more.images[:30])


def test_a_homography_takes_its_points_where_it_should():
    source = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]).double()
    target = source + 0.3 * torch.randn(50, 4, 2, dtype=torch.float64)
    theta = homography(source.expand_as(target), target)
    image = torch.cat((source, torch.ones(4, 1)), 1) @ theta.mT
    torch.testing.assert_close(image[..., :2] / image[..., 2:], target)


def test_projection_moves_the_corners_by_a_normal(monkeypatch):
    seen = []
    monkeypatch.setattr(
        distortions, "homography", lambda source, target: seen.append(target) or homography(source, target)
    )
    DISTORTIONS["p"].fixed(arrows(3000), "a")
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]).double()
    moved = torch.cat(seen) * 14
    # The mean of 1 / scale is 1.151 and its variance 0.0092; the deviation is the jitter's and the scale's.
    torch.testing.assert_close(moved.mean(0), 14 * 1.151 * corners, atol=0.35, rtol=0)
    deviation = (5**2 + 14**2 * 0.0092) ** 0.5
    torch.testing.assert_close(moved.std(0), torch.full((4, 2), deviation).double(), atol=0.25, rtol=0)


def test_elastic_bends_move_control_points_by_a_normal(monkeypatch):
    from stn_ext.transforms import ThinPlateSpline

    seen = []
    solve = ThinPlateSpline.theta
    monkeypatch.setattr(
        ThinPlateSpline, "theta", lambda self, places: seen.append(places) or solve(self, places)
    )
    DISTORTIONS["e"].fixed(arrows(3000), "a")
    places = torch.cat(seen).view(3000, 16, 2)
    # A least squares fit of the scale leaves the jitter: 32 numbers an image, less one.
    points = ThinPlateSpline().points
    scale = (places * points).sum((1, 2)) / points.square().sum()
    rest = (places - scale[:, None, None] * points) * 14
    assert (rest.square().sum((1, 2)) / 31).mean().sqrt().item() == pytest.approx(1.5, abs=0.03)
    assert scale.min() > 0.93 and scale.max() < 1.42


def test_clutter_is_six_patches_of_other_digits_around_an_upright_one(digits):
    made = DISTORTIONS["tc"].fixed(digits, "a").images
    found = np.zeros(len(made), dtype=int)
    windows = np.lib.stride_tricks.sliding_window_view(made[:, 0].numpy(), (28, 28), (1, 2))
    for i, digit in enumerate(digits.images[:, 0].numpy()):
        ink = digit > 0
        found[i] = ((windows[i] >= digit) | ~ink).all((2, 3)).sum()
    assert (found > 0).all()
    extra = (made > 0).sum((1, 2, 3)) - (digits.images > 0).sum((1, 2, 3))
    assert extra.min() >= 0 and 20 < extra.double().mean() < extra.max() <= 6 * 36


def test_addition_places_two_digits_by_themselves(digits):
    made = DISTORTIONS["add"].fixed(digits, "a").images
    apart = (centre(made[:, :1]) - centre(made[:, 1:])).norm(dim=1)
    assert apart.mean() > 4
    assert (made.flatten(2).amax(2) > 100).all()


@pytest.mark.parametrize("name", ["coloc", "coloc_t"])
def test_the_digit_is_where_its_label_says(digits, name):
    made = DISTORTIONS[name].fixed(digits, "a")
    others = 0
    for image, digit, (row, column) in zip(made.images, digits.images, made.labels.tolist(), strict=True):
        there = image[:, row : row + 28, column : column + 28]
        assert (there[digit > 0] >= digit[digit > 0]).all()
        others += int((image > 0).sum() - (digit > 0).sum())
    assert others > 300 * 100 if name == "coloc" else others == 0  # 16 patches have more than 100 pixels
    assert made.labels.min() == 0 and made.labels.max() == 84 - 28  # 300 of 57 places


# --- by name ---


def test_names_combine():
    for base in ("mnist", "fashion_mnist", "kmnist"):
        for suffix in DISTORTIONS:
            assert f"{base}_{suffix}" in datasets.NAMES
    assert "imagefolder_rts" not in datasets.NAMES


@pytest.mark.parametrize("suffix", DISTORTIONS)
def test_the_test_sets_are_those_that_were_recorded(suffix):
    """Whatever the machine: they are made in float64, whose errors no rounding to a byte can show."""
    recorded = json.loads(datasets.CHECKSUMS.read_text())
    made = datasets.load_test(f"mnist_{suffix}", "nowhere")
    zeros = 980
    assert len(made) == (zeros if suffix.startswith("coloc") else 50000 if suffix == "sim2" else 10000)
    assert made.checksum() == recorded[f"mnist_{suffix}"]


def test_training_images_are_new_in_each_epoch_and_come_back(digits):
    training = datasets.TrainingSet(digits, DISTORTIONS["rts"], seed=3)
    first = training.epoch(1).images
    assert torch.equal(training.epoch(1).images, first)
    other_seed = datasets.TrainingSet(digits, DISTORTIONS["rts"], seed=4)
    for other in (training.epoch(2), other_seed.epoch(1)):
        assert not torch.equal(other.images, first)
    plain = datasets.TrainingSet(digits, None, seed=3)
    assert plain.epoch(1) is plain.epoch(2) is digits


def test_validation_and_test_are_fixed_and_a_limit_keeps_the_first():
    options = {"seed": 1, "limit": 200}
    training, validation = datasets.load_training("mnist_r", "nowhere", **options)
    again = datasets.load_training("mnist_r", "nowhere", **{**options, "seed": 2})[1]
    assert torch.equal(validation.images, again.images)
    assert (len(training), len(validation)) == (180, 20)
    part = datasets.load_test("mnist_r", "nowhere", limit=30)
    assert torch.equal(part.images, datasets.load_test("mnist_r", "nowhere", limit=60).images[:30])


def test_co_localisation_has_one_class_and_clutter_of_all():
    labels = data.load("mnist", "nowhere", train=True).labels
    training, validation = datasets.load_training("mnist_coloc", "nowhere", seed=0, name_class="7")
    assert len(training) + len(validation) == (labels == 7).sum()
    assert set(training.images.labels.tolist()) == {7} and len(training.pool) == len(labels)
    limited, _ = datasets.load_training("mnist_coloc", "nowhere", seed=0, limit=50)
    assert len(limited) == 45 and set(limited.images.labels.tolist()) == {0}
    assert limited.epoch(1).shape == (1, 84, 84)
    with pytest.raises(UserError, match="--name_class x: expected one of 0, 1"):
        datasets.load_test("mnist_coloc", "nowhere", name_class="x")


def test_checksums_name_every_distortion():
    assert list(json.loads(datasets.CHECKSUMS.read_text())) == [f"mnist_{suffix}" for suffix in DISTORTIONS]


def test_a_checksum_tells_labels_and_images_apart(digits):
    moved = ImageSet(digits.images, digits.labels.roll(1), digits.classes)
    assert digits.checksum() != moved.checksum()
    assert len(digits.checksum()) == len(hashlib.sha256().hexdigest())
