#!/bin/bash
# The entrypoint by the vendor's name; the supervisor behind it is process 1.
exec python3 -m oracle_standin.supervisor "$@"
