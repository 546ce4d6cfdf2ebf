"""`python -m kdlab` is the command `kdlab`."""

import sys

from kdlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
