/* Hot kernels: products of 8-bit codes with what follows them, and attention, in integers.
 *
 * One table of functions a variant (portable, avx2, avx512, neon), all with the same results; qk_start chooses one. Rounding is
 * half up: floor(x + 1/2). Scratch is 64-byte aligned, of the size that the function of the same name with _scratch tells.
 */
#ifndef QK_GEMM_H
#define QK_GEMM_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define QK_NOINLINE __attribute__((noinline))
#define QK_UNUSED __attribute__((unused))
#else
#define QK_NOINLINE
#define QK_UNUSED
#endif

/* The element type of a result. QK_ACC: the accumulator as it is. */
typedef enum { QK_S8, QK_U8, QK_S16, QK_S32, QK_ACC } qk_type;

/* y = saturate(((v + 2^(guard - 1)) >> guard) + offset): qvit.quad; lo, hi: of the result. pieces: 64 or fewer. */
typedef struct {
    int32_t form, lowest, segment, guard, offset, pieces, lo, hi;
    const int16_t *constant, *linear, *square; /* [64], those beyond `pieces` are never read */
} qk_quad;

/* y[m][n] = clip(round((sum_k x[m][k] w[n][k] + bias[n]) mult[n] / 2^shift[n]) + zero), then a function of it, if any.
 * Vectors have n rounded up to 16 elements. */
typedef struct {
    int32_t n, k;
    const int8_t *packed;  /* panels: backends/c/packing.py */
    const int32_t *bias;   /* - zx sum_k w[n][k] folded in */
    const int32_t *mult;   /* |m| < 2^31 */
    const int32_t *shift;  /* 0..62 */
    int32_t zero, lo, hi;  /* with quad: of its operand, 16 bits */
    const qk_quad *quad;   /* or NULL */
    const uint8_t *table;  /* or NULL: [256], by the code as an unsigned byte, as a byte */
    int32_t bits, sign;    /* of a weight in `packed`: 8, or 1..7 and its highest bit, 0 where it has no sign */
} qk_layer;

/* softmax(q k^T) v, of one head, by sm8_late: scores = clip(round(q k^T score_mult / 2^score_shift) + score_zero), weights[d] of
 * the distance d from the row's maximum, 255 at most; y = clip(round(weights v mult / 2^shift / sum of weights) + zero). */
typedef struct {
    size_t tokens, keys, depth, width; /* q [tokens][depth], k [keys][depth], v [keys][width] */
    int32_t score_mult, score_shift, score_zero, score_lo, score_hi; /* scores of at most 16 bits */
    const uint8_t *weights;                                          /* [256]: qk_weights */
    int32_t mult, shift, zero, lo, hi;                               /* |mult| < 2^31; of y, 8 bits */
} qk_attention;

/* qvit.ln: [channels] of gain and offset; channels |x| < 2^30 */
typedef struct {
    int32_t channels, guard, lo, hi;
    int64_t epsilon;
    const int32_t *gain, *offset;
} qk_ln;

/* y = clip(round((a - zero_a) mult_a + (b - zero_b) mult_b) / 2^shift) + zero): one rounding, shift 0..62.
 * |(a - zero_a) mult_a| + |(b - zero_b) mult_b| < 2^62 */
typedef struct {
    int32_t mult_a, mult_b, shift, zero_a, zero_b, zero, lo, hi;
} qk_add;

typedef struct {
    const char *name;
    void (*linear)(const qk_layer *l, size_t m, const uint8_t *x, size_t ldx, void *y, size_t ldy, qk_type type, void *scratch);
    void (*attention)(const qk_attention *a, const int8_t *q, size_t ldq, const int8_t *k, size_t ldk, const int8_t *v,
                      size_t ldv, uint8_t *y, size_t ldy, void *scratch);
    void (*softmax)(const uint8_t *weights, size_t rows, size_t n, const int16_t *x, size_t ldx, uint8_t *y, size_t ldy,
                    int32_t *sums);
    void (*divide)(int32_t mult, int32_t shift, int32_t zero, int32_t lo, int32_t hi, size_t rows, size_t n, const int32_t *acc,
                   size_t ldacc, const int32_t *divisors, uint8_t *y, size_t ldy);
    void (*quad)(const qk_quad *f, size_t rows, size_t n, const int16_t *x, size_t ldx, void *y, size_t ldy, qk_type type);
    void (*table)(const uint8_t *table, size_t n, const uint8_t *x, uint8_t *y);
    void (*ln)(const qk_ln *f, size_t rows, const int16_t *x, size_t ldx, void *y, size_t ldy, qk_type type);
    void (*add)(const qk_add *f, size_t n, const int16_t *a, const int16_t *b, int16_t *y);
    void (*pack)(size_t n, size_t k, const int8_t *w, size_t step_n, size_t step_k, int8_t *panels);
} qk_kernels;

/* ---- integers ---- */

/* floor(x / 2^s), 0 <= s <= 63 */
static inline int64_t qk_floor_shift(int64_t x, int32_t s)
{
    /* the standard leaves >> of negative numbers open; compilers know the answer */
    return (-1 >> 1) == -1 ? x >> s : x < 0 ? ~(~x >> s) : x >> s;
}

static inline int32_t qk_floor_shift32(int32_t x, int32_t s)
{
    return (-1 >> 1) == -1 ? x >> s : x < 0 ? ~(~x >> s) : x >> s;
}

/* 2^(s - 1), s 0..31, 0 for 0. Looked up: without such an instruction compilers shift vectors by way of floating point. */
static inline int32_t qk_half(int32_t s)
{
    static const int32_t halves[32] = {
        0,       1 << 0,  1 << 1,  1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,  1 << 8,  1 << 9,
        1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20,
        1 << 21, 1 << 22, 1 << 23, 1 << 24, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30,
    };
    return halves[s];
}

static inline int32_t qk_clip32(int32_t x, int32_t lo, int32_t hi)
{
    const int32_t y = x < lo ? lo : x;
    return y > hi ? hi : y;
}

/* floor(x / 2^s + 1/2), |x| <= 2^62, 0 <= s <= 62 */
static inline int64_t qk_half_up(int64_t x, int32_t s)
{
    return qk_floor_shift(x + (((int64_t)1 << s) >> 1), s);
}

static inline int64_t qk_clip(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

static inline int32_t qk_bits(uint64_t x)
{
#if defined(__GNUC__)
    return x ? 64 - __builtin_clzll(x) : 0;
#else
    int32_t n = 0;
    for (; x; x >>= 1) n++;
    return n;
#endif
}

static inline size_t qk_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static inline size_t qk_size(qk_type type)
{
    return type == QK_S8 || type == QK_U8 ? 1 : type == QK_S16 ? 2 : 4;
}

/* mult / divisor = result / 2^more, towards 0: qvit.dialects.semantics.quantization.reciprocal. divisor > 0 */
static inline int32_t qk_over(int32_t mult, int32_t divisor, int32_t *more)
{
    const int32_t k = qk_bits((uint64_t)divisor) - 1;
    const uint64_t size = (uint64_t)(mult < 0 ? -(int64_t)mult : mult);
    const int64_t r = (int64_t)((size << k) / (uint64_t)divisor); /* below 2^31 2^30 */
    *more = k;
    return (int32_t)(mult < 0 ? -r : r);
}

/* The rounded weights of sm8_late for each distance from the maximum: (e - (e >> 8) + 128) >> 8. */
QK_UNUSED static void qk_weights(const uint16_t *exponentials, uint8_t *weights)
{
    for (int d = 0; d < 256; d++) {
        const uint32_t e = exponentials[d];
        weights[d] = (uint8_t)((e - (e >> 8) + 128) >> 8);
    }
}

/* ---- panels: columns in groups of 48, the last of 16 to 64; in each [k / 4][columns][4] ---- */

/* How many times 16 columns the next panel has where `left` are left. */
static inline size_t qk_panel(size_t left)
{
    const size_t blocks = (left + 15) / 16;
    return blocks > 4 ? 3 : blocks;
}

/* A panel but the last. */
enum { QK_PANEL = 48 };

/* The columns of panels begin..end - 1 of a layer. */
static inline qk_layer qk_panels(const qk_layer *l, size_t begin, size_t end)
{
    const size_t n = (size_t)l->n, first = begin * QK_PANEL;
    size_t last = first;
    for (size_t i = begin; i < end; i++) last += 16 * qk_panel(n - last);
    qk_layer part = *l;
    part.n = (int32_t)((last < n ? last : n) - first);
    part.packed += first * qk_up((size_t)l->k, 4) / 8 * (size_t)l->bits; /* whole groups of 64 weights */
    part.bias += first;
    if (l->mult != NULL) {
        part.mult += first;
        part.shift += first;
    }
    return part;
}

enum { QK_TILE_ROWS = 16, QK_TILE_COLUMNS = 64, QK_BLOCK = 36, QK_LANES = 64 };

static inline size_t qk_linear_scratch(size_t k)
{
    /* a tile of sums, one of 16-bit codes, and rows padded to whole steps, or columns taken out of a panel */
    return QK_TILE_ROWS * QK_TILE_COLUMNS * 6 + qk_up(QK_TILE_ROWS * (k + 4), 64);
}

/* Of a layer with weights of less than 8 bits: a panel of them as bytes, too. */
static inline size_t qk_packed_scratch(size_t k)
{
    return qk_linear_scratch(k) + QK_TILE_COLUMNS * qk_up(k, 4);
}

static inline size_t qk_attention_scratch(size_t keys, size_t depth, size_t width)
{
    const size_t columns = qk_up(keys, 64), k4 = qk_up(depth, 4), outputs = qk_up(width, 64);
    return columns * k4 + 3 * 4 * columns + outputs * columns + 4 * outputs + QK_BLOCK * (qk_up(k4, 64) + 3 * columns + 4 * outputs) +
           4 * 64 + qk_linear_scratch(columns > k4 ? columns : k4);
}

/* Rows of patches: x [channels][height][width] -> [oh ow][channels kh kw], `flip` added to each byte modulo 256 (128: codes of
 * i8 become u8), `pad` (before that) beyond the edges. */
QK_UNUSED static void qk_im2col(size_t channels, size_t height, size_t width, size_t kh, size_t kw, size_t sh, size_t sw, size_t dh,
                                size_t dw, size_t top, size_t left, size_t oh, size_t ow, const uint8_t *x, uint8_t pad,
                                uint8_t flip, uint8_t *y)
{
    for (size_t i = 0; i < oh; i++)
        for (size_t j = 0; j < ow; j++)
            for (size_t c = 0; c < channels; c++)
                for (size_t p = 0; p < kh; p++, y += kw) {
                    /* beyond the upper or left edge the differences wrap around, and are too large */
                    const size_t row = i * sh + p * dh - top, column = j * sw - left;
                    if (row < height && dw == 1 && column < width && width - column >= kw) {
                        const uint8_t *from = x + (c * height + row) * width + column;
                        for (size_t q = 0; q < kw; q++) y[q] = (uint8_t)(from[q] + flip);
                        continue;
                    }
                    for (size_t q = 0; q < kw; q++) {
                        const size_t at = column + q * dw;
                        y[q] = (uint8_t)((row < height && at < width ? x[(c * height + row) * width + at] : pad) + flip);
                    }
                }
}

/* y[columns][rows] = x[rows][columns] */
QK_UNUSED static void qk_transpose_s16(size_t rows, size_t columns, const int16_t *x, size_t ldx, int16_t *y, size_t ldy)
{
    for (size_t i = 0; i < rows; i += 16)
        for (size_t j = 0; j < columns; j++)
            for (size_t r = i; r < rows && r < i + 16; r++) y[j * ldy + r] = x[r * ldx + j];
}

/* ---- variants ---- */

/* 2^15 / sqrt((2 i + 65) / 64): where Newton's iteration starts, qvit.dialects.approximations.ln */
static const uint16_t qk_starts[96] = {
    32514, 32025, 31558, 31110, 30681, 30269, 29874, 29493, 29127, 28774, 28433, 28104,
    27787, 27480, 27183, 26895, 26616, 26346, 26084, 25829, 25582, 25342, 25108, 24881,
    24660, 24445, 24235, 24030, 23831, 23636, 23446, 23261, 23080, 22903, 22730, 22561,
    22396, 22234, 22076, 21921, 21769, 21621, 21475, 21332, 21193, 21055, 20921, 20789,
    20659, 20532, 20407, 20285, 20164, 20046, 19930, 19816, 19703, 19593, 19485, 19378,
    19273, 19169, 19068, 18968, 18869, 18772, 18676, 18582, 18490, 18398, 18308, 18220,
    18132, 18046, 17961, 17878, 17795, 17714, 17633, 17554, 17476, 17399, 17322, 17247,
    17173, 17100, 17028, 16956, 16886, 16816, 16747, 16679, 16612, 16546, 16480, 16416,
};

/* 2^45 / sqrt(w), w in 2^30 .. 2^32 - 1 */
static inline int64_t qk_root(uint64_t w)
{
    int64_t y = (int64_t)qk_starts[(w >> 25) - 32] << 15;
    for (int i = 0; i < 2; i++) y = (y * (((int64_t)3 << 29) - ((((y * y) >> 29) * (int64_t)w) >> 32))) >> 30;
    return y;
}

/* 1 / sqrt(C sum of squares - sum^2 + epsilon) = *root / 2^*shift, with 24 bits more. */
static inline void qk_ln_root(const qk_ln *f, int64_t sum, int64_t squares, int64_t *root, int32_t *shift)
{
    int64_t variance = f->channels * squares - sum * sum + f->epsilon;
    variance = variance > 1 ? variance : 1;
    const int32_t half = (int32_t)qk_floor_shift(qk_bits((uint64_t)variance) - 31, 1);
    *root = qk_root((uint64_t)(half > 0 ? variance >> (2 * half) : variance << (-2 * half)));
    *shift = 45 - 24 + half;
}

#define QK_JOIN_(a, b) a##b
#define QK_JOIN(a, b) QK_JOIN_(a, b)
#define QK_FN(name) QK_JOIN(QK_VARIANT, name)
#define QK_QUOTE_(x) #x
#define QK_QUOTE(x) QK_QUOTE_(x)

#define QK_VARIANT qk_portable_
#define QK_NAME "portable"
#define QK_ATTR
#include "qk_plain.h"
#undef QK_VARIANT
#undef QK_ATTR
#undef QK_NAME

#if defined(__GNUC__) && defined(__x86_64__) && defined(__SSE2__) && !defined(QK_NO_SIMD)
#include <cpuid.h>

#include "qk_avx2.h"
#include "qk_avx512.h"
#endif
#if defined(__GNUC__) && defined(__ARM_NEON) && defined(__aarch64__) && !defined(__AARCH64EB__) && !defined(QK_NO_SIMD) && \
    (defined(__linux__) || defined(__ARM_FEATURE_DOTPROD))
#include "qk_neon.h"
#endif

#ifdef QK_HAVE_X86
/* 2: AVX-512 with VNNI, 1: AVX2, each by the processor and by the operating system, which keeps its registers; 0. */
static inline int qk_x86_level(void)
{
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0; /* OSXSAVE */
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const unsigned avx2 = 1U << 5 | 1U << 8;                               /* AVX2, BMI2 */
    const unsigned avx512 = 1U << 16 | 1U << 17 | 1U << 30 | 1U << 31; /* F, DQ, BW, VL */
    if ((low & 6) != 6 || (b & avx2) != avx2) return 0;
    return (low & 0xE6) == 0xE6 && (b & avx512) == avx512 && (c >> 11 & 1) ? 2 : 1;
}
#endif

static const qk_kernels *qk_chosen = &qk_portable_kernels;

/* Chooses the variant of that name, or with NULL the fastest that the processor has. 0, or -1 if it has none of that name. */
QK_UNUSED static int qk_start(const char *name)
{
    const qk_kernels *found[4] = {&qk_portable_kernels, NULL, NULL, NULL};
    int count = 1;
#ifdef QK_HAVE_X86
    const int level = qk_x86_level();
    if (level >= 1) found[count++] = &qk_avx2_kernels;
    if (level >= 2) found[count++] = &qk_avx512_kernels;
#endif
#ifdef QK_HAVE_NEON
    if (qk_neon_found()) found[count++] = &qk_neon_kernels;
#endif
    while (count-- > 0)
        if (name == NULL || strcmp(name, found[count]->name) == 0) {
            if (qk_chosen != found[count]) qk_chosen = found[count]; /* another thread may be reading it */
            return 0;
        }
    return -1;
}

/* The linear kernel on items begin..end - 1 of (panels of columns) x (rows), panel after panel: threads that divide these read
 * about their part of the weights each, and have the same to do. */
QK_UNUSED static void qk_linear(const qk_layer *l, size_t m, const uint8_t *x, size_t ldx, void *y, size_t ldy, qk_type type,
                                void *scratch, size_t begin, size_t end)
{
    for (size_t panels, rows; begin < end; begin += panels * rows) {
        const size_t panel = begin / m, row = begin % m, left = end - begin;
        panels = row == 0 && left >= m ? left / m : 1;
        rows = left < m - row ? left : m - row;
        const qk_layer part = qk_panels(l, panel, panel + panels);
        uint8_t *to = (uint8_t *)y + (row * ldy + panel * QK_PANEL) * qk_size(type);
        qk_chosen->linear(&part, rows, x + row * ldx, ldx, to, ldy, type, scratch);
    }
}
#endif
