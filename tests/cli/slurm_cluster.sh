# tests/cli/slurm_cluster.sh -- for slurm.sh: a Slurm of one node that has 64 CPUs and 8 GPUs on paper, as root, with all of its files in
# $work and ports that nobody else has.  cluster_start returns 1 where it does not come up; cluster_stop leaves no process behind.
# shellcheck shell=sh
# shellcheck disable=SC2154 # $work is lib.sh's
cluster=$work/cluster daemons=

cluster_programs() { # what is missing, or nothing
    for program in munged slurmctld slurmd srun sbatch scontrol scancel; do
        command -v "$program" >/dev/null || echo "$program"
    done
}

# A port is free when nobody listens on it, here or in a moment; the daemons are asked for up to three pairs of them.
free_port() {
    port=$((20000 + ($(date +%s) * 7 + $$ * 13 + $1 * 101) % 20000))
    while grep -qi ":$(printf %04X $port) " /proc/net/tcp || grep -qi ":$(printf %04X $((port + 1))) " /proc/net/tcp; do port=$((port + 2)); done
    echo $port
}

configure() { # configure PORT
    host=$(uname -n) && host=${host%%.*}
    cat >"$cluster/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$1
SlurmdPort=$(($1 + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$cluster/munge/socket
CredType=cred/munge
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
GresTypes=gpu
KillWait=20
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=64 Gres=gpu:8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    echo "NodeName=$host Name=gpu File=$cluster/gpu[0-7]" >"$cluster/gres.conf"
    case $(slurmd -V) in *\ 22.* | *\ 23.*) cgroups=cgroup/v1 ;; *) cgroups=disabled ;; esac # nothing above uses any
    echo "CgroupPlugin=$cgroups" >"$cluster/cgroup.conf"
}

# In the foreground of a child, so that its pid is known; a parent that dies takes it along.
daemon() {
    setpriv --pdeathsig TERM "$@" >>"$cluster/daemons.log" 2>&1 </dev/null &
    daemons="$! $daemons"
}

await() { # await SECONDS COMMAND: until it succeeds
    tries=$((10 * $1))
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}
idle() { [ "$(sinfo -h -o %t 2>/dev/null)" = idle ]; }

cluster_start() {
    mkdir -m 755 "$cluster" && mkdir "$cluster/state" "$cluster/spool" && mkdir -m 711 "$cluster/munge"
    chmod 755 "$work" # munged looks at the way to its socket
    head -c 1024 /dev/urandom >"$cluster/munge/key" && chmod 400 "$cluster/munge/key"
    for gpu in 0 1 2 3 4 5 6 7; do : >"$cluster/gpu$gpu"; done
    export SLURM_CONF="$cluster/slurm.conf"
    daemon munged --foreground --force --key-file="$cluster/munge/key" --socket="$cluster/munge/socket" --pid-file="$cluster/munge/pid" \
        --log-file="$cluster/munge/log" --seed-file="$cluster/munge/seed" --num-threads=2
    await 20 test -S "$cluster/munge/socket" || return 1
    for attempt in 1 2 3; do
        configure "$(free_port $attempt)"
        daemon slurmctld -D -c -f "$SLURM_CONF"
        daemon slurmd -D -f "$SLURM_CONF"
        await 20 idle && return 0
    done
    return 1
}

cluster_stop() {
    scancel --user=root >/dev/null 2>&1
    # shellcheck disable=SC2086 # a list
    [ -z "$daemons" ] || kill $daemons 2>/dev/null
    for pid in $(grep -l -a -e "${work%?}[${work#"${work%?}"}]" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3) \
        $(grep -l -a -e "SLURM_CONF=$cluster/slurm.conf" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3); do
        [ "$pid" = $$ ] || { await 1 sh -c "! kill -0 $pid" || kill -9 "$pid" 2>/dev/null; }
    done
}
