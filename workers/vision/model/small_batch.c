/* What decoding takes on a CPU: linear layers of a few rows, y = x W^T + b, and attention of one row a sequence. Reading
 * the weights, keys and values once is what takes the time.
 *
 * Blocks of output rows are shared out among threads, so each weight is read by one core, once for all rows of x.
 * Weights are bfloat16, int8 with a scale a row, or 4-bit codes with a scale for 64 weights. x, y, b are bfloat16, sums
 * float32. `in` is a multiple of 32, for 4 bits of 128; `out` is at least 4. Compiled for the machine that it runs on.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
#define OUTS 4 /* output rows and rows of x in one block: 16 sums and their operands fit the registers */
#define ROWS 4

static inline float to_float(bf16 value) {
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

static inline bf16 to_bf16(float value) { /* to nearest, ties to even, as torch */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* x in the order in which it is read: (in / 32, rows, 32), so that its rows do not fight for one set of the cache. */
static bf16 *pack(const bf16 *x, long in, long rows) {
    bf16 *packed = aligned_alloc(64, (size_t)(rows * in) * sizeof(bf16));
    for (long k = 0; k < in; k += 32)
        for (long r = 0; r < rows; r++) memcpy(packed + k * rows + r * 32, x + r * in + k, 64);
    return packed;
}

#ifdef __AVX512BF16__
#include <immintrin.h>
typedef __m512 sum;
typedef __m512bh lanes; /* 32 of them */
#define zero() _mm512_setzero_ps()
#define dot(s, w, x) _mm512_dpbf16_ps(s, w, x)
#define total(s) _mm512_reduce_add_ps(s)
#define scaled(s, factor, group) _mm512_fmadd_ps(_mm512_set1_ps(factor), group, s)
#define load(p) ((lanes)_mm512_loadu_si512(p))
static inline lanes load_int8(const int8_t *w) { /* every int8 is a bfloat16 exactly */
    __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)w)));
    __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(w + 16))));
    return _mm512_cvtne2ps_pbh(high, low);
}
/* The table holds its 16 values twice, so the fifth bit of an index, which the instruction also reads, does not matter. */
#define plane(w, n, table) \
    ((lanes)_mm512_permutexvar_epi16(_mm512_srli_epi16(_mm512_loadu_si512(w), 4 * n), (__m512i)table))
static inline void store_scaled(bf16 *to, lanes w, float scale) {
    __m512 factor = _mm512_set1_ps(scale);
    __m512 low = _mm512_mul_ps(_mm512_cvtpbh_ps((__m256bh)_mm512_castsi512_si256((__m512i)w)), factor);
    __m512 high = _mm512_mul_ps(_mm512_cvtpbh_ps((__m256bh)_mm512_extracti64x4_epi64((__m512i)w, 1)), factor);
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
#else
typedef struct { float at[32]; } sum;
typedef struct { float at[32]; } lanes;
static inline sum zero(void) { return (sum){{0}}; }
static inline sum dot(sum s, lanes w, lanes x) {
    for (int i = 0; i < 32; i++) s.at[i] += w.at[i] * x.at[i];
    return s;
}
static inline float total(sum s) {
    float all = 0;
    for (int i = 0; i < 32; i++) all += s.at[i];
    return all;
}
static inline sum scaled(sum s, float factor, sum group) {
    for (int i = 0; i < 32; i++) s.at[i] += factor * group.at[i];
    return s;
}
static inline lanes load(const bf16 *p) {
    lanes out;
    for (int i = 0; i < 32; i++) out.at[i] = to_float(p[i]);
    return out;
}
static inline lanes load_int8(const int8_t *w) {
    lanes out;
    for (int i = 0; i < 32; i++) out.at[i] = w[i];
    return out;
}
static inline lanes plane(const uint16_t *w, int n, lanes table) {
    lanes out;
    for (int i = 0; i < 32; i++) out.at[i] = table.at[(w[i] >> (4 * n)) & 15];
    return out;
}
static inline void store_scaled(bf16 *to, lanes w, float scale) {
    for (int i = 0; i < 32; i++) to[i] = to_bf16(w.at[i] * scale);
}
#endif

/* The dot products of OUTS output rows with some rows of x. `some` is a constant wherever this is inlined. */
#define BLOCK(NAME, W, LOAD)                                                                                      \
    static inline __attribute__((always_inline)) void NAME(const W *w, const bf16 *x, float *out, long in, long rows, \
                                                           const int some) {                                      \
        sum sums[OUTS][ROWS];                                                                                     \
        for (int o = 0; o < OUTS; o++)                                                                            \
            for (int r = 0; r < some; r++) sums[o][r] = zero();                                                   \
        for (long k = 0; k < in; k += 32) {                                                                       \
            for (int o = 0; o < OUTS; o++) {                                                                      \
                lanes ws = LOAD(w + o * in + k);                                                                  \
                for (int r = 0; r < some; r++) sums[o][r] = dot(sums[o][r], ws, load(x + k * rows + r * 32));     \
            }                                                                                                     \
        }                                                                                                         \
        for (int o = 0; o < OUTS; o++)                                                                            \
            for (int r = 0; r < some; r++) out[o * ROWS + r] = total(sums[o][r]);                                 \
    }
BLOCK(block_bf16, bf16, load)
BLOCK(block_int8, int8_t, load_int8)

/* 128 codes are 32 words: word i holds codes i, i + 32, i + 64 and i + 96 from its lowest bits on. */
static inline __attribute__((always_inline)) void block_int4(const uint16_t *w, const bf16 *scales, lanes table,
                                                             const bf16 *x, float *out, long in, long rows,
                                                             const int some) {
    sum sums[OUTS][ROWS];
    for (int o = 0; o < OUTS; o++)
        for (int r = 0; r < some; r++) sums[o][r] = zero();
    for (long k = 0; k < in; k += 128) {
        for (int o = 0; o < OUTS; o++) {
            const uint16_t *words = w + o * (in / 4) + k / 4;
            const bf16 *scale = scales + o * (in / 64) + k / 64;
            lanes a = plane(words, 0, table), b = plane(words, 1, table);
            lanes c = plane(words, 2, table), d = plane(words, 3, table);
            for (int r = 0; r < some; r++) {
                const bf16 *xs = x + k * rows + r * 32;
                sum first = dot(dot(zero(), a, load(xs)), b, load(xs + rows * 32));
                sum second = dot(dot(zero(), c, load(xs + rows * 64)), d, load(xs + rows * 96));
                sums[o][r] = scaled(scaled(sums[o][r], to_float(scale[0]), first), to_float(scale[1]), second);
            }
        }
    }
    for (int o = 0; o < OUTS; o++)
        for (int r = 0; r < some; r++) out[o * ROWS + r] = total(sums[o][r]);
}

/* Blocks are handed out as threads get free: a core that the system takes away does not hold up the others for long. */
#define LINEAR(CALL, SCALE)                                                                              \
    bf16 *packed = pack(x, in, rows);                                                                    \
    _Pragma("omp parallel for schedule(dynamic, 32)") for (long block = 0; block < out; block += OUTS) { \
        const long o = block + OUTS > out ? out - OUTS : block; /* the last one may do some rows again */    \
        for (long first = 0; first < rows; first += ROWS) {                                              \
            const int some = rows - first < ROWS ? (int)(rows - first) : ROWS;                           \
            const bf16 *xs = packed + first * 32;                                                        \
            float sums[OUTS * ROWS];                                                                     \
            switch (some) {                                                                              \
            case 1: CALL(1); break;                                                                      \
            case 2: CALL(2); break;                                                                      \
            case 3: CALL(3); break;                                                                      \
            default: CALL(4);                                                                            \
            }                                                                                            \
            for (int i = 0; i < OUTS; i++)                                                               \
                for (int r = 0; r < some; r++)                                                           \
                    y[(first + r) * out + o + i] =                                                       \
                        to_bf16(sums[i * ROWS + r] * (SCALE) + (b ? to_float(b[o + i]) : 0));            \
        }                                                                                                \
    }                                                                                                    \
    free(packed);

void linear_bf16(const bf16 *w, const bf16 *x, const bf16 *b, bf16 *y, long out, long in, long rows) {
#define CALL(n) block_bf16(w + o * in, xs, sums, in, rows, n)
    LINEAR(CALL, 1)
#undef CALL
}

void linear_int8(const int8_t *w, const float *scales, const bf16 *x, const bf16 *b, bf16 *y, long out, long in,
                 long rows) {
#define CALL(n) block_int8(w + o * in, xs, sums, in, rows, n)
    LINEAR(CALL, scales[o + i])
#undef CALL
}

void linear_int4(const uint16_t *w, const bf16 *scales, const bf16 *values, const bf16 *x, const bf16 *b, bf16 *y,
                 long out, long in, long rows) {
    const lanes table = load(values);
#define CALL(n) block_int4(w + o * (in / 4), scales + o * (in / 64), table, xs, sums, in, rows, n)
    LINEAR(CALL, 1)
#undef CALL
}

void expand_int8(const int8_t *w, const float *scales, bf16 *y, long out, long in) {
    _Pragma("omp parallel for schedule(dynamic, 32)") for (long o = 0; o < out; o++)
        for (long k = 0; k < in; k += 32) store_scaled(y + o * in + k, load_int8(w + o * in + k), scales[o]);
}

void expand_int4(const uint16_t *w, const bf16 *scales, const bf16 *values, bf16 *y, long out, long in) {
    const lanes table = load(values);
    _Pragma("omp parallel for schedule(dynamic, 32)") for (long o = 0; o < out; o++) {
        for (long k = 0; k < in; k += 128) {
            const uint16_t *words = w + o * (in / 4) + k / 4;
            const bf16 *scale = scales + o * (in / 64) + k / 64;
            bf16 *to = y + o * in + k;
            store_scaled(to, plane(words, 0, table), to_float(scale[0]));
            store_scaled(to + 32, plane(words, 1, table), to_float(scale[0]));
            store_scaled(to + 64, plane(words, 2, table), to_float(scale[1]));
            store_scaled(to + 96, plane(words, 3, table), to_float(scale[1]));
        }
    }
}

/* One query row for each of `batch` sequences over the `contexts[b]` positions behind its page table.
 *
 * q, y (batch, heads, head); keys, values (slots, kv_heads, head); tables (batch, width). `head` is a multiple of 32.
 * A thread takes the heads of one kv head of one sequence, which see the same keys.
 */
void attend_rows(const bf16 *q, const bf16 *keys, const bf16 *values, const int64_t *tables, const int64_t *contexts,
                 bf16 *y, long batch, long heads, long kv_heads, long head, long width, long page) {
    const long group = heads / kv_heads;
    const float scale = 1.0f / sqrtf((float)head);
    _Pragma("omp parallel for schedule(dynamic, 1)") for (long task = 0; task < batch * kv_heads; task++) {
        const long b = task / kv_heads, kv = task % kv_heads, context = contexts[b];
        const int64_t *table = tables + b * width;
        const bf16 *queries = q + (b * heads + kv * group) * head;
        float *weights = malloc((size_t)(group * context) * sizeof(float));
        float *sums = calloc((size_t)(group * head), sizeof(float));
        for (long t = 0; t < context; t++) {
            const bf16 *key = keys + ((table[t / page] * page + t % page) * kv_heads + kv) * head;
            for (long g = 0; g < group; g++) {
                sum products = zero();
                for (long d = 0; d < head; d += 32) products = dot(products, load(queries + g * head + d), load(key + d));
                weights[g * context + t] = total(products) * scale;
            }
        }
        for (long g = 0; g < group; g++) {
            float *row = weights + g * context, most = -INFINITY, all = 0;
            for (long t = 0; t < context; t++) most = row[t] > most ? row[t] : most;
            for (long t = 0; t < context; t++) all += row[t] = expf(row[t] - most);
            for (long t = 0; t < context; t++) row[t] /= all;
        }
        for (long t = 0; t < context; t++) {
            const bf16 *value = values + ((table[t / page] * page + t % page) * kv_heads + kv) * head;
            for (long g = 0; g < group; g++) {
                const float weight = weights[g * context + t];
                float *to = sums + g * head;
                for (long d = 0; d < head; d++) to[d] += weight * to_float(value[d]);
            }
        }
        for (long i = 0; i < group * head; i++) y[(b * heads + kv * group) * head + i] = to_bf16(sums[i]);
        free(weights);
        free(sums);
    }
}
