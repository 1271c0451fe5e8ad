"""`python -m benchmarks`: see benchmarks/command.py."""

from __future__ import annotations

import sys

from benchmarks.command import main

sys.exit(main(sys.argv[1:]))
