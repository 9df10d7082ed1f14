"""`python -m bart_eqx.convert`."""

import sys

from .command import main


if __name__ == "__main__":
    sys.exit(main())
