/* src/base/histogram.h -- times by the million in fixed memory: percentiles within 2 %, the mean exactly. */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

#include <stdint.h>

enum { PLP_HISTOGRAM_BINS = 1280 };

typedef struct {
    int64_t count;
    double sum, most;
    uint32_t bin[PLP_HISTOGRAM_BINS]; /* each 2 % wider than the one before, from 1 microsecond to 10^5 seconds */
} plp_histogram;

void plp_histogram_add(plp_histogram *h, double seconds);
double plp_histogram_mean(const plp_histogram *h);
/* The value below which `share` (0 to 1) of all lie; 0 of none. */
double plp_histogram_percentile(const plp_histogram *h, double share);

#endif
