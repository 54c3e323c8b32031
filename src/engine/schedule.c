#include "engine/schedule.h"

static int64_t lower(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t down_to(int64_t n, int64_t unit) { return n / unit * unit; }

/* The best place in (from, to] for a slice to end; `from` where there is none. */
static int64_t cut_between(const schedule_rules *r, int64_t from, int64_t to)
{
    const int64_t chunk = down_to(to, r->chunk), grain = chunk + down_to(to - chunk, r->grain);
    if (r->block > 0 && down_to(to, r->block) > from) return down_to(to, r->block);
    return chunk > from ? chunk : grain > from ? grain : from;
}

/* Rows of a slice with room for `budget` rows; 0: better wait. */
static int64_t slice_rows(const schedule_rules *r, const schedule_seq *s, int budget, bool first)
{
    const int64_t most = s->past + lower(budget, r->slice), last = r->block > 0 ? down_to(s->prompt - 1, r->block) : 0;
    int64_t goal = s->past < last ? last : s->prompt;
    if (s->past < s->cut) goal = lower(goal, s->cut);
    if (goal <= most) return goal - s->past;
    const int64_t rows = cut_between(r, s->past, most) - s->past;
    return rows > 0 ? rows : first ? most - s->past : 0;
}

schedule_rules schedule_rules_of(int budget, int64_t chunk, int64_t grain)
{
    if (chunk <= 0) chunk = 1;
    return (schedule_rules){ .budget = budget, .slice = budget, .chunk = chunk, .grain = grain > 0 ? lower(grain, chunk) : chunk };
}

int schedule_least_slice(int64_t chunk, int64_t grain, bool deterministic)
{
    return grain > 0 || deterministic ? (int)schedule_rules_of(0, chunk, grain).grain : 1;
}

int schedule_step(const schedule_rules *r, const schedule_seq *seqs, int count, schedule_slice *slices, int *decodes)
{
    int n = 0, budget = r->budget;
    for (int i = 0; i < count; i++)
        if (seqs[i].past >= seqs[i].prompt && !seqs[i].waits) slices[n++] = (schedule_slice){ i, 1, true };
    *decodes = n;
    budget -= n;
    for (int i = 0; i < count && budget > 0; i++) {
        const schedule_seq *s = &seqs[i];
        if (s->past >= s->prompt || s->waits) continue;
        const int64_t rows = slice_rows(r, s, budget, n == *decodes);
        if (rows == 0) break;
        slices[n++] = (schedule_slice){ i, (int)rows, s->past + rows == s->prompt };
        budget -= (int)rows;
    }
    return n;
}
