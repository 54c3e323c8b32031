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

# Documents: the same ones, however their lines end, and with a byte order mark; an empty one before a separator that is the first line.
predicted() { # predicted FORMAT: its texts' figures
    # shellcheck disable=SC2059 # a format it is
    printf "$1" >"$work/documents"
    run perplexity --model "$demo" -q -f "$work/documents" --window 4 --json
    [ "$rc" = 0 ] || fail "perplexity of $1: exit $rc"
}
same() { # same FORMAT FORMAT...
    predicted "$1"
    mv "$work/out" "$work/kept"
    for format in "$@"; do
        predicted "$format"
        cmp -s "$work/out" "$work/kept" || fail "$format: $(cat "$work/out"), and $1: $(cat "$work/kept")"
    done
}
same 'In the beginning\n\036\nAnd the LORD\n\036\nAmen' 'In the beginning\r\n\036\r\nAnd the LORD\r\n\036\r\nAmen' \
    '\357\273\277In the beginning\n\036\r\nAnd the LORD\n\036\nAmen'
grep -q '"bytes":35,' "$work/out" || fail "documents of 16, 12 and 4 bytes: $(cat "$work/out")"
same '\n\036\nIn the beginning' '\036\nIn the beginning' '\357\273\277\036\r\nIn the beginning'
same 'In the beginning\n\036\n' 'In the beginning\n\036' 'In the beginning\r\n\036'
same 'And\n\036\n\n\036\nAmen' 'And\n\036\n\036\nAmen'
predicted 'x \036\ny\n\036 \nz'
grep -q '"bytes":11,' "$work/out" || fail "U+001E beside other text: $(cat "$work/out")"

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

# The same bits, and the same sum of them, however many tokens a step has.
awk 'BEGIN { for (n = 1; n < 700; n = 5 * n + 12) { printf "{\"prompt\": [%d", n; for (i = 1; i < n; i++) printf ", %d", i * i % 2000; print "]}" } }' \
    >"$work/in.jsonl"
for tokens in 128 1 33 300; do
    run logits --model "$demo" --device cpu -i "$work/in.jsonl" -o "$work/$tokens.h5" -q --max-batch-tokens $tokens
    [ "$rc" = 0 ] || fail "logits --max-batch-tokens $tokens: exit $rc"
    h5dump -m %.9g "$work/$tokens.h5" | sed 1d >"$work/$tokens"
    cmp -s "$work/$tokens" "$work/128" || fail "logits --max-batch-tokens $tokens: other bits"
    run perplexity --model "$demo" --device cpu -f "$source/tests/data/demo/heldout.txt" -q --windows 3 --json --max-batch-tokens $tokens
    [ $tokens != 128 ] || mv "$work/out" "$work/kept"
    [ $tokens = 128 ] || cmp -s "$work/out" "$work/kept" || fail "perplexity --max-batch-tokens $tokens: $(cat "$work/out")"
done
finish
