/* What decoding takes on a CPU: linear layers of a few rows, y = x W^T + b, and attention of one row a sequence. Reading
 * the weights, keys and values once is what takes the time.
 *
 * Blocks of output rows are shared out among threads, so each weight is read by one core, once for all rows of x.
 * Weights are bfloat16, int8 with a scale a row, or 4-bit codes with a scale for 64 weights. x, y, b are bfloat16, sums
 * float32. int8 weights meet inputs that are quantised too, to int8 with a scale for 256 of them (llama.cpp's Q8_K,
 * ggml/src/ggml-quants.c), 4-bit ones inputs with a scale for 64 (Q8_0): so many products are summed exactly, as
 * integers. From 5 rows on, where arithmetic counts, a block of 4-bit weights is expanded to bfloat16 in the cache.
 * `in` is a multiple of 32, for int8 of 64, for 4 bits of 128; `out` is at least 4. Compiled for the machine that it runs on.
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
#define load(p) ((lanes)_mm512_loadu_si512(p))
static inline lanes load_int8(const int8_t *w) { /* every int8 is a bfloat16 exactly */
    __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)w)));
    __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(w + 16))));
    return _mm512_cvtne2ps_pbh(high, low);
}
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
static inline void store_scaled(bf16 *to, lanes w, float scale) {
    for (int i = 0; i < 32; i++) to[i] = to_bf16(w.at[i] * scale);
}
#endif

#define GROUP 64 /* inputs that one instruction takes, and 4-bit weights that share a scale */
#define SPAN 4   /* groups of inputs that share a scale where weights have none of their own; at the end one group does */
typedef struct {
    int8_t *at;     /* (in / GROUP, rows, GROUP): the order in which they are read, so that rows do not fight for one set */
    int32_t *minus; /* (scales, rows): -128 times their sum, because weights come with 128 added, as the instruction wants */
    float *scale;   /* (scales, rows) */
} inputs;

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include <immintrin.h>
typedef __m512i codes; /* GROUP of them */
typedef __m512 tally;
#define tally_zero() _mm512_setzero_ps()
#define tally_total(t) _mm512_reduce_add_ps(t)
#define codes_load(p) _mm512_loadu_si512(p)
#define codes_store(p, c) _mm512_storeu_si512(p, c)
#define codes_table(p) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(p)))
#define codes_raised(c) _mm512_xor_si512(c, _mm512_set1_epi8((char)0x80))
#define codes_low(c, table) _mm512_shuffle_epi8(table, _mm512_and_si512(c, _mm512_set1_epi8(15)))
#define codes_high(c, table) codes_low(_mm512_srli_epi16(c, 4), table)
typedef __m512i dots;
#define dots_from(minus) _mm512_zextsi128_si512(_mm_cvtsi32_si128(minus))
#define dots_add(d, w, x) _mm512_dpbusd_epi32(d, w, _mm512_loadu_si512(x))
#define tally_add(t, d, scale) _mm512_fmadd_ps(_mm512_cvtepi32_ps(d), _mm512_set1_ps(scale), t)
#else
typedef struct { uint8_t at[GROUP]; } codes;
typedef struct { float at[GROUP / 4]; } tally;
static inline tally tally_zero(void) { return (tally){{0}}; }
static inline float tally_total(tally t) {
    float all = 0;
    for (int i = 0; i < GROUP / 4; i++) all += t.at[i];
    return all;
}
static inline codes codes_load(const void *p) {
    codes out;
    memcpy(&out, p, GROUP);
    return out;
}
static inline void codes_store(void *p, codes c) { memcpy(p, &c, GROUP); }
static inline codes codes_table(const int8_t *p) {
    codes out = {{0}};
    memcpy(&out, p, 16);
    return out;
}
static inline codes codes_raised(codes c) {
    for (int i = 0; i < GROUP; i++) c.at[i] ^= 0x80;
    return c;
}
static inline codes codes_low(codes c, codes table) {
    for (int i = 0; i < GROUP; i++) c.at[i] = table.at[c.at[i] & 15];
    return c;
}
static inline codes codes_high(codes c, codes table) {
    for (int i = 0; i < GROUP; i++) c.at[i] = table.at[c.at[i] >> 4];
    return c;
}
typedef struct { int32_t at[GROUP / 4]; } dots;
static inline dots dots_from(int32_t minus) { return (dots){{minus}}; }
static inline dots dots_add(dots d, codes w, const int8_t *x) {
    for (int i = 0; i < GROUP; i++) d.at[i / 4] += (int32_t)w.at[i] * x[i];
    return d;
}
static inline tally tally_add(tally t, dots d, float scale) {
    for (int i = 0; i < GROUP / 4; i++) t.at[i] += scale * (float)d.at[i];
    return t;
}
#endif

static void quantise_span(const bf16 *x, int groups, int8_t *to, long rows, int32_t *minus, float *scale) {
    uint16_t bits = 0; /* of the largest magnitude: without their sign, bfloat16s are ordered as their bits are */
    for (int i = 0; i < groups * GROUP; i++) bits = (x[i] & 0x7fff) > bits ? (x[i] & 0x7fff) : bits;
    const float most = to_float(bits), inverse = most > 1e-30f && most < INFINITY ? 127 / most : 0;
    int32_t sum = 0;
    for (int g = 0; g < groups; g++, to += rows * GROUP, x += GROUP)
        for (int i = 0; i < GROUP; i++) sum += to[i] = inverse ? (int8_t)rintf(to_float(x[i]) * inverse) : 0;
    *minus = -128 * sum;
    *scale = most / 127; /* infinity and NaN go on from here */
}

/* One scale for `span` groups, at the end, where fewer are left, for one. */
static inputs quantise(const bf16 *x, long in, long rows, int span) {
    const long groups = in / GROUP, scales = groups / span + groups % span;
    const size_t bytes = (size_t)(rows * in), each = (size_t)(scales * rows) * 4;
    int8_t *at = aligned_alloc(64, bytes + (2 * each + 63) / 64 * 64);
    inputs packed = {at, (int32_t *)(at + bytes), (float *)(at + bytes + each)};
    for (long r = 0; r < rows; r++) {
        long place = r;
        for (long g = 0, take; g < groups; g += take, place += rows) {
            take = groups - g < span ? 1 : span;
            quantise_span(x + r * in + g * GROUP, (int)take, at + (g * rows + r) * GROUP, rows, packed.minus + place,
                          packed.scale + place);
        }
    }
    return packed;
}

/* The dot products of OUTS output rows with some rows of x. `some` is a constant wherever these are inlined. */
#define INLINE static inline __attribute__((always_inline)) void
#define PAIRS(some)                    \
    for (int o = 0; o < OUTS; o++)     \
        for (int r = 0; r < (some); r++)
INLINE block_bf16(const bf16 *w, const bf16 *x, float *out, long in, long rows, const int some) {
    sum sums[OUTS][ROWS];
    PAIRS(some) sums[o][r] = zero();
    for (long k = 0; k < in; k += 32) {
        for (int o = 0; o < OUTS; o++) {
            lanes ws = load(w + o * in + k);
            for (int r = 0; r < some; r++) sums[o][r] = dot(sums[o][r], ws, load(x + k * rows + r * 32));
        }
    }
    PAIRS(some) out[o * ROWS + r] = total(sums[o][r]);
}

INLINE span_int8(tally (*sums)[ROWS], const int8_t *w, inputs x, long in, long rows, const int groups,
                 const int some) {
    for (int o = 0; o < OUTS; o++) {
        codes ws[SPAN];
        for (int g = 0; g < groups; g++) ws[g] = codes_raised(codes_load(w + o * in + g * GROUP));
        for (int r = 0; r < some; r++) {
            dots products = dots_from(x.minus[r]);
            for (int g = 0; g < groups; g++) products = dots_add(products, ws[g], x.at + (g * rows + r) * GROUP);
            sums[o][r] = tally_add(sums[o][r], products, x.scale[r]);
        }
    }
}

static inline inputs next(inputs x, long rows, long groups) {
    return (inputs){x.at + groups * rows * GROUP, x.minus + rows, x.scale + rows};
}

INLINE block_int8(const int8_t *w, inputs x, float *out, long in, long rows, const int some) {
    tally sums[OUTS][ROWS];
    PAIRS(some) sums[o][r] = tally_zero();
    long k = 0;
    for (; k + SPAN * GROUP <= in; k += SPAN * GROUP, x = next(x, rows, SPAN))
        span_int8(sums, w + k, x, in, rows, SPAN, some);
    for (; k < in; k += GROUP, x = next(x, rows, 1)) span_int8(sums, w + k, x, in, rows, 1, some);
    PAIRS(some) out[o * ROWS + r] = tally_total(sums[o][r]);
}

/* 128 codes are 64 bytes: byte i holds code i in its lower bits and code i + 64 in its upper ones. */
INLINE block_int4(const uint8_t *w, const bf16 *scales, codes table, inputs x, float *out, long in, long rows,
                  const int some) {
    tally sums[OUTS][ROWS];
    PAIRS(some) sums[o][r] = tally_zero();
    for (long k = 0; k < in; k += 2 * GROUP) {
        const inputs y = next(x, rows, 1);
        for (int o = 0; o < OUTS; o++) {
            const codes pair = codes_load(w + (o * in + k) / 2);
            const codes low = codes_low(pair, table), high = codes_high(pair, table);
            const bf16 *scale = scales + (o * in + k) / GROUP;
            const float first = to_float(scale[0]), second = to_float(scale[1]);
            for (int r = 0; r < some; r++) {
                const dots one = dots_add(dots_from(x.minus[r]), low, x.at + r * GROUP);
                const dots two = dots_add(dots_from(y.minus[r]), high, y.at + r * GROUP);
                sums[o][r] = tally_add(sums[o][r], one, first * x.scale[r]);
                sums[o][r] = tally_add(sums[o][r], two, second * y.scale[r]);
            }
        }
        x = next(y, rows, 1);
    }
    PAIRS(some) out[o * ROWS + r] = tally_total(sums[o][r]);
}

/* `in` codes of a row to bfloat16. */
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
static inline __m512i scaled_table(__m512 values, bf16 scale) { /* twice: a code is looked up by its lower 4 bits */
    const __m512 scaled = _mm512_mul_ps(values, _mm512_set1_ps(to_float(scale) / 127));
    return (__m512i)_mm512_cvtne2ps_pbh(scaled, scaled);
}
static inline void expand_row(const uint8_t *w, const bf16 *scales, const int8_t *values, bf16 *to, long in) {
    const __m512 wide = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)values)));
    for (long k = 0; k < in; k += 2 * GROUP) {
        const __m512i low = scaled_table(wide, scales[k / GROUP]), high = scaled_table(wide, scales[k / GROUP + 1]);
        for (int i = 0; i < GROUP; i += 32) {
            const __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(w + k / 2 + i)));
            _mm512_storeu_si512(to + k + i, _mm512_permutexvar_epi16(pairs, low));
            _mm512_storeu_si512(to + k + GROUP + i, _mm512_permutexvar_epi16(_mm512_srli_epi16(pairs, 4), high));
        }
    }
}
#else
static inline void expand_row(const uint8_t *w, const bf16 *scales, const int8_t *values, bf16 *to, long in) {
    for (long k = 0; k < in; k += 2 * GROUP) {
        const float low = to_float(scales[k / GROUP]) / 127, high = to_float(scales[k / GROUP + 1]) / 127;
        for (int i = 0; i < GROUP; i++) {
            to[k + i] = to_bf16(values[w[k / 2 + i] & 15] * low);
            to[k + GROUP + i] = to_bf16(values[w[k / 2 + i] >> 4] * high);
        }
    }
}
#endif

/* Blocks are handed out as threads get free: a core that the system takes away does not hold up the others for long. */
#define LINEAR(BLOCK, CALL, SCALE)                                                                       \
    _Pragma("omp parallel for schedule(dynamic, 32)") for (long block = 0; block < out; block += OUTS) { \
        const long o = block + OUTS > out ? out - OUTS : block; /* the last one may do some rows again */    \
        BLOCK;                                                                                           \
        for (long first = 0; first < rows; first += ROWS) {                                              \
            const int some = rows - first < ROWS ? (int)(rows - first) : ROWS;                           \
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
    }

void linear_bf16(const bf16 *w, const bf16 *x, const bf16 *b, bf16 *y, long out, long in, long rows) {
    bf16 *packed = pack(x, in, rows);
#define CALL(n) block_bf16(w + o * in, packed + first * 32, sums, in, rows, n)
    LINEAR(, CALL, 1)
#undef CALL
    free(packed);
}

#define FROM(packed, first) ((inputs){packed.at + (first) * GROUP, packed.minus + (first), packed.scale + (first)})
void linear_int8(const int8_t *w, const float *scales, const bf16 *x, const bf16 *b, bf16 *y, long out, long in,
                 long rows) {
    const inputs packed = quantise(x, in, rows, SPAN);
#define CALL(n) block_int8(w + o * in, FROM(packed, first), sums, in, rows, n)
    LINEAR(, CALL, scales[o + i])
#undef CALL
    free(packed.at);
}

static void linear_int4_expanded(const uint8_t *w, const bf16 *scales, const int8_t *values, const bf16 *x,
                                 const bf16 *b, bf16 *y, long out, long in, long rows) {
    bf16 *packed = pack(x, in, rows);
#define CALL(n) block_bf16(wide, packed + first * 32, sums, in, rows, n)
#define EXPAND                                                                                        \
    bf16 wide[OUTS * in] __attribute__((aligned(64)));                                                \
    for (int i = 0; i < OUTS; i++)                                                                    \
        expand_row(w + (o + i) * in / 2, scales + (o + i) * in / GROUP, values, wide + i * in, in)
    LINEAR(EXPAND, CALL, 1)
#undef CALL
    free(packed);
}

/* `values`: 16 int8, what each code stands for in 127ths of its group's scale. */
void linear_int4(const uint8_t *w, const bf16 *scales, const int8_t *values, const bf16 *x, const bf16 *b, bf16 *y,
                 long out, long in, long rows) {
    if (rows > 4) {
        linear_int4_expanded(w, scales, values, x, b, y, out, in, rows);
        return;
    }
    const codes table = codes_raised(codes_table(values));
    const inputs packed = quantise(x, in, rows, 1);
#define CALL(n)                                                                                       \
    block_int4(w + o * in / 2, scales + o * in / GROUP, table, FROM(packed, first), sums, in, rows, n)
    LINEAR(, CALL, 1 / 127.0f)
#undef CALL
    free(packed.at);
}

void expand_int8(const int8_t *w, const float *scales, bf16 *y, long out, long in) {
    _Pragma("omp parallel for schedule(dynamic, 32)") for (long o = 0; o < out; o++)
        for (long k = 0; k < in; k += 32) store_scaled(y + o * in + k, load_int8(w + o * in + k), scales[o]);
}

void expand_int4(const uint8_t *w, const bf16 *scales, const int8_t *values, bf16 *y, long out, long in) {
    _Pragma("omp parallel for schedule(dynamic, 32)") for (long o = 0; o < out; o++)
        expand_row(w + o * in / 2, scales + o * in / GROUP, values, y + o * in, in);
}

#define AHEAD 12 /* positions: the lines of one head lie too far apart for the processor to foresee them */
#define AT(t) (((table[(t) / page] * page + (t) % page) * kv_heads + kv) * head)
#define FETCH(pool)               \
    if (t + AHEAD < context)      \
        for (long d = 0; d < head; d += 32) __builtin_prefetch(pool + AT(t + AHEAD) + d);

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
            const bf16 *key = keys + AT(t);
            FETCH(keys)
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
            const bf16 *value = values + AT(t);
            FETCH(values)
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
