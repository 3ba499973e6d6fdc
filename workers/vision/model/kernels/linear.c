/* Linear layers of a decoder or an encoder on a CPU: y = norm(x) W^T + b, with what follows it done on the way out.
 *
 * Reading the weights is what a few rows wait for, so each weight is read once, by one core, from one stream of memory;
 * many rows are bound by arithmetic, so 12 rows meet 32 outputs in registers. Both want the same order, `weight`:
 *
 *     bfloat16   (out / 32, in / 2, 32, 2)
 *     int8       (out / 32, in / 4, 32, 4), 128 added; scales (out,) float32
 *     4 bits     (out / 32, in / 8, 32, 4): byte j holds the code of input j in its lower bits, of input j + 4 in its
 *                upper ones; scales (out / 32, in / 64, 32) bfloat16; `table` has what each code stands for, 128 added
 *
 * `out` is padded to 32. Quantised weights meet inputs that are quantised too, to int8 with a scale for 256 of them
 * (llama.cpp's Q8_K, ggml/src/ggml-quants.c), or for 64 with 4-bit weights (Q8_0): so many products are summed exactly,
 * as integers. `in` is a multiple of 2, for int8 of 64, for 4 bits of 64.
 */
#include "vectors.h"

#define OUTS 32   /* outputs of a panel, 2 vectors */
#define ROWS 12   /* rows of a block: 24 sums fit the registers */
#define GROUP 64  /* inputs for which 4-bit weights share a scale */
#define SPAN 4    /* groups of inputs that share a scale beside int8 weights; at the end each has its own */
#define PIECE (4 << 20) /* bytes of rows that meet all weights before the next ones do: beside others' they stay in the L3 */
#define AHEAD 4096 /* numbers, or pairs of 4-bit ones: how far few rows ask for weights beforehand */

typedef enum { BF16, INT8, INT4 } format;
typedef enum { NONE, GATED, GELU } activation; /* a panel is 16 gates and their 16 values: y = silu(gate) value */

typedef struct {
    const void *weight, *scales, *table;
    const bf16 *bias;        /* (out,) or NULL, in the order of `weight`, */
    const bf16 *layer_scale; /* and what y is multiplied with before the residual is added */
    long out, in;
    int32_t format;
    int32_t activation;
} matrix;

typedef struct { /* a block of rows, in the order in which they are read */
    const uint32_t *x;    /* (in / 2, rows) pairs of bfloat16, or (in / 4, rows) 4 bytes */
    const float *scale;   /* (scales, rows) */
    const int32_t *minus; /* (scales, rows): -128 times the sum of the bytes, because 128 was added to the weights */
} block;

/* Blocks of other sizes than these are filled up with zeros. */
INLINE int block_rows(long rows) { return rows > 8 ? ROWS : rows > 6 ? 8 : rows > 4 ? 6 : (int)rows; }

#define EACH_SUM                       \
    for (int r = 0; r < rows; r++)     \
        for (int half = 0; half < 2; half++)

INLINE void block_bf16(floats (*sums)[2], const matrix *m, const uint16_t *w, block b, const int rows) {
    floats s[ROWS][2];
    EACH_SUM s[r][half] = all(0);
    for (long k = 0; k < m->in / 2; k++, w += 2 * OUTS) {
        if (rows < ROWS) __builtin_prefetch(w + AHEAD), __builtin_prefetch(w + AHEAD + OUTS);
        const words panel[2] = {words_at(w), words_at(w + OUTS)};
        EACH_SUM s[r][half] = dot_bf16(s[r][half], panel[half], b.x[k * rows + r] + (words){});
    }
    EACH_SUM sums[r][half] = s[r][half];
}

INLINE void block_int8(floats (*sums)[2], const matrix *m, const uint8_t *w, block b, const int rows) {
    EACH_SUM sums[r][half] = all(0);
    for (long groups = m->in / GROUP, take; groups; groups -= take) {
        ints s[ROWS][2];
        take = groups < SPAN ? 1 : SPAN;
        EACH_SUM s[r][half] = b.minus[r] + (ints){};
        for (long k = 0; k < take * GROUP / 4; k++, w += 4 * OUTS, b.x += rows) {
            if (rows < ROWS) __builtin_prefetch(w + AHEAD), __builtin_prefetch(w + AHEAD + 64);
            const words panel[2] = {words_at(w), words_at(w + 64)};
            EACH_SUM s[r][half] = dot_bytes(s[r][half], panel[half], b.x[r] + (words){});
        }
        EACH_SUM sums[r][half] += __builtin_convertvector(s[r][half], floats) * b.scale[r];
        b.minus += rows, b.scale += rows;
    }
}

INLINE void block_int4(floats (*sums)[2], const matrix *m, const uint8_t *w, const bf16 *scales, block b, const int rows) {
    const words table = words_at(m->table);
    EACH_SUM sums[r][half] = all(0);
    for (long groups = m->in / GROUP; groups; groups--, scales += OUTS) {
        ints s[ROWS][2];
        EACH_SUM s[r][half] = b.minus[r] + (ints){};
        for (int k = 0; k < GROUP / 8; k++, w += 4 * OUTS, b.x += 2 * rows) {
            if (rows < ROWS) __builtin_prefetch(w + AHEAD), __builtin_prefetch(w + AHEAD + 64);
            for (int upper = 0; upper < 2; upper++) {
                const words panel[2] = {look_up(words_at(w) >> 4 * upper, table), look_up(words_at(w + 64) >> 4 * upper, table)};
                EACH_SUM s[r][half] = dot_bytes(s[r][half], panel[half], b.x[upper * rows + r] + (words){});
            }
        }
        EACH_SUM sums[r][half] += __builtin_convertvector(s[r][half], floats) * (widen(scales + half * LANES) * (b.scale[r] / 127));
        b.minus += rows, b.scale += rows;
    }
}

INLINE void multiply(floats (*sums)[2], const matrix *m, long panel, block b, const int rows) {
    const long at = panel * OUTS * m->in;
    if (m->format == BF16)
        block_bf16(sums, m, (const uint16_t *)m->weight + at, b, rows);
    else if (m->format == INT8)
        block_int8(sums, m, (const uint8_t *)m->weight + at, b, rows);
    else
        block_int4(sums, m, (const uint8_t *)m->weight + at / 2, (const bf16 *)m->scales + at / GROUP, b, rows);
}

/* `sums` of a panel and `count` rows to y (rows, out), or (rows, out / 2) if gated. */
static void finish_block(floats (*sums)[2], const matrix *m, long panel, long count, const bf16 *residual, bf16 *y) {
    const int gated = m->activation == GATED, width = gated ? LANES : OUTS;
    const long out = m->out / (OUTS / width), first = panel * width, left = out - first < width ? out - first : width;
    bf16 padded[2 * LANES];
    for (long r = 0; r < count; r++, residual += residual ? out : 0, y += out) {
        for (int half = 0; half < 2; half++) {
            const long o = panel * OUTS + half * LANES;
            if (m->format == INT8) sums[r][half] *= floats_at((const float *)m->scales + o);
            if (m->bias) sums[r][half] += widen(m->bias + o);
            sums[r][half] = rounded(sums[r][half]);
            if (m->activation == GELU) sums[r][half] = gelu(sums[r][half]);
        }
        if (gated) sums[r][0] = rounded(sums[r][0] / (1 + exponential(-sums[r][0]))) * sums[r][1];
        for (int half = 0; half < width / LANES; half++) store_bf16(padded + half * LANES, sums[r][half]);
        if (residual) {
            bf16 old[2 * LANES];
            memcpy(old, residual + first, (size_t)left * sizeof(bf16));
            for (int half = 0; half < width / LANES; half++) {
                floats added = widen(padded + half * LANES);
                if (m->layer_scale) added *= widen(m->layer_scale + first + half * LANES);
                store_bf16(padded + half * LANES, widen(old + half * LANES) + added);
            }
        }
        memcpy(y + first, padded, (size_t)left * sizeof(bf16));
    }
}

typedef struct {
    const bf16 *weight, *bias;
    float eps;
} norm;

/* As `norm.py`: RMSNorm in float32, rounded, then scaled, or LayerNorm, rounded at its end. */
static void normalise(const bf16 *x, const norm *n, long in, bf16 *to) {
    floats sums = all(0), squares = all(0);
    for (long k = 0; n->bias && k < in; k += LANES) sums += widen(x + k);
    const float mean = sum_of(sums) / (float)in;
    for (long k = 0; k < in; k += LANES) squares += (widen(x + k) - mean) * (widen(x + k) - mean);
    const float scale = 1 / sqrtf(sum_of(squares) / (float)in + n->eps);
    for (long k = 0; k < in; k += LANES) {
        const floats normal = (widen(x + k) - mean) * scale, weight = widen(n->weight + k);
        store_bf16(to + k, n->bias ? normal * weight + widen(n->bias + k) : rounded(normal) * weight);
    }
}

static void quantise(const bf16 *x, long count, int8_t *to, float *scale, int32_t *minus) {
    floats most = all(0);
    for (long k = 0; k < count; k += LANES) {
        const floats size = (floats)((words)widen(x + k) & 0x7fffffff);
        most = choose((ints)size > (ints)most, size, most); /* as bits, of which NaN has the largest */
    }
    int32_t bits = 0, sum = 0;
    for (int i = 0; i < LANES; i++) bits = ((ints)most)[i] > bits ? ((ints)most)[i] : bits;
    float largest;
    memcpy(&largest, &bits, 4);
    const float inverse = largest > 1e-30f && largest < INFINITY ? 127 / largest : 0;
    const floats magic = all(0x1.8p23f);
    ints sums = {};
    for (long k = 0; k < count; k += LANES) {
        const ints code = inverse ? (ints)(widen(x + k) * inverse + magic) - (ints)magic : (ints){};
        sums += code;
        typedef int8_t narrow16 __attribute__((vector_size(16)));
        const narrow16 small = __builtin_convertvector(code, narrow16);
        memcpy(to + k, &small, 16);
    }
    for (int i = 0; i < LANES; i++) sum += sums[i];
    *minus = -128 * sum;
    *scale = largest / 127; /* infinity and NaN go on from here */
}

/* `count` rows, normalised if there is a norm, as a block of `rows`, the missing ones zeros. */
static void pack_block(const bf16 *x, const norm *n, const matrix *m, long count, const int rows, block to) {
    const long in = m->in, words = m->format == BF16 ? in / 2 : in / 4;
    bf16 normal[ROWS * in];
    for (long r = 0; r < rows; r++) {
        bf16 *row = normal + r * in;
        if (r >= count)
            memset(row, 0, (size_t)in * sizeof(bf16));
        else if (n->weight)
            normalise(x + r * in, n, in, row);
        else
            memcpy(row, x + r * in, (size_t)in * sizeof(bf16));
        if (m->format == BF16) continue;
        for (long k = 0, take, place = r; k < in; k += take, place += rows) { /* in place: its bytes are half as many */
            take = m->format == INT4 || in - k < SPAN * GROUP ? GROUP : SPAN * GROUP;
            quantise(row + k, take, (int8_t *)row + k, (float *)to.scale + place, (int32_t *)to.minus + place);
        }
    }
    for (long k = 0; k < words; k++)
        for (int r = 0; r < rows; r++) memcpy((uint32_t *)to.x + k * rows + r, normal + r * in + 2 * k, 4);
}

static void multiply_piece(const matrix *m, const bf16 *x, const norm *n, const bf16 *residual, bf16 *y, long rows, long out) {
    const long blocks = (rows + ROWS - 1) / ROWS, in = m->in, scales = in / GROUP;
    const size_t each = (size_t)(blocks * ROWS * in) * (m->format == BF16 ? 2 : 1);
    const size_t tail = m->format == BF16 ? 0 : (size_t)(blocks * ROWS * scales) * 4;
    char *memory = workspace(each + 2 * tail);
    float *scale = (float *)(memory + each);
    int32_t *minus = (int32_t *)(memory + each + tail);
#define BLOCK(b) {(uint32_t *)memory + (b) * (long)(each / 4 / (size_t)blocks), scale + (b) * ROWS * scales, minus + (b) * ROWS * scales}
    _Pragma("omp parallel") {
        _Pragma("omp for schedule(dynamic, 1)") for (long b = 0; b < blocks; b++) {
            const long count = rows - b * ROWS < ROWS ? rows - b * ROWS : ROWS;
            const block to = BLOCK(b);
            pack_block(x + b * ROWS * in, n, m, count, block_rows(count), to);
        }
        /* Many panels in a row, which the processor foresees, then fewer: no thread waits long for one that lost its core. */
        _Pragma("omp for schedule(guided)") for (long panel = 0; panel < (m->out + OUTS - 1) / OUTS; panel++)
            for (long b = 0; b < blocks; b++) {
                floats sums[ROWS][2];
                const block from = BLOCK(b);
                const long count = rows - b * ROWS < ROWS ? rows - b * ROWS : ROWS;
                switch (block_rows(count)) {
                case 1: multiply(sums, m, panel, from, 1); break;
                case 2: multiply(sums, m, panel, from, 2); break;
                case 3: multiply(sums, m, panel, from, 3); break;
                case 4: multiply(sums, m, panel, from, 4); break;
                case 6: multiply(sums, m, panel, from, 6); break;
                case 8: multiply(sums, m, panel, from, 8); break;
                default: multiply(sums, m, panel, from, ROWS);
                }
                finish_block(sums, m, panel, count, residual ? residual + b * ROWS * out : NULL, y + b * ROWS * out);
            }
    }
}

/* x (rows, in), weight of the norm (in,) or NULL, residual like y or NULL. */
void linear(const matrix *m, const bf16 *x, const norm *n, const bf16 *residual, bf16 *y, long rows) {
    const long out = m->activation == GATED ? m->out / 2 : m->out, most = PIECE / 2 / m->in / ROWS * ROWS + ROWS;
    for (long r = 0; r < rows; r += most) {
        const long count = rows - r < most ? rows - r : most;
        multiply_piece(m, x + r * m->in, n, residual ? residual + r * out : NULL, y + r * out, count, out);
    }
}
