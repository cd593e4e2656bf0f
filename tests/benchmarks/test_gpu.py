"""What is asked of a GPU, on the CPU; and what is said of one without it."""

import gpu_bounds
import gpu_first
import torch


def test_every_question_is_answered():
    rows = gpu_first.measure(torch.device("cpu"), seconds=0, sides=(16,))
    assert len(rows) == 11 and not any(row["error"] for row in rows)
    assert len(gpu_first.table(rows).splitlines()) == 2 + len(rows)


def test_the_share_of_a_copy():
    gpu = gpu_bounds.GPU(multiprocessors=10, clock=1e9, bandwidth=1e12)
    # 8 bytes take 8 ps; 1.28e12 instructions a second make 10.24 of them in that time.
    assert gpu.share_of_copy(8, 10.24) == 1 and abs(gpu.share_of_copy(8, 20.48) - 0.5) < 1e-12
    row = {
        "kernel": "sample",
        "kind": "affine",
        "pixel": 56.25,
        "channel": 23.75,
        "place": 0,
        "registers": 64,
    }
    assert "56 (50)" in gpu_bounds.table([row]) and "64" in gpu_bounds.table([row])
