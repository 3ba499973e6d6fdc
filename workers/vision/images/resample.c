/* Tiles of an RGB image: Pillow's bicubic resize (Pillow 13, src/libImaging/Resample.c), byte for byte, 16 values at once.
 *
 * Two passes, along rows and along columns, each in fixed point with 22 bits and rounded to 8 bits. The pass along rows
 * takes five rows together, whose pixels at one place are 15 bytes side by side. Compiled for the machine that it runs on,
 * without contraction of floating point operations, which would round weights otherwise.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define BITS 22
#define LANES 16
#define ROWS 5 /* of 3 bytes each: 15 of the lanes */
#define BLOCK 64 /* bytes of a row in one step of the column pass */

typedef struct { /* for each output place: its first input, their number, and `most` weights */
    long most, *first, *count;
    int32_t *weights;
} filter;

static double cubic(double x) { /* a = -0.5 */
    x = fabs(x);
    if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * -0.5;
    return 0.0;
}

static void clear(filter *f) {
    free(f->first);
    free(f->count);
    free(f->weights);
}

static int make(filter *f, long in, long out) {
    double scale = (double)in / out, stretch = scale < 1.0 ? 1.0 : scale, support = 2.0 * stretch;
    f->most = 2 * (long)ceil(support) + 1;
    f->first = malloc(out * sizeof(long));
    f->count = malloc(out * sizeof(long));
    f->weights = malloc(out * f->most * sizeof(int32_t));
    double *exact = malloc(f->most * sizeof(double));
    int made = f->first && f->count && f->weights && exact;
    for (long at = 0; made && at < out; at++) {
        double centre = (at + 0.5) * scale, sum = 0.0, inverse = 1.0 / stretch;
        long first = (long)(centre - support + 0.5), last = (long)(centre + support + 0.5);
        if (first < 0) first = 0;
        if (last > in) last = in;
        for (long i = 0; i < last - first; i++) sum += exact[i] = cubic((i + first - centre + 0.5) * inverse);
        for (long i = 0; i < last - first; i++) {
            double weight = (sum != 0.0 ? exact[i] / sum : exact[i]) * (1 << BITS);
            f->weights[at * f->most + i] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        f->first[at] = first;
        f->count[at] = last - first;
    }
    free(exact);
    return made;
}

/* Sums of LANES values, begun at a half so that `store` rounds; what is outside of 0 to 255 becomes the nearer of both. */
#if defined(__AVX2__)
typedef struct { __m256i low, high; } lanes;
static inline void begin(lanes *sums) { sums->low = sums->high = _mm256_set1_epi32(1 << (BITS - 1)); }
static inline void add(lanes *sums, const uint8_t *from, int32_t weight) {
    __m256i low = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
    __m256i high = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(from + 8)));
    sums->low = _mm256_add_epi32(sums->low, _mm256_mullo_epi32(low, _mm256_set1_epi32(weight)));
    sums->high = _mm256_add_epi32(sums->high, _mm256_mullo_epi32(high, _mm256_set1_epi32(weight)));
}
static inline void store(const lanes *sums, uint8_t *to) {
    __m256i words = _mm256_packus_epi32(_mm256_srai_epi32(sums->low, BITS), _mm256_srai_epi32(sums->high, BITS));
    words = _mm256_permute4x64_epi64(words, 0xd8); /* packus works in halves of 128 bits */
    __m128i values = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)to, values);
}
#else
typedef struct { int32_t at[LANES]; } lanes;
static inline void begin(lanes *sums) {
    for (int lane = 0; lane < LANES; lane++) sums->at[lane] = 1 << (BITS - 1);
}
static inline void add(lanes *sums, const uint8_t *from, int32_t weight) {
    for (int lane = 0; lane < LANES; lane++) sums->at[lane] += from[lane] * weight;
}
static inline void store(const lanes *sums, uint8_t *to) {
    for (int lane = 0; lane < LANES; lane++) {
        int32_t value = sums->at[lane] >> BITS;
        to[lane] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}
#endif

/* Weighted sums of `count` runs of `width` bytes, a constant multiple of LANES, that lie `step` apart. */
static inline void weighted(const uint8_t *from, long step, const int32_t *weights, long count, const int width,
                            uint8_t *to) {
    lanes sums[BLOCK / LANES];
    for (int part = 0; part < width / LANES; part++) begin(&sums[part]);
    for (long i = 0; i < count; i++)
        for (int part = 0; part < width / LANES; part++) add(&sums[part], from + i * step + part * LANES, weights[i]);
    for (int part = 0; part < width / LANES; part++) store(&sums[part], to + part * LANES);
}

/* Put ROWS rows of packed RGB side by side, pixel by pixel; of the rows from `rows` on the last one is repeated. */
static void interleave(const uint8_t *from, long stride, long width, long rows, uint8_t *group) {
    for (long row = 0; row < ROWS; row++) {
        const uint8_t *pixel = from + (row < rows ? row : rows - 1) * stride;
        uint8_t *to = group + 3 * row;
        for (long x = 0; x < width; x++, pixel += 3, to += LANES) to[0] = pixel[0], to[1] = pixel[1], to[2] = pixel[2];
    }
}

/* The pass along rows over a group, to `rows` rows that lie `stride` apart and have room for a byte more. */
static void along_rows(const filter *f, const uint8_t *group, long out, long rows, uint8_t *to, long stride) {
    for (long x = 0; x < out; x++) {
        uint8_t found[LANES];
        weighted(group + f->first[x] * LANES, LANES, f->weights + x * f->most, f->count[x], LANES, found);
        for (long row = 0; row < rows; row++) memcpy(to + row * stride + 3 * x, found + 3 * row, 4);
    }
}

/* Row `y` of the pass along columns: `width` bytes. */
static void along_columns(const filter *f, long y, const uint8_t *from, long stride, long width, uint8_t *to) {
    const uint8_t *first = from + f->first[y] * stride;
    const int32_t *weights = f->weights + y * f->most;
    long x = 0;
    for (; x + BLOCK <= width; x += BLOCK) weighted(first + x, stride, weights, f->count[y], BLOCK, to + x);
    for (; x < width; x++) {
        int32_t sum = 1 << (BITS - 1);
        for (long i = 0; i < f->count[y]; i++) sum += first[x + i * stride] * weights[i];
        sum >>= BITS;
        to[x] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
    }
}

/* Put a row of the resized image where the tiles have it. */
static void place(const uint8_t *line, long y, long columns, long side, uint8_t *tiles) {
    for (long column = 0; column < columns; column++)
        memcpy(tiles + (((y / side) * columns + column) * side + y % side) * side * 3, line + column * side * 3,
               side * 3);
}

/* Resize (height, width, 3) to a grid and cut it: (rows * columns, side, side, 3). -1: no memory.
 *
 * Pillow begins with the columns where the height shrinks by more than twice as many pixels as the width. */
int resize_into_tiles(const uint8_t *pixels, long width, long height, long columns, long rows, long side,
                      uint8_t *tiles) {
    long wide = columns * side, high = rows * side;
    int columns_first = height > high && height - high > 2 * (width - wide);
    long between = 3 * (columns_first ? width : wide) + LANES, last = 3 * wide + LANES;
    filter across = {0}, down = {0};
    uint8_t *group = malloc(width * LANES), *lines = malloc(ROWS * last);
    uint8_t *half = malloc((columns_first ? high : height) * between);
    int made = group && lines && half && make(&across, width, wide) && make(&down, height, high);
    for (long y = 0; made && !columns_first && y < height; y += ROWS) {
        long some = height - y < ROWS ? height - y : ROWS;
        interleave(pixels + 3 * y * width, 3 * width, width, some, group);
        along_rows(&across, group, wide, some, half + y * between, between);
    }
    for (long y = 0; made && !columns_first && y < high; y++) {
        along_columns(&down, y, half, between, 3 * wide, lines);
        place(lines, y, columns, side, tiles);
    }
    for (long y = 0; made && columns_first && y < high; y++)
        along_columns(&down, y, pixels, 3 * width, 3 * width, half + y * between);
    for (long y = 0; made && columns_first && y < high; y += ROWS) {
        long some = high - y < ROWS ? high - y : ROWS;
        interleave(half + y * between, between, width, some, group);
        along_rows(&across, group, wide, some, lines, last);
        for (long row = 0; row < some; row++) place(lines + row * last, y + row, columns, side, tiles);
    }
    clear(&across), clear(&down);
    free(group), free(lines), free(half);
    return made ? 0 : -1;
}
