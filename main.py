"""The command line: trains and tests image classifiers with and without a spatial transformer in front."""

import os
import signal
import sys

from stn_ext.training import config
from stn_ext.training.distributed import launch
from stn_ext.training.errors import guarded
from stn_ext.training.test import test
from stn_ext.training.train import train


def main() -> None:
    args = config.parse()
    launch({"train": train, "test": test}[args.mode], args)


if __name__ == "__main__":
    # To be terminated is like Ctrl-C: the last whole epoch is saved.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(guarded(main, quiet=os.environ.get("RANK", "0") != "0"))
