"""Checkpoints of others: each ends in one line that names the file, exit code 2, before anything is used."""

import os
import zipfile

import pytest
import torch

from .training import command, trained

pytestmark = pytest.mark.hostile


def put(*path):
    """A change that puts the last of the path's words, a value, where the others lead."""
    *names, last, value = path

    def change(state):
        for name in names:
            state = state[name]
        state[last] = value

    return change


def change_all(*path, to):
    """A change of every tensor in the dict to which the path leads."""

    def change(state):
        for name in path:
            state = state[name]
        for name, value in state.items():
            state[name] = to(value)

    return change


def remove(*path):
    *names, last = path

    def change(state):
        for name in names:
            state = state[name]
        del state[last]

    return change


WEIGHT = "classifier.1.weight"
MOMENT = ("optimizer", "state", 0, "exp_avg")
GROUP = ("optimizer", "param_groups", 0)
NAN, INF = float("nan"), float("inf")


def fields():
    """(name, change) of each field that is missing, unknown or something else."""
    state_keys = ("epoch", "model", "averaged", "optimizer", "scheduler", "random", "args", "data", "history")
    for name in state_keys[:8]:
        yield f"without {name}", remove(name)
    for name in state_keys:
        yield f"{name} of a word", put(name, "x")
        yield f"{name} of a list", put(name, [1])
        yield f"{name} of a set", put(name, {1, 2})
    for name in state_keys[:8]:
        yield f"{name} of None", put(name, None)
    for name in ("model", "optimizer", "scheduler", "random", "args", "data"):
        yield f"{name} of nothing", put(name, {})
    yield "an unknown field", put("more", 1)


def values():
    """(name, change) of single values."""
    for value in (0, -1, 1.5, True, 2**63, 10**5000, NAN):
        yield f"epoch {str(value)[:9] if value != 10**5000 else '10**5000'}", put("epoch", value)
    for name, value in (
        ("net", "huge"), ("net", 3), ("width", 10**30), ("width", -1), ("transform", ["affine"]),
        ("num_transformers", 0), ("num_transformers", 2), ("warp_size", [3]), ("warp_size", ["--help"]),
        ("batch_size", "x"), ("ema", 2.0), ("ema", 0.0), ("lr_cls", NAN), ("seed", -5), ("optim", "sgd"),
        ("optim", None), ("mode", "test --help"), ("scope", "../../x"), ("lr_policy", "plateau"),
        ("num_epoch", 2.5), ("name_data", "mnist_coloc"), ("unknown", 1), ("given", ["net"]), (3, 4),
    ):  # fmt: skip
        yield f"option {name} {str(value)[:12]}", put("args", name, value)
    for name, value in (
        ("shape", [1, 28]), ("shape", [1, 0, 28]), ("shape", [1, 32, 32]), ("shape", "abc"),
        ("shape", [1, 10**9, 10**9]), ("shape", [3, 28, 28]), ("classes", []), ("classes", list("012")),
        ("classes", [1] * 10), ("classes", ["0"] * 10), ("classes", ["../../x", *"123456789"]),
        ("background", []), ("background", [256]), ("background", ["0"]), ("objective", "none"),
        ("objective", ["classification"]), ("objective", "colocalisation"),
    ):  # fmt: skip
        yield f"data's {name} {str(value)[:12]}", put("data", name, value)
    for name, value in (
        ("lr", "x"), ("lr", NAN), ("lr", -1.0), ("betas", [0.9, 0.999]), ("betas", (5.0, 5.0)), ("eps", None),
        ("weight_decay", 1e9), ("fused", False), ("params", [0]), ("params", [10**6]), ("step", 1),
    ):  # fmt: skip
        yield f"group's {name} {value}", put(*GROUP, name, value)
    for name, value in (
        ("last_epoch", "x"), ("last_epoch", -1), ("base_lrs", [1.0]), ("base_lrs", [9.0, 9.0]),
        ("optimizer", None), ("step", 1), ("lr_lambdas", ["x", "y"]), ("_last_lr", [NAN, NAN]),
    ):  # fmt: skip
        yield f"scheduler's {name} {value}", put("scheduler", name, value)
    entry = {"train": {"loss": 1.0, "accuracy": 1.0}, "validation": {"loss": NAN, "accuracy": 0.1}}
    yield "history with NaN", put("history", [{**entry, "images": 54, "seconds": 1.0}])
    yield "history incomplete", put("history", [entry])
    yield "history too long", lambda state: put("history", state["history"] * 2)(state)
    yield "no processes", put("random", "processes", [])
    yield "a process without a generator", put("random", "processes", [{}])
    yield "a generator of zeros", put("random", "order", torch.zeros(5056, dtype=torch.uint8))
    yield "a short generator", put("random", "order", torch.zeros(3, dtype=torch.uint8))
    yield "a CUDA generator of words", put("random", "processes", 0, "cuda", "x")


def tensors():
    """(name, change) of the network's and the optimiser's tensors."""
    wrong = {
        "of two elements": torch.zeros(2),
        "of none": torch.zeros(0),
        "a number": 1.0,
        "sparse": torch.zeros(50, 320).to_sparse(),
        "on meta": torch.zeros(50, 320, device="meta"),
        "turned": torch.zeros(320, 50),
        "whole numbers": torch.zeros(50, 320, dtype=torch.int64),
        "complex": torch.zeros(50, 320, dtype=torch.complex64),
    }
    for name, value in wrong.items():
        yield f"a weight {name}", put("model", WEIGHT, value)
        yield f"a moment {name}", put(*MOMENT, value)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        for path in (("model",), ("averaged",), MOMENT[:-1]):
            to = lambda value, dtype=dtype: value.to(dtype)  # noqa: E731
            yield f"{path[0]} in {dtype}", change_all(*path, to=to)
    for value in (NAN, INF):
        for name in ("model", "averaged"):
            to = lambda x, value=value: torch.full_like(x, value) if x.is_floating_point() else x  # noqa: E731
            yield f"{name} of {value}", change_all(name, to=to)
    yield "a count below 0", put("averaged", "n_averaged", torch.tensor(-10))
    yield "no moments", put("optimizer", "state", {})
    yield "moments of an unknown parameter", put("optimizer", "state", 10**6, {})
    yield "a moment missing", remove(*MOMENT)
    yield "a weight missing", remove("model", WEIGHT)
    yield "a weight too many", put("model", "more", torch.zeros(2))
    yield "a number for a weight's name", put("model", 7, torch.zeros(2))
    yield "averages missing", put("averaged", {})


def rewritten(path, change):
    """The zip with other entries: change gets a name and its content, and returns the new one, or None."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            if (content := change(name, content)) is not None:
                archive.writestr(name, content)


def compressed(path):
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def told_large(path):
    """An entry's size in the central directory is 2 GB."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2")
    content[entry + 20 : entry + 28] = (2**31 - 1).to_bytes(4, "little") * 2
    path.write_bytes(content)


def replaced(how):
    def change(path):
        path.unlink()
        how(path)

    return change


FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "without its end": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "text": lambda path: path.write_text("epoch: 3\n" * 1000),
    "an empty zip": lambda path: zipfile.ZipFile(path, "w").close(),
    "compressed": compressed,
    "an entry told too large": told_large,
    "a short tensor": lambda path: rewritten(path, lambda n, c: c[:4] if n.endswith("/data/3") else c),
    "a tensor missing": lambda path: rewritten(path, lambda n, c: None if n.endswith("/data/3") else c),
    "a pickle of a call": lambda path: rewritten(
        path, lambda n, c: b"cos\nsystem\n(S'exit 1'\ntR." if n.endswith("data.pkl") else c
    ),
    "a pickle cut off": lambda path: rewritten(path, lambda n, c: c[:100] if n.endswith("data.pkl") else c),
    "a list": lambda path: torch.save([1, 2], path),
    "a state dict": lambda path: torch.save({"weight": torch.zeros(3)}, path),
    "an old format of PyTorch": lambda path: torch.save({}, path, _use_new_zipfile_serialization=False),
    "a folder": replaced(lambda path: path.mkdir()),
    "a pipe": replaced(os.mkfifo),
    "a device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a link to nothing": replaced(lambda path: path.symlink_to("nothing")),
}


TEST, TRAIN = ["--mode", "test"], ["--train_continue", "on", "--num_epoch", "2"]


def faults(root, path, name, modes):
    """What is wrong with how the modes refuse the file: nothing, where each takes one line that names it."""
    for mode in modes:
        code, errors = command(root, *mode, "--limit", "60", "--gpu_ids", "-1")
        one_line = errors.startswith("error: ") and len(errors.splitlines()) == 1 and len(errors) < 1000
        if code != 2 or not one_line or str(path) not in errors:
            yield f"{name}, {mode[1]}: {code} {errors}"


def test_each_hostile_field_gets_one_line(tmp_path):
    path = trained(tmp_path, "--ema", 0.9)
    content, count, wrong = path.read_bytes(), 0, []
    for name, change in (*fields(), *values(), *tensors()):
        path.write_bytes(content)
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)
        count += 1
        wrong += faults(tmp_path, path, name, [(TEST, TRAIN)[count % 2]])
    print(f"{count} hostile checkpoints, {len(wrong)} not refused in one line")
    assert not wrong, "\n".join(wrong)


def test_each_hostile_file_gets_one_line(tmp_path):
    path = trained(tmp_path)
    content, wrong = path.read_bytes(), []
    for name, change in FILES.items():
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(content)
        change(path)
        wrong += faults(tmp_path, path, name, [TEST, TRAIN])
    print(f"{len(FILES)} hostile files, {len(wrong)} not refused in one line")
    assert not wrong, "\n".join(wrong)
