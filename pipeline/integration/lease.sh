#!/bin/sh
# Runs a program for as long as a lease lasts: sh lease.sh PROGRAM [ARGUMENT...], as the first process of a container.
#
# When the lease is over, this process ends, and with it, because it is the first, everything in the container. The lease is
# the file `.lease` beside this one: a nonce and a number of seconds, counted from when the nonce is first seen. Who writes another
# nonce renews it, and never shortens it: somebody else may have asked for longer. Seconds are those since the machine booted: what a clock on the wall says does not matter.
#
# Signals are handed on. Where the program ends after TERM, INT or QUIT, so does this, with its exit code. Where it ends by
# itself, how it ended becomes the last line of the log, everything else in the container is killed, as it would be without
# this, and the container stays until its lease is over, so that its log can be read. USR1 ends the program as TERM does, but
# the container stays.
#
# Any POSIX shell runs this (dash, bash, busybox), as any user: nothing is written, and no program is needed but `sleep`.
# The program starts with INT and QUIT ignored, as everything does that a shell starts in the background.

lease=${0%/*}/.lease
over='' stopping='' early='' program='' seen='' ends=0

# Is the lease over? If not, `left` says after how many seconds it may be.
is_over() {
  read -r now _ </proc/uptime
  if { read -r nonce seconds _ <"$lease"; } 2>/dev/null && [ "$nonce" != "$seen" ]; then
    case $seconds in
    '' | *[!0-9]*) ;; # half written
    *)
      seen=$nonce
      [ $((${now%%.*} + seconds)) -le "$ends" ] || ends=$((${now%%.*} + seconds))
      ;;
    esac
  fi
  left=$((ends - ${now%%.*}))
  [ "$left" -le 0 ]
}

# In the background: looks at the lease now and then, and says when it is over.
start_watch() {
  is_over # here, so that a second one counts on from when the first one began
  (
    trap - CHLD
    until is_over; do
      [ "$left" -lt 15 ] || left=15
      sleep "$left"
    done
    kill -s ALRM "$$" 2>/dev/null
  ) &
  watch=$!
}

# Waits until the process $1 has ended, and is reaped, or the lease is over; sets `code`. Signals interrupt `wait`.
await() {
  while [ ! "$over" ]; do
    wait "$1"
    code=$?
    kill -s 0 "$1" 2>/dev/null || break
  done
  [ ! "$over" ] || return
  wait "$1" # its own code, where the first one was that of a signal; 127 where the shell has forgotten it
  again=$?
  [ "$again" = 127 ] || code=$again
}

hand_on() {
  if [ "$program" ]; then kill -s "$1" "$program"; else early=$1; fi # a signal may come before anybody can have it
}

# How often the kernel killed something in here for want of memory.
count_oom_kills() {
  kills=0
  for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do # cgroups version 2, version 1
    [ -r "$file" ] && while read -r key value _; do
      [ "$key" = oom_kill ] && kills=$value
    done <"$file"
  done
}

trap 'over=1' ALRM
trap '[ "$over" ] || kill -s 0 "$watch" 2>/dev/null || start_watch' CHLD # whoever killed it
trap 'stopping=1; hand_on TERM' TERM
trap 'stopping=1; hand_on INT' INT
trap 'stopping=1; hand_on QUIT' QUIT
trap 'hand_on TERM' USR1
trap 'hand_on HUP' HUP
trap 'hand_on USR2' USR2

start_watch
"$@" &
program=$!
[ ! "$early" ] || hand_on "$early"
await "$program"
[ ! "$over" ] || exit 124
[ ! "$stopping" ] || exit "$code"

ended=$code
count_oom_kills
trap - CHLD HUP USR1 USR2
trap 'exit "$ended"' TERM INT QUIT
if [ "$$" = 1 ]; then kill -KILL -1; else kill "$watch"; fi # -1: all but this; not every shell takes it after `-s KILL`
printf '\npipeline.lease: ended with exit code %s, out of memory %s\n' "$ended" "$kills"
until [ "$over" ]; do
  start_watch
  await "$watch"
done
exit 124
