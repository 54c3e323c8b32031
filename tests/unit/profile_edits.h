/* tests/unit/profile_edits.h -- what must not be in a model file, each as an edit of a good one, and what the refusal says.  Groups and
 * datasets that they name are in every model; ids that they leave open go with H5close.  The other files that some of them name are called
 * /etc/other.h5 and /etc/other.raw. */
#ifndef UNIT_PROFILE_EDITS_H
#define UNIT_PROFILE_EDITS_H

#include <hdf5.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A dataset of four elements at /extra, or whatever `creation` and `type` make of it. */
static void add_dataset(hid_t file, hid_t type, hid_t space, hid_t creation)
{
    const hid_t set = H5Dcreate2(file, "/extra", type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    if (set < 0) abort();
    H5Dclose(set);
}

static hid_t four(void) { return H5Screate_simple(1, (const hsize_t[]){ 4 }, NULL); }

static hid_t early(void)
{
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
    return creation;
}

static void external_storage(hid_t file)
{
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(creation, "/etc/other.raw", 0, 16);
    add_dataset(file, H5T_IEEE_F32LE, four(), creation);
}

static void external_link(hid_t file) { H5Lcreate_external("/etc/other.h5", "/x", file, "/extra", H5P_DEFAULT, H5P_DEFAULT); }

static void soft_link(hid_t file) { H5Lcreate_soft("/embedding", file, "/extra", H5P_DEFAULT, H5P_DEFAULT); }

static void soft_cycle(hid_t file) { H5Lcreate_soft("/layers/extra", file, "/layers/extra", H5P_DEFAULT, H5P_DEFAULT); }

static void second_hard_link(hid_t file) { H5Lcreate_hard(file, "/embedding/weight", file, "/extra", H5P_DEFAULT, H5P_DEFAULT); }

static void hard_cycle(hid_t file) { H5Lcreate_hard(file, "/", file, "/layers/root", H5P_DEFAULT, H5P_DEFAULT); }

static void virtual_dataset(hid_t file)
{
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_virtual(creation, four(), "/etc/other.h5", "/x", four());
    add_dataset(file, H5T_IEEE_F32LE, four(), creation);
}

static void chunked(hid_t file)
{
    const hid_t creation = early();
    H5Pset_chunk(creation, 1, (const hsize_t[]){ 2 });
    add_dataset(file, H5T_IEEE_F32LE, four(), creation);
}

static void compressed(hid_t file)
{
    const hid_t creation = early();
    H5Pset_chunk(creation, 1, (const hsize_t[]){ 2 });
    H5Pset_shuffle(creation);
    H5Pset_deflate(creation, 1);
    add_dataset(file, H5T_IEEE_F32LE, four(), creation);
}

static size_t copy_through(unsigned flags, size_t count, const unsigned values[], size_t bytes, size_t *room, void **buffer)
{
    (void)flags, (void)count, (void)values, (void)room, (void)buffer;
    return bytes;
}

/* Whoever reads it must look for a plugin, and load what it finds on the way. */
static void unknown_filter(hid_t file)
{
    enum { FILTER = 32123 };
    const H5Z_class2_t class = { H5Z_CLASS_T_VERS, FILTER, 1, 1, "nobody's", NULL, NULL, copy_through };
    const hid_t creation = early();
    if (H5Zregister(&class) < 0) abort();
    H5Pset_chunk(creation, 1, (const hsize_t[]){ 2 });
    H5Pset_filter(creation, FILTER, 0, 0, NULL);
    add_dataset(file, H5T_IEEE_F32LE, four(), creation);
    H5Zunregister(FILTER);
}

static void compact(hid_t file)
{
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(creation, H5D_COMPACT);
    add_dataset(file, H5T_IEEE_F32LE, four(), creation);
}

static void variable_length(hid_t file) { add_dataset(file, H5Tvlen_create(H5T_IEEE_F32LE), four(), early()); }

static void variable_string(hid_t file)
{
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    add_dataset(file, type, four(), early());
}

static void compound(hid_t file)
{
    const hid_t type = H5Tcreate(H5T_COMPOUND, 4);
    H5Tinsert(type, "a", 0, H5T_IEEE_F32LE);
    add_dataset(file, type, four(), early());
}

static void reference(hid_t file) { add_dataset(file, H5T_STD_REF_OBJ, four(), early()); }

static void committed(hid_t file)
{
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    H5Tcommit2(file, "/extra", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
}

static void of_committed_type(hid_t file)
{
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE); /* its name goes away; the type stays committed */
    H5Tcommit2(file, "/type", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    add_dataset(file, type, four(), early());
    H5Ldelete(file, "/type", H5P_DEFAULT);
}

static void big_endian(hid_t file) { add_dataset(file, H5T_IEEE_F32BE, four(), early()); }

static void double_precision(hid_t file) { add_dataset(file, H5T_IEEE_F64LE, four(), early()); }

static void eight_bit_float(hid_t file)
{
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(type, 7, 3, 4, 0, 3);
    H5Tset_size(type, 1);
    H5Tset_ebias(type, 7);
    add_dataset(file, type, four(), early());
}

static void bf16_in_disguise(hid_t file) { add_dataset(file, H5T_STD_U16LE, four(), early()); }

static void scalar(hid_t file) { add_dataset(file, H5T_IEEE_F32LE, H5Screate(H5S_SCALAR), early()); }

static void rank_five(hid_t file)
{
    add_dataset(file, H5T_IEEE_F32LE, H5Screate_simple(5, (const hsize_t[]){ 1, 1, 1, 1, 2 }, NULL), early());
}

static void no_elements(hid_t file) { add_dataset(file, H5T_IEEE_F32LE, H5Screate_simple(2, (const hsize_t[]){ 0, 4 }, NULL), early()); }

static void not_allocated(hid_t file) { add_dataset(file, H5T_IEEE_F32LE, four(), H5P_DEFAULT); }

static void huge(hid_t file)
{
    add_dataset(file, H5T_IEEE_F32LE, H5Screate_simple(2, (const hsize_t[]){ UINT32_MAX, UINT32_MAX / 64 }, NULL), H5P_DEFAULT);
}

static void space_in_a_name(hid_t file) { H5Gclose(H5Gcreate2(file, "/ex tra", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)); }

static void dots(hid_t file) { H5Gclose(H5Gcreate2(file, "/..", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)); }

static void not_utf8(hid_t file) { H5Gclose(H5Gcreate2(file, "/\xff\xfe", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)); }

static void long_name(hid_t file)
{
    char name[40002] = "/";
    memset(name + 1, 'a', 40000);
    H5Gclose(H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
}

static void deep(hid_t file)
{
    char name[64] = "";
    for (int i = 0; i < 12; i++) {
        strcat(name, "/d");
        H5Gclose(H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    }
}

static void many_members(hid_t file)
{
    const hid_t group = H5Gcreate2(file, "/many", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    char name[16];
    H5Gclose(H5Gcreate2(group, "0", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    for (int i = 1; i < 100001; i++) {
        snprintf(name, sizeof name, "%d", i);
        H5Lcreate_hard(group, "0", group, name, H5P_DEFAULT, H5P_DEFAULT);
    }
    H5Gclose(group);
}

static void put_attribute(hid_t object, const char *name, hid_t type, hid_t space, const void *value)
{
    if (H5Aexists(object, name) > 0) H5Adelete(object, name);
    const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (H5Awrite(attribute, type, value) < 0) abort();
    H5Aclose(attribute);
}

static void variable_attribute(hid_t file)
{
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    const char *value = "x";
    put_attribute(file, "note", type, H5Screate(H5S_SCALAR), &value);
}

static void int32_attribute(hid_t file) { put_attribute(file, "note", H5T_STD_I32LE, H5Screate(H5S_SCALAR), &(int32_t){ 3 }); }

static void nan_attribute(hid_t file) { put_attribute(file, "norm_eps", H5T_IEEE_F64LE, H5Screate(H5S_SCALAR), &(double){ NAN }); }

typedef struct {
    void (*change)(hid_t file);
    const char *words;
} file_edit;
static const file_edit profile_edits[] = {
    { external_storage, "/extra: external storage" },
    { external_link, "/extra: an external link" },
    { soft_link, "/extra: a soft link" },
    { soft_cycle, "/layers/extra: a soft link" },
    { second_hard_link, "2 hard links to one object" },
    { hard_cycle, "2 hard links to one object" },
    { virtual_dataset, "/extra: a virtual dataset" },
    { chunked, "/extra: a chunked dataset (0 filters)" },
    { compressed, "/extra: a chunked dataset (2 filters)" },
    { unknown_filter, "/extra: a chunked dataset (1 filters)" },
    { compact, "/extra: a compact dataset" },
    { variable_length, "/extra: a variable-length type" },
    { variable_string, "/extra: a string type" },
    { compound, "/extra: a compound type" },
    { reference, "/extra: a reference type" },
    { committed, "/extra: a committed type" },
    { of_committed_type, "/extra: a committed type" },
    { big_endian, "/extra: a unknown number type of 4 bytes" },
    { double_precision, "type of 8 bytes; allowed are" },
    { eight_bit_float, "type of 1 bytes; allowed are" },
    { bf16_in_disguise, "type of 2 bytes; allowed are" },
    { scalar, "/extra: rank 0" },
    { rank_five, "/extra: rank 5" },
    { no_elements, "/extra: dimension 0 is 0" },
    { not_allocated, "/extra: bytes 18446744073709551615 + 0 (shape: 16)" },
    { huge, "/extra: dimension 0 is 4294967295" },
    { space_in_a_name, "a member's name" },
    { dots, "a member's name" },
    { not_utf8, "a member's name" },
    { long_name, "a member's name" },
    { deep, "nested deeper than 8" },
    { many_members, "/many: more than 100000 objects" },
    { variable_attribute, "attribute note is not a fixed-length string" },
    { int32_attribute, "attribute note is not a fixed-length string" },
    { nan_attribute, "attribute norm_eps is NaN" },
};
enum { PROFILE_EDITS = sizeof profile_edits / sizeof *profile_edits };

#endif
