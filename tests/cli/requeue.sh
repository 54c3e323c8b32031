#!/bin/sh
# requeue.sh POLYLEPIS NP SOURCE -- when launch/slurm/preemptible.sbatch queues itself again, with an srun, a scontrol and a polylepis that are
# made up here.  What a real Slurm does with the script is slurm.sh's.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
mkdir "$work/bin" "$work/tmp"
cat >"$work/bin/srun" <<'END'
#!/bin/sh
[ "$LAUNCH" = yes ] || { echo "srun: error: Application launch failed" >&2 && exit 0; }
while case $1 in -*) true ;; *) false ;; esac do shift; done
exec "$@"
END
cat >"$work/bin/polylepis" <<'END'
#!/bin/sh
echo "$*" >>"$work/ran"
[ "$STATUS" != 0 ] || [ "$*" != "${*%--help}" ] || : >"$OUTPUT"
exit "$STATUS"
END
cat >"$work/bin/scontrol" <<'END'
#!/bin/sh
echo "$*" >>"$work/queued"
END
chmod +x "$work"/bin/*
cd "$work" || exit 1
PATH=$work/bin:$PATH TMPDIR=$work/tmp MODEL=$demo INPUT=$in
export PATH TMPDIR MODEL INPUT work SLURM_CPUS_PER_TASK=1 SLURM_JOB_ID=17

# job LAUNCH STATUS RESTARTS-SO-FAR OUTPUT WANT-STATUS WANT-RAN WANT-QUEUED [OPTIONS]: how often the program ran and the job was queued again.
job() {
    what="$*" want="$5 $6 $7"
    export LAUNCH="$1" STATUS="$2" SLURM_RESTART_COUNT="$3" OUTPUT="$4"
    shift 7
    rm -f "$out"
    : >"$work/ran"
    : >"$work/queued"
    bash "$source/launch/slurm/preemptible.sbatch" "$@" >"$work/out" 2>"$work/err" </dev/null
    got="$? $(wc -l <"$work/ran") $(wc -l <"$work/queued")"
    [ "$got" = "$want" ] || fail "$what: $got"
    [ "$(sort -u "$work/queued")" = "requeue 17" ] || [ ! -s "$work/queued" ] || fail "$what: $(cat "$work/queued")"
    [ -z "$(ls "$work/tmp")" ] || fail "$what: left behind: $(ls "$work/tmp")"
}
job yes 0 0 "$out" 0 1 0 --max-seqs 4
[ "$(cat "$work/ran")" = "run-batch --model $demo -i $in -o $out --max-seqs 4" ] || fail "arguments: $(cat "$work/ran")"
job yes 75 0 "$out" 75 1 1
job yes 75 99 "$out" 75 1 1
job yes 75 100 "$out" 75 1 0
job yes 65 0 "$out" 65 1 0
job no 0 3 "$out" 75 0 1             # srun ends with 0, and there was no task
job yes 0 0 "$out" 0 1 0 --help      # there was one, that wrote no output
job yes 0 0 - 64 0 0                 # would be computed from the beginning each time
[ "$(wc -l <"$work/err")" = 1 ] && grep -q 'OUTPUT=-: .*; fix: ' "$work/err" || fail "OUTPUT=-: not one line that says so"
finish
