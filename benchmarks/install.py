"""What the README's first line costs before it trains, in a fresh clone: processor time and disk.

python benchmarks/install.py                  # downloads PyTorch, compiles, and removes it all again
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import tempfile
from pathlib import Path

from timing import write_json

ROOT = Path(__file__).resolve().parents[1]


def install_line(text: str) -> str:
    """The README's first line up to the training."""
    line = re.search(r"^```bash\n(.+?) && python main\.py", text, re.MULTILINE)
    if not line:
        raise SystemExit("README.md: expected a first code block that installs and trains")
    return line[1]


def measure() -> dict:
    """Seconds of processor time, which what else a machine does changes little, and bytes on disk."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        # Nothing comes out of an earlier install's cache.
        environment |= {"PIP_NO_CACHE_DIR": "1", "STN_EXT_CUDA": "0"}
        line = install_line((Path(folder) / "README.md").read_text())
        before = processor_seconds()
        subprocess.run(["bash", "-c", line], cwd=folder, env=environment, check=True)
        seconds = processor_seconds() - before
        size = subprocess.check_output(["du", "-sb", f"{folder}/.venv", f"{folder}/build"], text=True)
        ask = "import json, stn_ext; print(json.dumps(stn_ext.build_info()))"
        python = Path(folder) / ".venv/bin/python"
        built = subprocess.check_output([python, "-c", ask], cwd=folder, env=environment, text=True)
        return {
            "processor_seconds": seconds,
            "bytes": sum(int(row.split()[0]) for row in size.splitlines()),
            "stn_ext": json.loads(built),
        }


def processor_seconds() -> float:
    """Of all that has been started and has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def sentence(result: dict, runs: list[dict]) -> str:
    """For the README: the install, and the recorded trainings with main.py's defaults."""
    minutes = sorted(run["train_seconds"] / 60 for run in runs if run["scope"] == "stn")
    return (
        f"The first takes {result['processor_seconds'] / 60:.0f} minutes of processor time besides the "
        f"download, {result['bytes'] / 1e9:.1f} GB of disk, nearly all of it\nPyTorch's, and then trains: "
        f"{minutes[0]:.0f} to {minutes[-1]:.0f} minutes where it was recorded."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/install.json", metavar="FILE")
    options = parser.parse_args()
    result = measure()
    print(result)
    write_json(options.json, result)


if __name__ == "__main__":
    main()
