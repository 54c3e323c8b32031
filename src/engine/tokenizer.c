#include "engine/tokenizer.h"

#include "base/error.h"
#include "base/log.h"

#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

plp_status engine_tokenizer(text_tokenizer **t, const model_source *source, const char *path, bool *unsupported)
{
    struct stat info;
    char where[PATH_MAX];
    const char *text;
    size_t bytes;
    *t = NULL, *unsupported = false;
    PLP_TRY(model_source_tokenizer(source, &text, &bytes));
    if (text == NULL) return PLP_OK;
    const bool directory = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    snprintf(where, sizeof where, directory ? "%s/tokenizer.json" : "%s: its tokenizer", path);
    const plp_status st = text_tokenizer_create(t, text, bytes, where);
    if (st != PLP_ERR_DATA) return st;
    plp_warn_alike("no text in or out, only token ids: %s", plp_last_error());
    *unsupported = true;
    return PLP_OK;
}

plp_status engine_no_tokenizer(bool unsupported)
{
    if (unsupported)
        return PLP_FAIL(PLP_ERR_USAGE,
                        "the model's tokenizer is not supported, a warning has said why; fix: give token ids where they are taken");
    return PLP_FAIL(PLP_ERR_USAGE,
                    "the model has no tokenizer; fix: give token ids where they are taken, or convert it with tokenizer.json "
                    "in its directory");
}
