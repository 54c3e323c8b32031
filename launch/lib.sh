# launch/lib.sh -- set-up shared by launch/quickstart and launch/test; sourced, never run.
# shellcheck shell=sh disable=SC2034 # the lists below are for the scripts that source this
#
# Environment: PLP_CUDA=ON|OFF      build the CUDA kernels or not, whatever is visible here
#              PLP_PACKAGES=skip    install nothing: MPI, HDF5 and the rest come from elsewhere (a site's modules)

set -eu
exec </dev/null # nothing here asks, and mpirun would swallow what is typed
cd "$(dirname "$(readlink -f "$0")")/.." # an absolute path: CDPATH has no say, and links to the script are followed

packages_build="gcc libc6-dev cmake ninja-build pkg-config openmpi-bin libopenmpi-dev libhdf5-dev libjson-c-dev libpcre2-dev \
libutf8proc-dev"
packages_test="g++ tcl libcmocka-dev clang-format-14 hdf5-tools python3-h5py python3-numpy dpkg-dev file strace slurmctld slurmd slurm-client munge"
packages_fuzz="clang libclang-rt-dev libomp-dev"

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# The names in a list that dpkg does not have installed, on one line.
missing() {
    for name in $1; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || printf '%s ' "$name"
    done
}

# install_packages LIST: installs what is missing; silent when nothing is.
install_packages() {
    [ "${PLP_PACKAGES:-}" != skip ] || return 0
    if ! command -v dpkg-query >/dev/null; then
        say "not a Debian or Ubuntu system: expecting the equivalents of $1"
        return 0
    fi
    wanted=$(missing "$1")
    [ -n "$wanted" ] || return 0
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif sudo -n true 2>/dev/null || { [ -t 2 ] && command -v sudo >/dev/null; }; then # at a terminal sudo may ask
        sudo=sudo
    else
        die "missing packages, and no root to install them: ${wanted% }; fix: ask for them, or PLP_PACKAGES=skip if modules provide them"
    fi
    say "installing ${wanted% }"
    apt="$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300"
    # shellcheck disable=SC2086 # a list of words
    if ! { $apt update && $apt install -y --no-install-recommends $wanted; } >&2; then die "could not install: ${wanted% }"; fi
}

gpu_visible() { [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1; }
have_nvcc() { command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; }

# ON where kernels can be built and used: a laptop does not wait for nvcc.
want_cuda() {
    if [ -n "${PLP_CUDA:-}" ]; then
        echo "$PLP_CUDA"
    elif ! gpu_visible; then
        echo OFF
    elif have_nvcc; then
        echo ON
    else
        say "a GPU is visible but no CUDA toolkit: building the CPU backend; fix: install CUDA 12.4 or newer and NCCL, and run this again"
        echo OFF
    fi
}
cuda=$(want_cuda)
if [ "$cuda" = ON ]; then packages_build="$packages_build g++"; fi # nvcc's host compiler

# configure PRESET [CMAKE-OPTION...].  Whether tests are configured follows from what is installed, not from who asks: quickstart and
# test share build/release without undoing each other's work.
configure() {
    preset=$1
    shift
    tests=OFF
    if pkg-config --exists cmocka; then tests=ON; fi
    if [ "$preset" = release ]; then set -- -DPLP_CUDA=$cuda "$@"; fi
    cmake --preset "$preset" --log-level=NOTICE -DPLP_TESTS=$tests "$@" >&2
}

# Open MPI refuses root, and more ranks than cores, unless told; binding would put all threads of a rank on one core.
mpi_environment() {
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
    if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
}
