#include "tp/tp.h"

tp_slice tp_shard(int64_t n, int rank, int size)
{
    const int64_t each = n / size, extra = n % size; /* the first `extra` ranks take one unit more */
    const int64_t first = rank * each + (rank < extra ? rank : extra);
    return (tp_slice){ first, each + (rank < extra) };
}
