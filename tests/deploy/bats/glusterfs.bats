#!/usr/bin/env bats
# The deploy script for GlusterFS: how it is called.

bats_require_minimum_version 1.5.0

setup() {
  cd "$BATS_TEST_TMPDIR" || return
  deploy=$BATS_TEST_DIRNAME/../../../deploy
  glusterfs=$deploy/glusterfs/glusterfs
  cp "$deploy/cluster.conf.example" cluster.conf
}

@test "it needs nothing of the other ways to use a cluster" {
  sed -i '/^director=/d; /^vip=/d; /^interface=/d; /^port=/d; /^health=/d; /^balance=/d; /^accept=/d' cluster.conf
  run -0 "$glusterfs" render --inventory cluster.conf
  [[ $output == *"+ gluster volume start access-limiter"* ]]
}

@test "a mistake in another script's section is a mistake" {
  echo port=http >>cluster.conf
  sed -i '/^port=80$/d' cluster.conf
  run -1 "$glusterfs" render --inventory cluster.conf
  [[ $output == "glusterfs: cluster.conf, line $(wc -l <cluster.conf): expected a port, 1 to 65535" ]]
}

@test "one of the hot-standby pair may keep the store, a director may not" {
  echo 'standby=web1 192.0.2.11' >>cluster.conf
  run -0 "$glusterfs" render --inventory cluster.conf
  echo 'director=web1 192.0.2.11' >>cluster.conf
  run -1 "$glusterfs" render --inventory cluster.conf
  [[ $output == *": web1 is there twice" ]]
}

@test "a machine has one address" {
  echo 'standby=web1 192.0.2.99' >>cluster.conf
  run -1 "$glusterfs" render --inventory cluster.conf
  [[ $output == *": web1 is 192.0.2.11 elsewhere" ]]
}

@test "a machine that is there already cannot take another's place" {
  sed -i 's/^remote=.*/remote=false/' cluster.conf
  run -1 "$glusterfs" replace-node web1 web2 192.0.2.12 --inventory cluster.conf
  [[ $output == *", line command line: web2 is there twice" ]]
}

@test "a machine that has lost its copy is the one that the inventory knows" {
  sed -i 's/^remote=.*/remote=false/' cluster.conf
  run -1 "$glusterfs" replace-node web3 web3 192.0.2.31 --inventory cluster.conf
  [[ $output == 'glusterfs: web3 is 192.0.2.13 in cluster.conf, not 192.0.2.31' ]]
}
