#!/bin/bash
# Exit code 0 once connections from outside are taken, which is when all scripts are done.
exec pg_isready --quiet --host 127.0.0.1 --username postgres --dbname postgres --timeout 3
