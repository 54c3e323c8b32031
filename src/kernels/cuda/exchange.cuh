/* src/kernels/cuda/exchange.cuh -- sums over neighbouring devices, inside a kernel (kn_exchange in kernels.h).
 *
 * A word is 4 bytes of payload and the number of the exchange, written with one 8-byte store, which arrives whole: the reader needs no
 * fence and no barrier, and an exchange takes one flight over the link.
 *
 *     exchange_turn t(x);                    after the wait for earlier kernels: they count exchanges
 *     t.send(at, value);                     to everyone's inbox, word `at` of this device's message
 *     t.receive(rank, at);                   what `rank` sent; waits for it
 *     t.leave();                             once a block, by one thread, when the whole block has made its turn (a barrier); not by a kernel
 *                                            that sends what a later one receives, which reads the same count
 *
 * count is one number of 64 bits: above, exchanges done, below, blocks that have left this one.  The block that is numbered 0 adds what is
 * missing to the next exchange, so that nobody needs to know who is the last, nor to wait for an answer at its end: what is above moves when all have
 * left, in whatever order.
 * Why two halves are enough: a device begins exchange e + 2 after it received all of e + 1, which a peer sent after its kernel that
 * received e had ended.  All blocks of a kernel that receives must be able to run at once, or wait only for blocks of lower numbers. */
#ifndef KERNELS_CUDA_EXCHANGE_CUH
#define KERNELS_CUDA_EXCHANGE_CUH

#include "kernels/cuda/common.cuh"

struct exchange_turn {
    const kn_exchange &x;
    unsigned number;
    unsigned long long *in;
    int64_t out; /* where this device's message begins in every inbox */

    /* take: false makes one that is never used, where the same code runs without an exchange */
    __device__ __forceinline__ explicit exchange_turn(const kn_exchange &x_, bool take = true) : exchange_turn(x_, take ? next(x_) : 0u) {}
    static __device__ __forceinline__ unsigned next(const kn_exchange &x) { return __ldcg(x.count + 1) + 1; }
    /* number_: of another one of the same exchange */
    __device__ __forceinline__ exchange_turn(const kn_exchange &x_, unsigned number_) : x(x_), number(number_)
    {
        const int64_t half = (int64_t)(number & 1) * x.size;
        in = (unsigned long long *)x.inbox[x.rank] + half * x.words;
        out = (half + x.rank) * x.words;
    }
    __device__ __forceinline__ unsigned long long word(uint32_t value) const { return (unsigned long long)number << 32 | value; }
    __device__ __forceinline__ void send(int64_t at, uint32_t value) const
    {
        for (int p = 0; p < x.size; p++)
            if (p != x.rank)
                asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"((unsigned long long *)x.inbox[p] + out + at), "l"(word(value)) : "memory");
    }
    /* Two neighbouring words; `at` is even. */
    __device__ __forceinline__ void send(int64_t at, uint2 value) const
    {
        for (int p = 0; p < x.size; p++)
            if (p != x.rank)
                asm volatile("st.volatile.global.v2.u64 [%0], {%1, %2};" ::"l"((unsigned long long *)x.inbox[p] + out + at), "l"(word(value.x)),
                             "l"(word(value.y)) : "memory");
    }
    __device__ __forceinline__ uint32_t receive(int rank, int64_t at) const
    {
        const unsigned long long *from = in + rank * x.words + at;
        unsigned long long w;
        kn_patience wait;
        do asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(w) : "l"(from) : "memory");
        while ((uint32_t)(w >> 32) != number && wait.on());
        return (uint32_t)w;
    }
    __device__ __forceinline__ uint2 receive2(int rank, int64_t at) const
    {
        const unsigned long long *from = in + rank * x.words + at;
        unsigned long long a, b;
        kn_patience wait;
        do asm volatile("ld.volatile.global.v2.u64 {%0, %1}, [%2];" : "=l"(a), "=l"(b) : "l"(from) : "memory");
        while (((uint32_t)(a >> 32) != number || (uint32_t)(b >> 32) != number) && wait.on());
        return make_uint2((uint32_t)a, (uint32_t)b);
    }
    /* N of these, asked for at once: the first `count`, which begin at the words at(i); the others are zero.  And whatever else is waited for:
     * also() asks for it and says whether it is there. */
    template <int N, class At, class Also> __device__ __forceinline__ void receive2(int rank, At at, int count, uint2 (&values)[N], Also also) const
    {
        const unsigned long long *from = in + rank * x.words;
        kn_patience wait;
        bool there;
        do {
            there = also();
#pragma unroll
            for (int i = 0; i < N; i++) {
                unsigned long long a = 0, b = 0;
                if (i < count) {
                    asm volatile("ld.volatile.global.v2.u64 {%0, %1}, [%2];" : "=l"(a), "=l"(b) : "l"(from + at(i)) : "memory");
                    there = there && (uint32_t)(a >> 32) == number && (uint32_t)(b >> 32) == number;
                }
                values[i] = make_uint2((uint32_t)a, (uint32_t)b);
            }
        } while (!there && wait.on());
    }
    __device__ __forceinline__ void leave() const
    {
        const unsigned long long blocks = (unsigned long long)gridDim.x * gridDim.y * gridDim.z;
        const bool first = blockIdx.x + blockIdx.y + blockIdx.z == 0;
        asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(x.count), "l"(first ? (1ull << 32) - (blocks - 1) : 1ull) : "memory");
    }
};

/* The sum over the devices of one float each, in rank order. */
__device__ __forceinline__ float exchange_sum(const exchange_turn &t, int64_t at, float mine)
{
    float sum = 0;
    for (int r = 0; r < t.x.size; r++) {
        const float part = r == t.x.rank ? mine : __uint_as_float(t.receive(r, at));
        sum = r == 0 ? part : sum + part;
    }
    return sum;
}

/* A line is two words: 8 bytes of payload, N elements. */
template <class T> struct exchange_line {
    static constexpr int N = 8 / sizeof(T);
    union {
        uint2 bits;
        T v[N];
    };
    __device__ __forceinline__ exchange_line() : bits(make_uint2(0, 0)) {}
    __device__ __forceinline__ explicit exchange_line(uint2 b) : bits(b) {}
};
/* The same of a line, to float32. */
template <class T> __device__ __forceinline__ void exchange_sum(const exchange_turn &t, int64_t at, const exchange_line<T> &mine, float (&sum)[8 / sizeof(T)])
{
    for (int r = 0; r < t.x.size; r++) {
        const exchange_line<T> part(r == t.x.rank ? mine.bits : t.receive2(r, at));
#pragma unroll
        for (int i = 0; i < exchange_line<T>::N; i++) sum[i] = r == 0 ? kn_float(part.v[i]) : sum[i] + kn_float(part.v[i]);
    }
}

#endif
