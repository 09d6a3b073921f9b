#!/usr/bin/env bats
# The load balancer's deploy script: how it is called.

bats_require_minimum_version 1.5.0

setup() {
  cd "$BATS_TEST_TMPDIR" || return
  deploy=$BATS_TEST_DIRNAME/../../../deploy
  loadbalancer=$deploy/loadbalancer/loadbalancer
}

@test "the inventory beside it is the default" {
  cp -R "$deploy" copy
  run -1 copy/loadbalancer/loadbalancer render
  [[ $output == *"cannot read the inventory $PWD/copy/cluster.conf "* ]]
  cp copy/cluster.conf.example copy/cluster.conf
  run -0 copy/loadbalancer/loadbalancer render
  [[ $output == *"virtual_server 192.0.2.100 80 {"* ]]
}

@test "it needs no store and no more than five lines" {
  printf '%s\n' 'client=web1 192.0.2.1' 'director=lb1 192.0.2.2' vip=192.0.2.4 interface=eth0 >cluster.conf
  printf 'director=lb2 192.0.2.3' >>cluster.conf # and no end of the last line
  run -0 "$loadbalancer" render --inventory cluster.conf
  [[ $output == *'== lb2: '*'real_server 192.0.2.1 80 {'*'path /cgi-bin/health.py'* ]]
}

@test "nothing in the inventory is executed" {
  sed "s,^remote=.*,remote=false \$(touch executed)," "$deploy/cluster.conf.example" >cluster.conf
  run -1 "$loadbalancer" status --inventory cluster.conf
  [[ ! -e executed ]]
}

@test "where no director is reached, none hands over" {
  sed 's,^remote=.*,remote=false,' "$deploy/cluster.conf.example" >cluster.conf
  run -1 "$loadbalancer" failover --inventory cluster.conf
  [[ $output == 'loadbalancer: neither lb1 nor lb2 holds 192.0.2.100: see "status"' ]]
}
