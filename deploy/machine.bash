# shellcheck shell=bash
# What all scripts here share: messages, and functions that put one machine, on which they run, in order.
# They change only what is not in order.
# shellcheck disable=SC2034 # the scripts read what is assigned here

# This also begins each call on another machine.
set_up_shell() {
  set -euo pipefail
  umask 022
  PATH=$PATH:/usr/sbin:/sbin # su without "-" leaves them out
  changed='' firewalld=''
}

set_up_shell
dry_run='' node='' user='' program=${0##*/}
DEPLOY=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
readonly DEPLOY

# Messages

error() {
  printf '%s: %s%s\n' "$program" "${node:+$node: }" "$*" >&2
}

fail() {
  error "$@"
  exit 1
}

misuse() {
  printf '%s: %s (see %s --help)\n' "$program" "$*" "$0" >&2
  exit 2
}

report() {
  if [[ ! $changed ]]; then
    echo 'Nothing changed: all is in order.'
  elif [[ $dry_run ]]; then
    echo 'Nothing changed: this was a dry run.'
  fi
}

# Commands and packages

run() {
  changed=yes
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [[ $dry_run ]] || "$@" || fail "the last command failed: correct the cause and run this again"
}

make_scratch() {
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
}

# is_one_of WORD WORD...: whether the first word is among the others
is_one_of() {
  local word
  for word in "${@:2}"; do
    [[ $1 != "$word" ]] || return 0
  done
  return 1
}

# find_distribution: set family, and user unless it is known.  OTHERWISE is advice for other distributions.
find_distribution() {
  local ids
  # shellcheck source=/dev/null
  ids=$(. /etc/os-release && echo "$ID${ID_LIKE:+ $ID_LIKE}") ||
    fail "cannot read the distribution's name in /etc/os-release"
  case " $ids " in
    *' debian '* | *' ubuntu '*) family=debian user=${user:-www-data} ;;
    *' rhel '* | *' centos '* | *' fedora '*) family=rhel user=${user:-apache} ;;
    *) fail "neither Debian's nor RHEL's family: '$ids'${OTHERWISE:+ ($OTHERWISE)}" ;;
  esac
}

# add_packages PACKAGE...
add_packages() {
  if [[ $family == debian ]]; then
    run apt-get update -q
    run env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
  else
    run dnf install -y "$@"
  fi
}

# The firewall

# Find out only once: each firewall-cmd takes a third of a second.
has_firewalld() {
  [[ $firewalld ]] || {
    firewalld=no
    ! command -v firewall-cmd >/dev/null || ! firewall-cmd -q --state &>/dev/null || firewalld=yes
  }
  [[ $firewalld == yes ]]
}

# change_rule add|remove RULE
change_rule() {
  run firewall-cmd -q --permanent "--$1-$2"
  run firewall-cmd -q "--$1-$2"
}

# allow RULE: in firewalld, if it is active; a fresh RHEL or Debian has no other active firewall
allow() {
  ! has_firewalld || firewall-cmd -q "--query-$1" || change_rule add "$1"
}

# disallow RULE: undo allow
disallow() {
  ! has_firewalld || ! firewall-cmd -q "--query-$1" || change_rule remove "$1"
}

# Files

# block TAG TEXT: print the text between BEGIN and END lines with this tag
block() {
  printf '# BEGIN access-limiter %s\n%s\n# END access-limiter %s\n' "$1" "$2" "$1"
}

# show_changes FILE NEW: print the lines that differ
show_changes() {
  diff -U0 "$1" "$2" | sed -n '3,${/^[-+]/s/^/    /p}' || true
}

# put_block FILE TAG TEXT: make sure that the file has this block; change no other line
put_block() {
  local there range="/^# BEGIN access-limiter $2\$/,/^# END access-limiter $2\$/"
  touch "$scratch/new" # the file may be missing, like fstab in a Debian container
  [[ ! -e $1 ]] || cp "$1" "$scratch/new"
  there=$(sed -n "${range}p" "$scratch/new")
  [[ $there != "$(block "$2" "$3")" ]] || return 0
  # Without the END line, sed would delete everything after BEGIN.
  [[ ! $there || $there == *$'\n'"# END access-limiter $2" ]] ||
    fail "$1: '# END access-limiter $2' is missing after its BEGIN, and nothing is changed: add that line"
  sed -i "${range}d" "$scratch/new"
  block "$2" "$3" >>"$scratch/new"
  show_changes "$1" "$scratch/new"
  run cp "$scratch/new" "$1" # overwrite the file, do not replace it: it may be a mount
}

# put_file MODE FILE TEXT: make sure that a file of ours exists, with this mode and text; set written
put_file() {
  written=''
  printf '%s\n' "$3" >"$scratch/new"
  cmp -s "$2" "$scratch/new" && [[ $(stat -Lc '%U %a' "$2") == "root $1" ]] && return
  [[ ! -e $2 ]] || show_changes "$2" "$scratch/new"
  run install -D -m "$1" "$scratch/new" "$2"
  written=yes
}

remove_file() {
  [[ ! -e $1 ]] || run rm "$1"
}

# The kernel's settings

has_sysctl() {
  [[ $(sysctl -n "${1%%=*}" 2>/dev/null) == "${1#*=}" ]]
}

# set_sysctls KEY=VALUE...
set_sysctls() {
  local setting
  for setting; do
    has_sysctl "$setting" || run sysctl -qw "$setting"
  done
}

# put_sysctls FILE KEY=VALUE...: set them now and at each boot; the file also records the previous values
put_sysctls() {
  local setting key before text=''
  for setting in "${@:2}"; do
    key=${setting%%=*}
    before=$(sed -n "s/^# $key was //p" "$1" 2>/dev/null) || true
    before=${before:-$(sysctl -n "$key" 2>/dev/null)} || before=0 # its module is not loaded yet
    text+="# $key was $before"$'\n'"$key = ${setting#*=}"$'\n'
  done
  put_file 644 "$1" "${text%$'\n'}"
  set_sysctls "${@:2}"
}

# remove_sysctls FILE: restore the previous values, and remove the file
remove_sysctls() {
  local -a former
  [[ -e $1 ]] || return 0
  mapfile -t former < <(sed -n 's/^# \(.*\) was /\1=/p' "$1")
  set_sysctls "${former[@]}"
  run rm "$1"
}

# Services

is_served() {
  systemctl -q is-enabled "$1" 2>/dev/null && systemctl -q is-active "$1"
}

check_served() {
  is_served "$1" || fail "$1 does not run, or is not enabled: see systemctl status $1 there"
}

# put_unit SERVICE TEXT [COMMAND...]: make sure that a service of ours exists, and runs.  The command
# checks its effect: for a service without a process, systemd knows only that it was started once.
put_unit() {
  local file=/etc/systemd/system/$1.service
  if ! cmp -s "$file" - <<<"$2"; then
    [[ ! -e $file ]] || run systemctl stop "$1"
    put_file 644 "$file" "$2"
    run systemctl daemon-reload
  elif is_served "$1" && "${@:3}"; then
    return
  fi
  run systemctl enable "$1"
  run systemctl restart "$1"
}

remove_unit() {
  [[ -e /etc/systemd/system/$1.service ]] || return 0
  run systemctl disable --now "$1"
  run rm "/etc/systemd/system/$1.service"
  run systemctl daemon-reload
}
