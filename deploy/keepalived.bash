# shellcheck shell=bash
# Shared by the load balancer and the hot-standby pair: two machines, one of which holds the address.
# keepalived decides which one, by unicast VRRP.  Each script calls check_pair, and defines keepalived_text.
# shellcheck source=cluster.bash disable=SC2154 # read_inventory assigns the inventory's names
source "$(dirname "${BASH_SOURCE[0]}")/cluster.bash"

readonly KEEPALIVED=/etc/keepalived/keepalived.conf

# check_pair ROLE: set pair to the machines of that role; end the script if the inventory has no such pair
check_pair() {
  local -n those=$1
  need vip interface
  ((${#those[@]} == 2)) || fail "$inventory: expected two lines $1=NAME ADDRESS, not ${#those[@]}"
  ! is_one_of "$vip" "${addresses[@]}" || fail "$inventory: vip=$vip is a machine's own address"
  pair=("${those[@]}") port=${port:-80} health=${health:-/cgi-bin/health.py}
}

# other_than MACHINE: print the other one of the pair
other_than() {
  [[ $1 == "${pair[0]}" ]] && echo "${pair[1]}" || echo "${pair[0]}"
}

# What is written

mark() {
  printf '# Made by %s of Access Limiter, which overwrites what is changed here.' "$program"
}

# Any script of keepalived must not run as root.
global_text() {
  cat <<END
$(mark)

global_defs {
    router_id $node
    vrrp_version 3
    script_user nobody
    enable_script_security
}
END
}

# vrrp_text SECONDS [TEXT]: an advertisement every so many seconds; the text stands at the end.  Both begin
# as BACKUP with "nopreempt": a machine that comes back leaves the address where it is.  The priorities
# decide when both start at once, and when both have held the address.
vrrp_text() {
  local priority=100 end=${2:+$'\n'$2}
  [[ $node != "${pair[0]}" ]] || priority=200
  cat <<END

vrrp_instance access_limiter {
    state BACKUP
    nopreempt
    interface $interface
    virtual_router_id 51
    priority $priority
    advert_int $1
    unicast_src_ip ${addresses[$node]}
    check_unicast_src
    unicast_peer {
        ${addresses[$(other_than "$node")]} min_ttl 255
    }
    virtual_ipaddress {
        $vip/32 dev $interface
    }$end
}
END
}

rule_to_hear() {
  printf 'rich-rule=rule family="ipv4" source address="%s" protocol value="vrrp" accept' \
    "${addresses[$(other_than "$node")]}"
}

rule_to_serve() {
  printf 'rich-rule=rule family="ipv4" destination address="%s" port port="%s" protocol="tcp" accept' "$vip" "$port"
}

show_file() {
  printf '== %s: %s\n%s\n' "$node" "$1" "$2"
}

show_rule() {
  show_file firewall-cmd "--add-$1"
}

# These functions run on the machine that they change

is_our_keepalived() {
  [[ $(head -n 1 "$KEEPALIVED" 2>/dev/null) == "$(mark)" ]]
}

# RHEL's package installs an example under this name.
is_packaged_keepalived() {
  rpm -qf "$KEEPALIVED" &>/dev/null && [[ $(rpm -Vf "$KEEPALIVED" 2>/dev/null) != *" $KEEPALIVED"* ]]
}

# Check the file that is there.  Also let keepalived check the new text, if keepalived is installed.
check_keepalived() {
  local output
  [[ ! -e $KEEPALIVED ]] || is_our_keepalived || is_packaged_keepalived ||
    fail "$KEEPALIVED was not made by this script, and is left alone: move it away first"
  command -v keepalived >/dev/null || return 0
  keepalived_text >"$scratch/keepalived.conf"
  # keepalived 2.2.7 ends with SIGTERM to its whole process group, itself included, if there are scripts.
  output=$(
    trap '' TERM
    keepalived -t -f "$scratch/keepalived.conf" 2>&1
  ) || fail "keepalived refuses its configuration ($?): $output"
}

# Make sure that keepalived runs with its text.
put_keepalived() {
  check_keepalived
  if [[ -e $KEEPALIVED ]] && ! is_our_keepalived; then
    run mv "$KEEPALIVED" "$KEEPALIVED.packaged"
  fi
  put_file 644 "$KEEPALIVED" "$(keepalived_text)"
  if ! is_served keepalived; then
    run systemctl enable --now keepalived
  elif [[ $written ]]; then
    run systemctl reload keepalived
  fi
}

remove_keepalived() {
  is_our_keepalived || return 0
  run systemctl disable --now keepalived
  run rm "$KEEPALIVED"
  [[ ! -e $KEEPALIVED.packaged ]] || run mv "$KEEPALIVED.packaged" "$KEEPALIVED"
}

# vip_is_on INTERFACE
vip_is_on() {
  [[ $(ip -o -4 address show dev "$1" to "$vip" 2>/dev/null) ]]
}

# Whether this machine is the one that has the address for all.
holds_vip() {
  vip_is_on "$interface"
}

# Print the hardware address, but fail if this machine does not hold the address.
holder_address() {
  local -a words
  holds_vip || return
  read -ra words < <(ip -br link show dev "$interface")
  printf '%s\n' "${words[2]}"
}

# Print the hardware address of the machine that answers for the address, or nothing if none answers.
# Call this on a machine that does not hold the address.
who_has_vip() {
  local neighbour
  ip neighbour del "$vip" dev "$interface" 2>/dev/null || true
  echo >"/dev/udp/$vip/9"
  dry_run='' wait_for is_answered # in a dry run, too: this changes nothing
  neighbour=$(ip neighbour show "$vip" dev "$interface")
  [[ ! $neighbour =~ ' lladdr '([^ ]+) ]] || printf '%s\n' "${BASH_REMATCH[1]}"
}

# Also true if the kernel has given up: it asks 3 times, a second apart.  And true if keepalived has just
# taken the address here: then the kernel asks nobody.
is_answered() {
  holds_vip || [[ $(ip neighbour show "$vip" dev "$interface") == *' '@(REACHABLE|STALE|DELAY|PROBE|FAILED)* ]]
}

# Which machine has the address

# find_holders MACHINE...: set holders to those of them that hold the address, and owners to the hardware
# addresses of these
find_holders() {
  local machine owner
  holders=() owners=()
  for machine; do
    owner=$(call_on "$machine" holder_address 2>/dev/null) || continue
    holders+=("$machine") owners+=("$owner")
  done
}

# check_vip MACHINE...: end the script if any other machine has the address.  One of them that does not hold
# the address finds out, if there is one.
check_vip() {
  local machine owner
  find_holders "$@"
  for machine; do
    ! is_one_of "$machine" "${holders[@]}" || continue
    owner=$(call_on "$machine" who_has_vip) || fail "$machine cannot find out who has $vip"
    [[ ! $owner ]] || ! is_one_of "$owner" "${owners[@]}" || break
    find_holders "$@" # one of them may have taken it in the meantime
    ! is_one_of "$machine" "${holders[@]}" || continue
    [[ ! $owner ]] || is_one_of "$owner" "${owners[@]}" ||
      fail "$vip is in use: $machine hears $owner answer for it"
    break # one answer is enough: all are in the same network
  done
}

# hand_over MACHINE COMMAND...: let the other machine take the address from this one, and wait until the
# command is true there; set took to the time in milliseconds
hand_over() {
  local to started taken=yes
  to=$(other_than "$1") started=$(date +%s%3N)
  require_on "$1" run systemctl stop keepalived
  show_on "$to" "${@:2}" || taken=''
  # shellcheck disable=SC2034 # the caller may report it
  took=$(($(date +%s%3N) - started))
  require_on "$1" run systemctl start keepalived
  [[ $taken ]] || fail "$to has not taken $vip: see journalctl -u keepalived${LOG:+ and $LOG} there"
}
