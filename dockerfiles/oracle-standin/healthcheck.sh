#!/bin/bash
# Is the database ready for use? Exit codes as users of the vendor's image know them:
#   0 ready   1 not ready   2 starting   4 running the set-up scripts   5 running the start-up scripts
# An argument names the service, or services separated by commas, to ask about.
set -u
run=/opt/oracle/standin/run

case "$(cat "$run/phase" 2>/dev/null)" in
    ready) ;;
    setup-scripts) exit 4 ;;
    startup-scripts) exit 5 ;;
    starting) exit 2 ;;
    *) exit 1 ;;
esac

IFS=, read -r -a services <<<"${1:-}"
for service in "${services[@]}"; do
    grep -qixF -- "$service" "$run/services" || exit 1
done

# Both halves answer: the listener accepts, and PostgreSQL takes connections on its socket.
(exec 3<>/dev/tcp/127.0.0.1/1521) 2>/dev/null || exit 1
/opt/oracle/standin/postgresql/pg_isready --quiet --host "$run" --username postgres --dbname freepdb1 --timeout 3 || exit 1
