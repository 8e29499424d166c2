"""`python -m jobs.supervisor -- COMMAND...`; see the package's docstring."""

from __future__ import annotations

import sys

from jobs.supervisor.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
