/* hostile_files MODEL.h5 FOLDER -- writes a copy of the model for every profile edit, FOLDER/N.h5, and a line "N what the refusal says". */
#include "profile_edits.h"

static void copy(const char *from, const char *to)
{
    char bytes[65536];
    size_t n;
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    if (in == NULL || out == NULL) exit(1);
    while ((n = fread(bytes, 1, sizeof bytes, in)) > 0)
        if (fwrite(bytes, 1, n, out) != n) exit(1);
    if (fclose(out) != 0) exit(1);
    fclose(in);
}

int main(int argc, char **argv)
{
    char name[512];
    if (argc != 3) return 64;
    for (int i = 0; i < PROFILE_EDITS; i++) {
        snprintf(name, sizeof name, "%s/%d.h5", argv[2], i);
        copy(argv[1], name);
        const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
        H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110);
        const hid_t file = H5Fopen(name, H5F_ACC_RDWR, access);
        if (file < 0) return 1;
        profile_edits[i].change(file);
        if (H5Fclose(file) < 0) return 1;
        H5close();
        printf("%d %s\n", i, profile_edits[i].words);
    }
    return 0;
}
