/* Causal attention over pages of keys and values, and what lies between a layer's projections and it.
 *
 * Keys and values lie in pools (slots, kv_heads, head); position t of a sequence has the slot
 * table[t / page] * page + t % page. `head` is a multiple of 32. Query heads that share a kv head follow one another.
 */
#include "vectors.h"
#include <omp.h>

#define COLUMNS 32    /* of a product: positions, or dimensions of a head */
#define QUERIES 12    /* rows of a product: 24 sums fit the registers */
#define POSITIONS 128 /* that are scored before their values are added, a multiple of COLUMNS */
#define AHEAD 8       /* positions: those of one page lie together, but the processor can't foresee the next page */
#define TOGETHER 4    /* positions whose values are added at a time, a divisor of LANES */

typedef struct {
    const bf16 *keys, *values;
    const int64_t *table; /* NULL: t is its own slot */
    long stride;          /* of a slot, in numbers */
    long head, page;
} cache;

INLINE long slot_of(const int64_t *table, long page, long t) { return table ? table[t / page] * page + t % page : t; }

/* Turns the first half of each head as the real part, the second as the imaginary one; each step is rounded, as torch's. */
INLINE void turn(bf16 *x, const bf16 *cos, const bf16 *sin, long head) {
    for (long d = 0; d < head / 2; d += LANES) {
        const floats real = widen(x + d), imaginary = widen(x + head / 2 + d), c = widen(cos + d), s = widen(sin + d);
        store_bf16(x + d, rounded(real * c) - rounded(imaginary * s));
        store_bf16(x + head / 2 + d, rounded(imaginary * c) + rounded(real * s));
    }
}

INLINE void normalise_head(bf16 *x, const bf16 *weight, float eps, long head) {
    floats squares = all(0);
    for (long d = 0; d < head; d += LANES) squares += widen(x + d) * widen(x + d);
    const float scale = 1 / sqrtf(sum_of(squares) / (float)head + eps);
    for (long d = 0; d < head; d += LANES) store_bf16(x + d, rounded(widen(x + d) * scale) * widen(weight + d));
}

/* Normalises (if there are weights) and turns queries and keys of (rows, heads + 2 kv_heads, head), and stores keys and
 * values at `slots` (rows,) of their pools. cos, sin (rows, head / 2). */
void rotate_and_store(bf16 *qkv, const int64_t *slots, const bf16 *cos, const bf16 *sin, const bf16 *q_norm,
                      const bf16 *k_norm, float eps, bf16 *keys, bf16 *values, long rows, long heads, long kv_heads,
                      long head) {
    _Pragma("omp parallel for if (rows > 16)") for (long r = 0; r < rows; r++) {
        bf16 *row = qkv + r * (heads + 2 * kv_heads) * head, *own = row + heads * head;
        const long at = r * head / 2, to = slots[r] * kv_heads * head;
        const size_t size = (size_t)(kv_heads * head) * sizeof(bf16);
        for (long h = 0; h < heads + kv_heads; h++) {
            const bf16 *norm = h < heads ? q_norm : k_norm;
            if (norm) normalise_head(row + h * head, norm, eps, head);
            turn(row + h * head, cos + at, sin + at, head);
        }
        memcpy(keys + to, own, size);
        memcpy(values + to, own + kv_heads * head, size);
    }
}

/* Scores over `padded` positions to weights that add up to 1; those behind the context get none. */
static void softmax(float *row, long context, long padded) {
    float most = -INFINITY;
    for (long t = context; t < padded; t++) row[t] = -INFINITY;
    for (long t = 0; t < context; t++) most = row[t] > most ? row[t] : most;
    floats total = all(0);
    for (long t = 0; t < padded; t += LANES) {
        const floats weight = exponential(floats_at(row + t) - most);
        total += weight;
        store_floats(row + t, weight);
    }
    const float scale = 1 / sum_of(total);
    for (long t = 0; t < padded; t += LANES) store_floats(row + t, floats_at(row + t) * scale);
}

/* One query row, `q` and `y` (kv_heads * group, head), over the context of some kv heads, from `first` on. */
static void attend_row(const bf16 *q, const cache *c, long first, long kv_heads, long group, long context, bf16 *y) {
    const long head = c->head, heads = kv_heads * group, padded = (context + LANES - 1) & -LANES;
    const float scale = 1 / sqrtf((float)head);
    float *weights = aligned_alloc(64, (size_t)(heads * (padded + head)) * sizeof *weights), *sums = weights + heads * padded;
#define ROW_AT(pool, t) (pool + slot_of(c->table, c->page, (t) < context ? (t) : context - 1) * c->stride + first * head)
#define FETCH(pool, t)                           \
    for (const bf16 *row = ROW_AT(pool, t), *end = row + kv_heads * head; row < end; row += 32) __builtin_prefetch(row);
    for (long t = 0; t < context; t++) {
        const bf16 *keys = ROW_AT(c->keys, t);
        FETCH(c->keys, t + AHEAD)
        for (long h = 0; h < heads; h++) {
            floats products = all(0);
            for (long d = 0; d < head; d += 32)
                products = dot_bf16(products, words_at(q + h * head + d), words_at(keys + h / group * head + d));
            weights[h * padded + t] = sum_of(products) * scale;
        }
    }
    for (long h = 0; h < heads; h++) softmax(weights + h * padded, context, padded);
    memset(sums, 0, (size_t)(heads * head) * sizeof *sums);
    for (long t = 0; t < context; t += TOGETHER) {
        const bf16 *values[TOGETHER];
        for (int i = 0; i < TOGETHER; i++) {
            values[i] = ROW_AT(c->values, t + i);
            FETCH(c->values, t + i + AHEAD)
        }
        for (long kv = 0; kv < kv_heads; kv++)
            for (long d = kv * head; d < (kv + 1) * head; d += LANES) {
                floats wide[TOGETHER];
                for (int i = 0; i < TOGETHER; i++) wide[i] = widen(values[i] + d);
                for (long h = kv * group; h < (kv + 1) * group; h++) {
                    float *to = sums + (h - kv) * head + d;
                    floats sum = floats_at(to);
                    for (int i = 0; i < TOGETHER; i++) sum += wide[i] * weights[h * padded + t + i];
                    store_floats(to, sum);
                }
            }
    }
    for (long d = 0; d < heads * head; d += LANES) store_bf16(y + d, floats_at(sums + d));
    free(weights);
}

/* One query row for each of `batch` sequences over the contexts[b] positions behind its page table.
 *
 * q (batch, heads, head) with `q_stride` numbers from row to row; tables (batch, width); y (batch, heads, head). A thread
 * takes a sequence, or where there are few of them some of its heads: what it reads of a position lies together.
 */
void attend_rows(const bf16 *q, long q_stride, const bf16 *keys, const bf16 *values, const int64_t *tables,
                 const int64_t *contexts, bf16 *y, long batch, long heads, long kv_heads, long head, long width, long page) {
    const long group = heads / kv_heads, wanted = (2 * omp_get_max_threads() + batch - 1) / batch;
    const long parts = wanted < kv_heads ? wanted : kv_heads;
    _Pragma("omp parallel for schedule(dynamic, 1)") for (long task = 0; task < batch * parts; task++) {
        const long b = task / parts, part = task % parts, first = part * kv_heads / parts, end = (part + 1) * kv_heads / parts;
        const cache c = {keys, values, tables + b * width, kv_heads * head, head, page};
        const long at = first * group * head;
        attend_row(q + b * q_stride + at, &c, first, end - first, group, contexts[b], y + b * heads * head + at);
    }
}

/* to[r][.] += x, of which pair k of row r lies at r * row + k * step, times a panel (pairs, COLUMNS) of bfloat16 pairs. */
INLINE void multiply(floats (*to)[2], const uint32_t *x, long row, long step, const uint32_t *panel, long pairs) {
    floats s[QUERIES][2];
    for (int r = 0; r < QUERIES; r++) s[r][0] = to[r][0], s[r][1] = to[r][1];
    for (long k = 0; k < pairs; k++, panel += COLUMNS) {
        const words low = words_at(panel), high = words_at(panel + LANES);
        for (int r = 0; r < QUERIES; r++) {
            const words pair = x[r * row + k * step] + (words){};
            s[r][0] = dot_bf16(s[r][0], low, pair), s[r][1] = dot_bf16(s[r][1], high, pair);
        }
    }
    for (int r = 0; r < QUERIES; r++) to[r][0] = s[r][0], to[r][1] = s[r][1];
}

INLINE uint32_t pair(bf16 low, bf16 high) { return low | (uint32_t)high << 16; }

/* The positions from t0 on of one kv head as panels of products: keys (head / 2, COLUMNS), values by COLUMNS dimensions
 * (COLUMNS / 2, COLUMNS), `stride` words apart. What lies behind the context may be anything and becomes 0. */
static void pack_positions(const cache *c, long kv, long t0, long context, uint32_t *keys, uint32_t *values, long stride) {
    const long head = c->head;
    for (long t = 0; t < COLUMNS; t++) {
        const int inside = t0 + t < context;
        const bf16 *key = c->keys + (inside ? slot_of(c->table, c->page, t0 + t) * c->stride + kv * head : 0);
        for (long d = 0; d < head / 2; d++) keys[d * COLUMNS + t] = inside ? pair(key[2 * d], key[2 * d + 1]) : 0;
    }
    for (long t = 0; t < COLUMNS; t += 2) {
        const int both = t0 + t + 1 < context, one = t0 + t < context;
        const bf16 *value = c->values + (one ? slot_of(c->table, c->page, t0 + t) * c->stride + kv * head : 0);
        const bf16 *next = c->values + (both ? slot_of(c->table, c->page, t0 + t + 1) * c->stride + kv * head : 0);
        for (long d = 0; d < head; d++)
            values[d / COLUMNS * stride + t / 2 * COLUMNS + d % COLUMNS] = pair(one ? value[d] : 0, both ? next[d] : 0);
    }
}

typedef struct { /* of QUERIES rows, after the positions so far (online softmax: Milakov and Gimelshein, 2018) */
    float most[QUERIES], total[QUERIES];
    floats sums[][QUERIES][2]; /* by COLUMNS dimensions */
} state;

/* Scores of POSITIONS positions to weights (QUERIES, POSITIONS) in bfloat16; row r sees positions below seen + r step. */
static void weigh(floats (*scores)[QUERIES][2], uint32_t *weights, state *s, long seen, long step, float scale, long head) {
    for (int r = 0; r < QUERIES; r++) {
        floats found[POSITIONS / LANES], most = all(s->most[r]), total = all(0);
        const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        for (int i = 0; i < POSITIONS / LANES; i++) {
            found[i] = scores[i / 2][r][i % 2] * scale;
            if (seen + r * step < (i + 1) * LANES) found[i] = choose(lane + i * LANES < (int)(seen + r * step), found[i], all(-INFINITY));
            most = larger(found[i], most);
        }
        const float before = s->most[r], now = largest_of(most);
        for (int i = 0; i < POSITIONS / LANES; i++) {
            const floats weight = exponential(found[i] - now);
            total += weight;
            store_bf16((bf16 *)(weights + r * POSITIONS / 2) + i * LANES, weight);
        }
        const float shrink = expf(before - now);
        s->most[r] = now;
        s->total[r] = s->total[r] * shrink + sum_of(total);
        for (long d = 0; d < head / COLUMNS; d++) s->sums[d][r][0] *= shrink, s->sums[d][r][1] *= shrink;
    }
}

/* The `rows` last positions of a context of one sequence over all of it, causally, or each over all of it.
 *
 * q (rows, heads, head) with `q_stride` numbers from row to row; y (rows, heads, head).
 */
void attend_prompt(const bf16 *q, long q_stride, const cache *c, bf16 *y, long rows, long context, long heads,
                   long kv_heads, long causal) {
    const long head = c->head, padded = (context + POSITIONS - 1) / POSITIONS * POSITIONS, size = padded * head / 2;
    const long blocks = (rows + QUERIES - 1) / QUERIES, panels = head / COLUMNS, stride = padded / 2 * COLUMNS;
    const float scale = 1 / sqrtf((float)head);
    uint32_t *keys = workspace((size_t)(2 * kv_heads * size) * sizeof *keys), *values = keys + kv_heads * size;
    _Pragma("omp parallel") {
        _Pragma("omp for collapse(2)") for (long kv = 0; kv < kv_heads; kv++)
            for (long t = 0; t < padded; t += COLUMNS)
                pack_positions(c, kv, t, context, keys + kv * size + t * head / 2, values + kv * size + t / 2 * COLUMNS, stride);
        state *s = aligned_alloc(64, sizeof *s + (size_t)panels * sizeof *s->sums);
        uint32_t queries[head / 2 * QUERIES], weights[POSITIONS / 2 * QUERIES];
        /* Head by head, whose keys and values stay in the cache; the last rows, which see the most, first. */
        _Pragma("omp for schedule(dynamic, 1)") for (long task = 0; task < blocks * heads; task++) {
            const long h = task / blocks, first = (blocks - 1 - task % blocks) * QUERIES, kv = h / (heads / kv_heads);
            for (long r = 0; r < QUERIES; r++)
                for (long d = 0; d < head / 2; d++) {
                    const bf16 *from = q + (first + r) * q_stride + h * head + 2 * d;
                    queries[d * QUERIES + r] = first + r < rows ? pair(from[0], from[1]) : 0;
                }
            memset(s, 0, sizeof *s + (size_t)panels * sizeof *s->sums);
            for (int r = 0; r < QUERIES; r++) s->most[r] = -INFINITY;
            const long last = first + QUERIES < rows ? first + QUERIES : rows;
            const long seen = causal ? context - rows + first + 1 : context, end = causal ? context - rows + last : context;
            for (long t = 0; t < end; t += POSITIONS) {
                floats scores[POSITIONS / COLUMNS][QUERIES][2] = {};
                for (int i = 0; i < POSITIONS / COLUMNS; i++)
                    multiply(scores[i], queries, 1, QUERIES, keys + kv * size + (t + i * COLUMNS) * head / 2, head / 2);
                weigh(scores, weights, s, seen - t, causal, scale, head);
                for (long d = 0; d < panels; d++)
                    multiply(s->sums[d], weights, POSITIONS / 2, 1, values + kv * size + d * stride + t / 2 * COLUMNS, POSITIONS / 2);
            }
            for (long r = 0; r < last - first; r++)
                for (long d = 0; d < panels; d++)
                    for (int half = 0; half < 2; half++)
                        store_bf16(y + ((first + r) * heads + h) * head + d * COLUMNS + half * LANES, s->sums[d][r][half] / s->total[r]);
        }
        free(s);
    }
}
