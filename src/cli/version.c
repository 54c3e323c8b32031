#include "cli/cli.h"

#include "polylepis/polylepis.h"

#include <dlfcn.h>
#include <hdf5.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* A library that is perhaps not linked is asked by name.  (ISO C has no cast from an object pointer to a function's.) */
#define ASK(function, name)                                                                                                                \
    do {                                                                                                                                   \
        void *symbol_ = dlsym(RTLD_DEFAULT, name);                                                                                         \
        memcpy(&(function), &symbol_, sizeof symbol_);                                                                                     \
    } while (0)

static void print_mpi(void)
{
    char found[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(found, &length); /* may be called before MPI_Init */
    found[strcspn(found, ",\n")] = 0;
#ifdef OPEN_MPI
    printf("MPI   built with Open MPI %d.%d.%d (MPI %d.%d), found %s\n", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION, OMPI_RELEASE_VERSION,
           MPI_VERSION, MPI_SUBVERSION, found);
#else
    printf("MPI   built with MPI %d.%d, found %s\n", MPI_VERSION, MPI_SUBVERSION, found);
#endif
}

static void print_hdf5(void)
{
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    printf("HDF5  built with %s, found %u.%u.%u\n", H5_VERS_INFO, major, minor, release);
}

/* What CUDA's and NCCL's version calls say: 1000 major + 10 minor, and 10000 major + 100 minor + patch. */
static void print_cuda(void)
{
    int cuda = 0, nccl = 0;
    int (*version)(int *);
    ASK(version, "cudaRuntimeGetVersion");
    if (version != NULL) version(&cuda);
    ASK(version, "ncclGetVersion");
    if (version != NULL) version(&nccl);
#ifdef PLP_CUDA
    printf("CUDA  built with %s, found %d.%d\n", PLP_CUDA_BUILT, cuda / 1000, cuda % 1000 / 10);
    printf("NCCL  built with %s, found %d.%d.%d\n", PLP_NCCL_BUILT, nccl / 10000, nccl / 100 % 100, nccl % 100);
#else
    printf("CUDA  built without\nNCCL  built without\n");
#endif
}

void cli_print_version(void)
{
    printf("polylepis %s\n", plp_version());
    print_mpi();
    print_hdf5();
    printf("BLAS  none: the CPU's matrix products are the program's own\n");
    print_cuda();
}
