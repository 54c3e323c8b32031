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

/* A library: what the program was built with, and what it runs with. */
typedef struct {
    const char *name;
    char built[64], found[TP_CLAIM];
} library;

static library mpi(void)
{
    library l = { .name = "MPI" };
    char found[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(found, &length); /* may be called before MPI_Init */
    found[strcspn(found, ",\n")] = 0;
    snprintf(l.found, sizeof l.found, "%.90s", found);
#ifdef OPEN_MPI
    snprintf(l.built, sizeof l.built, "Open MPI %d.%d.%d (MPI %d.%d)", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION, OMPI_RELEASE_VERSION,
             MPI_VERSION, MPI_SUBVERSION);
#else
    snprintf(l.built, sizeof l.built, "MPI %d.%d", MPI_VERSION, MPI_SUBVERSION);
#endif
    return l;
}

static library hdf5(void)
{
    library l = { .name = "HDF5" };
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    snprintf(l.built, sizeof l.built, "%s", H5_VERS_INFO);
    snprintf(l.found, sizeof l.found, "%u.%u.%u", major, minor, release);
    return l;
}

/* What CUDA's and NCCL's version calls say: 1000 major + 10 minor, and 10000 major + 100 minor + patch. */
static library cuda(void)
{
    library l = { .name = "CUDA" };
    int cuda = 0;
    int (*version)(int *);
    ASK(version, "cudaRuntimeGetVersion");
    if (version != NULL) version(&cuda);
#ifdef PLP_CUDA
    snprintf(l.built, sizeof l.built, "%s", PLP_CUDA_BUILT);
    snprintf(l.found, sizeof l.found, "%d.%d", cuda / 1000, cuda % 1000 / 10);
#endif
    return l;
}

static library nccl(void)
{
    library l = { .name = "NCCL" };
    int nccl = 0;
    int (*version)(int *);
    ASK(version, "ncclGetVersion");
    if (version != NULL) version(&nccl);
#ifdef PLP_CUDA
    snprintf(l.built, sizeof l.built, "%s", PLP_NCCL_BUILT);
    snprintf(l.found, sizeof l.found, "%d.%d.%d", nccl / 10000, nccl / 100 % 100, nccl % 100);
#endif
    return l;
}

enum { LIBRARIES = 4 };
static void ask_all(library all[LIBRARIES]) { all[0] = mpi(), all[1] = hdf5(), all[2] = cuda(), all[3] = nccl(); }

int cli_program_claims(tp_claim *claims)
{
    library all[LIBRARIES];
    ask_all(all);
    claims[0] = (tp_claim){ .name = "build", .text = PLP_BUILD };
    for (int i = 0; i < LIBRARIES; i++) {
        claims[1 + i] = (tp_claim){ .name = all[i].name };
        memcpy(claims[1 + i].text, all[i].found, sizeof all[i].found);
    }
    return 1 + LIBRARIES;
}

void cli_nccl_version(char *text, size_t size)
{
    const library l = nccl();
    snprintf(text, size, "%s", l.built[0] == 0 ? "" : l.found);
}

void cli_print_version(void)
{
    library all[LIBRARIES];
    ask_all(all);
    printf("polylepis %s\nbuild %s\n", plp_version(), PLP_BUILD);
    for (int i = 0; i < LIBRARIES; i++) {
        if (all[i].built[0] == 0)
            printf("%-5s built without\n", all[i].name);
        else
            printf("%-5s built with %s, found %s\n", all[i].name, all[i].built, all[i].found);
        if (i == 1) printf("BLAS  none: the CPU's matrix products are the program's own\n");
    }
}
