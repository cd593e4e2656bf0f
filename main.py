"""The command line: trains, tests, uses and exports image classifiers with and without a spatial transformer.

An installed package has it as ``stn-ext`` and ``python -m stn_ext``.
"""

import sys

import stn_ext_startup

with stn_ext_startup.importing(__name__):
    from stn_ext.training.program import main, run

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(run())
