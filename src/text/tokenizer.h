/* src/text/tokenizer.h -- tokenizer.json (Hugging Face tokenizers, version "1.0"): byte-level and byte-fallback BPE.
 *
 * What is supported is in docs/tokenizers.md; any other component is refused by name, never skipped. */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "polylepis/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct text_tokenizer text_tokenizer;

/* json: the whole tokenizer.json, borrowed for the call; `where` names it in messages.  Immutable afterwards but for its caches: one
 * thread at a time. */
plp_status text_tokenizer_create(text_tokenizer **t, const char *json, size_t bytes, const char *where);
void text_tokenizer_destroy(text_tokenizer **t);

int text_tokenizer_vocab(const text_tokenizer *t); /* largest id + 1, added tokens included */
/* The token as tokenizer.json spells it ("Ġthe"); NULL for an id that has none.  Borrowed. */
const char *text_tokenizer_token(const text_tokenizer *t, int id);

/* Ids of a text of `bytes` bytes.  add_special: what the post-processor adds (BOS).  Invalid UTF-8 is replaced by U+FFFD.  *ids is the
 * caller's to free. */
plp_status text_encode(text_tokenizer *t, const char *text, size_t bytes, bool add_special, int **ids, size_t *count);
/* Text of ids; NUL-terminated, but may hold NULs before.  Unknown ids are skipped, as the reference does.  *text is the caller's. */
plp_status text_decode(const text_tokenizer *t, const int *ids, size_t count, bool skip_special, char **text, size_t *bytes);

/* Streaming: the text that each further token adds, never half a UTF-8 character; the pieces join to what text_decode gives of all. */
typedef struct text_stream text_stream;
plp_status text_stream_create(text_stream **s, const text_tokenizer *t, bool skip_special);
void text_stream_destroy(text_stream **s);
/* *piece is valid until the next call, NUL-terminated, perhaps empty. */
plp_status text_stream_push(text_stream *s, int id, const char **piece, size_t *bytes);
plp_status text_stream_finish(text_stream *s, const char **piece, size_t *bytes); /* what was held back */

#endif
