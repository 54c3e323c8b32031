#include "cli/batch_report.h"

#include "cli/json_parts.h"

#include "base/clock.h"
#include "base/json_out.h"
#include "base/log.h"

#include <stdio.h>

static double per_second(double amount, double seconds) { return seconds > 0 ? amount / seconds : 0; }

void batch_report_progress(const batch_report *r, bool last)
{
    const double seconds = plp_seconds() - r->began, rate = per_second((double)(r->done - r->resumed), seconds);
    char total[32] = "", left[40] = "";
    if (r->silent) return;
    if (r->lines >= 0) snprintf(total, sizeof total, "/%lld", (long long)r->lines);
    if (r->lines >= 0 && rate > 0) {
        const long long s = (long long)((double)(r->lines - r->done) / rate);
        snprintf(left, sizeof left, "; %lld:%02lld:%02lld left", s / 3600, s / 60 % 60, s % 60);
    }
    plp_log_progress(last, "%lld%s requests, %lld failed; in %.1f, out %.1f tokens/s%s", (long long)r->done, total, (long long)r->failed,
                     per_second((double)r->prompt_tokens, seconds), per_second((double)r->out_tokens, seconds), left);
}

static double share(int64_t part, int64_t other) { return part + other > 0 ? (double)part / (double)(part + other) : 0; }

void batch_report_log(const batch_report *r, const plp_engine_stats *stats)
{
    const double seconds = plp_seconds() - r->began;
    const plp_histogram *f = &r->first_token, *b = &r->between;
    plp_log(PLP_LOG_INFO, "%lld requests (%lld of earlier starts), %lld failed, in %.2f s: %.2f requests/s, in %.1f, out %.1f tokens/s",
            (long long)r->done, (long long)r->resumed, (long long)r->failed, seconds, per_second((double)(r->done - r->resumed), seconds),
            per_second((double)r->prompt_tokens, seconds), per_second((double)r->out_tokens, seconds));
    plp_log(PLP_LOG_INFO, "time to first token: mean %.1f, median %.1f, p99 %.1f ms; between tokens: mean %.2f, median %.2f, p99 %.2f ms",
            1e3 * plp_histogram_mean(f), 1e3 * plp_histogram_percentile(f, 0.5), 1e3 * plp_histogram_percentile(f, 0.99),
            1e3 * plp_histogram_mean(b), 1e3 * plp_histogram_percentile(b, 0.5), 1e3 * plp_histogram_percentile(b, 0.99));
    plp_log(PLP_LOG_INFO,
            "%lld steps, %.1f us of the host's time each; prompts: %lld tokens computed, %lld taken from others (%.1f %%); %d of %d states "
            "kept, %lld dropped",
            (long long)stats->steps, 1e6 * per_second(stats->host_seconds, (double)stats->steps), (long long)stats->prefill_tokens,
            (long long)stats->cached_tokens, 100 * share(stats->cached_tokens, stats->prefill_tokens), stats->cache_held,
            stats->cache_states, (long long)stats->cache_evictions);
}

static json_object *times_of(const plp_histogram *h)
{
    json_object *o = json_object_new_object();
    cli_add_int(o, "count", h->count);
    cli_add_real(o, "mean", 1e3 * plp_histogram_mean(h));
    cli_add_real(o, "p50", 1e3 * plp_histogram_percentile(h, 0.5));
    cli_add_real(o, "p90", 1e3 * plp_histogram_percentile(h, 0.9));
    cli_add_real(o, "p99", 1e3 * plp_histogram_percentile(h, 0.99));
    cli_add_real(o, "max", 1e3 * h->most);
    return o;
}

static json_object *cache_json(const plp_engine_stats *stats)
{
    json_object *o = json_object_new_object();
    cli_add_int(o, "computed_tokens", stats->prefill_tokens);
    cli_add_int(o, "hit_tokens", stats->cached_tokens);
    cli_add_real(o, "hit_rate", share(stats->cached_tokens, stats->prefill_tokens));
    cli_add_int(o, "states", stats->cache_states);
    cli_add_int(o, "held", stats->cache_held);
    cli_add_int(o, "evicted", stats->cache_evictions);
    return o;
}

json_object *batch_report_json(const batch_report *r, const plp_engine_info *info, const plp_engine_stats *stats, bool finished)
{
    const double seconds = plp_seconds() - r->began;
    json_object *o = json_object_new_object();
    json_object_object_add(o, "finished", json_object_new_boolean(finished));
    cli_add_int(o, "requests", r->done);
    cli_add_int(o, "failed", r->failed);
    cli_add_int(o, "resumed", r->resumed);
    cli_add_int(o, "ranks", info->size);
    json_object_object_add(o, "backend", json_object_new_string(info->backend));
    cli_add_int(o, "max_seqs", info->max_seqs);
    cli_add_int(o, "max_batch_tokens", info->max_batch_tokens);
    cli_add_real(o, "seconds", seconds);
    cli_add_int(o, "prompt_tokens", r->prompt_tokens);
    cli_add_int(o, "completion_tokens", r->out_tokens);
    cli_add_real(o, "requests_per_second", per_second((double)(r->done - r->resumed), seconds));
    cli_add_real(o, "prompt_tokens_per_second", per_second((double)r->prompt_tokens, seconds));
    cli_add_real(o, "completion_tokens_per_second", per_second((double)r->out_tokens, seconds));
    json_object_object_add(o, "ttft_ms", times_of(&r->first_token));
    json_object_object_add(o, "itl_ms", times_of(&r->between));
    json_object_object_add(o, "prefix_cache", cache_json(stats));
    cli_add_int(o, "steps", stats->steps);
    cli_add_real(o, "schedule_us", 1e6 * per_second(stats->schedule_seconds, (double)stats->steps));
    cli_add_real(o, "host_us", 1e6 * per_second(stats->host_seconds, (double)stats->steps));
    return o;
}
