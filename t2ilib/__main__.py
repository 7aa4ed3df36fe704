"""The command line: `python -m t2ilib COMMAND`; each command is a file of `t2ilib.cli`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
