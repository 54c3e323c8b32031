#!/bin/sh
# install.sh POLYLEPIS NP SOURCE BUILD VERSION -- what `cmake --install` leaves can be used from outside the tree: the program, and the
# library by CMake package and by pkg-config.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
build=$4 version=$5 prefix=$work/usr
: >"$work/err"
cmake --install "$build" --prefix "$prefix" >"$work/err" 2>&1 || fail "cmake --install"
library=$(find "$prefix" -name "libpolylepis.so.$version")
[ -f "$library" ] || fail "no libpolylepis.so.$version"
directory=$(dirname "$library")
[ -e "$directory/libpolylepis.so" ] || fail "no libpolylepis.so to link"
readelf -d "$library" | grep -q "SONAME.*libpolylepis.so.${version%.*}\\]" || fail "soname: $(readelf -d "$library" | grep SONAME)"

# Documentation stands by itself, and DESTDIR is no part of what is installed below it.
"$source/tests/cli/links.sh" "$prefix/share/doc/polylepis" >"$work/err" 2>/dev/null || fail "links of the installed documentation"
grep -q "(../../../polylepis/slurm/)" "$prefix/share/doc/polylepis/docs/index.md" || fail "no link to the job scripts"
DESTDIR=$work/root cmake --install "$build" --prefix /opt/plp >"$work/err" 2>&1 || fail "cmake --install with DESTDIR"
(cd "$prefix" && find . -type f | sort) >"$work/files"
(cd "$work/root/opt/plp" && find . -type f | sort) | cmp -s - "$work/files" || fail "other files with DESTDIR"
[ "$(ls "$work/root")" = opt ] || fail "something beside DESTDIR/opt"
grep -q '^set prefix "/opt/plp"' "$work/root/opt/plp/share/modulefiles/polylepis/$version" || fail "prefix of the module file"
grep -rlF -e "$work" "$work/root" >"$work/err" && fail "DESTDIR is named inside"

# Exported: what the headers declare, and all of it.
nm -D --defined-only "$library" | awk '$2 != "A" { print $3 }' | sort >"$work/exported"
cat "$prefix"/include/polylepis/*.h | grep -v '^ \*' | grep -o '\bplp_[a-z_]*(' | tr -d '(' | sort -u >"$work/declared"
cmp -s "$work/exported" "$work/declared" || fail "exported and declared: $(diff "$work/exported" "$work/declared" | tr '\n' ' ')"

# The same text as the program's, by every way of building.
"$prefix/bin/polylepis" --version >/dev/null 2>"$work/err" || fail "installed program"
run generate -m "$demo" -q -p "In the beginning" -n 24
printf '0:%s\n' "$(cat "$work/out")" >"$work/want"
works() {
    "${MPIEXEC:-mpirun}" -np "$np" "$1" "$demo" "In the beginning" >"$work/got" 2>"$work/err" || fail "$1: exit $?"
    [ ! -s "$work/err" ] || fail "$1: the library printed something"
    cmp -s "$work/got" "$work/want" || fail "$1: $(cat "$work/got"), not $(cat "$work/want")"
}
cp -R "$source/examples" "$work/examples"
cmake -S "$work/examples" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$prefix" >"$work/err" 2>&1 || fail "find_package"
cmake --build "$work/cmake" >"$work/err" 2>&1 || fail "cmake --build"
works "$work/cmake/example_batch"
export PKG_CONFIG_PATH="$directory/pkgconfig"
[ "$(pkg-config --modversion polylepis)" = "$version" ] || fail "pkg-config --modversion"
# shellcheck disable=SC2046 # several words
mpicc -std=c17 "$work/examples/batch.c" $(pkg-config --cflags --libs polylepis) -Wl,-rpath,"$directory" -o "$work/batch" 2>"$work/err" || fail "mpicc"
works "$work/batch"
"$polylepis" convert "$demo" "$work/demo.h5" -q 2>"$work/err" && demo=$work/demo.h5 || fail "convert"
works "$work/batch" # the library finds the parser from where it lies
sed 's/find_package(polylepis 0.1/find_package(polylepis 9.0/' "$source/examples/CMakeLists.txt" >"$work/examples/CMakeLists.txt"
cmake -S "$work/examples" -B "$work/other" -DCMAKE_PREFIX_PATH="$prefix" >"$work/err" 2>&1 && fail "version 9.0 was found"
finish
