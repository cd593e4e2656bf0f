import pytest
import torch

import stn_ext


def pytest_addoption(parser):
    parser.addoption("--device", help="device of the operator's tests, cpu or cuda (default: both)")


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--device")
        metafunc.parametrize("device", [chosen] if chosen else ["cpu", "cuda"], indirect=True)


@pytest.fixture
def device(request):
    if torch.device(request.param).type == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU here")
        if not stn_ext.build_info()["cuda"]:
            pytest.skip("this build has no CUDA kernels")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
