/* src/io/model_file_internal.h -- what the writer, the reader and the manifest of model files share.  Included by model_file_*.c, and
 * for the HDF5 part by logits_file.c and hdf5_space. */
#ifndef IO_MODEL_FILE_INTERNAL_H
#define IO_MODEL_FILE_INTERNAL_H

#define H5_USE_110_API 1 /* newer libraries keep these spellings */

#include "base/sha256.h"
#include "io/model_file.h"

#include <hdf5.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "payloads and manifests are little-endian and are not converted");

#define IO_FORMAT_NAME "polylepis model"
#define IO_CHECKSUM    "crc32c"
#define IO_RECONVERT   "fix: convert the checkpoint again"

enum {
    IO_MOST_OBJECTS = 100000,
    IO_MOST_ATTRIBUTES = 4096,  /* of one object */
    IO_ATTRIBUTE_BYTES = 32768, /* HDF5 keeps small attributes in the object's header, at most 64 KiB */
    IO_PAYLOAD_ALIGN = 4096,    /* of payloads of at least IO_ALIGN_FROM bytes: pages */
    IO_ALIGN_FROM = 65536,
    IO_SUPERBLOCK = 48,
    IO_SUPERBLOCK_END = 28 /* where the superblock states the file's length */
};

/* ------------------------------------------------------------------------------------------------------- HDF5 (model_file_hdf5.c) */
/* Element types of datasets: a tensor's, those of blobs (bytes) and of the manifest's sums. */
typedef enum { IO_F32 = PLP_F32, IO_BF16 = PLP_BF16, IO_F16 = PLP_F16, IO_U8, IO_U32, IO_ELEMENTS } io_element;
const char *io_element_name(io_element e);
size_t io_element_size(io_element e);
hid_t io_element_type(io_element e); /* the caller's: H5Tclose.  Negative: HDF5 failed */

/* PLP_ERR_USAGE when the environment asks HDF5 for plugins, another driver or a VOL connector. */
plp_status io_hdf5_environment(void);
/* HDF5 is silent from here on, to the end of the process: its complaints belong into our messages, and after a damaged file it has another one
 * at exit.  Between enter and leave it loads no plugins.  Looks at the environment first. */
plp_status io_hdf5_enter(unsigned *plugins);
void io_hdf5_leave(unsigned plugins);

/* The innermost message of HDF5's error stack; borrowed until the thread's next call. */
const char *io_hdf5_reason(void);
#define IO_H5(code, call, ...) ((call) < 0 ? io_hdf5_fail((code), __FILE__, __LINE__, __VA_ARGS__) : PLP_OK)
/* The message, "HDF5: its reason", and what to do. */
plp_status io_hdf5_fail(plp_status code, const char *file, int line, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Makes the files that are opened with the property list `access` be read from a descriptor of so many bytes, under this one name alone.
 * The driver, to be given back with H5FDunregister after the file was closed; negative: HDF5 failed (model_file_driver.c). */
#define IO_HDF5_NAME "/model" /* absolute, so that HDF5 does not ask for the working directory */
hid_t io_hdf5_descriptor(hid_t access, int fd, uint64_t bytes);

/* A path from the root, "/a/b": parts of [A-Za-z0-9._-], none of them "." or "..", shorter than IO_NAME in all. */
bool io_name_is_path(const char *name);
bool io_name_is_part(const char *name);

/* --------------------------------------------------------------------------------------------------- manifest (model_file_manifest.c) */
/* A dataset.  tensor.dtype means something for the float elements only. */
typedef struct {
    io_tensor tensor;
    io_element element;
    int64_t first_sum; /* index of its first block's checksum */
} io_entry;

typedef enum { IO_STRING, IO_INTS, IO_DOUBLE } io_kind;

typedef struct {
    char *object, *name; /* object: path, "/" for the root */
    io_kind kind;
    int64_t count; /* bytes of a string, numbers otherwise */
    bool list;     /* of ints: an array, not a scalar */
    union {
        char *text; /* NUL-terminated */
        int64_t *ints;
        double real;
    } value;
} io_attribute;

/* What a manifest is about.  Zero-initialised: empty. */
typedef struct {
    io_entry *entries;
    int64_t entry_count;
    io_attribute *attributes;
    int64_t attribute_count;
    uint32_t *sums; /* CRC-32C of every IO_BLOCK bytes of every entry's payload */
    int64_t sum_count;
    size_t entry_room, attribute_room, sum_room;
} io_contents;

static inline int64_t io_blocks(uint64_t bytes) { return (int64_t)((bytes + IO_BLOCK - 1) / IO_BLOCK); }

plp_status io_contents_add_entry(io_contents *c, const io_entry *entry);
plp_status io_contents_add_sum(io_contents *c, uint32_t sum);
/* Takes over the copies it makes; `data`: text, int64_t[count] or double. */
plp_status io_contents_add_attribute(io_contents *c, const char *object, const char *name, io_kind kind, bool list, const void *data,
                                     int64_t count);
/* Entries and attributes by name; sums follow their entries. */
plp_status io_contents_sort(io_contents *c);
void io_contents_free(io_contents *c);

/* Of sorted contents.  The list of datasets, one line each, "/layers/000/norm/weight F32 768\n"; *text is the caller's. */
plp_status io_manifest_text(const io_contents *c, char **text, size_t *bytes);
/* SHA-256 over attributes (of all objects but /manifest), the list, and the sums: docs/file-format.md spells it out. */
void io_manifest_digest(const io_contents *c, const char *text, size_t bytes, char hex[PLP_SHA256_HEX]);

/* ------------------------------------------------------------------------------------------------------ profile (model_file_profile.c) */
/* Walks the file of so many bytes that is open as `fd`, and fills `contents` with every dataset and attribute, unsorted and without sums.
 * PLP_ERR_DATA names the object that breaks the profile; `path` is for messages.  Reads no payload.  This is all that HDF5 has to do with
 * reading model files; what it says about sizes and places is as the file has it: io_contents_check. */
plp_status io_profile_read(const char *path, int fd, uint64_t file_bytes, io_contents *contents);

/* ---------------------------------------------------------------------------------------------------------- table (model_file_table.c) */
/* What the profile found, as the parser's process hands it over: bytes, which nobody needs to trust. */
enum { IO_MOST_TABLE = 64 << 20 /* bytes */, IO_ALL_ATTRIBUTES = 400000 };

/* How the parser fared, how it was confined (confine.h), and with PLP_OK the contents, else its message.  *table is the caller's.
 * PLP_ERR_DATA: more than IO_MOST_TABLE. */
plp_status io_table_make(plp_status fared, int confined, const io_contents *c, uint8_t **table, size_t *bytes);
/* The same from bytes: the parser's own failure, or contents whose parts are whole, but not yet checked.  `path` is for messages. */
plp_status io_table_read(const uint8_t *table, size_t bytes, const char *path, int *confined, io_contents *c);
/* Everything that the rest of the reader relies on: names, types, ranks, sizes without overflow, places inside a file of file_bytes, no two
 * overlapping, nothing twice.  Sorts.  PLP_ERR_DATA names the object. */
plp_status io_contents_check(io_contents *c, const char *path, uint64_t file_bytes);

/* -------------------------------------------------------------------------------------------------------- parser (model_file_parser.c) */
/* io_profile_read by a process of its own, io/parser/parser.c, that can do nothing but parse.  PLP_ERR_DATA "could not be parsed safely": it
 * crashed, needed more than it is given, or tried what it must not.  PLP_ERR_INPUT: its program is not installed. */
plp_status io_parser_read(const char *path, int fd, io_contents *contents);
/* For tests: by that program, which has so many seconds; what it wrote is the caller's. */
plp_status io_parser_run(const char *program, const char *path, int fd, double seconds, uint8_t **table, size_t *bytes);

#endif
