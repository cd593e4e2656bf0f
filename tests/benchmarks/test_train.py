"""Time of a training step, by its parts."""

import torch
import train

from stn_ext.models import create_model

OPTIONS = ["--limit", "40", "--batch_size", "8", "--net", "small"]


def test_a_step_is_timed_in_all_its_parts():
    rows = {row["contender"]: row for row in train.measure(OPTIONS, seconds=0)}
    assert list(rows["stn_ext"]["parts"]) == list(train.PARTS)
    assert list(rows["PyTorch"]["parts"]) == list(train.PARTS)
    here = [part for part in train.PARTS if "sampler" not in part and "localisation" not in part]
    assert list(rows["no transformer"]["parts"]) == here
    assert all(row["images_per_second"] > 0 for row in rows.values())
    lines = train.table(list(rows.values())).splitlines()
    assert len(lines) == 2 + 2 + len(train.PARTS)


def test_two_operators_compute_what_the_transformer_does():
    transformer = create_model("small", (1, 28, 28), 10, transformer=True).transformer
    torch.nn.init.normal_(transformer.localization[-1].weight, std=0.1)
    images = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(
        train.TwoOperators(transformer)(images), transformer(images), atol=1e-4, rtol=0
    )
