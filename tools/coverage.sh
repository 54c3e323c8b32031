#!/bin/sh
# coverage.sh [FOLDER...] -- builds with gcov's counters, runs the tests, and prints for each source file of these folders (all of src) the
# share of its lines that ran and of its branches that were taken, least first.  What a process was killed in is not counted, nor is what
# the model parser's process does, which may not write.  Ten minutes on two cores.
# shellcheck source=launch/lib.sh
. "$(dirname "$(readlink -f "$0")")/../launch/lib.sh"
[ $# -gt 0 ] || set -- src
install_packages "$packages_build $packages_test"
configure coverage
cmake --build --preset coverage >&2
find build/coverage -name '*.gcda' -delete
ctest --preset coverage -j "$(nproc)" >&2 || say "some tests failed: what they did not reach counts as not reached"
for folder in "$@"; do
    find "build/coverage/$folder" -name '*.gcda' | while read -r counts; do
        gcov -b -n "$counts" 2>/dev/null | awk -v root="$PWD/" '
            /^File/ { file = substr($2, 2, length($2) - 2); sub(root, "", file) }
            /^Lines executed/ { sub("executed:", "", $2); lines = $2 }
            /^Taken at least once/ { split($4, part, ":"); printf "%s lines %s branches %s\n", file, lines, part[2] }'
    done
done | grep '^src/.*\.c ' | sort -u -t ' ' -k 1,1 | sort -t ' ' -k 5,5n | column -t
