# tests/cli/lib.sh -- for the scripts beside it, called as SCRIPT POLYLEPIS NP SOURCE: runs the program as a user would.
# shellcheck shell=sh disable=SC2034 # variables that the scripts use
set -u
polylepis=$1 np=$2 source=$3
demo=$source/models/demo
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
    printf 'FAILED: %s\n' "$*"
    sed 's/^/  | /' "$work/err"
    failures=$((failures + 1))
}

# run ARGS: under mpirun; leaves $rc, $work/out and $work/err.
run() {
    "${MPIEXEC:-mpirun}" -np "$np" "$polylepis" "$@" >"$work/out" 2>"$work/err" </dev/null
    rc=$?
}

# The same when nobody is signalled: after a failure mpirun waits two seconds for other ranks to leave, also where there are none.
run_through() {
    [ "$np" != 1 ] || export OMPI_MCA_odls_base_sigkill_timeout=0
    run "$@"
    unset OMPI_MCA_odls_base_sigkill_timeout
}

# refused CODE TEXT ARGS: ends with that code and one error line that holds the text, within 5 seconds, and prints no result.
refused() {
    code=$1 text=$2
    shift 2
    began=$(date +%s)
    run_through "$@"
    check_refused "$code" "$text" "$*"
}
check_refused() {
    [ "$rc" = "$1" ] || fail "$3: exit $rc, want $1"
    [ $(($(date +%s) - began)) -le 8 ] || fail "$3: took more than 5 seconds, and 3 to start"
    [ "$(grep -c 'error\[' "$work/err")" = 1 ] || fail "$3: want one error line"
    grep 'error\[' "$work/err" | grep -qF -e "$2" || fail "$3: no \"$2\" in the message"
    [ "$(grep 'error\[' "$work/err" | wc -c)" -le 500 ] || fail "$3: a message of more than 500 bytes"
    [ ! -s "$work/out" ] || fail "$3: something on stdout"
}

# The processes of our jobs: the work directory is among their arguments.  (The brackets keep grep from finding itself.)
ours() { grep -l -a -e "${work%?}[${work#"${work%?}"}]" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3; }
pid_of() { # pid_of RANK
    for pid in $(ours); do
        tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "\(OMPI_COMM_WORLD_RANK\|PMIX_RANK\)=$1" && echo "$pid"
    done
}
# Nothing is left of our jobs within so many seconds: gone SECONDS WHAT
gone() {
    tries=0
    while [ -n "$(ours)" ] && [ $tries -lt $((10 * $1)) ]; do sleep 0.1 && tries=$((tries + 1)); done
    left=$(ours)
    [ -z "$left" ] || fail "$2: left behind: $left"
    # shellcheck disable=SC2086 # a list
    [ -z "$left" ] || kill -9 $left
}
# other_weights DIR: the demonstration model with other numbers, as a fine-tune has: some signs change, and nothing else does.
other_weights() {
    cp -r "$demo" "$1"
    header=$(($(od -A n -t u8 -N 8 "$demo/model.safetensors") + 8))
    {
        head -c $header "$demo/model.safetensors"
        tail -c +$((header + 1)) "$demo/model.safetensors" | LC_ALL=C tr '\074\274' '\274\074'
    } >"$1/model.safetensors"
}
# Batch jobs.
in=$work/in.jsonl out=$work/out.jsonl
batch() { # batch CODE ARGS: of the demonstration model, in.jsonl to out.jsonl
    code=$1
    shift
    run_through run-batch -q --model "$demo" -i "$in" -o "$out" "$@"
    [ "$rc" = "$code" ] || fail "run-batch $*: exit $rc, want $code"
}
line() { sed -n "${1}p" "$out"; }
has() { # has LINE TEXT
    line "$1" | grep -qF -e "$2" || fail "line $1 has no $2: $(line "$1")"
}
fresh() { rm -f "$out"*; }

finish() { [ "$failures" = 0 ]; exit; }
