"""Objectives: losses against plain loops, and what counts as right."""

import math

import pytest
import torch

from stn_ext.models import Located, RandomEncoder, create_localiser
from stn_ext.training import datasets, engine
from stn_ext.training.data import Normalisation
from stn_ext.training.distributed import Process
from stn_ext.training.objectives import Classification, Colocalisation, Sequences, boxes_of, overlap


def windows(corners, scale=28 / 84):
    """Theta (N, 2, 3) of windows whose upper left corners are (row, column), in pixels of 84."""
    middle = (corners.flip(1) + 84 * scale / 2) / 42 - 1
    return torch.cat((scale * torch.eye(2).expand(len(corners), 2, 2), middle[:, :, None]), 2)


def located(theta):
    nothing = torch.zeros(len(theta), 1)
    return Located(theta, nothing, nothing)


def test_the_triplet_loss_is_that_of_a_plain_loop():
    window, elsewhere = torch.randn(7, 5), torch.randn(7, 5)
    expected = 0.0
    for n in range(7):
        for m in range(7):
            if m != n:
                near = sum((window[n, k] - window[m, k]) ** 2 for k in range(5))
                far = sum((window[n, k] - elsewhere[n, k]) ** 2 for k in range(5))
                expected += max(0.0, float(near - far + 1)) / 6
    loss = Colocalisation().loss(Located(torch.zeros(7, 2, 3), window, elsewhere), torch.zeros(7, 2))
    assert expected > 0 and loss.item() == pytest.approx(expected, rel=1e-5)


def test_one_image_alone_has_no_pair():
    one = torch.ones(1, 3, requires_grad=True)
    loss = Colocalisation().loss(Located(torch.zeros(1, 2, 3), one, torch.zeros(1, 3)), torch.zeros(1, 2))
    assert loss.item() == 0


def test_windows_on_the_truth_are_right():
    corners = torch.tensor([[0, 0], [56, 56], [13, 40]])
    verdict = Colocalisation().judge(located(windows(corners)), corners)
    torch.testing.assert_close(verdict.confidences, torch.ones(3))  # intersection over union
    assert verdict.predictions.tolist() == verdict.labels.tolist() == [1, 1, 1]


@pytest.mark.parametrize("shift, right", [(9, True), (10, False)])
def test_a_window_is_right_above_half_of_the_union(shift, right):
    """28 x 28 moved by s: (28 - s) / (28 + s), which is 0.514 at 9 and 0.474 at 10."""
    corners = torch.tensor([[20, 20]])
    verdict = Colocalisation().judge(located(windows(corners + torch.tensor([[0, shift]]))), corners)
    assert verdict.confidences.item() == pytest.approx((28 - shift) / (28 + shift), rel=1e-5)
    assert bool(verdict.predictions == verdict.labels) == right


def test_overlap_counts_pixels():
    one, other = torch.zeros(2, 20, 20, dtype=torch.bool)
    one[3:12, 2:9] = True
    other[5:18, 6:15] = True
    boxes = torch.tensor([[2.0, 3, 9, 12]]), torch.tensor([[6.0, 5, 15, 18]])
    assert overlap(*boxes).item() == pytest.approx(((one & other).sum() / (one | other).sum()).item())
    assert overlap(boxes[0], boxes[0] + 50).item() == 0


def test_the_box_of_a_window_holds_its_corners():
    theta = torch.randn(20, 2, 3)
    corners = torch.cartesian_prod(torch.tensor([-1.0, 1]), torch.tensor([-1.0, 1]))
    places = theta @ torch.cat((corners, torch.ones(4, 1)), 1).T
    torch.testing.assert_close(boxes_of(theta), torch.cat((places.amin(2), places.amax(2)), 1))


def test_windows_come_to_lie_on_digits_without_a_label():
    """Few images and steps: far from the end, but more than twice what windows in the middle have."""
    training, _ = datasets.load_training("mnist_coloc_t", "nowhere", seed=0, limit=1200, name_class="3")
    images, normalisation, alone = training.epoch(1), Normalisation([0]), Process(torch.device("cpu"))
    torch.manual_seed(0)
    model = create_localiser("cnn", images.shape, size=(28, 28))
    before = engine.evaluate(model, images[:300], normalisation, alone)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 2e-3)
    generator = torch.Generator().manual_seed(0)
    for number in range(1, 5):
        order = engine.epoch_order(len(images), 64, generator)
        engine.train_epoch(model, optimizer, None, training.epoch(number), normalisation, order, alone)
    after = engine.evaluate(model, images[:300], normalisation, alone)
    assert after.loss < before.loss / 2
    assert before.accuracy < 0.1 and after.accuracy > 2 * before.accuracy, (before, after)


def test_embeddings_tell_parts_from_background_and_places_apart():
    torch.manual_seed(0)
    x = torch.zeros(5, 1, 28, 28)
    x[0, :, 8:20, 8:20] = 1
    x[1] = 3 * x[0]
    x[2] = x[0].roll(6, 2)
    x[3] = x[0].roll(14, 2) * (torch.arange(28) > 14)  # cut by the right border
    with torch.no_grad():
        whole, thick, moved, part, background = RandomEncoder(1, 16)(x)
    assert background.abs().max() == 0
    # The same but for the 0.01 that keeps background from dividing by 0.
    torch.testing.assert_close(thick, whole, rtol=0.05, atol=0.01)
    assert whole.norm().item() == pytest.approx(3, rel=0.05)
    distance = [(other - whole).square().sum().item() for other in (moved, part, background)]
    assert 0.5 < distance[0] < distance[1] < distance[2], distance


def test_random_windows_lie_inside_and_stay_in_evaluation():
    model, x = create_localiser("small", (1, 84, 84), size=(28, 28)), torch.rand(50, 1, 84, 84)
    boxes = boxes_of(model.anywhere(x))
    assert boxes.min() >= -1 and boxes.max() <= 1 and boxes[:, 0].std() > 0.2
    assert not torch.equal(boxes, boxes_of(model.anywhere(x)))
    assert torch.equal(model.eval().anywhere(x), model.anywhere(x))
    assert not any(p.requires_grad for p in model.classifier.parameters())


def test_classes_are_judged_by_the_greatest_logit():
    logits, labels = torch.tensor([[0.0, 2.0], [3.0, 0.0]]), torch.tensor([1, 1])
    verdict = Classification().judge(logits, labels)
    assert verdict.predictions.tolist() == [1, 0]
    assert verdict.confidences[0].item() == pytest.approx(1 / (1 + 2.718281828**-2))


def test_a_sequence_is_right_where_all_its_symbols_are():
    labels = torch.tensor([[3, 10, 10, 10, 10], [1, 2, 3, 4, 5]])
    logits = torch.zeros(2, 5, 11).scatter(2, labels[:, :, None], 4.0)
    logits[1, 3] = torch.zeros(11).scatter(0, torch.tensor(7), 4.0)  # one of five is misread
    verdict = Sequences().judge(logits, labels)
    assert verdict.labels.tolist() == [1, 1] and verdict.predictions.tolist() == [1, 0]
    sure = math.exp(4) / (math.exp(4) + 10)
    torch.testing.assert_close(verdict.confidences, torch.full((2,), sure**5))
    loss = Sequences().loss(logits, labels)
    torch.testing.assert_close(loss, torch.tensor(-9 * math.log(sure) - math.log(sure) + 4))
    smooth = Sequences(label_smoothing=0.1).loss(logits, labels)
    each = -logits.log_softmax(2)
    by_hand = 0.9 * each.gather(2, labels[:, :, None]).sum() + 0.1 * each.mean(2).sum()
    torch.testing.assert_close(smooth, by_hand)
