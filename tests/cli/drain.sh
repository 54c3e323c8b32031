#!/bin/sh
# drain.sh POLYLEPIS NP SOURCE HOOKS -- who is asked to stop leaves something whole behind and says what; whose launcher is killed leaves no
# process behind, and no work is lost.  HOOKS is ON for a build with -DPLP_FAULTS=ON, where the signal comes at a moment that is known.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
hooks=$4 last=$((np - 1))

# start ARGS: in the background; leaves $job, the launcher.
start() {
    : >"$work/out"
    "${MPIEXEC:-mpirun}" -np "$np" "$polylepis" "$@" -q >"$work/out" 2>"$work/err" </dev/null &
    job=$!
}
# ended WHAT CODE...: with one of these codes, and no process is left; it was asked to and says so in one line.
ended() {
    what=$1
    shift
    wait $job
    rc=$?
    case " $* " in *" $rc "*) ;; *) fail "$what: exit $rc, want one of $*" ;; esac
    gone 5 "$what"
}
says() { # says WHAT TEXT
    [ "$(grep -c 'error\[' "$work/err")" = 1 ] && grep -q "error\[STOPPED\]: stopped by a signal.*$2" "$work/err" ||
        fail "$1: no \"$2\" in one message"
}
until_there() { # until_there FILE -c|-l COUNT: bytes, or lines
    tries=0
    until [ "$(cat "$1" 2>/dev/null | wc "$2")" -ge "$3" ]; do
        sleep 0.05 && tries=$((tries + 1))
        [ $tries -lt 600 ] || { fail "$1: not $3 of $2 in 30 s" && return; }
    done
}
ids() { sed 's/.*"token_ids":\[\([0-9,]*\)\].*/\1/' "$work/out"; }

if [ "$hooks" = ON ]; then
    hook() { # hook POINT:RANK:N:ACTION CODE ARGS
        what="$1 $3" code=$2 PLP_FAULT=$1
        export PLP_FAULT
        shift 2
        run "$@" -q
        unset PLP_FAULT
        [ "$rc" = "$code" ] || fail "$what: exit $rc, want $code"
        gone 5 "$what"
    }
    run generate --model "$demo" -q -p "In the" --ignore-eos -n 20 --json
    whole=$(ids)
    # Whoever is asked, all stop behind the same token, and the rest can be had from the state.
    hook sample:$last:7:usr1 75 generate --model "$demo" -p "In the" --ignore-eos -n 20 --json --save-state "$work/state"
    says "generate, USR1" "after 7 tokens; fix: --load-state $work/state"
    grep -q '"finish_reason":"cancelled"' "$work/out" || fail "generate: no reason in $(cat "$work/out")"
    first=$(ids)
    run generate --model "$demo" -q --load-state "$work/state" --ignore-eos -n 13 --json
    [ "$first,$(ids)" = "$whole" ] || fail "generate: $first and then $(ids), want $whole"
    hook sample:0:3:term 75 generate --model "$demo" -p "In the" --ignore-eos -n 20 -t 1 --seed 9
    says "generate, TERM" "after 3 tokens; fix: start again with --seed 9"
    hook forward:$last:1:term 75 generate --model "$demo" -f "$source/README.md" --max-slice 64 -n 20 --json # within the prompt
    [ "$(ids)" = "" ] && grep -q '"decode_tokens":0' "$work/out" || fail "stopped within the prompt: $(cat "$work/out")"
    hook sample:0:20:term 0 generate --model "$demo" -p "In the" --ignore-eos -n 20 --json # too late: it is done
    [ "$(ids)" = "$whole" ] || fail "a signal at the last token: $(ids)"

    printf '{"prompt": [1, 2, 3]}\n{"prompt": [4, 5, 6]}\n' >"$in"
    hook write:0:2:term 75 logits --model "$demo" -i "$in" -o "$work/out.h5"
    says logits "no output is left"
    hook forward:$last:1:usr1 75 perplexity --model "$demo" -f "$source/tests/data/demo/heldout.txt" --window 64 --windows 9
    says perplexity "1 of 9 windows were scored, PPL"
    [ ! -s "$work/out" ] || fail "perplexity: an estimate of a part on stdout"
    hook convert:0:9:term 75 convert "$demo" "$work/out.h5"
    says convert "$work/out.h5 was not written"
    [ -z "$(find "$work" -name 'out.h5*')" ] || fail "half-written: $(find "$work" -name 'out.h5*')"
    echo old >"$work/out.h5"
    hook convert:0:9:usr1 75 convert "$demo" "$work/out.h5" --force
    [ "$(cat "$work/out.h5")" = old ] && [ ! -e "$work/out.h5.part" ] || fail "convert --force: the old file is gone"

    printf '{"id": "%d", "prompt": [1, 2], "max_tokens": 5, "ignore_eos": true}\n' 1 2 3 4 >"$in"
    batch 0
    mv "$out" "$work/kept"
    hook sample:$last:2:term 75 run-batch --model "$demo" -i "$in" -o "$out" --max-seqs 2 # in flight: dropped
    says "run-batch, TERM" "0 requests are done"
    hook sample:0:2:usr1 75 run-batch --model "$demo" -i "$in" -o "$out" --max-seqs 2 # in flight: finished
    says "run-batch, USR1" "2 requests are done; fix: start the same command again"
    batch 0
    cmp -s "$out" "$work/kept" || fail "run-batch, stopped twice: another output"
    finish
fi

# mpirun hands SIGUSR1 on, and the ranks' status back.
start generate --model "$demo" -p "In the" --ignore-eos -n 30000
until_there "$work/out" -c 20
kill -s USR1 $job
ended "generate, USR1 to mpirun" 75
says "generate, USR1 to mpirun" "after [0-9]* tokens"
# On its own SIGTERM it reads nothing more, so that stdout takes nothing more, waits, hands the signal on, waits, kills, and has a status of
# its own.  Its wait of a second each would do here, but not on every busy machine.
export OMPI_MCA_odls_base_sigkill_timeout=3
start generate --model "$demo" -p "In the" --ignore-eos -n 30000 --save-state "$work/state"
until_there "$work/out" -c 20
kill -s TERM $job
ended "generate, TERM to mpirun" 1 75
unset OMPI_MCA_odls_base_sigkill_timeout
says "generate, TERM to mpirun" "after [0-9]* tokens; fix: --load-state"
run generate --model "$demo" -q --load-state "$work/state" -n 1
[ "$rc" = 0 ] || fail "the state of a generation that was stopped: exit $rc"

# Told again, they do not finish what is under way.
printf '{"id": "a", "prompt": [1], "max_tokens": 2, "ignore_eos": true}\n{"id": "b", "prompt": [2], "max_tokens": 30000, "ignore_eos": true}\n' >"$in"
start run-batch --model "$demo" -i "$in" -o "$out"
until_there "$out.part" -l 2
kill -s USR1 $job
sleep 1.5
kill -0 $job 2>/dev/null || fail "USR1 once: what was under way is not finished"
kill -s USR1 $job
ended "USR1 twice" 138
sed -i 's/30000/3/' "$in"
batch 78 # it can be read, and is of another input
grep -q input "$work/err" || fail "USR1 twice: the journal is not good"
fresh

# Who waits for a rank that does not answer leaves within seconds, and leaves nothing half-written.
awk 'BEGIN { for (i = 0; i < 400; i++) { printf "{\"prompt\": [1"; for (k = 0; k < 400; k++) printf ", %d", k; print "]}" } }' >"$in"
start logits --model "$demo" -i "$in" -o "$work/out.h5"
until_there "$work/out.h5.part" -c 1000000
kill -s STOP "$(pid_of $last)"
sleep 0.5
kill -s TERM "$(pid_of 0)"
ended "TERM to a rank that waits for another" 75
says "TERM to a rank that waits for another" "in the middle"
[ -z "$(find "$work" -name 'out.h5*')" ] || fail "half-written: $(find "$work" -name 'out.h5*')"

# Whoever writes the input says nothing more, and keeps it open.
mkfifo "$work/slow"
(exec 9>"$work/slow" && echo '{"id": "a", "prompt": [1], "max_tokens": 2}' >&9 && sleep 300) &
writer=$!
start run-batch --model "$demo" -i "$work/slow" -o "$out"
until_there "$out.part" -l 2
kill -s USR1 $job
ended "USR1 while input is awaited" 75
kill $writer
fresh

# The launcher itself is killed: its ranks are gone, and what they had finished is not.  They notice within a second, so there must be work
# for several on any machine.
awk 'BEGIN { for (i = 0; i < 40; i++) printf "{\"id\": \"%d\", \"prompt\": [%d, %d], \"max_tokens\": %d, \"ignore_eos\": true}\n", i, i + 3, i, 1600 + i }' >"$in"
batch 0
mv "$out" "$work/kept"
start run-batch --model "$demo" -i "$in" -o "$out" --max-seqs 2
until_there "$out.part" -l 8
kill -9 $job
ended "mpirun is killed" 137
[ ! -e "$out" ] || fail "mpirun was killed too late"
cp "$out.part" "$work/part"
batch 0
cmp -s "$out" "$work/kept" || fail "mpirun is killed: another output"
[ "$(wc -l <"$work/part")" -ge 8 ] || fail "mpirun is killed: what was finished is lost"
finish
