#!/usr/bin/env bash
# A SLURM of one node on this machine, for the tests: starts it, stops it. Needs root and Debian's packages:
#
#   apt-get install -y slurmctld slurmd slurm-client munge
#   bash scripts/slurm_for_tests.sh start DIR    # then: export SLURM_CONF=DIR/slurm.conf
#   bash scripts/slurm_for_tests.sh stop DIR
#
# All it writes is in DIR. Ports are its own, and it listens on the loopback alone.
set -euo pipefail

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

[[ $# -eq 2 ]] || usage
action=$1
dir=$2
export PATH="$PATH:/usr/sbin:/sbin"

configure() {
    local name cpus memory
    name=$(hostname -s)
    cpus=$(nproc)
    memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 * 9 / 10))
    mkdir -p "$dir"/{state,spool,log,munge}
    chmod 755 "$dir"
    chown munge: "$dir/munge"
    chmod 711 "$dir/munge"
    dd if=/dev/urandom of="$dir/munge/key" bs=128 count=1 status=none
    chown munge: "$dir/munge/key"
    chmod 400 "$dir/munge/key"
    # Without cgroups and accounting: both need more than a container has.
    cat >"$dir/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=60
SchedulerParameters=sched_interval=1,sched_min_interval=0
NodeName=$name NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=$name Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
}

start() {
    configure
    export SLURM_CONF=$dir/slurm.conf
    runuser -u munge -- munged --key-file="$dir/munge/key" --socket="$dir/munge/socket" \
        --pid-file="$dir/munge/pid" --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
    slurmctld -c
    slurmd -c
    for _ in $(seq 100); do
        if sinfo --noheader --format=%t 2>/dev/null | grep -q '^\(idle\|mix\|alloc\)$'; then
            return
        fi
        sleep 0.1
    done
    echo "error: the node does not come up; see $dir/log" >&2
    tail -n 5 "$dir"/log/*.log >&2
    stop
    exit 1
}

stop() {
    local pid
    for pid in "$dir/slurmd.pid" "$dir/slurmctld.pid" "$dir/munge/pid"; do
        [[ -f $pid ]] && kill "$(cat "$pid")" 2>/dev/null || true
    done
}

case $action in
start) start ;;
stop) stop ;;
*) usage ;;
esac
