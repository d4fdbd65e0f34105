# Sourced by the scripts that run servers in the background: their ports, their processes, waiting until they answer, and their end.
# shellcheck shell=bash
#
# Before any of it is called, `home` is the folder of this set of servers. In it, NAME.pid, NAME.mark and NAME.log belong to the
# process called NAME.

# True when something listens at that port of this machine.
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# first_port VARIABLE DEFAULT COUNT: the first of COUNT ports in a row, as the variable says; `free` looks for some, at start only.
first_port() {
  local port=${!1:-$2} count=$3 candidate offset
  if [[ $port != free ]]; then
    printf '%s' "$port" && return
  fi
  [[ $command == start ]] || die "$1=free is for start only; name the port that it printed"
  for _ in {1..100}; do
    candidate=$((20000 + RANDOM % 12000)) # below 32768, where the system takes ports for connections from
    for ((offset = 0; offset < count; offset++)); do
      ! answers $((candidate + offset)) || continue 2
    done
    printf '%s' "$candidate" && return
  done
  die "no $count free ports in a row found"
}

# One start at a time: test programs may ask together, so the first one starts a server and the others find it.
lock_home() {
  mkdir -p "$home"
  exec 9>"$home/lock"
  flock -w 600 9 || die "another start has held the lock for 10 minutes"
}

# live_pid NAME: its pid, if it lives. A pid that belongs to another program by now does not count.
live_pid() {
  local pid mark
  { pid=$(cat "$home/$1.pid") && mark=$(cat "$home/$1.mark"); } 2>/dev/null || return 1
  [[ -n $pid && -n $mark ]] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -e "$mark" && printf '%s' "$pid"
}

# launch NAME PORT MARK COMMAND…: in the background, unless it lives. MARK is what tells its command line from others.
launch() {
  local name=$1 port=$2 mark=$3
  shift 3
  ! live_pid "$name" >/dev/null || return 0
  ! answers "$port" || die "port $port is taken by another program"
  # Of this life only: what is looked for in it must not be an older one's.
  : >"$home/$name.log"
  printf '%s' "$mark" >"$home/$name.mark"
  # The lock is the script's, not the server's.
  setsid nohup "$@" </dev/null >>"$home/$name.log" 2>&1 9>&- &
  printf '%s' "$!" >"$home/$name.pid"
  disown
}

# await NAME SECONDS CHECK…: until the check holds. Tries are counted, not the clock: a machine that stood still has not waited.
await() {
  local name=$1 tries=$(($2 * 10))
  shift 2
  for ((; tries > 0; tries--)); do
    ! "$@" >/dev/null 2>&1 || return 0
    kill -0 "$(cat "$home/$name.pid")" 2>/dev/null || { tail -n 30 "$home/$name.log" >&2 && die "$name ended while starting"; }
    sleep 0.1
  done
  tail -n 30 "$home/$name.log" >&2
  die "$name did not answer in time"
}

has_ended() { # has_ended PID SECONDS
  local tries=$(($2 * 10))
  for ((; tries > 0; tries--)); do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  return 1
}

# end SIGNAL NAME…: those that live are ended, by SIGKILL when they do not listen.
end() {
  local signal=$1 name pid found=no
  shift
  for name in "$@"; do
    if pid=$(live_pid "$name"); then
      found=yes
      kill "-$signal" "$pid" 2>/dev/null || true
      if ! has_ended "$pid" 30; then
        say "$name: no answer to SIG$signal within 30 seconds, killing"
        kill -KILL "$pid" 2>/dev/null || true
        has_ended "$pid" 10 || die "$name does not end"
      fi
    fi
    rm -f "$home/$name.pid" "$home/$name.mark"
  done
  if [[ $found == yes ]]; then say "stopped"; else say "not running"; fi
}

# wipe NAME…: ends them, and removes all that they had.
wipe() { end KILL "$@" && rm -rf "$home"; }

# are_live NAME…
are_live() {
  local name
  for name in "$@"; do live_pid "$name" >/dev/null || return 1; done
}

# The script's own first comment.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
