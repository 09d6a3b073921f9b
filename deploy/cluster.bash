# shellcheck shell=bash
# Shared by the scripts that set up a cluster: options, inventory, and calls on other machines.  Each script
# sources this file, defines
#   COMMANDS         its commands, each with the number of its arguments: (render:0 add-node:2)
#   SENT             the names of its own variables that its functions need on other machines
#   PATIENCE         seconds that comes_true and wait_for wait
#   describe         prints what it does, and its commands, for --help
#   check_inventory  ends the script if the inventory does not suffice
#   do_COMMAND       does what the command says
# and then calls main.
# shellcheck source=machine.bash disable=SC2154 # read_inventory assigns the inventory's names
source "$(dirname "${BASH_SOURCE[0]}")/machine.bash"

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
  comes_true "$@" || fail "gave up after $PATIENCE s: $*"
}

# not COMMAND...: for functions that take a command
not() {
  ! "$@"
}

# Options and inventory

usage() {
  printf 'Usage: %s COMMAND [--dry-run] [--inventory FILE]\n\n' "$0"
  describe
  cat <<END

Run it on any one machine.  It reaches the others as the inventory says (ssh).  It changes only what is not
in order, so you can run "install" again at any time.

  --dry-run         show what would be done, and do nothing
  --inventory FILE  default: $DEPLOY/cluster.conf
  --help            show this text
END
}

read_options() {
  inventory=$DEPLOY/cluster.conf
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
  is_one_of "$command:${#arguments[@]}" "${COMMANDS[@]}" || misuse "no such command: ${words[*]}"
}

# mistake TEXT: end the script with an error that names the current line of the inventory
mistake() {
  fail "$inventory, line $number: $*"
}

is_address() {
  [[ $1 =~ ^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\.|$)){4}$ && $1 != *. ]]
}

is_path() {
  [[ $1 =~ ^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$ ]]
}

# is_number TEXT LEAST MOST
is_number() {
  [[ $1 =~ ^(0|[1-9][0-9]{0,8})$ ]] && (($1 >= $2 && $1 <= $3))
}

# add_machine ROLE NAME ADDRESS: a machine has one role; it may also be one of the hot-standby pair
add_machine() {
  local -n members=$1
  local -a others=("${storage[@]}" "${client[@]}" "${director[@]}")
  [[ $1 != standby ]] || others=("${standby[@]}")
  ! is_one_of "$2" "${others[@]}" || mistake "$2 is listed twice"
  [[ $2 =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$ && $2 != localhost ]] || mistake "'$2' is no machine's name"
  is_address "$3" || mistake "'$3' is no IPv4 address"
  if [[ ${addresses[$2]-} ]]; then
    [[ ${addresses[$2]} == "$3" ]] || mistake "$2 has the address ${addresses[$2]} on another line"
  else
    ! is_one_of "$3" "${addresses[@]}" || mistake "$3 is listed twice"
  fi
  addresses[$2]=$3
  members+=("$2")
}

# add_weight NAME WEIGHT
add_weight() {
  [[ ${addresses[$1]-} ]] || mistake "there is no machine $1 above"
  [[ ! ${weights[$1]-} ]] || mistake "$1 has a weight already"
  is_number "$2" 1 65535 || mistake "expected weight=NAME NUMBER, 1 to 65535"
  weights[$1]=$2
}

# add_value KEY VALUE
add_value() {
  case $1 in
    remote) ;;
    replica) [[ $2 =~ ^(2|3|3 arbiter 1)$ ]] || mistake "expected 3, 3 arbiter 1 or 2" ;;
    volume | user) [[ $2 =~ ^[A-Za-z0-9_][A-Za-z0-9_-]*$ ]] || mistake "'$2' is no name of a $1" ;;
    brick | mount) is_path "$2" || mistake "expected an absolute path of letters, digits, '.', '_' and '-'" ;;
    store) is_path "/$2" || mistake "expected a path below the mount" ;;
    vip | elastic_ip) is_address "$2" || mistake "'$2' is no IPv4 address" ;;
    interface) [[ $2 =~ ^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$ ]] || mistake "'$2' is no name of an interface" ;;
    port) is_number "$2" 1 65535 || mistake "expected a port, 1 to 65535" ;;
    health) is_path "$2" || mistake "expected the path of a URL: letters, digits, '.', '_' and '-'" ;;
    balance) is_one_of "$2" rr wrr lc wlc || mistake "expected rr, wrr, lc or wlc" ;;
    accept) is_one_of "$2" lo firewalld nftables || mistake "expected lo, firewalld or nftables" ;;
    *) mistake "unknown: $1" ;;
  esac
  [[ ! ${!1} ]] || mistake "$1 is set twice"
  printf -v "$1" %s "$2"
}

read_inventory() {
  local key value name address rest line number=0
  for key in "${KEYS[@]}"; do
    printf -v "$key" ''
  done
  for key in "${ROLES[@]}"; do
    declare -ga "$key=()"
  done
  declare -gA addresses=() weights=()
  [[ -r $inventory ]] || fail "cannot read the inventory $inventory (copy and edit $DEPLOY/cluster.conf.example)"
  while IFS= read -r line || [[ $line ]]; do
    number=$((number + 1))
    [[ $line =~ ^[[:space:]]*(#.*)?$ ]] && continue
    key=${line%%=*} value=${line#*=}
    [[ $line == *=* && $value ]] || mistake "expected NAME=VALUE"
    read -r name address rest <<<"$value"
    if is_one_of "$key" "${ROLES[@]}"; then
      [[ $address && ! $rest ]] || mistake "expected $key=NAME ADDRESS"
      add_machine "$key" "$name" "$address"
    elif [[ $key == weight ]]; then
      add_weight "$name" "$address${rest:+ $rest}"
    else
      add_value "$key" "$value"
    fi
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
  printf '%s\n' "${storage[@]}" "${client[@]}"
}

# Calls on other machines

# shell_on MACHINE: run standard input there, with bash
shell_on() {
  local -a words
  if [[ " $(hostname -I 2>/dev/null) " == *" ${addresses[$1]} "* ]]; then
    bash
    return
  fi
  read -ra words <<<"$remote"
  words=("${words[@]//%a/${addresses[$1]}}")
  "${words[@]//%n/$1}" bash
}

# call_on MACHINE FUNCTION ARGUMENT...: call a function of this script on that machine
call_on() {
  local node=$1
  shift
  {
    declare -p program dry_run node addresses weights KEYS ROLES "${KEYS[@]}" "${ROLES[@]}" "${SENT[@]}"
    declare -f
    printf 'begin_call'
    printf ' %q' "$@"
    printf ' </dev/null\n' # bash reads the script from standard input: no command may take any of it
  } | shell_on "$node"
}

begin_call() {
  set_up_shell
  ((EUID == 0)) || fail "commands must run as root there (remote=... sudo)"
  make_scratch
  "$@"
}

# show_on MACHINE FUNCTION ARGUMENT...: like call_on, but print its output under the machine's name, or an
# error if the machine cannot be reached
show_on() {
  local line reached=''
  while IFS= read -r line; do
    if [[ $reached ]]; then
      [[ $line != '+ '* ]] || changed=yes
      printf '%s: %s\n' "$1" "$line"
    fi
    reached=yes
  done < <(call_on "$1" confirm "${@:2}")
  [[ $reached ]] || {
    error "$1 cannot be reached (remote=$remote)"
    return 1
  }
  wait "$!"
}

# confirm FUNCTION ARGUMENT...: call it, but first print an empty line: the machine has been reached
confirm() {
  echo
  "$@"
}

# require_on MACHINE FUNCTION ARGUMENT...: like show_on, but end the script if it fails
require_on() {
  show_on "$@" || fail "$1 is not in order: correct that and run this again"
}

# require_on_each FUNCTION MACHINE...: call it on one machine after the other
require_on_each() {
  local machine
  for machine in "${@:2}"; do
    require_on "$machine" "$1"
  done
}

is_alive() {
  call_on "$1" true 2>/dev/null
}

main() {
  read_options "$@"
  read_inventory
  check_inventory
  "do_${command//-/_}" "${arguments[@]}"
}
