"""Makes the weights that come with the package: trains, tests and exports them, with their facts beside them.

python benchmarks/weights.py                  # into stn_ext/training/weights
python benchmarks/weights.py --root FOLDER    # trainings that are already there are taken as they are

A training that is there already must have been made by the command here, at the commit that --commit names.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "stn_ext/training/weights"

# The options of each; little is trained, for they are to try, not to compare.
TRAININGS = {
    "mnist": ["--scope", "stn", "--num_epoch", "5"],
    "mnist_cls": ["--scope", "cls", "--num_epoch", "5"],
    "mnist_rts": ["--scope", "stn", "--name_data", "mnist_rts", "--warp_size", "28", "--num_epoch", "6"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT / "runs/weights", help="where the runs' files go")
    parser.add_argument("--commit", help="that of the trainings that are there already (default: this one)")
    args = parser.parse_args()
    root = args.root.resolve()
    commit = args.commit or subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    WEIGHTS.mkdir(exist_ok=True)
    for name, options in TRAININGS.items():
        make(name, options, root, commit)


def make(name: str, options: list[str], root: Path, commit: str) -> None:
    places = [f"--dir_{kind}={root / kind}s" for kind in ("checkpoint", "result")] + [
        f"--dir_log={root / 'log'}"
    ]
    words = dict(zip(options[::2], options[1::2], strict=True))
    below = Path(words["--scope"]) / words.get("--name_data", "mnist")
    last = root / "checkpoints" / below / f"model_epoch{int(words['--num_epoch']):05d}.pth"
    which = [word for key in ("--scope", "--name_data") if key in words for word in (key, words[key])]
    if not last.exists():
        run("--mode", "train", *options, *places)
    # The test set is used here alone, once the training is over.
    run("--mode", "test", *which, *places, "--report_limit", "1")
    run("--mode", "export", "--format", "weights", *which, *places)
    metrics = json.loads((root / "results" / below / "metrics.json").read_text())
    exported = last.with_suffix(".weights.pth")
    facts = json.loads(Path(f"{exported}.json").read_text())
    facts |= {"file": f"{name}.pth", "commit": commit, "command": shlex.join(["python", "main.py", *options])}
    facts |= {key: metrics[key] for key in ("accuracy", "cross_entropy", "num_images", "num_parameters")}
    facts["validation_accuracy"] = metrics["history"][-1]["validation"]["accuracy"]
    shutil.copyfile(exported, WEIGHTS / f"{name}.pth")
    (WEIGHTS / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")


def run(*words: str) -> None:
    subprocess.run([sys.executable, "main.py", *words], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
