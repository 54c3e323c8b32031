/* Percentiles in fixed memory, against those of the sorted values. */
#include "base/histogram.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>

enum { VALUES = 20000 };

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void percentiles_are_those_of_the_sorted_values(void **state)
{
    (void)state;
    static plp_histogram h;
    static double v[VALUES];
    double sum = 0;
    assert_true(plp_histogram_percentile(&h, 0.5) == 0 && plp_histogram_mean(&h) == 0);
    srand(3);
    for (int i = 0; i < VALUES; i++) {
        v[i] = pow(10, -5 + 7.0 * rand() / RAND_MAX); /* 10 microseconds to 100 seconds */
        plp_histogram_add(&h, v[i]);
        sum += v[i];
    }
    qsort(v, VALUES, sizeof *v, by_value);
    assert_true(fabs(plp_histogram_mean(&h) - sum / VALUES) <= 1e-12 * sum);
    for (double share = 0.01; share < 1; share += 0.07) {
        const double got = plp_histogram_percentile(&h, share), want = v[(int)(share * VALUES)];
        if (!(fabs(got / want - 1) < 0.02)) fail_msg("%g: got %g, want %g", share, got, want);
    }
    assert_true(fabs(plp_histogram_percentile(&h, 1) / v[VALUES - 1] - 1) < 0.02);
}

static void extremes_have_a_bin(void **state)
{
    (void)state;
    static plp_histogram h;
    plp_histogram_add(&h, 0);
    plp_histogram_add(&h, -1); /* a clock that went back */
    assert_true(plp_histogram_percentile(&h, 1) <= 1.1e-6);
    plp_histogram_add(&h, 1e9);
    assert_true(plp_histogram_percentile(&h, 1) > 1e4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles_are_those_of_the_sorted_values),
        cmocka_unit_test(extremes_have_a_bin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
