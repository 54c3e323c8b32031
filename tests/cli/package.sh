#!/bin/sh
# package.sh POLYLEPIS NP SOURCE BUILD VERSION -- the Debian package that cpack makes: what it says it needs, what is in it, and that the
# program runs from where it was unpacked.  Exit 77: no tools for packages here.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
build=$4 version=$5
: >"$work/err"
command -v dpkg-shlibdeps >/dev/null || exit 77
cpack --config "$build/CPackConfig.cmake" -B "$work/cpack" >"$work/err" 2>&1 || fail "cpack"
deb=$(echo "$work"/cpack/polylepis_"$version"_*.deb)
[ -f "$deb" ] || fail "no package"
[ "$(dpkg-deb -f "$deb" Package Version | tr '\n' ' ')" = "Package: polylepis Version: $version " ] || fail "$(dpkg-deb -f "$deb")"
needs=$(dpkg-deb -f "$deb" Depends)
for library in openmpi-bin libc6 libopenmpi libhdf5 libjson-c libpcre2-8 libutf8proc libgomp1; do
    case $needs in *$library*) ;; *) fail "it does not depend on $library: $needs" ;; esac
done
case $needs in *cmocka* | *-dev*) fail "needs what only building needs: $needs" ;; esac

dpkg-deb -c "$deb" >"$work/list"
awk '$2 != "root/root" || substr($1, 6, 1) == "w" && substr($1, 1, 1) != "l" || substr($1, 9, 1) == "w" && substr($1, 1, 1) != "l" { exit 1 }' \
    "$work/list" || fail "owners or permissions: $(cat "$work/list")"
dpkg-deb -x "$deb" "$work/root"
usr=$work/root/usr
for file in bin/polylepis include/polylepis/polylepis.h "lib/libpolylepis.so.$version" lib/pkgconfig/polylepis.pc \
    lib/cmake/polylepis/polylepisConfig.cmake share/man/man1/polylepis.1 share/man/man3/polylepis.3 share/man/man5/polylepis-model.5 \
    share/bash-completion/completions/polylepis share/zsh/vendor-completions/_polylepis share/doc/polylepis/README.md \
    share/doc/polylepis/CHANGELOG.md share/doc/polylepis/LICENSE share/doc/polylepis/docs/index.md share/polylepis/slurm/one-node.sbatch \
    share/polylepis/models/demo/model.safetensors "share/modulefiles/polylepis/$version"; do
    [ -f "$usr/$file" ] || fail "no /usr/$file"
done
[ "$(ls "$work/root")" = usr ] || fail "something beside /usr"
grep -q '^set prefix "/usr"' "$usr/share/modulefiles/polylepis/$version" || fail "prefix of the module file"
grep -rlF -e "$build" -e "$source" -e "$work" "$work/root" >"$work/err" && fail "names of where it was built"
"$source/tests/cli/links.sh" "$usr/share/doc/polylepis" >"$work/err" 2>/dev/null || fail "links of the documentation"
cmp -s "$usr/share/polylepis/models/demo/model.safetensors" "$demo/model.safetensors" || fail "the demonstration model"

# Unpacked, it does what the program of the tree does.
run generate -m "$demo" -q -p "In the beginning" -n 24
cp "$work/out" "$work/want"
polylepis=$usr/bin/polylepis demo=$usr/share/polylepis/models/demo
run generate -m "$demo" -q -p "In the beginning" -n 24
[ "$rc" = 0 ] || fail "from the package: exit $rc"
[ -s "$work/want" ] || fail "no text at all"
cmp -s "$work/out" "$work/want" || fail "from the package: $(cat "$work/out")"
finish
