#!/usr/bin/env bats
# The functions that the scripts share, one by one.

bats_require_minimum_version 1.5.0

setup() {
  cd "$BATS_TEST_TMPDIR" || return
  mkdir bin scratch
  cp "$BATS_TEST_DIRNAME"/../../../deploy/*.bash .
  sed -i "s,^readonly KEEPALIVED=.*,readonly KEEPALIVED=$PWD/keepalived.conf," keepalived.bash
}

# call FUNCTION ARGUMENT...: and report whether it has changed anything
call() {
  PATH=$PWD/bin:$PATH bash -c "source $PWD/keepalived.bash"'
    dry_run=${DRY_RUN-} scratch=scratch
    keepalived_text() { printf "%s\nglobal_defs {\n}\n" "$(mark)"; }
    "$@"
    [[ ! $changed ]] || echo changed' program "$@"
}

# tool NAME SCRIPT: make the functions find this tool
tool() {
  printf '#!/bin/sh\n%s\n' "$2" >"bin/$1"
  chmod 755 "bin/$1"
}

@test "put_block changes only its own lines" {
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

@test "a block without its END line is left alone" {
  printf '# BEGIN access-limiter a\none\nprecious\n' >file
  run -1 call put_block file a two
  [[ $output == "program: file: '# END access-limiter a' is missing after its BEGIN, and nothing is changed: add that line" ]]
  [[ $(tail -n 1 file) == precious ]]
}

@test "put_file sets text and mode, once" {
  ((EUID == 0)) || skip "only root makes files of root's"
  run -0 call put_file 755 there/program text
  [[ $(<there/program) == text && $(stat -c %a there/program) == 755 ]]
  run -0 call put_file 755 there/program text
  [[ ! $output ]]
  chmod 777 there/program
  run -0 call put_file 755 there/program text
  [[ $output == *changed && $(stat -c %a there/program) == 755 ]]
}

@test "put_file writes nothing in a dry run" {
  DRY_RUN=yes run -0 call put_file 644 file text
  [[ $output == '+ install -D -m 644 scratch/new file
changed' && ! -e file ]]
  echo old >file
  DRY_RUN=yes run -0 call put_file 644 file text
  [[ $(<file) == old ]]
}

@test "remove_sysctls restores the previous values" {
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

@test "only a keepalived.conf of ours or of the package is replaced" {
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

@test "remove_keepalived restores the package's keepalived.conf" {
  ((EUID == 0)) || skip "only root makes files of root's"
  tool rpm "test \$1 = -qf && test ! -e '$PWD/keepalived.conf.packaged'"
  tool systemctl 'true'
  tool keepalived 'true'
  echo 'example' >keepalived.conf
  run -0 call put_keepalived
  [[ $(head -n 1 keepalived.conf) == '# Made by '* ]]
  run -0 call put_keepalived
  [[ ! $output ]]
  run -0 call remove_keepalived
  [[ $(<keepalived.conf) == example && ! -e keepalived.conf.packaged ]]
}

@test "what keepalived refuses is shown, and not written" {
  tool keepalived 'echo "(Line 7) Unknown keyword"; exit 5'
  run -1 call put_keepalived
  [[ $output == *"keepalived refuses its configuration (5): (Line 7) Unknown keyword" ]]
  [[ ! -e keepalived.conf ]]
}

# shellcheck disable=SC2016 # for the shells that run it
@test "RHEL's family gets the store's packages, and firewalld and SELinux let it through" {
  cp -R "$BATS_TEST_DIRNAME/../../../deploy" deploy
  sed -i '$d' deploy/glusterfs/glusterfs # this line runs it
  tool dnf 'test "$2" != list'
  tool firewall-cmd 'test "$2" = --state'
  tool getsebool 'echo "httpd_use_fusefs --> off"'
  run -0 bash -c 'source deploy/glusterfs/glusterfs
    dry_run=yes family=rhel storage=(web1) PATH=$PWD/bin
    for node in web1 web4; do install_packages && open_doors; done'
  [[ $output == '+ dnf install -y centos-release-gluster9
+ dnf install -y glusterfs-server glusterfs-fuse
+ firewall-cmd -q --permanent --add-service=glusterfs
+ firewall-cmd -q --add-service=glusterfs
+ setsebool -P httpd_use_fusefs on
+ dnf install -y glusterfs-fuse
+ setsebool -P httpd_use_fusefs on' ]]
}
