#!/usr/bin/env bash
# A private SLURM cluster on this machine for the tests, from Debian's packages, without systemd or cgroups.
#
#   cluster.sh up               install packages, start, wait until all nodes are up; prints the path of slurm.conf
#   cluster.sh is-up            succeed if all nodes are up
#   cluster.sh down             stop the cluster's daemons and remove its folder
#   cluster.sh stop-node NAME   kill a node's daemon and everything that runs there, like a power cut
#   cluster.sh start-node NAME
#
# CLUSTER_ROOT, CLUSTER_NODES, CLUSTER_CPUS, CLUSTER_GPUS (fake GPUs per node), CLUSTER_ACCOUNTING=0, CLUSTER_PORT,
# CLUSTER_SIGNAL=0 (preemption without a signal to the job) change the cluster. It needs root.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
ROOT=${CLUSTER_ROOT:-${TMPDIR:-/tmp}/depth-pruning-slurm}
NODES=${CLUSTER_NODES:-2} CPUS=${CLUSTER_CPUS:-4} GPUS=${CLUSTER_GPUS:-2}
ACCOUNTING=${CLUSTER_ACCOUNTING:-1} PORT=${CLUSTER_PORT:-27000} SIGNAL=${CLUSTER_SIGNAL:-1}
export SLURM_CONF=$ROOT/etc/slurm.conf
SOCKET=$ROOT/run/munge.socket DATABASE=$ROOT/run/mariadb.socket

install_packages() {
  local missing=()
  command -v munged >/dev/null || missing+=(munge)
  command -v slurmctld >/dev/null || missing+=(slurmctld)
  command -v slurmd >/dev/null || missing+=(slurmd)
  command -v sbatch >/dev/null || missing+=(slurm-client)
  if [ "$ACCOUNTING" = 1 ]; then
    command -v slurmdbd >/dev/null || missing+=(slurmdbd)
    command -v mariadbd >/dev/null || missing+=(mariadb-server)
  fi
  [ ${#missing[@]} = 0 ] && return
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >"$ROOT/log/apt" 2>&1
}

alive() { # alive NAME: succeeds if the process of its pid file runs and is not a zombie
  local pid state
  pid=$(cat "$ROOT/run/$1.pid" 2>/dev/null) || return 1
  state=$(awk '/^State:/ {print $2}' "/proc/$pid/status" 2>/dev/null) || return 1
  [ -n "$state" ] && [ "$state" != Z ]
}

patiently() { # patiently SECONDS COMMAND...: repeat the command until it succeeds
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || { echo "no success within the time limit: $*; see $ROOT/log" >&2; return 1; }
    sleep 0.2
  done
}

start_munge() {
  alive munged && return
  [ -f "$ROOT/etc/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$ROOT/etc/munge.key")
  rm -f "$SOCKET"*
  munged --force --key-file="$ROOT/etc/munge.key" --socket="$SOCKET" --pid-file="$ROOT/run/munged.pid" \
    --seed-file="$ROOT/run/munge.seed" --log-file="$ROOT/log/munged"
  patiently 10 munge -S "$SOCKET" -n
}

start_database() {
  alive mariadbd && return
  if [ ! -d "$ROOT/database/mysql" ]; then
    install -d -o mysql "$ROOT/database"
    mariadb-install-db --no-defaults --datadir="$ROOT/database" --user=mysql --skip-test-db \
      --auth-root-authentication-method=normal >"$ROOT/log/mariadb-install" 2>&1
  fi
  mariadbd --no-defaults --datadir="$ROOT/database" --socket="$DATABASE" --pid-file="$ROOT/run/mariadbd.pid" \
    --user=mysql --skip-networking --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
    --innodb-flush-log-at-trx-commit=0 --performance-schema=OFF --log-error="$ROOT/log/mariadb" \
    >/dev/null 2>&1 </dev/null &
  local client=(mariadb --no-defaults -uroot -S "$DATABASE" -e)
  patiently 60 "${client[@]}" 'select 1'
  "${client[@]}" "create database if not exists slurm_acct_db; grant all on slurm_acct_db.* to slurm@localhost identified by 'slurm'"
}

start_accounting() {
  alive slurmdbd && return
  cat >"$ROOT/etc/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$SOCKET
DbdHost=localhost
DbdPort=$((PORT + 1))
SlurmUser=root
LogFile=$ROOT/log/slurmdbd
PidFile=$ROOT/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
CONF
  chmod 600 "$ROOT/etc/slurmdbd.conf"
  MYSQL_UNIX_PORT=$DATABASE slurmdbd # only this variable gives the client library a private socket
  patiently 60 sacctmgr -n list cluster
  sacctmgr -n list cluster format=cluster | grep -qw test || sacctmgr -i add cluster test >/dev/null
  sacctmgr -n list account format=account | grep -qw tests || sacctmgr -i add account tests cluster=test >/dev/null
  sacctmgr -i add user root account=tests cluster=test >/dev/null || true
}

write_configuration() {
  local host node gpu
  host=$(hostname -s)
  {
    cat <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job starts again after its credential has expired (by default 120 s).
AuthInfo=socket=$SOCKET,cred_expire=5
StateSaveLocation=$ROOT/spool/controller
SlurmdSpoolDir=$ROOT/spool/%n
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmdPidFile=$ROOT/run/%n.pid
SlurmctldLogFile=$ROOT/log/slurmctld
SlurmdLogFile=$ROOT/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=sched_min_interval=100000,sched_interval=2,batch_sched_delay=0,bf_interval=2
DefMemPerCPU=500
KillWait=5
SlurmdTimeout=15
SlurmctldTimeout=60
InactiveLimit=0
MinJobAge=600
JobRequeue=1
MaxArraySize=1001
MaxJobCount=20000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
CONF
    [ "$SIGNAL" = 1 ] && echo PreemptParameters=send_user_signal
    [ "$ACCOUNTING" = 1 ] && cat <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((PORT + 1))
AccountingStoragePass=$SOCKET
AccountingStorageTRES=gres/gpu
CONF
    for node in $(seq "$NODES"); do
      echo "NodeName=node$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((PORT + 10 + node))" \
        "CPUs=$CPUS RealMemory=8000 Gres=gpu:$GPUS State=UNKNOWN"
    done
    echo "PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=10 PreemptMode=OFF"
    echo "PartitionName=low Nodes=ALL State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=10"
  } >"$ROOT/etc/slurm.conf"
  # Links to /dev/null are the only fake GPUs that are both counted and shown in CUDA_VISIBLE_DEVICES.
  for gpu in $(seq 0 $((GPUS - 1))); do ln -sfn /dev/null "$ROOT/dev/gpu$gpu"; done
  printf 'AutoDetect=off\nNodeName=node[1-%s] Name=gpu File=%s\n' "$NODES" "$ROOT/dev/gpu[0-$((GPUS - 1))]" \
    >"$ROOT/etc/gres.conf"
  echo CgroupPlugin=disabled >"$ROOT/etc/cgroup.conf"
  for node in $(seq "$NODES"); do # the ranks connect to a node by its name
    getent hosts "node$node" >/dev/null || echo "127.0.0.1 node$node" >>/etc/hosts
  done
}

all_up() { [ "$(sinfo -h -N -p main -o %T | grep -cE '^(idle|mixed|allocated|completing)$')" = "$NODES" ]; }

up() {
  local node
  mkdir -p "$ROOT"/{etc,log,run,dev,spool/controller}
  for node in $(seq "$NODES"); do mkdir -p "$ROOT/spool/node$node"; done
  chmod 755 "$ROOT" "$ROOT/etc"
  chmod 1777 "$ROOT/run" "$ROOT/log"
  install_packages
  start_munge
  write_configuration
  if [ "$ACCOUNTING" = 1 ]; then
    start_database
    start_accounting
  fi
  alive slurmctld || slurmctld
  patiently 30 scontrol ping
  for node in $(seq "$NODES"); do alive "node$node" || slurmd -N "node$node"; done
  patiently 10 all_up 2>/dev/null || { # an earlier run may have left nodes down or drained
    scontrol update "nodename=node[1-$NODES]" state=resume || true
    patiently 30 all_up
  }
  echo "$SLURM_CONF"
}

stop() { # stop NAME SIGNAL: stop only the process of its pid file
  local pid
  alive "$1" || { rm -f "$ROOT/run/$1.pid"; return 0; }
  pid=$(cat "$ROOT/run/$1.pid")
  kill "-$2" "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    alive "$1" || break
    sleep 0.1
  done
  alive "$1" && kill -9 "$pid" 2>/dev/null
  rm -f "$ROOT/run/$1.pid"
}

no_jobs() { [ -z "$(squeue --noheader)" ]; }

down() {
  local node
  if [ -f "$SLURM_CONF" ] && timeout 10 scancel --user=root 2>/dev/null; then patiently 30 no_jobs || true; fi
  for node in $(seq "$NODES"); do stop_node "node$node"; done # also kills its remaining jobs
  for name in slurmctld slurmdbd mariadbd munged; do stop "$name" TERM; done
  rm -rf "$ROOT"
}

stop_node() { # kill the daemon, then the job watchers (before they can report) and the jobs
  local pid parent watchers=() jobs=()
  stop "$1" KILL
  for pid in $(grep -lzE "^SLURMD_NODENAME=$1\$" /proc/[0-9]*/environ 2>/dev/null | grep -oE '[0-9]+'); do
    grep -qzE "^SLURM_CONF=$SLURM_CONF\$" "/proc/$pid/environ" 2>/dev/null || continue
    jobs+=("$pid")
    parent=$(awk '/^PPid:/ {print $2}' "/proc/$pid/status" 2>/dev/null) || continue
    [ "$(cat "/proc/$parent/comm" 2>/dev/null)" = slurmstepd ] && watchers+=("$parent")
  done
  kill -9 "${watchers[@]}" "${jobs[@]}" 2>/dev/null || true
}

case ${1:-} in
  up) up ;;
  is-up) [ -f "$SLURM_CONF" ] && timeout 10 scontrol ping >/dev/null 2>&1 && all_up ;;
  down) down ;;
  stop-node) stop_node "$2" ;;
  start-node) alive "$2" || slurmd -N "$2" ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
