#!/usr/bin/env bats
# The scripts of the hot-standby pair, without keepalived and without Amazon.

bats_require_minimum_version 1.5.0

setup() {
  cd "$BATS_TEST_TMPDIR" || return
  deploy=$BATS_TEST_DIRNAME/../../../deploy
  mkdir bin
  tool logger 'printf "%s\n" "$*" >>syslog'
  tool ip 'case $* in
  *link*) echo "2: eth0: <UP> mtu 1500 link/ether 02:00:00:00:00:01 brd" ;;
  *) ! test -e master || echo "2: eth0 inet 192.0.2.100/32 scope global eth0" ;;
  esac'
  # shellcheck disable=SC2016 # for the tool
  tool curl 'echo "curl $* <$(cat)" >>requests
  case $* in
  *api/token) echo TOKEN-OF-THIS-TEST ;;
  *region) echo eu-central-1 ;;
  *interface-id) echo "eni-$MACHINE" ;;
  esac'
  # shellcheck disable=SC2016 # for the tool
  tool aws 'shift 8
  echo "$MACHINE $2" >>calls
  if [ -e trouble ]; then cat trouble >&2; exit 254; fi
  case $* in
  "ec2 describe-addresses "*) printf "eipalloc-1\t%s\t192.0.2.100\n" "$(cat place)" ;;
  "ec2 associate-address "*) echo "eni-$MACHINE" >"to$MACHINE" && mv "to$MACHINE" place ;;
  esac'
  echo eni-2 >place
  export MACHINE=1
  # A machine has only one of each of these files.  Time passes without sleeping, and the script stops looking.
  # shellcheck disable=SC2016 # for the script
  sed "s,^LOCK=.*,LOCK=$PWD/lock,; s,^LOG=.*,LOG=$PWD/log,; s,^CONFIGURATION=.*,CONFIGURATION=$PWD/conf,"'
    1a sleep() { SECONDS=$((SECONDS + ${1%.*})) && [ "$1" != 10 ]; }' \
    "$deploy/standby/takeover" >takeover
  chmod 755 takeover
  echo '    notify_master "takeover 192.0.2.100 203.0.113.10 eth0" root' >conf
}

# tool NAME SCRIPT: make the scripts find this tool
tool() {
  printf '#!/bin/sh\n%s\n' "$2" >"bin/$1"
  chmod 755 "bin/$1"
}

takeover() {
  PATH=$PWD/bin:$PATH ./takeover "$@"
}

@test "a mistake on the command line ends it with 2" {
  for arguments in '' '192.0.2.100 203.0.113.10' '192.0.2.100 x eth0' 'x 203.0.113.10 eth0' \
    '192.0.2.100 203.0.113.10 eth0;id' '--fast 192.0.2.100 203.0.113.10 eth0' \
    '--deadline soon 192.0.2.100 203.0.113.10 eth0'; do
    # shellcheck disable=SC2086 # words
    run -2 takeover $arguments
    [[ $output == 'takeover: '*' (see ./takeover --help)' ]]
  done
  [[ ! -e calls && ! -e log ]]
}

@test "a machine that is not the master takes nothing" {
  run -1 takeover 192.0.2.100 203.0.113.10 eth0
  [[ $output == *'not the master: 192.0.2.100 is not on eth0' ]]
  [[ ! -e calls ]]
}

@test "the master takes both, and logs to file and syslog, but no secret" {
  touch master
  run -0 takeover 192.0.2.100 203.0.113.10 eth0
  [[ $(cut -d' ' -f2 calls | head -n 4 | tr '\n' ' ') == 'describe-addresses assign-private-ip-addresses associate-address describe-addresses ' ]]
  [[ $(<log) == *'203.0.113.10 is at eni-2 192.0.2.100: taking it to eni-1 192.0.2.100'* ]]
  [[ $(<syslog) == *'-t access-limiter-takeover '*'-p daemon.notice -- 203.0.113.10 is here, at eni-1 192.0.2.100, after '* ]]
  [[ $(<log)$(<syslog)$output != *TOKEN-OF* ]]
}

@test "metadata is requested with a token: PUT gets it, and each later header has it" {
  touch master
  run -0 takeover 192.0.2.100 203.0.113.10 eth0
  [[ $(head -n 1 requests) == 'curl -fsS '*' -X PUT -H X-aws-ec2-metadata-token-ttl-seconds: '*'/latest/api/token <'* ]]
  later='^curl -fsS [^<]*/latest/meta-data/[^<]* <header = "X-aws-ec2-metadata-token: TOKEN-OF-THIS-TEST"$'
  [[ $(tail -n +2 requests | sed "s,$later,as expected,") == $'as expected\nas expected' ]]
}

@test "an HTML page with status 200 is refused instead of metadata" {
  touch master
  for path in interface-id region api/token; do # the last request first: each page stays for the next round
    sed -i "s,\*$path) echo .*,*$path) echo '<html>$path</html>' ;;," bin/curl
    run -1 takeover --deadline 10 192.0.2.100 203.0.113.10 eth0
    [[ $output == *"the instance's metadata (IMDSv2): <html>$path</html>; "*'given up after '* ]]
  done
  [[ ! -e calls ]]
}

@test "a dry run makes only calls that read" {
  touch master
  run -0 takeover --dry-run 192.0.2.100 203.0.113.10 eth0
  [[ $output == *'+ aws ec2 assign-private-ip-addresses '*' --allow-reassignment'*'+ aws ec2 associate-address '*' --allow-reassociation'* ]]
  [[ $(cut -d' ' -f2 calls) == describe-addresses ]]
}

@test "a permanent failure ends it, and the log says what to do" {
  touch master
  while IFS='|' read -r call said advice; do
    # shellcheck disable=SC2016 # for the tool
    tool aws 'shift 9
    case $1 in
    '"$call"') echo "'"$said"'" >&2; exit 254 ;;
    describe-addresses) printf "eipalloc-1\teni-2\t192.0.2.12\n" ;;
    esac'
    run -1 takeover 192.0.2.100 203.0.113.10 eth0
    [[ $output == *"$call: $said; $advice"* ]]
    [[ $output != *'again in'* ]]
  done <<'END'
describe-addresses|timeout: failed to run command aws|install the AWS CLI on this machine
describe-addresses|(UnauthorizedOperation)|attach the policy to the role of this instance
describe-addresses|(InvalidAddress.NotFound)|203.0.113.10 is no Elastic IP of this account and region
assign-private-ip-addresses|(InvalidParameterValue)|192.0.2.100 must lie in the subnet of eni-1
assign-private-ip-addresses|(PrivateIpAddressLimitExceeded)|this type of instance can have no further private address
associate-address|(UnauthorizedOperation)|attach the policy to the role of this instance
END
}

@test "any other failure is tried again until the deadline" {
  touch master
  while IFS='|' read -r status said shown; do
    # shellcheck disable=SC2016 # for the tool
    tool aws "echo '$said' >&2; exit $status"
    run -1 takeover --deadline 10 192.0.2.100 203.0.113.10 eth0
    [[ $output == *"describe-addresses: $shown; again in "*"describe-addresses: $shown; given up after "* ]]
  done <<'END'
254|An error occurred (SomethingNew) when calling it|An error occurred (SomethingNew) when calling it
253|Unable to locate credentials|Unable to locate credentials
124||no answer within 20 s
1||exit status 1
END
}

# watching PRIORITY...: the script on masters with these priorities, as keepalived starts it; they look often
watching() {
  local machine=0 priority
  touch master
  echo eni-0 >place
  for priority; do
    machine=$((machine + 1))
    mkdir "machine$machine"
    sed "s,$PWD,$PWD/machine$machine,; s,^WATCH=.*,WATCH=0.05,; s,^LATE=.*,LATE=0.02,; /^sleep() /d" takeover >"machine$machine/takeover"
    chmod 755 "machine$machine/takeover"
    (printf '    priority %s\n' "$priority" && cat conf) >"machine$machine/conf"
    MACHINE=$machine PATH=$PWD/bin:$PATH "machine$machine/takeover" --deadline 1 192.0.2.100 203.0.113.10 eth0 || echo "failed: $?"
    until_true test -s "machine$machine/lock.watch"
  done
}

# Nothing must go on looking after the test, however it ends.
teardown() {
  rm -f master
}

# until_true COMMAND...: wait for at most 60 s
until_true() {
  local end=$((SECONDS + 60))
  until "$@"; do
    ((SECONDS < end))
    sleep 0.05
  done
}

# looks MACHINE: how often it has called to find where the Elastic IP is
looks() {
  grep -c "^$1 describe-addresses" calls
}

has_looked() {
  (($(looks "$1") >= $2))
}

is_at() {
  [[ $(<place) == "eni-$1" ]]
}

has_ended() {
  [[ ! -e /proc/$1 ]] || grep -q '^State:.Z' "/proc/$1/status"
}

# has_gone ROUNDS
has_gone() {
  [[ -e rounds ]] && (($(wc -l <rounds) >= $1))
}

# is_waited_for FILE: whether a process waits for its lock; trying the lock here could block that process
is_waited_for() {
  grep -q -- "-> .*:$(stat -c %i "$1") " /proc/locks
}

has_logged() {
  [[ $(<"machine$1/log") == *"$2"* ]]
}

@test "two masters move the Elastic IP ever more rarely, and the higher priority keeps it" {
  watching 200 100
  until_true has_logged 2 'it stays there for 8 times '
  until_true has_looked 1 40
  # The rounds of the second one are 1, 2, 4 and so on: both have taken it that many times.
  moves=$(grep -c ' associate-address' calls)
  echo "$moves moves in $(looks 1) looks"
  ((moves >= 3 && moves <= 22))
  has_logged 2 '203.0.113.10 is back; if it is taken again, it stays there for 8 times '
  run -1 has_logged 1 'if it is taken again'
  until_true is_at 1
  # When both hear each other again, the first stays the master, and gets it back from wherever it is.
  echo eni-2 >place
  until_true is_at 1
}

@test "the watch never waits for its turn, but a later run does, and replaces it" {
  watching 100
  former=$(<machine1/lock.watch)
  exec 7>machine1/lock.lock
  flock 7
  sed -i '1a echo >>rounds' bin/ip # in each it is asked whether this is the master
  until_true has_gone 5
  PATH=$PWD/bin:$PATH machine1/takeover 192.0.2.100 203.0.113.10 eth0 7>&- &
  until_true is_waited_for machine1/lock.lock
  flock -u 7
  wait "$!"
  until_true has_ended "$former"
  echo eni-9 >place
  until_true is_at 1
}

@test "the master gets it as soon as Amazon permits, whatever has failed before" {
  for trouble in UnauthorizedOperation RequestLimitExceeded; do
    echo "An error occurred ($trouble) when calling it: no" >trouble
    run -0 watching 100
    [[ $output == *"($trouble)"*'failed: 1' ]]
    until_true has_looked 1 6
    is_at 0
    [[ $(grep -c 'no; again each' machine1/log) == 1 ]]
    rm trouble
    until_true is_at 1
    watcher=$(<machine1/lock.watch)
    rm master
    until_true has_ended "$watcher"
    rm -r machine1 calls
  done
}

@test "an installation fails if no machine takes the address, and the message says where to look" {
  ((EUID == 0)) || skip "only root installs"
  [[ -x /usr/bin/curl ]] || skip "curl is missing (package curl)"
  cp -R "$deploy" deploy
  sed -i "s,^readonly KEEPALIVED=.*,readonly KEEPALIVED=$PWD/keepalived.conf," deploy/keepalived.bash
  sed -i 's/^readonly PATIENCE=[0-9]*/readonly PATIENCE=1/' deploy/standby/standby
  printf '%s\n' 'standby=web1 127.9.9.11' 'standby=web2 127.9.9.12' vip=127.9.9.100 interface=eth0 \
    "remote=env PATH=$PWD/bin:$PATH" >cluster.conf
  for program in keepalived systemctl curl; do
    tool "$program" true
  done
  tool firewall-cmd false
  # shellcheck disable=SC2016 # for the tool
  tool ip 'case $* in
  *" to 127.9.9.1"[12]) echo "2: eth0 inet $8/24 scope global eth0" ;;
  "neighbour show "*) echo "127.9.9.100 FAILED" ;;
  esac'
  run -1 deploy/standby/standby install --inventory cluster.conf
  [[ ${lines[-1]} == 'standby: none or both of web1 web2 hold 127.9.9.100, or one cannot admit: see "status", and journalctl -u keepalived there' ]]
  [[ $output != *'gave up after'* && -s keepalived.conf ]]
}
