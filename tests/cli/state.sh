#!/bin/sh
# state.sh POLYLEPIS NP SOURCE -- states that are saved and gone on from: as if nothing had happened, at another number of ranks as well.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
other=$([ "$np" = 1 ] && echo 3 || echo 1)
here=$np

ids() { sed 's/.*"token_ids":\[\([0-9,]*\)\].*/\1/' "$work/out"; }
probabilities() { sed 's/.*"logprobs"://; s/"text".*//' "$work/out" | tr -d '[]'; }

# goes_on ARGS: 9 tokens and 15 more are the 24 of one go, and so are 9, 7 and 8.
goes_on() {
    run generate -m "$demo" -q --json -p "In the beginning" --ignore-eos --logprobs 0 -n 24 "$@"
    [ $rc = 0 ] || fail "whole: exit $rc"
    whole=$(ids)
    probabilities | tr '{' '\n' | tail -n 15 >"$work/whole"
    run generate -m "$demo" -q --json -p "In the beginning" --ignore-eos --logprobs 0 -n 9 --save-state "$work/state" "$@"
    [ $rc = 0 ] || fail "first part: exit $rc"
    first=$(ids)
    for np in $here $other; do
        run generate -m "$demo" -q --json --ignore-eos -n 7 --load-state "$work/state" --save-state "$work/later" "$@"
        second=$(ids)
        run generate -m "$demo" -q --json --ignore-eos --logprobs 0 -n 8 --load-state "$work/later" "$@"
        [ $rc = 0 ] || fail "third part, np $np: exit $rc"
        [ "$first,$second,$(ids)" = "$whole" ] || fail "np $here to $np: $first,$second,$(ids) is not $whole"
        run generate -m "$demo" -q --json --ignore-eos --logprobs 0 -n 15 --load-state "$work/state" "$@"
        [ $rc = 0 ] || fail "second part, np $np: exit $rc"
        [ "$first,$(ids)" = "$whole" ] || fail "np $here to $np: $first,$(ids) is not $whole"
        [ "$np" != "$here" ] && continue
        probabilities | tr '{' '\n' | tail -n 15 >"$work/second"
        sed 's/.*"logprob":\([-0-9.e]*\).*/\1/' "$work/whole" >"$work/a" # to nine digits, which is all of a float32
        sed 's/.*"logprob":\([-0-9.e]*\).*/\1/' "$work/second" >"$work/b"
        [ "$(wc -l <"$work/a")" = 15 ] && cmp -s "$work/a" "$work/b" || fail "np $np: other probabilities"
    done
    np=$here
}
goes_on
unpunished=$whole
goes_on --temperature 0.8 --seed 5
# Penalties on what was drawn, by whichever part.
for penalty in --presence-penalty --frequency-penalty --repetition-penalty; do
    goes_on $penalty 2
    [ "$whole" != "$unpunished" ] || fail "$penalty 2 changes nothing"
done
goes_on --temperature 1 --seed 5 --presence-penalty 2 --frequency-penalty 0.5

# A prompt behind the state: as behind the text, all of which was given.
run generate -m "$demo" -q --json --prompt-token-ids 5,6,7,8 -n 1 --save-state "$work/state"
drawn=$(ids)
run generate -m "$demo" -q --json --prompt-token-ids 5,6,7,8,"$drawn",9,10,11 -n 12 --presence-penalty 2
whole=$(ids)
for np in $here $other; do
    run generate -m "$demo" -q --json --load-state "$work/state" --prompt-token-ids 9,10,11 -n 12 --presence-penalty 2
    [ "$(ids)" = "$whole" ] || fail "prompt behind a state, np $np: $(ids) is not $whole"
done
np=$here

refused 65 "is a state of model" generate -m "$source/tests/data/fixtures/mamba2-g1" -q --load-state "$work/state" -n 2
other_weights "$work/other"
refused 65 "is a state of model" generate -m "$work/other" -q --load-state "$work/state" -n 2
# No other file makes way for a state; an older state does.
echo notes >"$work/notes.txt"
refused 73 "notes.txt is there and is no state file; fix: " generate -m "$demo" -q -p A -n 1 --save-state "$work/notes.txt"
"$polylepis" convert "$demo" "$work/kept.h5" -q
refused 73 "kept.h5 is there and is no state file" generate -m "$demo" -q -p A -n 1 --save-state "$work/kept.h5"
[ "$(cat "$work/notes.txt")" = notes ] && "$polylepis" inspect "$work/kept.h5" >"$work/a" 2>&1 || fail "a file that is no state is gone"
run generate -m "$demo" -q --json --load-state "$work/state" -n 1 --save-state "$work/state"
[ $rc = 0 ] || fail "a state in the place of itself: exit $rc"
refused 64 "--save-state -: " generate -m "$demo" -q -p A -n 1 --save-state -

refused 66 "$work/none" generate -m "$demo" -q --load-state "$work/none" -n 2
refused 73 "$work/none" generate -m "$demo" -q -p A -n 1 --save-state "$work/none/state" --json
run inspect "$demo"
grep -q '^digest .*a sample of each' "$work/out" || fail "inspect: what the digest covers"
run convert "$demo" "$work/model.h5" -q
run inspect "$work/model.h5"
grep -q '^digest .*(every byte)' "$work/out" || fail "inspect: what a model file's digest covers"
refused 65 "holds no state" generate -m "$demo" -q --load-state "$work/model.h5" -n 2
printf 'x' | dd of="$work/state" bs=1 seek=$(($(wc -c <"$work/state") / 2)) conv=notrunc 2>/dev/null
refused 65 "state" generate -m "$demo" -q --load-state "$work/state" -n 2
[ -z "$(ls "$work" | grep part)" ] || fail "something was left behind"
finish
