#!/bin/sh
# Makes sure that a Docker Engine with buildx answers. Installs one only where that was asked for or can hurt nobody:
#   - as root on Debian or Ubuntu where no service manager runs (a disposable machine), or
#   - with PIPELINE_INSTALL_ENGINE=1, or
#   - after a yes on a terminal.
# Anywhere else it stops and says what to install. Exit 0: an engine answers. Exit 50: it does not.
# With --for-tests it sees in the same way to what else the tests of this repository run: Maven with its plugins, CodeNarc, sshd, and shells.
set -eu

log_file=${PIPELINE_ENGINE_LOG:-/var/log/dockerd.log}
wanted="docker.io docker-buildx mmdebstrap iptables iproute2 ca-certificates"
for_tests="maven default-jdk-headless junit4 libexec-maven-plugin-java libmaven-clean-plugin-java libmaven-compiler-plugin-java
  libmaven-install-plugin-java libmaven-jar-plugin-java libmaven-resources-plugin-java libmaven-war-plugin-java libsurefire-java
  libgoogle-gson-java libpostgresql-jdbc-java libtomcat10-java groovy libcodenarc-groovy-java openssh-client openssh-server
  zsh fish"

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { say "$1"; shift; for line in "$@"; do printf '       %s\n' "$line" >&2; done; exit 50; }

engine_answers() { command -v docker >/dev/null 2>&1 && docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
buildx_answers() { docker buildx version >/dev/null 2>&1; }

by_hand() {
  stop "$1" \
    "Install Docker Engine 24 or newer with buildx by hand (packages docker.io and docker-buildx on Debian 13" \
    "and Ubuntu 24.04), start it, and check with: docker version && docker buildx version" \
    "Or let this script do it on Debian or Ubuntu, as root: PIPELINE_INSTALL_ENGINE=1 ./invokew ..."
}

distribution() { # shellcheck disable=SC1091
  ( . /etc/os-release && printf '%s %s' "$ID" "${VERSION_CODENAME:-unknown}" )
}

names_another_engine() { # true where Docker's own configuration points at something a local installation cannot answer
  case "${DOCKER_HOST:-}" in ""|unix:///var/run/docker.sock|unix:///run/docker.sock) ;; *) return 0 ;; esac
  if [ -z "${DOCKER_HOST:-}" ] && command -v docker >/dev/null 2>&1; then
    context=$(docker context show 2>/dev/null || echo default)
    [ "$context" = default ] || return 0
  fi
  return 1
}

may_install() { # $1: what is missing, and would be installed
  [ "${PIPELINE_INSTALL_ENGINE:-}" != 1 ] || return 0
  [ "${PIPELINE_INSTALL_ENGINE:-}" != 0 ] || return 1
  if [ "$(id -u)" = 0 ] && [ ! -d /run/systemd/system ] && [ "$(cat /proc/1/comm 2>/dev/null)" != systemd ]; then return 0; fi
  if [ -t 0 ] && [ -t 2 ]; then
    printf 'setup: %s on this machine now (apt-get, needs root)? [y/N] ' "$1" >&2
    read -r answer
    case "$answer" in y|Y|yes|Yes) return 0 ;; esac
  fi
  return 1
}

root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Debian 12's own docker.io is 20.10 and has no buildx; Debian 13's needs only libc 2.34 and runs there. Its source entry
# is the machine's own Debian entry with another suite, so that a mirror stays a mirror; the pins keep all else away.
add_newer_suite() {
  [ ! -e /etc/apt/sources.list.d/pipeline-trixie.sources ] || return 0
  say "adding Debian 13 (trixie) as a package source for the engine only, from this machine's own mirror"
  own=/etc/apt/sources.list.d/debian.sources
  if [ -e "$own" ]; then
    uri=$(awk '$1 == "URIs:" { print $2; exit }' "$own")
    key=$(awk '$1 == "Signed-By:" { print $2; exit }' "$own")
  else
    uri=$(awk '$1 == "deb" && $0 ~ / bookworm / { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; exit } }' /etc/apt/sources.list)
    key=
  fi
  [ -n "$uri" ] || stop "found no Debian package source on this machine" "Add one to /etc/apt/sources.list.d/debian.sources and run this again."
  root tee /etc/apt/sources.list.d/pipeline-trixie.sources >/dev/null <<SOURCE
Types: deb
URIs: $uri
Suites: trixie
Components: main
Signed-By: ${key:-/usr/share/keyrings/debian-archive-keyring.gpg}
SOURCE
  root tee /etc/apt/preferences.d/pipeline-trixie >/dev/null <<'PINS'
Package: *
Pin: release n=trixie
Pin-Priority: 50

Package: docker.io docker-cli docker-buildx containerd
Pin: release n=trixie
Pin-Priority: 990
PINS
}

install_engine() {
  case "$(distribution)" in
    "debian bookworm") add_newer_suite ;;
    "debian "*|"ubuntu "*) ;;
    *) by_hand "no Docker Engine answers, and on this distribution ($(distribution)) this script installs none" ;;
  esac
  say "apt-get update"
  root apt-get update -qq || stop "apt-get update failed" "Mend the package sources of this machine, then run this again."
  say "installing $wanted"
  # The engine is started below, in a way that works without a service manager too.
  # shellcheck disable=SC2086
  root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $wanted >/dev/null ||
    stop "apt-get could not install: $wanted" "Its message is above."
  # docker.io only recommends the client
  command -v docker >/dev/null 2>&1 || root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends docker-cli >/dev/null
}

start_engine() {
  if [ -d /run/systemd/system ]; then
    say "starting the engine: systemctl start docker"
    root systemctl start docker || stop "systemctl could not start docker" "See: journalctl -u docker"
  else
    say "starting the engine: dockerd on unix:///var/run/docker.sock only, log in $log_file"
    # A daemon keeps no file descriptor of its caller: a lock or a pipe held open would make that caller wait for ever.
    root sh -c "setsid dockerd --host unix:///var/run/docker.sock </dev/null >>'$log_file' 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &"
  fi
  tries=0
  until engine_answers; do
    tries=$((tries + 1))
    if [ "$tries" -ge 300 ]; then
      tail -n 15 "$log_file" >&2 2>/dev/null || true
      stop "the engine did not answer within 60 s" "The end of its log ($log_file) is above."
    fi
    sleep 0.2
  done
  say "the engine answers: Docker $(docker version --format '{{.Server.Version}}')"
}

# Tests whose program is missing fail, and name it; those of the engine need none of these.
install_for_tests() {
  missing=
  for package in $for_tests; do
    [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  may_install "some tests need:$missing. Install them" || { say "some tests need: apt-get install$missing"; return 0; }
  say "installing what some tests need:$missing"
  root apt-get update -qq || stop "apt-get update failed" "Mend the package sources of this machine, then run this again."
  # shellcheck disable=SC2086
  root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null ||
    stop "apt-get could not install:$missing" "Its message is above."
}

[ "${1:-}" != --for-tests ] || install_for_tests
if engine_answers; then
  buildx_answers || by_hand "the Docker Engine answers, but its client has no buildx"
  exit 0
fi
if names_another_engine; then
  stop "no engine answers at ${DOCKER_HOST:-the current Docker context ($(docker context show))}" \
    "Start that engine, or choose another one: docker context use NAME, or unset DOCKER_HOST."
fi
may_install "no Docker Engine answers. Install and start one" || by_hand "no Docker Engine answers"
if ! command -v dockerd >/dev/null 2>&1 || ! command -v docker >/dev/null 2>&1 || ! buildx_answers; then install_engine; fi
buildx_answers || by_hand "the client has no buildx"
start_engine
