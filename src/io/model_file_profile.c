/* The profile of model files: nothing in them can name another file, need a plugin, or make HDF5 do more than find a range of bytes.
 * Every object is checked before any payload is read, and each check comes before the HDF5 call that its feature could mislead. */
#include "io/model_file_internal.h"

#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MOST_DEPTH = 8 };

typedef struct {
    const char *path; /* of the file */
    io_contents *contents;
    hid_t types[IO_ELEMENTS];
    hid_t links; /* how links are followed: never to another file */
    int64_t objects;
    char object[IO_NAME]; /* path of the object at hand; "" for the root */
    int depth;
    plp_status status;
} profile;

#define OBJECT(p)         ((p)->object[0] ? (p)->object : "/")
#define REFUSE(p, ...)    refuse((p), __LINE__, __VA_ARGS__)
#define H5(p, call, what) IO_H5(PLP_ERR_DATA, call, "%s: %s: %s", (p)->path, OBJECT(p), (what))

__attribute__((format(printf, 3, 4))) static plp_status refuse(const profile *p, int line, const char *format, ...)
{
    char what[300];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return plp_fail(PLP_ERR_DATA, __FILE__, line, "%s: %s: %s; " IO_RECONVERT, p->path, OBJECT(p), what);
}

static uint64_t little_endian(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

/* The first bytes of the file, before HDF5 sees it: a new-style superblock, whose metadata has checksums, and the size it states. */
static plp_status check_superblock(const char *path, int fd, uint64_t file_bytes)
{
    static const uint8_t signature[8] = { 0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n' };
    uint8_t b[IO_SUPERBLOCK];
    ssize_t got = 0;
    while (got < IO_SUPERBLOCK) {
        const ssize_t more = pread(fd, b + got, IO_SUPERBLOCK - (size_t)got, (off_t)got);
        if (more < 0 && errno == EINTR) continue;
        if (more < 0) return PLP_FAIL_ERRNO("read", path);
        if (more == 0) break;
        got += more;
    }
    if (got < IO_SUPERBLOCK || memcmp(b, signature, sizeof signature) != 0)
        return PLP_FAIL(PLP_ERR_DATA, "%s: not an HDF5 file; fix: give a file that `polylepis convert`, or --save-state, wrote", path);
    if (b[8] < 2 || b[8] > 3)
        return PLP_FAIL(PLP_ERR_DATA, "%s: HDF5 superblock version %d, needed is 2 or 3; fix: write with libver bounds of at least V18",
                        path, b[8]);
    if (b[9] != 8 || b[10] != 8 || b[11] != 0 || little_endian(b + 12) != 0 || little_endian(b + 20) != UINT64_MAX)
        return PLP_FAIL(PLP_ERR_DATA, "%s: HDF5 superblock with unusual sizes, flags or extensions; " IO_RECONVERT, path);
    const uint64_t end = little_endian(b + IO_SUPERBLOCK_END);
    if (end != file_bytes)
        return PLP_FAIL(PLP_ERR_DATA,
                        "%s: %" PRIu64 " bytes, its header says %" PRIu64 " (%s); fix: copy the file or convert the checkpoint again", path,
                        file_bytes, end, file_bytes < end ? "truncated" : "something was appended");
    return PLP_OK;
}

static plp_status check_string(profile *p, hid_t attribute, hid_t type, const char *name)
{
    char text[IO_ATTRIBUTE_BYTES + 1];
    const size_t size = H5Tget_size(type);
    if (size == 0 || size > IO_ATTRIBUTE_BYTES)
        return REFUSE(p, "attribute %s: a string of %zu bytes, at most %d", name, size, IO_ATTRIBUTE_BYTES);
    PLP_TRY(H5(p, H5Aread(attribute, type, text), name));
    text[size] = 0;
    return io_contents_add_attribute(p->contents, OBJECT(p), name, IO_STRING, false, text, (int64_t)strlen(text));
}

static plp_status check_ints(profile *p, hid_t attribute, const char *name, bool list, int64_t count)
{
    int64_t values[IO_ATTRIBUTE_BYTES / sizeof(int64_t)];
    if (count < 1 || count > (int64_t)(sizeof values / sizeof *values))
        return REFUSE(p, "attribute %s: %lld integers, at most %zu", name, (long long)count, sizeof values / sizeof *values);
    PLP_TRY(H5(p, H5Aread(attribute, H5T_STD_I64LE, values), name));
    return io_contents_add_attribute(p->contents, OBJECT(p), name, IO_INTS, list, values, count);
}

static plp_status check_double(profile *p, hid_t attribute, const char *name)
{
    double value;
    PLP_TRY(H5(p, H5Aread(attribute, H5T_IEEE_F64LE, &value), name));
    if (isnan(value)) return REFUSE(p, "attribute %s is NaN", name);
    return io_contents_add_attribute(p->contents, OBJECT(p), name, IO_DOUBLE, false, &value, 1);
}

static plp_status check_attribute(profile *p, hid_t object, const char *name)
{
    plp_status st = PLP_OK;
    hid_t attribute = -1, type = -1, space = -1;
    hsize_t count = 1;
    if (!io_name_is_part(name)) return REFUSE(p, "an attribute's name is empty, longer than 255, or has characters outside [A-Za-z0-9._-]");
    PLP_DO(H5(p, attribute = H5Aopen(object, name, H5P_DEFAULT), name));
    PLP_DO(H5(p, type = H5Aget_type(attribute), name));
    PLP_DO(H5(p, space = H5Aget_space(attribute), name));
    const bool scalar = H5Sget_simple_extent_type(space) == H5S_SCALAR;
    const bool list = H5Sget_simple_extent_type(space) == H5S_SIMPLE && H5Sget_simple_extent_ndims(space) == 1;
    if (list) H5Sget_simple_extent_dims(space, &count, NULL);
    if (H5Tcommitted(type) != 0)
        st = REFUSE(p, "attribute %s has a committed type", name);
    else if (scalar && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0)
        st = check_string(p, attribute, type, name);
    else if ((scalar || list) && H5Tequal(type, H5T_STD_I64LE) > 0)
        st = check_ints(p, attribute, name, list, (int64_t)count);
    else if (scalar && H5Tequal(type, H5T_IEEE_F64LE) > 0)
        st = check_double(p, attribute, name);
    else
        st = REFUSE(p, "attribute %s is not a fixed-length string, int64 or float64", name);
done:
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return st;
}

static herr_t visit_attribute(hid_t object, const char *name, const H5A_info_t *info, void *data)
{
    (void)info;
    profile *p = data;
    p->status = check_attribute(p, object, name);
    return p->status == PLP_OK ? 0 : -1;
}

static plp_status check_attributes(profile *p, hid_t object, const H5O_info_t *info)
{
    if (info->num_attrs > IO_MOST_ATTRIBUTES)
        return REFUSE(p, "%llu attributes, at most %d", (unsigned long long)info->num_attrs, IO_MOST_ATTRIBUTES);
    const herr_t rc = H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit_attribute, p);
    if (p->status != PLP_OK) return p->status;
    return H5(p, rc, "attributes");
}

static plp_status check_type(profile *p, hid_t set, io_element *element)
{
    static const struct {
        H5T_class_t class;
        const char *what;
    } foreign[] = { { H5T_VLEN, "variable-length" }, { H5T_COMPOUND, "compound" }, { H5T_REFERENCE, "reference" },
                    { H5T_STRING, "string" },        { H5T_ENUM, "enumeration" },  { H5T_ARRAY, "array" },
                    { H5T_OPAQUE, "opaque" },        { H5T_BITFIELD, "bit field" } };
    plp_status st = PLP_OK;
    hid_t type = -1;
    PLP_DO(H5(p, type = H5Dget_type(set), "type"));
    if (H5Tcommitted(type) != 0) {
        st = REFUSE(p, "a committed type; stored types must be the dataset's own");
        goto done;
    }
    for (int e = 0; e < IO_ELEMENTS; e++)
        if (H5Tequal(type, p->types[e]) > 0) {
            *element = (io_element)e;
            goto done;
        }
    const H5T_class_t class = H5Tget_class(type);
    const char *what = "unknown number";
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (class == foreign[i].class) what = foreign[i].what;
    st = REFUSE(p, "a %s type of %zu bytes; allowed are F32, BF16, F16, U8 and U32, little-endian", what, H5Tget_size(type));
done:
    if (type >= 0) H5Tclose(type);
    return st;
}

/* Before the space is asked for: a virtual dataset would open its sources to answer. */
static plp_status check_storage(profile *p, hid_t set)
{
    plp_status st = PLP_OK;
    hid_t list = -1;
    PLP_DO(H5(p, list = H5Dget_create_plist(set), "storage"));
    const H5D_layout_t layout = H5Pget_layout(list);
    if (layout == H5D_VIRTUAL)
        st = REFUSE(p, "a virtual dataset, whose data is in other files");
    else if (layout == H5D_CHUNKED)
        st = REFUSE(p, "a chunked dataset (%d filters); filters and chunks are not supported", H5Pget_nfilters(list));
    else if (layout == H5D_COMPACT)
        st = REFUSE(p, "a compact dataset; only contiguous storage is read");
    else if (layout != H5D_CONTIGUOUS)
        st = REFUSE(p, "an unknown storage layout");
    else if (H5Pget_external_count(list) != 0)
        st = REFUSE(p, "external storage, which names other files");
    else if (H5Pget_nfilters(list) != 0)
        st = REFUSE(p, "filters are not supported");
done:
    if (list >= 0) H5Pclose(list);
    return st;
}

static plp_status check_extent(profile *p, hid_t set, io_entry *entry)
{
    plp_status st = PLP_OK;
    hid_t space = -1;
    hsize_t shape[H5S_MAX_RANK];
    io_tensor *t = &entry->tensor;
    PLP_DO(H5(p, space = H5Dget_space(set), "shape"));
    t->rank = H5Sget_simple_extent_type(space) == H5S_SIMPLE ? H5Sget_simple_extent_ndims(space) : 0;
    if (t->rank < 1 || t->rank > IO_RANK) {
        st = REFUSE(p, "rank %d, allowed are 1 to %d", t->rank, IO_RANK);
        goto done;
    }
    PLP_DO(H5(p, H5Sget_simple_extent_dims(space, shape, NULL), "shape"));
    for (int i = 0; i < t->rank; i++) t->shape[i] = (int64_t)shape[i];
    t->offset = H5Dget_offset(set);
    t->bytes = H5Dget_storage_size(set); /* io_contents_check compares all that */
done:
    if (space >= 0) H5Sclose(space);
    return st;
}

static plp_status check_dataset(profile *p, hid_t set)
{
    io_entry entry = { .first_sum = 0 };
    snprintf(entry.tensor.name, sizeof entry.tensor.name, "%s", p->object);
    PLP_TRY(check_storage(p, set));
    PLP_TRY(check_type(p, set, &entry.element));
    PLP_TRY(check_extent(p, set, &entry));
    if (entry.element <= IO_F16) entry.tensor.dtype = (plp_dtype)entry.element;
    return io_contents_add_entry(p->contents, &entry);
}

static plp_status check_group(profile *p, hid_t group);

static plp_status check_object(profile *p, hid_t object)
{
    H5O_info_t info;
    PLP_TRY(H5(p, H5Oget_info(object, &info), "cannot be opened"));
    if (info.type == H5O_TYPE_NAMED_DATATYPE) return REFUSE(p, "a committed type");
    if (info.type != H5O_TYPE_GROUP && info.type != H5O_TYPE_DATASET) return REFUSE(p, "neither a group nor a dataset");
    if (info.rc != 1) return REFUSE(p, "%u hard links to one object", info.rc);
    PLP_TRY(check_attributes(p, object, &info));
    return info.type == H5O_TYPE_GROUP ? check_group(p, object) : check_dataset(p, object);
}

static plp_status check_link(profile *p, hid_t group, const char *name, const H5L_info_t *info)
{
    if (!io_name_is_part(name)) return REFUSE(p, "a member's name is empty, longer than 255, or has characters outside [A-Za-z0-9._-]");
    const size_t outer = strlen(p->object);
    if (outer + 1 + strlen(name) >= IO_NAME) return REFUSE(p, "a member's path is longer than %d bytes", IO_NAME - 1);
    snprintf(p->object + outer, sizeof p->object - outer, "/%s", name);
    if (info->type == H5L_TYPE_SOFT) return REFUSE(p, "a soft link; only hard links are followed");
    if (info->type == H5L_TYPE_EXTERNAL) return REFUSE(p, "an external link, which names another file");
    if (info->type != H5L_TYPE_HARD) return REFUSE(p, "a user-defined link");
    const hid_t object = H5Oopen(group, name, p->links);
    PLP_TRY(H5(p, object, "cannot be opened"));
    const plp_status st = check_object(p, object);
    H5Oclose(object);
    p->object[outer] = 0;
    return st;
}

static herr_t visit_link(hid_t group, const char *name, const H5L_info_t *info, void *data)
{
    profile *p = data;
    p->status = check_link(p, group, name, info);
    return p->status == PLP_OK ? 0 : -1;
}

static plp_status check_group(profile *p, hid_t group)
{
    H5G_info_t info;
    PLP_TRY(H5(p, H5Gget_info(group, &info), "cannot be opened"));
    if (info.storage_type == H5G_STORAGE_TYPE_SYMBOL_TABLE)
        return REFUSE(p, "a group in the format of HDF5 1.6; write with libver bounds of at least V18");
    if (p->depth == MOST_DEPTH) return REFUSE(p, "groups are nested deeper than %d", MOST_DEPTH);
    p->objects += (int64_t)(info.nlinks > IO_MOST_OBJECTS ? IO_MOST_OBJECTS + 1 : info.nlinks);
    if (p->objects > IO_MOST_OBJECTS) return REFUSE(p, "more than %d objects", IO_MOST_OBJECTS);
    p->depth++;
    const herr_t rc = H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit_link, p);
    p->depth--;
    if (p->status != PLP_OK) return p->status;
    return H5(p, rc, "members");
}

/* Links to other files are refused before they are followed; this would be the second lock. */
static herr_t refuse_link(const char *file, const char *group, const char *to_file, const char *to_object, unsigned *flags, hid_t access,
                          void *data)
{
    (void)file, (void)group, (void)to_file, (void)to_object, (void)flags, (void)access, (void)data;
    return -1;
}

plp_status io_profile_read(const char *path, int fd, uint64_t file_bytes, io_contents *contents)
{
    plp_status st = PLP_OK;
    hid_t access = -1, driver = -1, file = -1;
    profile p = { .path = path, .contents = contents, .links = -1 };
    for (int e = 0; e < IO_ELEMENTS; e++) p.types[e] = -1;
    PLP_DO(check_superblock(path, fd, file_bytes));
    for (int e = 0; e < IO_ELEMENTS; e++)
        PLP_DO(IO_H5(PLP_ERR_INTERNAL, p.types[e] = io_element_type((io_element)e), "%s", io_element_name((io_element)e)));
    PLP_DO(IO_H5(PLP_ERR_INTERNAL, p.links = H5Pcreate(H5P_LINK_ACCESS), "%s", path));
    PLP_DO(IO_H5(PLP_ERR_INTERNAL, H5Pset_elink_cb(p.links, refuse_link, NULL), "%s", path));
    PLP_DO(IO_H5(PLP_ERR_INTERNAL, access = H5Pcreate(H5P_FILE_ACCESS), "%s", path));
    PLP_DO(IO_H5(PLP_ERR_INTERNAL, driver = io_hdf5_descriptor(access, fd, file_bytes), "%s", path));
    PLP_DO(IO_H5(PLP_ERR_INTERNAL, H5Pset_fclose_degree(access, H5F_CLOSE_STRONG), "%s", path)); /* takes along whatever is still open */
    PLP_DO(IO_H5(PLP_ERR_DATA, file = H5Fopen(IO_HDF5_NAME, H5F_ACC_RDONLY, access), "%s: cannot be parsed", path));
    PLP_DO(check_object(&p, file));
done:
    if (file >= 0) H5Fclose(file);
    if (access >= 0) H5Pclose(access);
    if (driver >= 0) H5FDunregister(driver);
    if (p.links >= 0) H5Pclose(p.links);
    for (int e = 0; e < IO_ELEMENTS; e++)
        if (p.types[e] >= 0) H5Tclose(p.types[e]);
    return st;
}
