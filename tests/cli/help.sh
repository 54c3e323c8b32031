#!/bin/sh
# help.sh POLYLEPIS VERSION -- help and version need no MPI, go to stdout, and leave with 0.
set -eu
polylepis=$1 version=$2
said=$("$polylepis" --version)
[ "$(printf '%s\n' "$said" | head -1)" = "polylepis $version" ]
for library in MPI HDF5 BLAS CUDA NCCL; do printf '%s\n' "$said" | grep -q "^$library "; done
for command in generate run-batch logits perplexity convert inspect verify bench diag; do
    "$polylepis" --help | grep -q "^  $command "
    "$polylepis" $command --help | grep -q "^Usage: polylepis $command"
    [ "$("$polylepis" help $command)" = "$("$polylepis" $command -h)" ]
done
"$polylepis" generate --help | grep -q '^Examples:'
"$polylepis" --help 2>&1 >/dev/null | wc -c | grep -q '^0$' # nothing on stderr
[ -z "$(OMPI_COMM_WORLD_RANK=1 "$polylepis" --help)" ] # under mpirun rank 0 alone speaks
