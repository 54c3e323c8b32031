#!/bin/sh
# launch.sh POLYLEPIS NP SOURCE -- launch/quickstart and launch/test work in their own tree, however they are called; with a cmake, a ctest and an
# mpirun that only say where they are.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
mkdir -p "$work/bin" "$work/other/launch" "$work/a link"
for name in cmake ctest mpirun; do
    printf '#!/bin/sh\npwd -P >>"%s/where"\n' "$work" >"$work/bin/$name"
    chmod +x "$work/bin/$name"
done
PATH=$work/bin:$PATH PLP_CUDA=OFF PLP_PACKAGES=skip
export PATH PLP_CUDA PLP_PACKAGES
cd "$source" || exit 1
pwd -P >"$work/want"
for name in quickstart test; do
    ln -s "$PWD/launch/$name" "$work/a link/$name"
    for called in "launch/$name" "./launch/$name" "$PWD/launch/$name" "$work/a link/$name"; do
        : >"$work/where"
        CDPATH=$work/other "$called" >"$work/out" 2>"$work/err" || fail "$called: exit $?"
        sort -u "$work/where" | cmp -s - "$work/want" || fail "$called: ran in $(sort -u "$work/where"), not in $PWD"
        [ ! -s "$work/out" ] || fail "$called: $(cat "$work/out")"
    done
done
finish
