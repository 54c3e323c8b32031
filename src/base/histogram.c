#include "base/histogram.h"

#include <math.h>

static const double FIRST = 1e-6, RATIO = 1.02;

void plp_histogram_add(plp_histogram *h, double seconds)
{
    const double at = seconds > FIRST ? log(seconds / FIRST) / log(RATIO) : 0;
    h->bin[at < PLP_HISTOGRAM_BINS - 1 ? (int)at : PLP_HISTOGRAM_BINS - 1]++;
    h->count++;
    h->sum += seconds;
    if (seconds > h->most) h->most = seconds;
}

double plp_histogram_mean(const plp_histogram *h) { return h->count > 0 ? h->sum / (double)h->count : 0; }

double plp_histogram_percentile(const plp_histogram *h, double share)
{
    const double wanted = share * (double)h->count;
    double seen = 0;
    if (h->count == 0) return 0;
    for (int i = 0; i < PLP_HISTOGRAM_BINS; i++)
        if ((seen += h->bin[i]) >= wanted && seen > 0) return fmin(h->most, FIRST * pow(RATIO, i + 0.5));
    return h->most;
}
