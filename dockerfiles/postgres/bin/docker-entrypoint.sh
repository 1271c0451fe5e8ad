#!/bin/bash
# Prepares the database, then runs PostgreSQL as its child and stops it in the fast and clean way when TERM arrives.
#
# At the first start: makes POSTGRES_USER (default: postgres), with the password of POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE,
# and the database POSTGRES_DB (default: the user's name), then runs /docker-entrypoint-initdb.d. At each start, afterwards:
# /docker-entrypoint-startdb.d. Until both are done, PostgreSQL takes connections only inside the container.
set -euo pipefail

state=${PGDATA%/*}/state # `begun` or `complete`: how far the first start came
server=

say() { echo "postgres: $*"; }

fail() {
    echo "postgres: ERROR: $*" >&2
    exit 1
}

# Sets and exports $1 from it or from the file that ${1}_FILE names; $2 is its default.
from_file() {
    local file=${1}_FILE value=${!1:-}
    [[ -z $value || -z ${!file:-} ]] || fail "both $1 and $file are set: set only one of them"
    if [[ -n ${!file:-} ]]; then
        [[ -r ${!file} ]] || fail "$file names ${!file}, which cannot be read by uid $UID"
        value=$(<"${!file}")
        [[ -n $value ]] || fail "$file names ${!file}, which is empty"
    fi
    export "$1=${value:-$2}"
}

# The scripts of the folder $1, in name order; the first error ends the start.
run_scripts() {
    local script
    for script in "$1"/*; do
        case $script in
        *.sh)
            say "running $script"
            if [[ -x $script ]]; then "$script"; else bash -euo pipefail "$script"; fi || fail "$script failed"
            ;;
        *.sql)
            say "running $script"
            run_sql --file "$script" || fail "$script failed"
            ;;
        *.sql.gz)
            say "running $script"
            gunzip --stdout "$script" | run_sql || fail "$script failed"
            ;;
        "$1/*") ;;
        *) say "ignoring $script: not a .sh, .sql or .sql.gz file" ;;
        esac
    done
}

run_sql() { psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 "$@"; }

# A server that nobody reaches from outside. It is silent: what fails is said by psql, and passwords are in statements.
start_inside() {
    pg_ctl --silent --wait --timeout 300 --log /dev/stderr --options "-c listen_addresses='' -c log_min_messages=fatal" start >/dev/null
}

# The password goes to psql through its environment: an argument could be read by every process.
set_up() {
    export PGUSER=postgres PGDATABASE=postgres
    run_sql <<'SQL'
\getenv user POSTGRES_USER
\getenv password POSTGRES_PASSWORD
\getenv database POSTGRES_DB
SELECT 'CREATE ROLE ' || quote_ident(:'user') || ' SUPERUSER' WHERE :'user' <> 'postgres' \gexec
ALTER ROLE :"user" SUPERUSER LOGIN PASSWORD :'password';
SELECT 'CREATE DATABASE ' || quote_ident(:'database') || ' OWNER ' || quote_ident(:'user')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
SQL
    export PGUSER=$POSTGRES_USER PGDATABASE=$POSTGRES_DB
    run_scripts /docker-entrypoint-initdb.d
}

# shellcheck disable=SC2329 # a trap calls it
stop() {
    trap '' TERM
    if [[ -n $server ]]; then
        kill -INT "$server" 2>/dev/null || true # fast: sessions are ended, everything is written
        return 0 # not the code of what the signal interrupted
    fi
    pg_ctl --silent --mode fast stop >/dev/null 2>&1 || true
    exit 143 # the start was not done
}

# Process numbers begin anew in each container, so what a killed one left behind may name a living process; the lock tells.
exec 9>"${PGDATA%/*}/lock"
flock --nonblock 9 || fail "another container uses the data in ${PGDATA%/*}"
[[ -e $PGDATA/PG_VERSION ]] || make-cluster
rm -f "$PGDATA/postmaster.pid" /run/postgresql/.s.PGSQL.*

trap stop TERM INT
export PGHOST=/run/postgresql
from_file POSTGRES_USER postgres
from_file POSTGRES_DB "$POSTGRES_USER"
startup=(/docker-entrypoint-startdb.d/*)
case $(cat "$state" 2>/dev/null) in
complete)
    say 'the database is already initialised: its users and passwords are as they were'
    if [[ -e ${startup[0]} ]]; then
        start_inside
        PGUSER=$POSTGRES_USER PGDATABASE=$POSTGRES_DB run_scripts /docker-entrypoint-startdb.d
        pg_ctl --silent --mode fast stop >/dev/null
    fi
    ;;
begun) fail 'an earlier first start did not come to its end: remove this container, and its volume if it has one' ;;
*)
    from_file POSTGRES_PASSWORD ''
    [[ -n $POSTGRES_PASSWORD ]] || fail 'no password: set POSTGRES_PASSWORD_FILE to a file that holds it, or POSTGRES_PASSWORD'
    echo begun >"$state"
    start_inside
    set_up
    run_scripts /docker-entrypoint-startdb.d
    pg_ctl --silent --mode fast stop >/dev/null
    echo complete >"$state"
    ;;
esac

unset POSTGRES_PASSWORD PGUSER PGDATABASE
postgres "$@" 9>&- &
server=$!
while kill -0 "$server" 2>/dev/null; do
    wait "$server" || true # the signal that is handed on interrupts it
done
wait "$server" # its exit code, which bash remembers
