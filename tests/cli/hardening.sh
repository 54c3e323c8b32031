#!/bin/sh
# hardening.sh SOURCE BUILD_TYPE COMPILER C_FLAGS PARSER FILE... -- what was built is hard to misuse: position-independent, nothing of it
# both writable and executable, its tables of functions read-only from the start, its stacks and buffers guarded; and it is the same, to
# the byte, when it is built somewhere else.
set -u
source=$1 type=$2 compiler=$3 flags=$4 parser=$5
shift 5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
fail() {
    printf 'FAILED: %s\n' "$*"
    failures=$((failures + 1))
}

for file in "$parser" "$@"; do
    name=${file##*/}
    readelf -Wh -l -d "$file" >"$work/elf"
    readelf -W --dyn-syms "$file" >"$work/symbols"
    grep -q 'Type: *DYN' "$work/elf" || fail "$name: not position-independent"
    grep -q GNU_RELRO "$work/elf" || fail "$name: no RELRO"
    grep -qE 'BIND_NOW|FLAGS.*NOW' "$work/elf" || fail "$name: binds late"
    grep -E 'GNU_STACK|LOAD' "$work/elf" | grep -q 'RWE' && fail "$name: writable and executable"
    grep -q TEXTREL "$work/elf" && fail "$name: its code is written to when it is loaded"
    grep -q '__stack_chk_fail' "$work/symbols" || fail "$name: stacks unguarded"
    grep -qE '__[a-z]+_chk@' "$work/symbols" || fail "$name: buffers unguarded"
    LC_ALL=C grep -qaF "$source/src" "$file" && fail "$name: says where it was built"
done

# Built again, from a copy.  (The parser has all that a build consists of, in seconds.)
mkdir "$work/elsewhere" && cp -R "$source/CMakeLists.txt" "$source/cmake" "$source/src" "$source/include" "$source/docs" "$source/launch" \
    "$source"/*.md "$source/LICENSE" "$work/elsewhere"
cmake -S "$work/elsewhere" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE="$type" -DCMAKE_C_COMPILER="$compiler" -DCMAKE_C_FLAGS="$flags" \
    -DPLP_TESTS=OFF -DPLP_CUDA=OFF >"$work/log" 2>&1 && cmake --build "$work/build" --target polylepis-parser >>"$work/log" 2>&1 || {
    tail -n 20 "$work/log"
    fail "cannot be built elsewhere"
}
cmp "$parser" "$work/build/libexec/polylepis/polylepis-parser" || fail "built elsewhere it is another program"
[ "$failures" = 0 ]
