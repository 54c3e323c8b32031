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

# The module file, read as module systems do: its own place tells the prefix, and where it is a copy, the place of the installation.
cat >"$work/module.tcl" <<'END'
foreach command {module-whatis conflict} { proc $command args {} }
foreach command {setenv prepend-path} { proc $command {name value} { puts "$name $value" } }
lassign $argv ModulesCurrentModulefile
source $ModulesCurrentModulefile
END
module() { # module PREFIX FILE
    : >"$work/err"
    [ "$(tclsh "$work/module.tcl" "$2" 2>"$work/err" | sed -n 's/^POLYLEPIS_ROOT //p')" = "$1" ] && [ ! -s "$work/err" ] ||
        fail "module file $2: $(tclsh "$work/module.tcl" "$2" 2>&1), not $1"
}
if command -v tclsh >/dev/null; then
    # shellcheck disable=SC2016 # Tcl's characters
    file=share/modulefiles/polylepis/$version odd='a [b] $c "d" {e'
    module "$prefix" "$prefix/$file"
    [ "$(tclsh "$work/module.tcl" "$prefix/$file" | grep -c "$prefix")" = 8 ] || fail "module file: $(tclsh "$work/module.tcl" "$prefix/$file")"
    mkdir "$work/there"
    (cd "$work/there" && cmake --install "$build" --prefix "$odd/../$odd" >"$work/err" 2>&1) || fail "cmake --install with a relative prefix"
    cp "$work/there/$odd/$file" "$work/copy"
    module "$work/there/$odd" "$work/copy"
    mv "$work/there" "$work/moved" # with all that is in it
    module "$work/moved/$odd" "$work/moved/$odd/$file"
    ln -s "$work/moved/$odd/$file" "$work/link"
    module "$work/moved/$odd" "$work/link"
else
    echo "skipped: the module file, for want of tclsh"
fi

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

# From C++, in a project that has C and in one that has not, and with MPI's library for C alone.
mkdir "$work/cxx"
cat >"$work/cxx/app.cc" <<'END'
#include <mpi.h> // before ours, which cannot keep its C++ bindings out any more
#include <polylepis/polylepis.h>

#include <cstdio>

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    plp_engine_options options{};
    options.model = argv[1];
    plp_engine *engine = nullptr;
    plp_engine_info info{};
    const plp_status st = plp_engine_create(&engine, MPI_COMM_WORLD, &options);
    plp_engine_describe(engine, &info);
    if (info.rank == 0) std::printf("%s on %d ranks\n", plp_status_name(st), info.size);
    plp_engine_destroy(&engine);
    MPI_Finalize();
}
END
echo "OK on $np ranks" >"$work/want"
if command -v c++ >/dev/null; then
    for languages in CXX "C CXX"; do
        printf '%s\n' "cmake_minimum_required(VERSION 3.25)" "project(app LANGUAGES $languages)" "find_package(polylepis 0.1 REQUIRED)" \
            "add_executable(app app.cc)" "target_link_libraries(app PRIVATE polylepis::polylepis)" >"$work/cxx/CMakeLists.txt"
        app="$work/cxx/build of $languages"
        cmake -S "$work/cxx" -B "$app" -DCMAKE_PREFIX_PATH="$prefix" >"$work/err" 2>&1 || fail "find_package, $languages"
        cmake --build "$app" >"$work/err" 2>&1 || fail "cmake --build, $languages"
        works "$app/app"
    done
    # shellcheck disable=SC2046 # several words
    OMPI_CC=c++ MPICH_CC=c++ mpicc "$work/cxx/app.cc" $(pkg-config --cflags --libs polylepis) -Wl,-rpath,"$directory" -o "$work/app" 2>"$work/err" ||
        fail "C++ with MPI's library for C"
    works "$work/app"
else
    echo "skipped: C++, for want of a compiler"
fi

sed 's/find_package(polylepis 0.1/find_package(polylepis 9.0/' "$source/examples/CMakeLists.txt" >"$work/examples/CMakeLists.txt"
cmake -S "$work/examples" -B "$work/other" -DCMAKE_PREFIX_PATH="$prefix" >"$work/err" 2>&1 && fail "version 9.0 was found"
finish
