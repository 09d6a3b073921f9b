#!/usr/bin/env bats
# The functions that the scripts for setting up a cluster share, one by one.

bats_require_minimum_version 1.5.0

setup() {
  cd "$BATS_TEST_TMPDIR" || return
  mkdir bin scratch
  sed "s,^readonly KEEPALIVED=.*,readonly KEEPALIVED=$PWD/keepalived.conf," "$BATS_TEST_DIRNAME/../../../deploy/cluster.bash" >cluster.bash
}

# call FUNCTION ARGUMENT...: and report whether it has changed anything
call() {
  PATH=$PWD/bin:$PATH bash -c "source $PWD/cluster.bash"'
    dry_run=${dry_run-} changed="" node="" scratch=scratch
    "$@"
    [[ ! $changed ]] || echo changed' program "$@"
}

# tool NAME SCRIPT: make the functions find this tool
tool() {
  printf '#!/bin/sh\n%s\n' "$2" >"bin/$1"
  chmod 755 "bin/$1"
}

@test "what is an address" {
  for address in 0.0.0.0 192.0.2.1 255.255.255.255; do
    run -0 call is_address "$address"
  done
  for address in '' 1.2.3 1.2.3.4.5 1.2.3.4. .1.2.3.4 256.1.1.1 01.2.3.4 1.2.3.x '1.2.3.4 '; do
    run -1 call is_address "$address"
  done
}

@test "what is a number in a range" {
  for number in 1 80 65535; do
    run -0 call is_number "$number" 1 65535
  done
  for number in '' 0 65536 01 1x -1 99999999999999999999; do
    run -1 call is_number "$number" 1 65535
  done
}

@test "a block is put into a file once, changed, and all else is left alone" {
  printf 'first\nlast\n' >file
  run -0 call put_block file a one
  run -0 call put_block file b two
  run -0 call put_block file a one
  [[ ! $output ]]
  run -0 call put_block file a three
  [[ $output == *changed ]]
  [[ $(<file) == 'first
last
# BEGIN access-limiter b
two
# END access-limiter b
# BEGIN access-limiter a
three
# END access-limiter a' ]]
}

@test "a block that has lost its end takes nothing else with it" {
  printf '# BEGIN access-limiter a\none\nprecious\n' >file
  run -1 call put_block file a two
  [[ $output == "program: file: there is no '# END access-limiter a' behind its BEGIN, and nothing is changed: add that line" ]]
  [[ $(tail -n 1 file) == precious ]]
}

@test "a file of the script's own has its mode, and is written once" {
  ((EUID == 0)) || skip "only root makes files of root's"
  run -0 call put_file 755 there/program text
  [[ $(<there/program) == text && $(stat -c %a there/program) == 755 ]]
  run -0 call put_file 755 there/program text
  [[ ! $output ]]
  chmod 777 there/program
  run -0 call put_file 755 there/program text
  [[ $output == *changed && $(stat -c %a there/program) == 755 ]]
}

@test "a dry run writes nothing, and says what it would" {
  dry_run=yes run -0 call put_file 644 file text
  [[ $output == '+ install -D -m 644 scratch/new file
changed' && ! -e file ]]
}

@test "settings of the kernel are as they were after they are removed" {
  # shellcheck disable=SC2016 # for the shell that runs it
  tool sysctl 'case $1 in -n) cat "$2" ;; -qw) echo "${2#*=}" >"${2%%=*}" ;; esac'
  echo 7 >some.setting
  run -0 call put_sysctls conf some.setting=1
  [[ $(<some.setting) == 1 && $(grep -v '^#' conf) == 'some.setting = 1' ]]
  run -0 call put_sysctls conf some.setting=1
  [[ ! $output ]]
  run -0 call put_sysctls conf some.setting=2
  [[ $(<some.setting) == 2 ]]
  run -0 call remove_sysctls conf
  [[ $(<some.setting) == 7 && ! -e conf ]]
}

@test "a keepalived.conf that the script has not made is left alone, but for the package's example" {
  tool rpm 'exit 1'
  run -0 call check_keepalived
  echo 'global_defs {' >keepalived.conf
  run -1 call check_keepalived
  [[ $output == *"keepalived.conf was not made by this script, and is left alone: move it away first" ]]
  tool rpm "test \$1 = -qf || ! echo 'S.5....T.  c $PWD/keepalived.conf'"
  run -1 call check_keepalived
  tool rpm "test \$1 = -qf || ! echo 'S.5....T.  c /etc/sysconfig/keepalived'"
  run -0 call check_keepalived
}

@test "the package's keepalived.conf comes back when the script's goes" {
  ((EUID == 0)) || skip "only root makes files of root's"
  tool rpm "test \$1 = -qf && test ! -e '$PWD/keepalived.conf.packaged'"
  tool systemctl 'true'
  tool keepalived 'true'
  echo 'example' >keepalived.conf
  # shellcheck disable=SC2016 # for the shell that runs it
  ours='put_keepalived "$(mark)"$'"'\nglobal_defs {\n}'"
  run -0 call eval "$ours"
  [[ $(head -n 1 keepalived.conf) == '# Made by '* ]]
  run -0 call eval "$ours"
  [[ ! $output ]]
  run -0 call remove_keepalived
  [[ $(<keepalived.conf) == example && ! -e keepalived.conf.packaged ]]
}

@test "keepalived's own refusal is shown, and nothing is written" {
  tool keepalived 'echo "(Line 7) Unknown keyword"; exit 5'
  run -1 call put_keepalived text
  [[ $output == *"keepalived refuses its configuration (5): (Line 7) Unknown keyword" ]]
  [[ ! -e keepalived.conf ]]
}
