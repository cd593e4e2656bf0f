"""python -m stn_ext: the program of main.py."""

import sys

from stn_ext_startup import command

if __name__ == "__main__":
    sys.exit(command())
