#!/bin/sh
# parser.sh POLYLEPIS NP SOURCE PARSER PLANTED HOSTILE PLUGIN -- the process that parses model files: where it is looked for, what becomes
# of a job when it is taken over, and that no process of ours opens what a file names.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
parser=$4 planted=$5 hostile=$6 plugin=$7
: >"$work/err"
"$polylepis" convert "$demo" "$work/demo.h5" -q || fail "convert"
"$polylepis" convert "$source/tests/data/fixtures/mamba2-g2-h6" "$work/small.h5" -q || fail "convert"

# An installation of its own, in which parsers are exchanged.
mkdir -p "$work/usr/bin" "$work/usr/libexec/polylepis"
cp "$polylepis" "$work/usr/bin/"
polylepis=$work/usr/bin/polylepis installed=$work/usr/libexec/polylepis/polylepis-parser
put() { cp "$1" "$installed.new" && mv "$installed.new" "$installed"; }
generate() { run generate -m "$1" -q -p "In the" -n 3; }

put "$parser"
generate "$work/demo.h5"
[ "$rc" = 0 ] && [ -s "$work/out" ] && [ ! -s "$work/err" ] || fail "an installed parser: exit $rc"
cp "$work/out" "$work/want"

# Limits of the user's that are narrower than the parser's own stay.
(ulimit -v 1500000 && ulimit -t 8 && "$polylepis" generate -m "$work/demo.h5" -q -p "In the" -n 3 >"$work/out" 2>"$work/err")
[ $? = 0 ] && cmp -s "$work/out" "$work/want" && [ ! -s "$work/err" ] || fail "narrow limits: $(cat "$work/err")"

# Not there, or anybody's to change: not started.  Trust helps.
chmod o+w "$installed"
refused 66 "libexec/polylepis/polylepis-parser" generate -m "$work/demo.h5" -q -p "In the"
chmod o-w "$installed"
if [ "$(id -u)" = 0 ]; then
    chown 65534 "$installed"
    refused 66 "libexec/polylepis/polylepis-parser" generate -m "$work/demo.h5" -q -p "In the"
fi
rm -f "$installed"
refused 66 "libexec/polylepis/polylepis-parser" inspect "$work/demo.h5"
run generate -m "$work/demo.h5" -q -p "In the" -n 3 --trust-model
cmp -s "$work/out" "$work/want" || fail "--trust-model: exit $rc, other text"
[ "$(grep -c 'parsed in this process' "$work/err")" = 1 ] || fail "--trust-model does not say so once"
run inspect "$work/demo.h5" --trust-model
[ "$rc" = 0 ] && grep -q 'parsed in this process' "$work/err" || fail "inspect --trust-model: exit $rc"

refused 66 "libexec/polylepis/polylepis-parser" convert "$work/demo.h5" "$work/anew.h5"
run convert "$work/demo.h5" "$work/anew.h5" --trust-model
[ "$rc" = 0 ] && grep -q 'parsed in this process' "$work/err" || fail "convert --trust-model: exit $rc"

# Of the environment it gets what the loader needs, and sanitizers where it was built with them.
printf '#!/bin/sh\ntr "\\0" "\\n" </proc/$$/environ >%s\nexec %s "$@"\n' "$work/environment" "$parser" >"$work/script" && chmod 755 "$work/script"
put "$work/script"
ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=0 LD_LIBRARY_PATH=$work/none "$polylepis" inspect "$work/demo.h5" >"$work/out" 2>"$work/err" ||
    fail "a parser behind a script"
names=$(cut -d= -f1 "$work/environment" | sort | tr '\n' ' ')
if grep -q __asan_init "$parser"; then want="ASAN_OPTIONS LD_LIBRARY_PATH UBSAN_OPTIONS "; else want="LD_LIBRARY_PATH "; fi
[ "$names" = "$want" ] || fail "the parser's environment: $names"

# Taken over: the job ends as with any bad file.  (A planted parser does what the model's name says.)
put "$planted"
while read -r code wish words; do
    ln "$work/demo.h5" "$work/$wish"
    refused "$code" "$words" generate -m "$work/$wish" -q -p "In the"
done <<END
65 all-crash could not be parsed safely: the parser
65 all-read could not be parsed safely: the parser tried what it must not
65 all-flood could not be parsed safely: the parser said too much
65 all-nomemory could not be parsed safely: it needs more memory
65 all-wild all is well
70 all-garbage install the program and its
END
run inspect "$work/all-wild"
LC_ALL=C tr -d '\n -~' <"$work/err" | od -c | grep -q '[^0 ]' && LC_ALL=C grep -q "[$(printf '\001-\037\177')]" "$work/err" &&
    fail "control characters of the parser's reach the terminal"

# A kernel that confines less: it works, and one warning says what is missing.
for wish in "none-unconfined Landlock and no seccomp" "none-uncalled seccomp"; do
    ln "$work/demo.h5" "$work/${wish%% *}"
    generate "$work/${wish%% *}"
    cmp -s "$work/out" "$work/want" || fail "$wish: exit $rc, other text"
    [ "$(grep -c "warning: this kernel has no ${wish#* }" "$work/err")" = 1 ] || fail "$wish: want one warning"
done
put "$parser"

# Plugins: a file whose filter nobody has makes HDF5 load what lies in its plugin path.
mkdir "$work/files" "$work/plugins"
"$hostile" "$work/small.h5" "$work/files" >"$work/list" || fail "hostile files"
cp "$plugin" "$work/plugins/libcanary.so"
filtered=$work/files/$(sed -n 's/ .*(1 filters).*//p' "$work/list").h5
HDF5_PLUGIN_PATH=$work/plugins "$planted" none-naive <"$filtered" >/dev/null 2>&1
[ -e "$work/plugins/libcanary.so.loaded" ] || fail "control: the canary is not loaded by a naive reader"
rm -f "$work/plugins/libcanary.so.loaded"
export HDF5_PLUGIN_PATH="$work/plugins"
refused 64 "HDF5_PLUGIN_PATH is set" inspect "$filtered"
refused 64 "HDF5_PLUGIN_PATH is set" inspect "$filtered" --trust-model
"$parser" x <"$filtered" | cat >"$work/table" # somebody calls it by hand
unset HDF5_PLUGIN_PATH
refused 65 "(1 filters)" inspect "$filtered"
[ ! -e "$work/plugins/libcanary.so.loaded" ] || fail "a plugin was loaded"

# Other files: not even an attempt, by the parser or by the program.
trace() { strace -f -e trace=open,openat,openat2,execve -o "$work/trace" "$@" >"$work/out" 2>"$work/err" </dev/null; }
if ! trace true; then
    echo "no strace, or it may not trace: opens were not watched"
    finish
fi
strace -f -e trace=openat -o "$work/trace" "$planted" none-naive <"$work/files/0.h5" >/dev/null 2>&1
grep -q 'other\.raw' "$work/trace" || fail "control: a naive reader opens no other file"
for file in "$work"/files/*.h5; do
    { strace -f -o "$work/trace" "$parser" x <"$file" 2>"$work/err" || echo $? >"$work/status"; } | cat >"$work/table" # it writes to pipes alone
    [ ! -e "$work/status" ] || fail "$file: the parser: exit $(cat "$work/status")"
    grep -E 'other\.(raw|h5)' "$work/trace" && fail "$file: opens another file"
    awk '/SECCOMP/ { confined = 1; next } confined && /open|socket|exec|clone|fork/' "$work/trace" | grep . && fail "$file: opens something"
    grep -q SECCOMP_MODE_FILTER "$work/trace" || fail "$file: not confined"
done
for what in "external storage" "external link" "virtual dataset"; do
    file=$work/files/$(sed -n "s/ .*$what.*//p" "$work/list").h5
    for trust in "" --trust-model; do
        # shellcheck disable=SC2086 # nothing, or a word
        trace "$polylepis" inspect "$file" $trust
        rc=$?
        [ $rc = 65 ] && grep -q "/extra: .*$what" "$work/err" || fail "$what $trust: exit $rc"
        grep -E 'other\.(raw|h5)' "$work/trace" && fail "$what $trust: opens another file"
    done
done
finish
