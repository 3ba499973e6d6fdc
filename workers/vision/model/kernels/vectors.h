/* 16 floats, or 64 bytes, at once: the compiler's vectors, and AVX-512's dot products where the processor has them. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef uint16_t bf16;
typedef float floats __attribute__((vector_size(64)));
typedef int32_t ints __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef uint8_t bytes __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32)));
#define LANES 16
#define INLINE static inline __attribute__((always_inline))

/* Memory that stays with its thread from call to call: the system takes longer to find fresh pages than to fill them. */
static void *workspace(size_t size) {
    static _Thread_local void *kept;
    static _Thread_local size_t held;
    if (size > held) {
        free(kept);
        held = (size + 63) / 64 * 64;
        kept = aligned_alloc(64, held);
    }
    return kept;
}

INLINE words words_at(const void *p) {
    words out;
    memcpy(&out, p, 64);
    return out;
}
INLINE floats floats_at(const float *p) { return (floats)words_at(p); }
INLINE void store_floats(float *to, floats value) { memcpy(to, &value, 64); }
INLINE floats all(float value) { return value + (floats){}; }
INLINE floats choose(ints mask, floats yes, floats no) { return (floats)((mask & (ints)yes) | (~mask & (ints)no)); }

INLINE float sum_of(floats v) {
    typedef float half __attribute__((vector_size(32)));
    half parts[2];
    memcpy(parts, &v, 64);
    const half eight = parts[0] + parts[1], four = eight + __builtin_shufflevector(eight, eight, 4, 5, 6, 7, 0, 1, 2, 3);
    const half two = four + __builtin_shufflevector(four, four, 2, 3, 0, 1, 6, 7, 4, 5);
    return two[0] + two[1];
}
INLINE float largest_of(floats v) {
    float out = v[0];
    for (int i = 1; i < LANES; i++) out = v[i] > out ? v[i] : out;
    return out;
}
/* The larger one of each; b where a is NaN. */
INLINE floats larger(floats a, floats b) {
#ifdef __AVX512F__
    return (floats)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return choose(a > b, a, b);
#endif
}

INLINE floats widen_halves(halves narrow) { return (floats)(__builtin_convertvector(narrow, words) << 16); }
INLINE floats widen(const bf16 *p) {
    halves narrow;
    memcpy(&narrow, p, 32);
    return widen_halves(narrow);
}
/* To the nearest bfloat16, ties to even, as torch. */
INLINE halves narrow(floats value) {
#ifdef __AVX512BF16__
    return (halves)_mm512_cvtneps_pbh((__m512)value);
#else
    const words bits = (words)value, up = bits + 0x7fff + ((bits >> 16) & 1);
    return __builtin_convertvector((words)choose(value == value, (floats)up, value) >> 16, halves);
#endif
}
INLINE floats rounded(floats value) { return widen_halves(narrow(value)); }
INLINE void store_bf16(bf16 *to, floats value) {
    const halves out = narrow(value);
    memcpy(to, &out, 32);
}

/* 2 to the x, which is below 128: 2^n times a polynomial on half a step around n, 7e-6 of it off at most. NaN stays NaN;
 * from -100 on down it is 1e-30, of which a product is no denormal number: those take long. Adding `magic` rounds to a whole number, whose lowest bits are then the exponent of 2^n. */
INLINE floats power_of_2(floats x) {
    const floats magic = all(0x1.8p23f + 127), low = larger(all(-100), x), shifted = low + magic, r = low - (shifted - magic);
    const floats series = (((0.00966637f * r + 0.05583834f) * r + 0.24022349f) * r + 0.69313673f) * r + 1;
    return series * (floats)((words)shifted << 23);
}
INLINE floats exponential(floats x) { return power_of_2(-larger(all(-127), x * -(float)M_LOG2E)); }
/* x times the share of a normal distribution below it (Abramowitz and Stegun, 7.1.26, for its error function). */
INLINE floats gelu(floats x) {
    const floats t = 1 / (1 + 0.23164189f * (floats)((words)x & 0x7fffffff));
    const floats series = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    const floats tail = series * power_of_2(x * x * (-0.5f * (float)M_LOG2E)) * 0.5f;
    return x * choose(x > 0, 1 - tail, tail);
}

/* s[i] + w[2i] x[2i] + w[2i + 1] x[2i + 1], of bfloat16. */
INLINE floats dot_bf16(floats s, words w, words x) {
#ifdef __AVX512BF16__
    return (floats)_mm512_dpbf16_ps((__m512)s, (__m512bh)w, (__m512bh)x);
#else
    return s + (floats)(w << 16) * (floats)(x << 16) + (floats)(w & 0xffff0000) * (floats)(x & 0xffff0000);
#endif
}

/* s[i] + the products of the 4 unsigned bytes of w[i] and the 4 signed ones of x[i]. */
INLINE ints dot_bytes(ints s, words w, words x) {
#ifdef __AVX512VNNI__
    return (ints)_mm512_dpbusd_epi32((__m512i)s, (__m512i)w, (__m512i)x);
#else
    for (int shift = 24; shift >= 0; shift -= 8) s += (ints)(w << (24 - shift) >> 24) * ((ints)(x << (24 - shift)) >> 24);
    return s;
#endif
}

/* What the lower 4 bits of each byte stand for; `table` holds its 16 bytes 4 times. */
INLINE words look_up(words codes, words table) {
    const bytes at = (bytes)(codes & 0x0f0f0f0f);
#ifdef __AVX512BW__
    return (words)_mm512_shuffle_epi8((__m512i)table, (__m512i)at);
#else
    bytes out;
    for (int i = 0; i < 64; i++) out[i] = ((bytes)table)[at[i]];
    return (words)out;
#endif
}
