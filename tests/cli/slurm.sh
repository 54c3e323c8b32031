#!/bin/sh
# slurm.sh POLYLEPIS NP SOURCE -- the job scripts of launch/slurm, as they are, under a real Slurm of one node that is started here and
# stopped at the end: what is submitted finishes, and what is cancelled, out of time, requeued, killed or stopped ends soon, in the right
# state, and goes on to the same bytes.  Skipped (77) without root or without Slurm.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/slurm_cluster.sh
. "$(dirname "$0")/slurm_cluster.sh"
scripts=$source/launch/slurm

skip() { echo "skipped: $*" && exit 77; }
[ "$(id -u)" = 0 ] || skip "not root"
missing=$(cluster_programs)
[ -z "$missing" ] || skip "not installed: $missing"

trap 'cluster_stop; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
if ! cluster_start; then
    tail -n 20 "$cluster"/*.log "$cluster/munge/log"
    echo "FAILED: Slurm does not start" && exit 1
fi
srun --mpi=list 2>&1 | grep -q pmix || skip "this Slurm has no PMIx"

# ------------------------------------------------------------------------------------------------------------------------------ jobs
mkdir "$work/logs" "$work/bin" && ln -s "$polylepis" "$work/bin/polylepis" && cd "$work" || exit 1
export PATH="$work/bin:$PATH" MODEL="$demo" INPUT="$in"
: >"$work/err"

# submit SCRIPT OUTPUT [OPTIONS OF RUN-BATCH]: leaves $job; what it asks for is $resources, all else is as the script says.
two="--ntasks-per-node=2 --gpus-per-node=2 --cpus-per-task=1" resources=$two
submit() {
    script=$1 OUTPUT=$work/$2
    export OUTPUT
    shift 2
    # shellcheck disable=SC2086 # words
    job=$(sbatch --parsable $resources "$scripts/$script.sbatch" --max-seqs 4 "$@") || { fail "sbatch $script" && finish; }
}
field() { scontrol show job -o "$job" | tr ' ' '\n' | sed -n "s/^$1=//p"; }
log() { cat "$work"/logs/polylepis-"$job".out; }
journal() { [ "$(wc -l <"$OUTPUT.part")" -gt "$1" ]; }
# began LINES: so many requests are finished, and the job runs.
began() { await 60 journal "$1" || fail "job $job: no $1 requests in 60 s: $(log)"; }
over() { case $(field JobState) in PENDING | RUNNING | CONFIGURING | COMPLETING) false ;; esac }
requeued() { [ "$(field Restarts)" = 1 ] && [ "$(field JobState)" != COMPLETING ]; }

# The processes of $job's ranks; or that of one.
ranks() {
    for pid in $(grep -l -a -e "run-batc[h]" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3); do
        tr '\0' '\n' <"/proc/$pid/environ" >"$work/environ" || continue
        grep -qx "SLURM_JOB_ID=$job" "$work/environ" && grep -q "^PMIX_RANK=${1:-}" "$work/environ" && echo "$pid"
    done
}
no_ranks() { [ -z "$(ranks)" ]; }
no_steps() { ! grep -qa -e "slurmstepd: \[$job\." /proc/[0-9]*/cmdline 2>/dev/null; }
# becomes WHAT SECONDS STATE CODE...: it ends so soon, like this, and nothing is left of it.
becomes() {
    what=$1 wanted=$3
    await "$2" over || fail "$what: still $(field JobState) after $2 s"
    shift 3
    code=$(field ExitCode)
    case " $* " in *" ${code%:*} "*) ;; *) fail "$what: exit $code, want $*: $(log)" ;; esac
    [ "$(field JobState)" = "$wanted" ] || fail "$what: $(field JobState), want $wanted: $(log)"
    await 5 no_ranks || fail "$what: left behind: $(ranks)"
}
same() { cmp -s "$OUTPUT" "$work/kept" || fail "$1: another output"; }
# goes_on WHAT SECONDS: it queues itself so soon, and then does the rest.  Slurm would let it wait for two minutes.
goes_on() {
    await "$2" requeued || fail "$1: $(field JobState), restarts $(field Restarts): $(log)"
    if [ "$(field JobState)" = PENDING ]; then
        await 5 no_ranks || fail "$1: left behind: $(ranks)"
        journal 0 || fail "$1: nothing of it is left"
        await 15 no_steps # else the next start's step, of the same name, is refused
        sleep 2           # and its credential is told from the first by the second
        scontrol update "JobId=$job" StartTime=now TimeLimit=60
    fi
    becomes "$1, the next start" 90 COMPLETED 0
    same "$1"
    log | grep -q 'requests were done before' || fail "$1: it began anew"
}

awk 'BEGIN { for (i = 0; i < 40; i++) printf "{\"id\": \"%d\", \"prompt\": [%d, %d], \"max_tokens\": %d, \"ignore_eos\": true, \"temperature\": 0}\n",
    i, i + 3, i, 600 + i }' >"$in"

# A step that says nothing to MPI is answered with the flag, by one task; nothing is computed.
srun --mpi=none -n 2 polylepis generate -m "$demo" -p a >"$work/out" 2>"$work/err"
[ $? = 64 ] && [ "$(grep -c 'error\[' "$work/err")" = 1 ] && grep -q 'error\[USAGE\].*started 2 tasks.*srun --mpi=pmix' "$work/err" &&
    [ ! -s "$work/out" ] || fail "srun without PMIx"
srun --mpi=pmix -n 2 polylepis generate -m "$demo" -q -p "In the" -n 3 >"$work/out" 2>"$work/err"
[ $? = 0 ] && [ "$(cat "$work/out")" = " land of C" ] || fail "srun --mpi=pmix: $(cat "$work/out")"

submit one-node kept
becomes one-node 90 COMPLETED 0
[ "$(wc -l <"$work/kept")" = 40 ] || fail "one-node: $(wc -l <"$work/kept") lines of 40"

# Slurm looks for jobs that are out of time every half minute: this one waits for it, while the others are looked at.
submit preemptible limited
began 3
limited=$job
# shellcheck disable=SC2046 # a list
kill -s STOP $(ranks)
scontrol update "JobId=$job" "EndTime=$(date -d '+1 sec' +%FT%T)"

# With the program from a module, where it is not in PATH.
echo "module() { [ \"\$1 \$2\" = 'load polylepis' ] && PATH=$work/bin:\$PATH; }" >"$work/modules.sh"
paths=$PATH PATH=${PATH#*:} BASH_ENV=$work/modules.sh resources="$two --nodes=1"
export BASH_ENV
submit many-nodes many
unset BASH_ENV
PATH=$paths resources=$two
becomes many-nodes 90 COMPLETED 0
same many-nodes

mkdir "$work/shards" && split -d -a 3 -n l/3 "$in" "$work/shards/in-"
resources="--array=0-2 --cpus-per-task=1" SHARDS=$work/shards
export SHARDS
submit array -
resources=$two
all_there() { [ -e "$SHARDS/out-000.jsonl" ] && [ -e "$SHARDS/out-001.jsonl" ] && [ -e "$SHARDS/out-002.jsonl" ]; }
await 90 all_there || fail "array: $(ls "$SHARDS") $(cat "$work"/logs/*-"$job"-*.out)"
cat "$SHARDS"/out-*.jsonl | cmp -s - "$work/kept" || fail "array: another output"

job=$limited OUTPUT=$work/limited
goes_on "the time limit" 60
log | grep -q 'DUE TO TIME LIMIT' && log | grep -q 'error\[STOPPED\]' || fail "the time limit: $(log)"

# A rank that is killed takes the job along; the same command goes on.
submit one-node killed
began 3
kill -9 "$(ranks 1)"
becomes "a killed task" 15 FAILED 75 137
submit one-node killed
becomes "a killed task, the next job" 90 COMPLETED 0
same "a killed task"

# A second job on one output is refused, and told by whom.  The first stands still meanwhile, or a fast machine would be done with it.
submit one-node cancelled
began 3
first=$job still=$(ranks)
# shellcheck disable=SC2086 # a list
kill -s STOP $still
submit one-node cancelled
becomes "two jobs on one output" 30 FAILED 73
log | grep -q "error\[CREATE\]: .*cancelled is written by pid [0-9]* on .* (job $first)" || fail "two jobs on one output: $(log)"
job=$first
# shellcheck disable=SC2086 # a list
kill -s CONT $still
scancel "$job"
becomes scancel 15 CANCELLED 0 75
log | grep -q 'error\[STOPPED\]: .* go on' || fail "scancel: $(log)"
submit one-node cancelled
becomes "scancel, the next job" 90 COMPLETED 0
same scancel

# What may be stopped goes on by itself, as when its time was up: sent back to the queue, told of the end that comes, with a rank that stands
# still.
submit preemptible requeued
began 3
scontrol requeue "$job"
goes_on "scontrol requeue" 15
submit preemptible warned
began 3
scancel --signal=USR1 "$job"
goes_on SIGUSR1 60
submit preemptible stopped --watchdog 3
began 3
kill -s STOP "$(ranks 1)"
goes_on "a task that is stopped" 15
log | grep -q 'watchdog: rank 1 on .* stopped or dead' || fail "a task that is stopped: $(log)"
finish
