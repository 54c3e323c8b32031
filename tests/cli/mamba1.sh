#!/bin/sh
# mamba1.sh POLYLEPIS NP SOURCE -- Mamba-1, FalconMamba and a Mamba-1 whose norms of dt, B and C have weights through the commands: what they do for Mamba-2, with token ids, for these have no tokenizer.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
other=$([ "$np" = 1 ] && echo 3 || echo 1)
here=$np
ids() { sed 's/.*"token_ids":\[\([0-9,]*\)\].*/\1/' "$work/out"; }

# shellcheck disable=SC2086 # $draw is a list
for model in mamba1 falcon-mamba mamba1-norms; do
    m=$source/tests/data/fixtures/$model
    heat=$([ $model = mamba1 ] && echo 14 || echo 1.5) # mamba1's most probable token is 8 for ever: nothing could be seen by it
    draw="-t $heat --seed 7" drawn="\"temperature\":$heat,\"seed\":7"
    run generate -m "$m" -q --json --prompt-token-ids 5,6,7,8 --ignore-eos -n 14 $draw
    [ $rc = 0 ] || fail "$model: exit $rc"
    whole=$(ids)
    [ "$(echo "$whole" | tr ',' '\n' | wc -l)" = 14 ] || fail "$model: not 14 ids: $whole"
    [ "$(echo "$whole" | tr ',' '\n' | sort -u | wc -l)" -gt 5 ] || fail "$model: hardly more than one id: $whole"
    run generate -m "$m" -q --json --prompt-token-ids 5,6,7,8 --ignore-eos -n 6 $draw --save-state "$work/state"
    first=$(ids)
    for np in $here $other; do
        run generate -m "$m" -q --json --ignore-eos -n 8 $draw --load-state "$work/state"
        [ "$first,$(ids)" = "$whole" ] || fail "$model: from a state, np $here to $np: $first,$(ids) is not $whole"
    done
    np=$here

    # Converted, in a batch, with a prefix cache: the same tokens, and of a longer prompt that begins alike those of it alone.
    run convert "$m" "$work/$model.h5" -q
    [ $rc = 0 ] || fail "$model: convert: exit $rc"
    long=5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21
    run generate -m "$m" -q --json --prompt-token-ids $long --ignore-eos -n 14 $draw
    longer=$(ids)
    {
        echo "{\"id\":\"a\",\"prompt\":[5,6,7,8],\"max_tokens\":14,\"ignore_eos\":true,$drawn}"
        echo "{\"id\":\"b\",\"prompt\":[$long],\"max_tokens\":14,\"ignore_eos\":true,$drawn}"
        echo "{\"id\":\"c\",\"prompt\":[$long],\"max_tokens\":14,\"ignore_eos\":true,$drawn}"
    } >"$work/in"
    run run-batch -m "$work/$model.h5" -q -i "$work/in" -o "$work/answers" --force --max-seqs 2 --prefix-cache align
    [ $rc = 0 ] || fail "$model: run-batch: exit $rc"
    grep -F '"id":"a"' "$work/answers" | grep -qF "\"token_ids\":[$whole]" || fail "$model: run-batch: not $whole"
    [ "$(grep -cF "\"token_ids\":[$longer]" "$work/answers")" = 2 ] || fail "$model: run-batch: not $longer, twice"

    run logits -m "$m" -q -i "$work/in" -o "$work/logits.h5" --force
    [ "$rc" = 0 ] || fail "$model: logits: exit $rc"
    [ -s "$work/logits.h5" ] || fail "$model: no logits"
    for np in 2 3; do
        run verify -m "$m" -q
        [ $rc = 0 ] || fail "$model: verify, np $np: exit $rc"
    done
    np=$here
    run inspect "$m" --plan 2
    case $model in
    mamba1) rank=4 norms=no ;;
    falcon-mamba) rank=4 norms=yes ;;
    *) rank=5 norms="yes, with weights" ;;
    esac
    grep -q "^dt_rank  *$rank$" "$work/out" || fail "$model: inspect"
    grep -q "^norm of dt,B,C  $norms$" "$work/out" || fail "$model: inspect: norms"
done
refused 65 "is a state of model" generate -m "$source/tests/data/fixtures/mamba1" -q --load-state "$work/state" -n 2
refused 64 "tokenizer" generate -m "$source/tests/data/fixtures/mamba1" -q -p "a text" -n 2
refused 64 "has no tokenizer, so what is generated has no text; output; fix: give --json" generate -m "$source/tests/data/fixtures/mamba1" -q \
    --prompt-token-ids 1 -n 2
run generate -m "$source/tests/data/fixtures/mamba1" -q --json --prompt-token-ids 1 -n 2
[ $rc = 0 ] && grep -q '"text":null' "$work/out" || fail "no tokenizer: exit $rc, $(cat "$work/out")"
run bench --shape mamba-130m --device cpu --batch 1 --repeats 3 --csv
[ $rc = 0 ] || fail "bench: exit $rc"
grep -q '^decode,mamba-130m B=1,.*,ok$' "$work/out" || fail "bench: no row"
finish
