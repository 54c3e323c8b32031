#!/bin/sh
# example.sh POLYLEPIS NP SOURCE EXAMPLE -- examples/batch.c: six prompts in four slots give what each gives alone.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
example=$4
set -- "In the beginning" "And the LORD" "hacker n." "A" "The king of" "And he said unto them, What"
"${MPIEXEC:-mpirun}" -np "$np" "$example" "$demo" "$@" >"$work/together" 2>"$work/err" || fail "exit $?"
i=0
for prompt; do
    run generate --model "$demo" -q --prompt "$prompt" -n 24
    printf '%d:' $i
    cat "$work/out"
    i=$((i + 1))
done >"$work/alone"
sort "$work/together" >"$work/a"
sort "$work/alone" >"$work/b"
cmp "$work/a" "$work/b" || fail "together: $(cat "$work/together"); alone: $(cat "$work/alone")"
finish
