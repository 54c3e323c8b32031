#!/bin/sh
# includes.sh ROOT -- includes point one way, as docs/architecture.md says: a folder names only folders below it, spelled from src/, and
# each foreign library is known to the folders that own it.  Prints every line that breaks the rule.
# includes.sh --self-test -- plants one violation of each kind and expects exactly those.
set -eu

# shellcheck disable=SC2016 # awk's dollars
check() {
    find "$1/include" "$1/src" -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort | xargs awk -v root="$1/" '
    BEGIN {
        below["include"] = " polylepis "
        below["base"]    = below["include"] "base "
        below["kernels"] = below["base"] "kernels "
        below["tp"]      = below["kernels"] "tp "
        below["io"]      = below["base"] "io "
        below["text"]    = below["base"] "text "
        below["layers"]  = below["tp"] "layers "
        below["model"]   = below["layers"] "io text model "
        below["engine"]  = below["model"] "engine "
        below["cli"]     = below["engine"] "cli "
        owner["mpi.h"] = " include tp engine cli "; owner["nccl.h"] = " tp "; owner["hdf5.h"] = " io cli "
        owner["json.h"] = " base io text engine cli "; owner["pcre2.h"] = owner["utf8proc.h"] = " text "
        owner["cuda"] = " kernels tp "
    }
    function bad(why) { printf "%s:%d: %s: %s\n", name, FNR, $0, why; failed = 1 }
    FNR == 1 {
        name = substr(FILENAME, length(root) + 1)
        split(name, part, "/")
        folder = part[1] == "include" ? "include" : part[2]
        if (!(folder in below)) { printf "%s: folder %s is not in the table of tests/cli/includes.sh\n", name, folder; failed = 1 }
    }
    /^[ \t]*#[ \t]*include[ \t]*"/ {
        split($0, quoted, "\"")
        if (!index(quoted[2], "/")) bad("spell includes from src/")
        else { split(quoted[2], part, "/"); if (!index(below[folder], " " part[1] " ")) bad(folder " may not include " part[1]) }
    }
    /^[ \t]*#[ \t]*include[ \t]*</ {
        split($0, angle, "[<>]")
        library = angle[2] ~ /^(cu|driver_types|cooperative_groups)/ ? "cuda" : angle[2]
        sub(/^json-c\//, "", library)
        if (library in owner && !index(owner[library], " " folder " ")) bad("not a library of " folder)
    }
    END { exit failed }'
}

self_test() {
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    mkdir -p "$tree/include/polylepis" "$tree/src/kernels/cuda" "$tree/src/tp" "$tree/src/model" "$tree/src/cli/main" "$tree/src/new"
    printf '#include "base/log.h"\n' >"$tree/include/polylepis/a.h"                   # 1: the public API knows nothing
    printf '#include "kernels/kernels.h"\n#include <mpi.h>\n' >"$tree/src/kernels/a.c" # 2: kernels know no ranks
    printf '#include "tp/tp.h"\n' >"$tree/src/kernels/cuda/a.cu"                       # 3
    printf '#include "base/log.h"\n  # include "model/model.h"\n' >"$tree/src/tp/a.h"  # 4: upwards
    printf '#include "config.h"\n#include <cuda_runtime.h>\n' >"$tree/src/model/a.c"   # 5, 6: spelling; a toolkit header
    printf '#include "engine/engine.h"\n#include <mpi.h>\n' >"$tree/src/cli/main/a.c"  # fine
    printf 'int x;\n' >"$tree/src/new/a.c"                                             # 7: a folder without a row
    found=$(check "$tree" | sed 's/:.*//' | tr '\n' ' ') || true
    want="include/polylepis/a.h src/kernels/a.c src/kernels/cuda/a.cu src/model/a.c src/model/a.c src/new/a.c src/tp/a.h "
    [ "$found" = "$want" ] || { printf 'found: %s\nwant:  %s\n' "$found" "$want"; exit 1; }
}

if [ "$1" = --self-test ]; then self_test; else check "$1"; fi
