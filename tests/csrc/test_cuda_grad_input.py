"""The gradient of the input by the CUDA kernels without a GPU: its sums, exact and in no order."""

import shutil

import pytest
import torch

from tests.maps import MAPS, PADDINGS
from tests.warps import Affine, Projective, ThinPlateSpline, Volume

from .test_cuda_family import build, make_case, on_the_cpu, run

ops = torch.ops.stn_ext
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("plain"))


def scattered(dtype=torch.float32):
    """Calls that are not gathered: onto windows, and too widely for them."""
    far = torch.tensor([[[17.0, 3, 0.2], [-2, 21, 0.1]]], dtype=torch.float64)
    for padding_mode in PADDINGS:
        options = {"padding_mode": padding_mode, "theta": MAPS["singular"]}
        yield make_case(Affine, dtype, (1, 2, 45, 40), (37, 41), **options)
        yield make_case(Affine, dtype, (1, 2, 145, 140), (37, 41), **(options | {"theta": far}))
        yield make_case(Projective, dtype, (2, 2, 45, 40), (37, 41), padding_mode=padding_mode)
    yield make_case(Volume, dtype, (2, 2, 9, 10, 17), (4, 20, 6), padding_mode="reflection")
    index = torch.tensor([1, 0, 1, 1, 0])
    yield make_case(ThinPlateSpline, dtype, (2, 2, 45, 40), (37, 41), index=index)


# Maps of 64 x 64 pixels whose coordinates are multiples of 1 / 16, so that weights and their products with
# gradients of few digits are exact.
EXACT = {
    "singular": [[0.5, 0.5, 0.125], [0.25, 0.25, -0.125]],
    "onto few": [[0.25, 0, 0], [0, 0.125, 0.25]],
    "mirrored": [[-1.5, 0.5, 0.125], [0.25, 1.25, 0.125]],
    "widely": [[8.0, 4, 0.5], [-2, 8, 0.25]],
}


@pytest.mark.parametrize("powers", (0, 40))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_sums_are_exact_but_for_their_unit(program, tmp_path, dtype, powers):
    """A term is rounded to a unit of 2^-36 of the image's largest gradient at this size (double:
    far less), and the sum to its type, once; also where gradients span 2^40."""
    cases = []
    for k, theta in enumerate(EXACT.values()):
        theta = torch.tensor([theta], dtype=torch.float64)
        case = make_case(Affine, dtype, (1, 2, 64, 64), (64, 64), theta=theta, padding_mode=PADDINGS[k % 3])
        exponents = (torch.rand(case.grad.shape) * powers).round()
        digits = torch.randint(-127, 128, case.grad.shape)
        cases.append(case._replace(grad=(digits * 2.0**-exponents).to(dtype)))
    for case, ours in zip(cases, run(program, cases, tmp_path), strict=True):
        expected = on_the_cpu(case).grad_input
        terms = 4 * on_the_cpu(case._replace(grad=torch.ones_like(case.grad))).grad_input.amax() + 64
        unit = case.grad.double().abs().amax() * (2.0**-36 if dtype == torch.float32 else 2.0**-60)
        rounding = 2.0**-24 if dtype == torch.float32 else 2.0**-50  # of which the reference has its own
        assert ((ours.grad_input.double() - expected).abs() <= rounding * expected.abs() + terms * unit).all()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16))
def test_whole_gradients_at_whole_places_are_added_up_exactly(program, tmp_path, dtype):
    """Each weight is 0 or 1: all of an image onto one pixel, numbers that float32 would have rounded away."""
    onto_one = torch.tensor([[[0.0, 0, 0], [0, 0, 0]]], dtype=torch.float64)
    case = make_case(Affine, dtype, (1, 2, 5, 7), (60, 70), theta=onto_one)
    grad = torch.randint(-8, 9, case.grad.shape).to(dtype)
    if dtype != torch.float16:
        grad[:, :, 0, 0], grad[:, :, -1, -1] = 2.0**24, -(2.0**24)
    expected = torch.zeros(case.input.shape, dtype=torch.float64)
    expected[:, :, 2, 3] = grad.double().sum((2, 3))
    (ours,) = run(program, [case._replace(grad=grad)], tmp_path)
    assert torch.equal(ours.grad_input, expected.to(dtype))


@pytest.mark.parametrize("theta", (Affine.theta[:1], MAPS["singular"], MAPS["small turn"] * 30))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16))
def test_gradients_that_are_not_finite(program, tmp_path, dtype, theta):
    """What addition would give: infinities stay, two that differ and NaN give NaN, all else is as without."""
    case = make_case(Affine, dtype, (1, 1, 33, 35), (37, 41), theta=theta, padding_mode="border")
    case.grad[0, 0, 10, 3:30:9] = torch.inf
    case.grad[0, 0, 20:30:3, 8] = -torch.inf
    case.grad[0, 0, 30, 30] = torch.nan
    (ours,) = run(program, [case], tmp_path)
    kinds = [torch.where(case.grad == value, 1.0, 0.0) for value in (torch.inf, -torch.inf)]
    kinds += [case.grad.isnan().double(), case.grad.nan_to_num(0, 0, 0)]
    plus, minus, nan, finite = (on_the_cpu(case._replace(grad=k.double())).grad_input for k in kinds)
    expected = torch.where(plus > 0, torch.inf, finite)
    expected = torch.where(minus > 0, -torch.inf, expected)
    expected = torch.where((nan > 0) | ((plus > 0) & (minus > 0)), torch.nan, expected)
    # Places so near to a whole number that a weight is 0 for one and not for the other are left out.
    clear = ~((plus + minus + nan > 0) & (plus + minus + nan < 1e-4))
    rtol = {torch.float16: 2**-11}.get(dtype, 0)
    torch.testing.assert_close(
        ours.grad_input.double()[clear], expected[clear], rtol=rtol, atol=2e-4, equal_nan=True
    )


def test_same_bits_in_every_run(program, tmp_path):
    cases = list(scattered())
    for first, second in zip(run(program, cases, tmp_path), run(program, cases, tmp_path), strict=True):
        assert torch.equal(first.grad_input, second.grad_input)


def test_images_in_several_chunks(program, tmp_path):
    """More images than words are kept for: the words of one chunk are those of the next."""
    for theta in (MAPS["singular"], MAPS["small turn"]):
        few = make_case(Affine, torch.float64, (1, 1, 1000, 1200), (9, 11), theta=theta)
        many = few._replace(
            input=few.input.expand(5, -1, -1, -1).contiguous(),
            theta=few.theta.repeat(5, 1, 1),
            grad=torch.randn(5, 1, 9, 11, dtype=torch.float64),
        )
        (ours,) = run(program, [many], tmp_path)
        expected = on_the_cpu(many).grad_input
        torch.testing.assert_close(ours.grad_input, expected, rtol=0, atol=1e-11)
