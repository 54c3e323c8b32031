#!/bin/sh
# text.sh POLYLEPIS NP SOURCE -- perplexity and logits of the demonstration model.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

# Bits per byte of heldout.txt as measured at training: 1.567; within half a percent.
run perplexity --model "$demo" --text "$source/tests/data/demo/heldout.txt" -q
[ "$rc" = 0 ] || fail "perplexity: exit $rc"
sed -n 's/.* \([0-9.]*\) bits\/byte; 37303 tokens scored in 73 windows of 512, the last 494 of 37870 left out$/\1/p' "$work/out" |
    awk '{ good = $1 > 1.567 * 0.995 && $1 < 1.567 * 1.005 } END { exit !good }' || fail "perplexity: $(cat "$work/out")"
run perplexity --model "$demo" --text "$source/tests/data/demo/heldout.txt" -q --window 100 --windows 2 --json
grep -q '"tokens_scored":198,"tokens":37870,"tokens_left_out":37670,' "$work/out" || fail "perplexity --json: $(cat "$work/out")"

# The most probable token after the prompt of golden-0 is the first of its greedy continuation, 269; a blank line is skipped, and a
# byte order mark.
printf '\357\273\277{"id": "a", "prompt": [0, 1106, 260, 1894, 1074]}\n\n{"custom_id": "b-1", "prompt": "And the LORD"}\n{"prompt": [5]}\n' >"$work/in.jsonl"
run logits --model "$demo" -i "$work/in.jsonl" -o "$work/out.h5" -q
[ "$rc" = 0 ] || fail "logits: exit $rc"
command -v h5dump >/dev/null || finish # hdf5-tools
data() { h5dump -w 0 -y "$@" "$work/out.h5" | sed -n '/DATA {/,/}/p' | grep -o '[-0-9.e+]*[0-9]'; }
data -d /a/logits -s 4,0 -c 1,2048 -m %.9g |
    awk '{ if (NR == 1 || $1 > most) { most = $1; best = NR - 1 } } END { exit !(NR == 2048 && best == 269) }' ||
    fail "logits: the most probable token is another"
[ "$(data -d /b-1/tokens | tr '\n' ' ')" = "313 260 364 " ] || fail "logits: tokens of b-1"
h5dump -H "$work/out.h5" | grep -q '( 1, 2048 )' || fail "logits: the record without an id"
run logits --model "$demo" -i "$work/in.jsonl" -o "$work/out.h5" -q --force
[ "$rc" = 0 ] || fail "logits --force: exit $rc"
finish
