"""``python -m flambe_save`` is the command ``flambe-save``."""

import sys

from flambe_save.cli import main

if __name__ == "__main__":
    sys.exit(main())
