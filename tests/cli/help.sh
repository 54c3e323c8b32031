#!/bin/sh
# help.sh POLYLEPIS VERSION SOURCE MANUAL -- help and version need no MPI, go to stdout, and leave with 0; completion and manual pages name
# what there is.  MANUAL: polylepis(1) as the build writes it.
set -eu
polylepis=$1 version=$2 source=$3 manual=$4
said=$("$polylepis" --version)
[ "$(printf '%s\n' "$said" | head -1)" = "polylepis $version" ]
for library in MPI HDF5 BLAS CUDA NCCL; do printf '%s\n' "$said" | grep -q "^$library "; done
commands="generate run-batch logits perplexity convert inspect verify bench diag"
for command in $commands; do
    "$polylepis" --help | grep -q "^  $command "
    "$polylepis" "$command" --help | grep -q "^Usage: polylepis $command"
    [ "$("$polylepis" help "$command")" = "$("$polylepis" "$command" -h)" ]
done
"$polylepis" generate --help | grep -q '^Examples:'
"$polylepis" --help 2>&1 >/dev/null | wc -c | grep -q '^0$' # nothing on stderr
[ -z "$(OMPI_COMM_WORLD_RANK=1 "$polylepis" --help)" ] # under mpirun rank 0 alone speaks

# From here on, what is missing is said.
failures=0
fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ "$("$polylepis" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p' | tr '\n' ' ')" = "$commands help version " ] || fail "commands"
for command in help version; do
    [ "$("$polylepis" help $command)" = "$("$polylepis" --help)" ] || fail "help $command"
done
plain() { sed 's/\\-/-/g; s/\\f[BRI]//g' "$1"; }
options() { "$polylepis" help "$1" | sed -n 's/^  \(\(-[a-z], \)\{0,1\}--[a-z-]*\).*/\1/p' | tr -d ','; }

# polylepis(1): a place among the commands, and every option.
plain "$manual" | sed -n '/^\.SH COMMANDS/,/^\.SH OPTIONS/s/^\.BI "\([a-z-]*\) .*/\1/p' >"$work/described"
plain "$manual" | sed -n '/^\.SH OPTIONS/,/^\.SH FILES/p' >"$work/options"
for command in $commands; do
    grep -qx -e "$command" "$work/described" || fail "polylepis(1) does not describe $command"
    grep -q "^\.SS polylepis $command" "$work/options" || fail "polylepis(1) has no options of $command"
    options "$command" | tr ' ' '\n' | while read -r option; do
        grep -qE -e "(^|, )$option( |\$|,)" "$work/options" || echo "$option"
    done >"$work/missing"
    [ ! -s "$work/missing" ] || fail "polylepis(1) lacks $(tr '\n' ' ' <"$work/missing")"
done
# polylepis(3): what the headers declare.  polylepis-model(5): the attributes that docs/file-format.md lists.
plain "$source/docs/man/polylepis.3" >"$work/3"
cat "$source"/include/polylepis/*.h | grep -v '^ \*' | grep -o '\bplp_[a-z_]*(' | sort -u | while read -r name; do
    grep -qF -e "$name" "$work/3" || echo "$name"
done >"$work/missing"
[ ! -s "$work/missing" ] || fail "polylepis(3) lacks $(tr '\n' ' ' <"$work/missing")"
sed -n '/^| string | `family`/,/^| int64 list/p' "$source/docs/file-format.md" | grep -o '`[a-z_]*`' | tr -d '`' | while read -r name; do
    grep -qw -e "$name" "$source/docs/man/polylepis-model.5" || echo "$name"
done >"$work/missing"
[ ! -s "$work/missing" ] || fail "polylepis-model(5) lacks $(tr '\n' ' ' <"$work/missing")"
if command -v mandoc >/dev/null; then
    mandoc -T lint -W warning "$manual" "$source"/docs/man/*.[35] || fail "mandoc"
fi

# Completion, as bash calls it.
"$polylepis" --describe bash >"$work/bash"
"$polylepis" --describe zsh >"$work/zsh"
[ -z "$("$polylepis" --describe csh 2>/dev/null)" ] || fail "csh is no form"
offered() { # WORD...: what is offered for the last of them
    bash -c 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _polylepis; printf "%s\n" "${COMPREPLY[@]}"' "$work/bash" polylepis "$@"
}
[ "$(offered gen)" = generate ] || fail "gen: $(offered gen)"
[ "$(offered help per)" = perplexity ] || fail "help per: $(offered help per)"
for command in $commands; do
    [ "$(offered "$command" - | sort)" = "$(options "$command" | tr ' ' '\n' | sort)" ] || fail "$command -: $(offered "$command" -)"
done
[ "$(offered generate --device '' | tr '\n' ' ')" = "auto cpu cuda " ] || fail "--device"
[ "$(offered generate --device = cu)" = cuda ] || fail "--device=cu"
[ -z "$(offered generate --model mo)" ] || fail "--model is for file names"
[ -z "$(offered generate --top-k 1)" ] || fail "--top-k is a number"
if command -v zsh >/dev/null; then
    zsh -n "$work/zsh" || fail "zsh does not read its script"
fi
[ "$failures" = 0 ]
