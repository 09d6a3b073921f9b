# shellcheck shell=bash
# Shared by the scripts that set up a cluster: options, inventory, and functions that reach a machine and
# change only what is not in order.  Each script sources this file, defines
#   COMMANDS  its commands, each with the number of its arguments: (render:0 add-node:2)
#   SENT      the names of its own variables that its functions need on other machines
#   PATIENCE  seconds that comes_true and wait_for wait
#   usage     a function that prints the text of --help
# and then calls read_options and read_inventory.
# Checked with: shellcheck cluster.bash && shfmt -d -i 2 -ci cluster.bash
# shellcheck disable=SC2154 # read_inventory assigns the inventory's names
set -euo pipefail
umask 022
PATH=$PATH:/usr/sbin:/sbin # su without "-" leaves them out

program=${0##*/}
DEPLOY=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
readonly DEPLOY

# The names in the inventory.  Each KEY has one value, and becomes a variable of that name.  A ROLE may
# occur several times, with a machine each; it becomes an array of machine names.
readonly KEYS=(
  remote
  replica volume brick mount store user
  vip interface port health
  balance accept
  elastic_ip
)
readonly ROLES=(storage client director standby)
readonly KEEPALIVED=/etc/keepalived/keepalived.conf

complain() {
  printf '%s: %s%s\n' "$program" "${node:+$node: }" "$*" >&2
}

fail() {
  complain "$@"
  exit 1
}

warn() {
  printf '%s: WARNING: %s%s\n' "$program" "${node:+$node: }" "$*" >&2
}

misuse() {
  printf '%s: %s (see %s --help)\n' "$program" "$*" "$0" >&2
  exit 2
}

run() {
  changed=yes
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [[ $dry_run ]] || "$@" || fail "the last command failed: correct the cause and run this again"
}

# comes_true COMMAND...: try it until it succeeds; fail after PATIENCE seconds
comes_true() {
  local end=$((SECONDS + PATIENCE))
  [[ ! $dry_run ]] || return 0
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

# wait_for COMMAND...: like comes_true, but end the script on failure
wait_for() {
  comes_true "$@" || fail "not within $PATIENCE s: $*"
}

# Options and inventory

read_options() {
  command='' dry_run='' changed='' node='' inventory=$DEPLOY/cluster.conf
  local -a words=()
  while (($#)); do
    case $1 in
      --dry-run) dry_run=yes ;;
      --inventory)
        (($# > 1)) || misuse "--inventory needs a file"
        shift
        inventory=$1
        ;;
      --help)
        usage
        exit
        ;;
      -*) misuse "unknown option $1" ;;
      *) words+=("$1") ;;
    esac
    shift
  done
  command=${words[0]-} arguments=("${words[@]:1}")
  [[ $command ]] || misuse "no command"
  [[ " ${COMMANDS[*]} " == *" $command:${#arguments[@]} "* ]] || misuse "no such command: ${words[*]}"
}

# mistake TEXT: end the script with an error that names the current line of the inventory
mistake() {
  fail "$inventory, line $number: $*"
}

is_address() {
  [[ $1 =~ ^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\.|$)){4}$ && $1 != *. ]]
}

is_name() {
  [[ $1 =~ ^[A-Za-z0-9_][A-Za-z0-9_-]*$ ]]
}

is_path() {
  [[ $1 =~ ^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$ ]]
}

# is_number TEXT LEAST MOST
is_number() {
  [[ $1 =~ ^(0|[1-9][0-9]{0,8})$ ]] && (($1 >= $2 && $1 <= $3))
}

# is_one_of WORD WORD...: whether the first word is among the others
is_one_of() {
  local word
  for word in "${@:2}"; do
    [[ $1 != "$word" ]] || return 0
  done
  return 1
}

# name_machine NAME ADDRESS
name_machine() {
  [[ $1 =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$ && $1 != localhost ]] || mistake "'$1' is no machine's name"
  is_address "$2" || mistake "'$2' is no IPv4 address"
  [[ ! ${addresses[$1]-} || ${addresses[$1]} == "$2" ]] || mistake "$1 is ${addresses[$1]} elsewhere"
  [[ ${addresses[$1]-} ]] || ! is_one_of "$2" ${addresses[@]+"${addresses[@]}"} || mistake "$2 is there twice"
  addresses[$1]=$2
}

# add_machine ROLE NAME ADDRESS: a machine has one role; it may also be one of the hot-standby pair
add_machine() {
  local -n those=$1
  local -a others=(${storage[@]+"${storage[@]}"} ${client[@]+"${client[@]}"} ${director[@]+"${director[@]}"})
  [[ $1 != standby ]] || others=(${standby[@]+"${standby[@]}"})
  ! is_one_of "$2" ${others[@]+"${others[@]}"} || mistake "$2 is there twice"
  name_machine "$2" "$3"
  those+=("$2")
}

# add_weight NAME WEIGHT
add_weight() {
  [[ ${addresses[$1]-} ]] || mistake "there is no machine $1 above"
  [[ ! ${weights[$1]-} ]] || mistake "$1 has a weight already"
  is_number "$2" 1 65535 || mistake "expected weight=NAME NUMBER, 1 to 65535"
  weights[$1]=$2
}

# One function for each section of cluster.conf.example.  It fails if $key is not in its section.  It
# ends the script if $value is not valid for $key.

check_machines_section() {
  [[ $key == remote ]]
}

check_glusterfs_section() {
  case $key in
    replica) [[ $value =~ ^(2|3|3 arbiter 1)$ ]] || mistake "expected 3, 3 arbiter 1 or 2" ;;
    volume | user) is_name "$value" || mistake "'$value' is no name of a $key" ;;
    brick | mount) is_path "$value" || mistake "expected an absolute path of letters, digits, '.', '_' and '-'" ;;
    store) is_path "/$value" || mistake "expected a path below the mount" ;;
    *) return 1 ;;
  esac
}

check_address_section() {
  case $key in
    vip) is_address "$value" || mistake "'$value' is no IPv4 address" ;;
    interface) [[ $value =~ ^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$ ]] || mistake "'$value' is no name of an interface" ;;
    port) is_number "$value" 1 65535 || mistake "expected a port, 1 to 65535" ;;
    health) is_path "$value" || mistake "expected the path of a URL: letters, digits, '.', '_' and '-'" ;;
    *) return 1 ;;
  esac
}

check_loadbalancer_section() {
  case $key in
    balance) is_one_of "$value" rr wrr lc wlc || mistake "expected rr, wrr, lc or wlc" ;;
    accept) is_one_of "$value" lo firewalld nftables || mistake "expected lo, firewalld or nftables" ;;
    *) return 1 ;;
  esac
}

check_standby_section() {
  [[ $key == elastic_ip ]] || return
  is_address "$value" || mistake "'$value' is no IPv4 address"
}

read_inventory() {
  local key
  for key in "${KEYS[@]}"; do
    printf -v "$key" ''
  done
  for key in "${ROLES[@]}"; do
    declare -ga "$key=()"
  done
  declare -gA addresses=() weights=()
  [[ -r $inventory ]] || fail "cannot read the inventory $inventory (copy and edit $DEPLOY/cluster.conf.example)"
  local number=0 line value name address rest
  while IFS= read -r line || [[ $line ]]; do
    number=$((number + 1))
    [[ $line =~ ^[[:space:]]*(#.*)?$ ]] && continue
    key=${line%%=*} value=${line#*=}
    [[ $line == *=* && $value ]] || mistake "expected NAME=VALUE"
    if is_one_of "$key" "${ROLES[@]}"; then
      read -r name address rest <<<"$value"
      [[ $address && ! $rest ]] || mistake "expected $key=NAME ADDRESS"
      add_machine "$key" "$name" "$address"
      continue
    elif [[ $key == weight ]]; then
      read -r name rest <<<"$value"
      add_weight "$name" "$rest"
      continue
    fi
    check_machines_section || check_glusterfs_section || check_address_section || check_loadbalancer_section ||
      check_standby_section || mistake "unknown: $key"
    [[ ! ${!key} ]] || mistake "$key is there twice"
    printf -v "$key" %s "$value"
  done <"$inventory"
  remote=${remote:-ssh -o BatchMode=yes root@%a}
}

# need KEY...: end the script if one of them is not in the inventory
need() {
  local key
  for key; do
    [[ ${!key} ]] || fail "$inventory: $key is missing"
  done
}

web_servers() {
  printf '%s\n' ${storage[@]+"${storage[@]}"} ${client[@]+"${client[@]}"}
}

# Machines

# reach MACHINE: run standard input there, with bash
reach() {
  local -a words
  if [[ " $(hostname -I 2>/dev/null) " == *" ${addresses[$1]} "* ]]; then
    bash
    return
  fi
  read -ra words <<<"$remote"
  words=("${words[@]//%a/${addresses[$1]}}")
  "${words[@]//%n/$1}" bash
}

# send MACHINE FUNCTION ARGUMENT...: call a function of this script on that machine
send() {
  local node=$1
  shift
  {
    declare -p program KEEPALIVED dry_run node addresses weights KEYS ROLES "${KEYS[@]}" "${ROLES[@]}" "${SENT[@]}"
    declare -f
    printf 'there'
    printf ' %q' "$@"
    printf ' </dev/null\n' # bash reads the script from standard input: no command may take any of it
  } | reach "$node"
}

there() {
  set -euo pipefail
  umask 022
  PATH=$PATH:/usr/sbin:/sbin changed='' firewalld=''
  ((EUID == 0)) || fail "commands must run as root there (remote=... sudo)"
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  "$@"
}

# tell MACHINE FUNCTION ARGUMENT...: like send, but print its output under the machine's name, or an
# error if the machine cannot be reached
tell() {
  local line reached=''
  while IFS= read -r line; do
    if [[ $reached ]]; then
      [[ $line != '+ '* ]] || changed=yes
      printf '%s: %s\n' "$1" "$line"
    fi
    reached=yes
  done < <(send "$1" answer "${@:2}")
  [[ $reached ]] || {
    complain "$1 cannot be reached (remote=$remote)"
    return 1
  }
  wait "$!"
}

# answer FUNCTION ARGUMENT...: call it, but first print an empty line: the machine has been reached
answer() {
  echo
  "$@"
}

# on MACHINE FUNCTION ARGUMENT...: like tell, but end the script if it fails
on() {
  tell "$@" || fail "$1 is not in order: correct that and run this again"
}

# These functions run on the machine that they change

find_distribution() {
  local ids
  # shellcheck source=/dev/null
  ids=$(. /etc/os-release && echo "$ID${ID_LIKE:+ $ID_LIKE}") || fail "cannot tell the distribution by /etc/os-release"
  case " $ids " in
    *' debian '* | *' ubuntu '*) family=debian user=${user:-www-data} ;;
    *' rhel '* | *' centos '* | *' fedora '*) family=rhel user=${user:-apache} ;;
    *) fail "neither Debian's nor RHEL's family: '$ids'" ;;
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

# Ask only once: each firewall-cmd takes a third of a second.
has_firewalld() {
  [[ $firewalld ]] || {
    firewalld=no
    ! command -v firewall-cmd >/dev/null || ! firewall-cmd -q --state &>/dev/null || firewalld=yes
  }
  [[ $firewalld == yes ]]
}

# allow RULE: in firewalld, if it is active; a fresh RHEL or Debian has no other active firewall
allow() {
  ! has_firewalld || firewall-cmd -q "--query-$1" || {
    run firewall-cmd -q --permanent "--add-$1"
    run firewall-cmd -q "--add-$1"
  }
}

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
    fail "$1: there is no '# END access-limiter $2' behind its BEGIN, and nothing is changed: add that line"
  sed -i "${range}d" "$scratch/new"
  block "$2" "$3" >>"$scratch/new"
  show_changes "$1" "$scratch/new"
  run cp "$scratch/new" "$1" # overwrite the file, do not replace it: it may be a mount
}

# put_file MODE FILE TEXT: make sure that a file of ours exists, with this mode and text
put_file() {
  printf '%s\n' "$3" >"$scratch/new"
  cmp -s "$2" "$scratch/new" && [[ $(stat -Lc '%U %a' "$2") == "root $1" ]] && return
  [[ ! -e $2 ]] || show_changes "$2" "$scratch/new"
  run install -D -m "$1" "$scratch/new" "$2"
}

# remove_file FILE
remove_file() {
  [[ ! -e $1 ]] || run rm "$1"
}

# disallow RULE: undo allow
disallow() {
  ! has_firewalld || ! firewall-cmd -q "--query-$1" || {
    run firewall-cmd -q --permanent "--remove-$1"
    run firewall-cmd -q "--remove-$1"
  }
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
  for setting in "${@:2}"; do
    has_sysctl "$setting" || run sysctl -qw "$setting"
  done
}

has_sysctl() {
  [[ $(sysctl -n "${1%%=*}" 2>/dev/null) == "${1#*=}" ]]
}

# remove_sysctls FILE: restore the previous values, and remove the file
remove_sysctls() {
  local setting
  [[ -e $1 ]] || return 0
  while read -r setting; do
    has_sysctl "$setting" || run sysctl -qw "$setting"
  done < <(sed -n 's/^# \(.*\) was /\1=/p' "$1")
  run rm "$1"
}

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

# keepalived

mark() {
  printf '# Made by %s of Access Limiter, which overwrites what is changed here.' "$program"
}

is_our_keepalived() {
  [[ $(head -n 1 "$KEEPALIVED" 2>/dev/null) == "$(mark)" ]]
}

# RHEL's package installs an example under this name.
is_packaged_keepalived() {
  rpm -qf "$KEEPALIVED" &>/dev/null && [[ $(rpm -Vf "$KEEPALIVED" 2>/dev/null) != *" $KEEPALIVED"* ]]
}

check_keepalived() {
  [[ ! -e $KEEPALIVED ]] || is_our_keepalived || is_packaged_keepalived ||
    fail "$KEEPALIVED was not made by this script, and is left alone: move it away first"
}

# check_keepalived_text TEXT: let keepalived check it, if that is installed
check_keepalived_text() {
  local said
  command -v keepalived >/dev/null || return 0
  printf '%s\n' "$1" >"$scratch/keepalived.conf"
  # keepalived 2.2.7 ends with SIGTERM to its whole process group, itself included, if there are scripts.
  said=$(
    trap '' TERM
    keepalived -t -f "$scratch/keepalived.conf" 2>&1
  ) || fail "keepalived refuses its configuration ($?): $said"
}

# put_keepalived TEXT: make sure that keepalived runs with this text, which begins with the mark
put_keepalived() {
  check_keepalived
  check_keepalived_text "$1"
  if [[ -e $KEEPALIVED ]] && ! is_our_keepalived; then
    run mv "$KEEPALIVED" "$KEEPALIVED.packaged"
  fi
  local before=$changed
  changed=''
  put_file 644 "$KEEPALIVED" "$1"
  if ! is_served keepalived; then
    run systemctl enable --now keepalived
  elif [[ $changed ]]; then
    run systemctl reload keepalived
  fi
  changed=${changed:-$before}
}

remove_keepalived() {
  is_our_keepalived || return 0
  run systemctl disable --now keepalived
  run rm "$KEEPALIVED"
  [[ ! -e $KEEPALIVED.packaged ]] || run mv "$KEEPALIVED.packaged" "$KEEPALIVED"
}

# Which machine has the address

holds_vip() {
  [[ $(ip -o -4 address show dev "$interface" to "$vip" 2>/dev/null) ]]
}

hardware_address() {
  local -a said
  read -ra said < <(ip -br link show dev "$interface")
  printf '%s\n' "${said[2]}"
}

# Print the hardware address of the machine that answers for the address, or nothing if none answers.
# Call this on a machine that does not hold the address.
who_has_vip() {
  local said
  ip neighbour del "$vip" dev "$interface" 2>/dev/null || true
  echo >"/dev/udp/$vip/9"
  dry_run='' wait_for is_answered # in a dry run, too: this changes nothing
  said=$(ip neighbour show "$vip" dev "$interface")
  [[ ! $said =~ ' lladdr '([^ ]+) ]] || printf '%s\n' "${BASH_REMATCH[1]}"
}

# Also true if the kernel has given up: it asks 3 times, a second apart.  And true if keepalived has just
# taken the address here: then the kernel asks nobody.
is_answered() {
  holds_vip || [[ $(ip neighbour show "$vip" dev "$interface") == *' '@(REACHABLE|STALE|DELAY|PROBE|FAILED)* ]]
}

# find_holders MACHINE...: set holders to those of them that hold the address
find_holders() {
  local machine
  holders=()
  for machine; do
    ! send "$machine" holds_vip 2>/dev/null || holders+=("$machine")
  done
}

# find_owners MACHINE...: like find_holders; also set owners to the hardware addresses of the holders
find_owners() {
  local machine
  find_holders "$@"
  owners=()
  for machine in ${holders[@]+"${holders[@]}"}; do
    owners+=("$(send "$machine" hardware_address)")
  done
}

# check_vip MACHINE...: end the script if any other machine has the address.  One of them asks that does
# not hold it, if there is one.
check_vip() {
  local machine answer
  local -a owners
  find_owners "$@"
  for machine; do
    ! is_one_of "$machine" ${holders[@]+"${holders[@]}"} || continue
    answer=$(send "$machine" who_has_vip) || fail "$machine cannot ask who has $vip"
    [[ ! $answer ]] || ! is_one_of "$answer" ${owners[@]+"${owners[@]}"} || break
    find_owners "$@" # one of them may have taken it in the meantime
    ! is_one_of "$machine" ${holders[@]+"${holders[@]}"} || continue
    [[ ! $answer ]] || is_one_of "$answer" ${owners[@]+"${owners[@]}"} ||
      fail "$vip is in use: $machine hears $answer answer for it"
    break # one answer is enough: all are in the same network
  done
}

# End

report() {
  if [[ $dry_run ]]; then
    echo 'Nothing changed: this was a dry run.'
  elif [[ ! $changed ]]; then
    echo 'Nothing changed: all is in order.'
  fi
}
