#include "engine/schedule.h"

/* Where a slice that begins at `past` may end, with room for `budget` rows; 0: better wait. */
static int64_t slice_rows(const schedule_seq *s, int budget, int64_t chunk, bool first)
{
    if (s->prompt - s->past <= budget) return s->prompt - s->past;
    const int64_t whole = (s->past + budget) / chunk * chunk - s->past;
    return whole > 0 ? whole : first ? budget : 0;
}

int schedule_step(const schedule_seq *seqs, int count, int budget, int64_t chunk, schedule_slice *slices, int *decodes)
{
    int n = 0;
    for (int i = 0; i < count; i++)
        if (seqs[i].past >= seqs[i].prompt) slices[n++] = (schedule_slice){ i, 1, true };
    *decodes = n;
    budget -= n;
    for (int i = 0; i < count && budget > 0; i++) {
        const schedule_seq *s = &seqs[i];
        if (s->past >= s->prompt) continue;
        const int64_t rows = slice_rows(s, budget, chunk, n == *decodes);
        if (rows == 0) break;
        slices[n++] = (schedule_slice){ i, (int)rows, s->past + rows == s->prompt };
        budget -= (int)rows;
    }
    return n;
}
