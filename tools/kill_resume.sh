#!/bin/sh
# kill_resume.sh POLYLEPIS MODEL KILLS [NP [SEED [LINES]]] -- kills a batch job KILLS times, and goes on with it until it is done.
#
# One undisturbed job says what comes out.  Then jobs are started, and in each a random rank is killed (SIGKILL) at a random moment: half of
# the moments are times after the start, from nothing to a little more than a job takes, so that MPI_Init, the loading of the model and the
# end are met as well; the others are numbers of finished lines, whatever the machine's speed.  A job that was killed is started again, and
# killed again in half of the cases, also while it resumes.  In the end each must give the same bytes and leave neither a file nor a process
# behind.  No start may take longer than five minutes.
set -u
polylepis=$1 model=$2 kills=$3 np=${4:-2} seed=${5:-1} lines=${6:-100}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk -v seed="$seed" -v lines=$lines 'BEGIN {
    srand(seed)
    for (i = 0; i < lines; i++) {
        ids = int(90 * rand())
        for (k = int(40 * rand() * rand()); k > 0; k--) ids = ids "," int(90 * rand())
        if (i % 40 == 7) printf "{\"id\": \"r%d\", \"prompt\": [%s], \"max_tokens\": -1}\n", i, ids
        else printf "{\"id\": \"r%d\", \"prompt\": [%s], \"max_tokens\": %d, \"temperature\": %s, \"ignore_eos\": true}\n", i, ids,
                    1 + int(60 * rand()), i % 3 ? 0 : 0.9
    }
}' >"$work/in.jsonl"

stop() {
    echo "$*"
    cat "$work/log"
    exit 1
}
start() { # start OUTPUT: in the background; leaves $job
    timeout -k 5 300 "${MPIEXEC:-mpirun}" -np "$np" "$polylepis" run-batch -q --model "$model" -i "$work/in.jsonl" -o "$1" --max-seqs 8 \
        >"$work/log" 2>&1 </dev/null &
    job=$!
}
done_lines() { echo "$(($(cat "$work/out.part" 2>/dev/null | wc -l) - 1))"; }
# reach MOMENT: until so many lines are finished, or -MOMENT milliseconds have passed, or the job has ended
reach() {
    if [ "$1" -le 0 ]; then
        sleep "$(awk -v m="$1" 'BEGIN { print -m / 1000 }')"
    else
        until [ "$(done_lines)" -ge "$1" ] || ! kill -0 "$job" 2>/dev/null; do sleep 0.02; done
    fi
}
child() { cat /proc/"$1"/task/*/children 2>/dev/null; }
ranks() { for launcher in $(child "$job"); do child "$launcher"; done; }
# The processes of our jobs: the work directory is among their arguments.  (The brackets keep grep from finding itself.)
ours() { grep -l -a -e "${work%?}[${work#"${work%?}"}]" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3; }

milliseconds() { awk '{ print int(1000 * $1) }' /proc/uptime; }
began=$(milliseconds)
start "$work/whole"
wait "$job"
rc=$?
whole=$(($(milliseconds) - began))
[ "$rc" = 3 ] && [ "$(wc -l <"$work/whole")" = $lines ] || stop "undisturbed: exit $rc"

# More than enough of them: some meet no rank.
awk -v seed="$seed" -v n=$((4 * kills + 20)) -v np="$np" -v lines=$lines -v whole=$whole 'BEGIN {
    srand(seed + 1)
    for (i = 0; i < n; i++) print (rand() < 0.5 ? -int(1.1 * whole * rand()) : 1 + int((lines - 2) * rand())), 1 + int(np * rand()), rand() < 0.5
}' >"$work/plan"

jobs=0 starts=0 killed=0 early=0 loading=0 running=0 ending=0 kept=0 same=0
report() {
    echo "$jobs jobs of $whole ms at np $np, $starts starts: $killed kills ($loading before a line was finished, $running between lines," \
        "$ending at the end), $early that met no rank; 0 hangs, $kept lines kept, $same of $jobs outputs identical"
}
trap 'report; exit 1' TERM # it has no more time
while [ $killed -lt "$kills" ]; do
    rm -f "$work"/out*
    jobs=$((jobs + 1)) again=1
    while [ "$again" = 1 ] && [ $killed -lt "$kills" ] && [ ! -e "$work/out" ] && read -r moment rank again <&3; do
        before=$(done_lines)
        start "$work/out"
        starts=$((starts + 1))
        reach "$moment"
        victim=
        while [ -z "$victim" ] && kill -0 "$job" 2>/dev/null; do # it may not have started yet
            victim=$(ranks | tr ' ' '\n' | grep . | sed -n "${rank}p")
        done
        now=$(done_lines)
        [ ! -e "$work/out.tmp" ] && [ ! -e "$work/out" ] || now=end
        if [ -n "$victim" ] && kill -9 "$victim" 2>/dev/null; then
            killed=$((killed + 1))
            case $now in
            end) ending=$((ending + 1)) ;;
            -1 | 0 | "$before") loading=$((loading + 1)) ;; # no line was finished since the start
            *) running=$((running + 1)) ;;
            esac
        else
            early=$((early + 1))
        fi
        wait "$job"
        rc=$?
        [ "$rc" != 124 ] || stop "a killed job hangs"
        [ -z "$(ours)" ] || sleep 2
        [ -z "$(ours)" ] || stop "processes are left behind: $(ours)"
    done
    [ ! -s "$work/out.part" ] || kept=$((kept + $(done_lines)))
    if [ ! -e "$work/out" ] || [ -e "$work/out.part" ]; then
        start "$work/out"
        starts=$((starts + 1))
        wait "$job"
        rc=$?
        [ "$rc" = 3 ] || stop "after $killed kills: resumed, exit $rc"
    fi
    cmp "$work/whole" "$work/out" || stop "after $killed kills: another output"
    rm -f "$work/out.lock" # of a rank that was killed when all was done
    [ -z "$(find "$work" -name 'out.*')" ] || stop "left behind: $(find "$work" -name 'out.*')"
    same=$((same + 1))
done 3<"$work/plan"
report
