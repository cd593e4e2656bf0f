"""The command line: trains and tests image classifiers with and without a spatial transformer in front."""

import os
import sys

import startup

with startup.importing(__name__):
    from stn_ext.training import config
    from stn_ext.training.distributed import launch
    from stn_ext.training.errors import guarded
    from stn_ext.training.test import test
    from stn_ext.training.train import train


def main() -> None:
    args = config.parse()
    launch({"train": train, "test": test}[args.mode], args)


if __name__ == "__main__":
    sys.exit(guarded(main, quiet=os.environ.get("RANK", "0") != "0"))
