#!/bin/sh
# invariance_10k.sh BUILD [NP [REQUESTS [SEQS [TOKENS]]]] -- the long form of mpi.test_invariance on the demonstration model.
#
# By default 10,000 requests of 1 to 260 prompt tokens, greedy, seeded, and seeded with filters, at np 2: each alone, then 64 at a time with
# every prefix cache and slices of 16, 64 and 512 tokens, looking ahead and not; every token and probability must be the same, to the bit.
# Then by one rank alone: which of them differ, and how close the two candidates were.  BUILD is a build directory with tests.
# TOKENS: most that a request gives, at most 12.  `all` as SIXTH combines all caches with all slices, for three times as long.
set -eu
build=$1 np=${2:-2} requests=${3:-10000} seqs=${4:-64} tokens=${5:-12} mode=${6:-once}
export OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
[ "$mode" = all ] && set -- "$requests" "$seqs" || set -- "$requests" "$seqs" once "$tokens"
began=$(date +%s)
"${MPIEXEC:-mpirun}" -np "$np" "$build/tests/mpi/test_invariance" "$@"
echo "np $np, $requests requests, $seqs at a time, at most $tokens tokens each: $(($(date +%s) - began)) s"
