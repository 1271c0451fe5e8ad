"""The guardian's process: `python -m pipeline.guardian PROJECT SESSION OWNER STATE ONE_SHOT`. See pipeline.integration.guardian.

While it waits, it has imported nothing: it is started with every database, in parallel with other work.
"""

from __future__ import annotations

import os
import sys

FAREWELL = b"done"


def main(arguments: list[str]) -> None:
    heard = b""
    while text := os.read(0, 64):
        heard += text
    if heard == FAREWELL:
        os._exit(0)  # there is nothing to tidy up, and a normal exit takes longer
    from pipeline.adapters.docker_engine import DockerEngine
    from pipeline.integration.guardian import Charge, clean_up

    clean_up(DockerEngine(), Charge(*arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
