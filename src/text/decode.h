/* src/text/decode.h -- the decoder of a tokenizer: from tokens back to text, a token at a time.
 *
 * ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, and a Sequence of them.  Decoding all at once is pushing all and finishing, so
 * what streams is what decodes. */
#ifndef TEXT_DECODE_H
#define TEXT_DECODE_H

#include "text/buffer.h"

#include <json-c/json.h>

typedef struct text_decoder text_decoder;

/* component: the member "decoder"; NULL (a JSON null) gives one that joins tokens with spaces, as the reference does. */
plp_status text_decoder_create(text_decoder **d, json_object *component, const char *where);
void text_decoder_destroy(text_decoder **d);

typedef struct text_decoding text_decoding; /* one run of a decoder, which it borrows */

plp_status text_decoding_create(text_decoding **r, const text_decoder *d);
void text_decoding_destroy(text_decoding **r);
/* Appends to *out what this token, valid UTF-8, makes certain: whole characters. */
plp_status text_decoding_push(text_decoding *r, const char *token, size_t bytes, text_buffer *out);
/* Appends what was held back; nothing may be pushed behind it. */
plp_status text_decoding_finish(text_decoding *r, text_buffer *out);

#endif
