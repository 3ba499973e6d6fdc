/* Causal attention over pages of keys and values, and what lies between a layer's projections and it.
 *
 * Keys and values lie in pools (slots, kv_heads, head); position t of a sequence has the slot
 * table[t / page] * page + t % page. `head` is a multiple of 32. Query heads that share a kv head follow one another.
 */
#include "vectors.h"
#include <omp.h>

#define QUERIES 48    /* of a block: the lanes of VECTORS of scores, the rows of 4 products with values */
#define VECTORS (QUERIES / LANES)
#define POSITIONS 128 /* that are scored before their values are added */
#define KEYS 8        /* and ROWS, COLUMNS: KEYS by VECTORS, or ROWS by COLUMNS, are the 24 sums that fit the registers */
#define ROWS 12
#define COLUMNS 2
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

/* to[r][v] = shrink[r] to[r][v] (0 without `shrink`) + x, of which pair k of row r lies at r row + k step, times a panel
 * (pairs, columns LANES) of bfloat16 pairs; the rows of `to` and of the panel are `width` numbers apart. */
INLINE void multiply(float *to, const float *shrink, const uint32_t *x, long row, long step, const uint32_t *panel,
                     long width, long pairs, const int rows, const int columns) {
    floats s[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < columns; v++) s[r][v] = shrink ? floats_at(to + r * width + v * LANES) * shrink[r] : all(0);
    for (long k = 0; k < pairs; k++, x += step, panel += width) {
        words part[VECTORS];
        for (int v = 0; v < columns; v++) part[v] = words_at(panel + v * LANES);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < columns; v++) s[r][v] = dot_bf16(s[r][v], part[v], x[r * row] + (words){});
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < columns; v++) store_floats(to + r * width + v * LANES, s[r][v]);
}

/* A position and the next of one kv head: keys as they are, values (head,) as pairs of both. What lies behind the context
 * may be anything and becomes 0. */
static void pack_positions(const cache *c, long kv, long t, long context, bf16 *keys, uint32_t *values) {
    const bf16 zeros[512] = {};
    const bf16 *key[2], *value[2];
    for (int i = 0; i < 2; i++) {
        const long at = t + i < context ? slot_of(c->table, c->page, t + i) * c->stride + kv * c->head : -1;
        key[i] = at < 0 ? zeros : c->keys + at, value[i] = at < 0 ? zeros : c->values + at;
    }
    for (long d = 0; d < c->head; d += LANES) {
        for (int i = 0; i < 2; i++) memcpy(keys + i * c->head + d, key[i] + d, LANES * sizeof(bf16));
        const words pairs = (words)widen(value[0] + d) >> 16 | (words)widen(value[1] + d);
        memcpy(values + d, &pairs, sizeof pairs);
    }
}

/* Scores (positions, QUERIES) to weights (positions / 2, QUERIES) in bfloat16 pairs: 2 to the `scale` times what they lie
 * under the largest so far (online softmax: Milakov and Gimelshein, 2018). A query sees the first `seen` positions;
 * `shrink` (QUERIES) is what the sums so far have to be multiplied with. */
INLINE void weigh(float *scores, uint32_t *weights, long positions, const ints *seen, float scale, floats *most,
                  floats *total, float *shrink) {
#define EACH_SCORE                            \
    for (long p = 0; p < positions; p++)      \
        for (int v = 0; v < VECTORS; v++)
#define SCORE(p) (scores + (p) * QUERIES + v * LANES)
    if (seen[0][0] < positions) EACH_SCORE store_floats(SCORE(p), choose(seen[v] > (int)p, floats_at(SCORE(p)), all(-INFINITY)));
    floats now[VECTORS], less[VECTORS];
    for (int v = 0; v < VECTORS; v++) now[v] = most[v];
    EACH_SCORE now[v] = larger(floats_at(SCORE(p)), now[v]);
    for (int v = 0; v < VECTORS; v++) {
        less[v] = now[v] * scale;
        const floats before = power_of_2(most[v] * scale - less[v]);
        most[v] = now[v], total[v] *= before;
        store_floats(shrink + v * LANES, before);
    }
    for (long p = 0; p < positions; p += 2)
        for (int v = 0; v < VECTORS; v++) {
            const floats low = power_of_2(floats_at(SCORE(p)) * scale - less[v]);
            const floats high = power_of_2(floats_at(SCORE(p + 1)) * scale - less[v]);
            const words pair = ((words)low + 0x8000) >> 16 | (((words)high + 0x8000) & 0xffff0000); /* rounded */
            memcpy(weights + p / 2 * QUERIES + v * LANES, &pair, sizeof pair);
            total[v] += low + high;
        }
}

/* A block of queries (head / 2, QUERIES) of pairs over the `end` first positions, of which the first query sees `seen`
 * and each of the others `step` more than the one before it: sums (QUERIES, head) of values, and of weights. */
static void attend_block(const uint32_t *queries, const uint32_t *keys, const uint32_t *values, long head, long end,
                         long seen, long step, float *sums, float *totals) {
    const float scale = 1 / sqrtf((float)head) * (float)M_LOG2E;
    float scores[POSITIONS * QUERIES], shrink[QUERIES];
    uint32_t weights[POSITIONS / 2 * QUERIES];
    floats most[VECTORS], total[VECTORS] = {};
    ints visible[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        most[v] = all(-INFINITY);
        for (int i = 0; i < LANES; i++) visible[v][i] = (int)(seen + (v * LANES + i) * step);
    }
    memset(sums, 0, (size_t)(QUERIES * head) * sizeof *sums);
    for (long t = 0; t < end; t += POSITIONS) {
        const long left = (end - t + KEYS - 1) / KEYS * KEYS, positions = left < POSITIONS ? left : POSITIONS;
        for (long p = 0; p < positions; p += KEYS)
            multiply(scores + p * QUERIES, NULL, keys + (t + p) * head / 2, head / 2, 1, queries, QUERIES, head / 2, KEYS, VECTORS);
        weigh(scores, weights, positions, visible, scale, most, total, shrink);
        for (long d = 0; d < head; d += COLUMNS * LANES)
            for (long q = 0; q < QUERIES; q += ROWS)
                multiply(sums + q * head + d, shrink + q, weights + q, 1, QUERIES, values + t / 2 * head + d, head, positions / 2, ROWS, COLUMNS);
        for (int v = 0; v < VECTORS; v++) visible[v] -= POSITIONS;
    }
    memcpy(totals, total, sizeof total);
}

/* The `rows` last positions of a context of one sequence over all of it, causally, or each over all of it.
 *
 * q (rows, heads, head) with `q_stride` numbers from row to row; y (rows, heads, head).
 */
void attend_prompt(const bf16 *q, long q_stride, const cache *c, bf16 *y, long rows, long context, long heads,
                   long kv_heads, long causal) {
    const long head = c->head, padded = (context + KEYS - 1) / KEYS * KEYS, size = padded * head / 2;
    const long blocks = (rows + QUERIES - 1) / QUERIES;
    uint32_t *keys = workspace((size_t)(2 * kv_heads * size) * sizeof *keys), *values = keys + kv_heads * size;
    _Pragma("omp parallel") {
        _Pragma("omp for collapse(2)") for (long kv = 0; kv < kv_heads; kv++)
            for (long t = 0; t < padded; t += 2)
                pack_positions(c, kv, t, context, (bf16 *)(keys + kv * size + t * head / 2), values + kv * size + t / 2 * head);
        uint32_t *queries = aligned_alloc(64, (size_t)(QUERIES * head / 2 * 3) * sizeof *queries);
        float *sums = (float *)(queries + QUERIES * head / 2), totals[QUERIES];
        /* Head by head, whose keys and values stay in the cache; the last rows, which see the most, first. */
        _Pragma("omp for schedule(dynamic, 1)") for (long task = 0; task < blocks * heads; task++) {
            const long h = task / blocks, first = (blocks - 1 - task % blocks) * QUERIES, kv = h / (heads / kv_heads);
            const long last = first + QUERIES < rows ? first + QUERIES : rows, seen = causal ? context - rows + first + 1 : context;
            memset(queries, 0, (size_t)(QUERIES * head / 2) * sizeof *queries);
            for (long r = 0; r < last - first; r++)
                for (long d = 0; d < head / 2; d++) memcpy(queries + d * QUERIES + r, q + (first + r) * q_stride + h * head + 2 * d, 4);
            attend_block(queries, keys + kv * size, values + kv * size, head, causal ? context - rows + last : context, seen, causal, sums, totals);
            for (long r = 0; r < last - first; r++)
                for (long d = 0; d < head; d += LANES)
                    store_bf16(y + ((first + r) * heads + h) * head + d, floats_at(sums + r * head + d) * (1 / totals[r]));
        }
        free(queries);
    }
}
