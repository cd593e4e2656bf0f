import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device of the operator's tests: cpu or cuda")


@pytest.fixture
def device(request):
    name = request.config.getoption("--device")
    if torch.device(name).type == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"--device {name}: no GPU here")
    return torch.device(name)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
