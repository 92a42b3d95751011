/* AVX2: products by vpmaddwd of codes widened to 16 bits, for vpmaddubsw saturates. All else is plain C, compiled for it. */
#include <immintrin.h>

#define QK_VARIANT qk_avx2_
#define QK_NAME "avx2"
#define QK_ATTR __attribute__((target("avx2,bmi2")))

/* The codes 0 and 2, and 1 and 3, of each four bytes, as signed words. */
#define QK_EVEN(v) _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8)
#define QK_ODD(v) _mm256_srai_epi16(v, 8)
#define QK_STEP(r)                                                                                                            \
    {                                                                                                                          \
        int32_t four;                                                                                                          \
        memcpy(&four, x##r + at, 4);                                                                                           \
        const __m256i v = _mm256_set1_epi32(four), even = _mm256_and_si256(v, low), odd = _mm256_srli_epi16(v, 8);             \
        s##r##0 = _mm256_add_epi32(s##r##0, _mm256_add_epi32(_mm256_madd_epi16(even, e0), _mm256_madd_epi16(odd, o0)));        \
        s##r##1 = _mm256_add_epi32(s##r##1, _mm256_add_epi32(_mm256_madd_epi16(even, e1), _mm256_madd_epi16(odd, o1)));        \
    }
#define QK_START(r)                                                                                                           \
    const uint8_t *x##r = x + (r < rows ? r : rows - 1) * ldx;                                                                 \
    __m256i s##r##0 = b0, s##r##1 = b1;
#define QK_END(r)                                                                                                             \
    _mm256_storeu_si256((__m256i *)(void *)(sums + r * stride), s##r##0);                                                      \
    _mm256_storeu_si256((__m256i *)(void *)(sums + r * stride + 8), s##r##1);

/* 4 rows and 16 columns of a panel of `stride` columns. */
QK_ATTR QK_NOINLINE static void qk_avx2_4x16(const int8_t *panel, size_t steps, const int32_t *bias, size_t rows, const uint8_t *x,
                                             size_t ldx, int32_t *sums, size_t stride)
{
    const __m256i low = _mm256_set1_epi16(255);
    const __m256i b0 = _mm256_loadu_si256((const __m256i *)(const void *)bias);
    const __m256i b1 = _mm256_loadu_si256((const __m256i *)(const void *)(bias + 8));
    QK_START(0) QK_START(1) QK_START(2) QK_START(3)
    for (size_t at = 0; at < 4 * steps; at += 4, panel += 4 * stride) {
        const __m256i w0 = _mm256_loadu_si256((const __m256i *)(const void *)panel);
        const __m256i w1 = _mm256_loadu_si256((const __m256i *)(const void *)(panel + 32));
        const __m256i e0 = QK_EVEN(w0), o0 = QK_ODD(w0), e1 = QK_EVEN(w1), o1 = QK_ODD(w1);
        QK_STEP(0) QK_STEP(1) QK_STEP(2) QK_STEP(3)
    }
    QK_END(0) QK_END(1) QK_END(2) QK_END(3)
}
#undef QK_EVEN
#undef QK_ODD
#undef QK_STEP
#undef QK_START
#undef QK_END

#define QK_OWN_TILE
QK_ATTR static inline size_t qk_avx2_tile_rows(size_t m, size_t blocks)
{
    (void)m, (void)blocks;
    return 12;
}

QK_ATTR static inline void qk_avx2_tile(const int8_t *panel, size_t steps, size_t blocks, const int32_t *bias, size_t rows,
                                        const uint8_t *x, size_t ldx, int32_t *sums, size_t most)
{
    (void)most;
    for (size_t b = 0; b < blocks; b++)
        for (size_t r = 0; r < rows; r += 4)
            qk_avx2_4x16(panel + 64 * b, steps, bias + 16 * b, rows - r, x + r * ldx, ldx, sums + 16 * (r * blocks + b), 16 * blocks);
}

/* The high halves of a m. */
QK_ATTR static inline __m256i qk_avx2_high(__m256i a, __m256i m)
{
    const __m256i low = _mm256_mul_epi32(a, m), high = _mm256_mul_epi32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(m, 32));
    return _mm256_blend_epi32(_mm256_srli_epi64(low, 32), high, 0xAA);
}

#define QK_OWN_STORE
QK_ATTR QK_NOINLINE static void qk_avx2_store(const qk_layer *l, size_t first, size_t rows, size_t n, const int32_t *tile,
                                              size_t stride, void *y, size_t ldy, qk_type type)
{
    const __m256i zero = _mm256_set1_epi32(l->zero), lo = _mm256_set1_epi32(l->lo), hi = _mm256_set1_epi32(l->hi);
    const __m256i bytes = _mm256_set1_epi32(0x0C080400);
    const __m256i words = _mm256_setr_epi32(0x05040100, 0x0D0C0908, -1, -1, 0x05040100, 0x0D0C0908, -1, -1);
    for (size_t j = 0; j < n; j += 8) {
        const size_t size = qk_size(type), count = n - j < 8 ? n - j : 8;
        const __m256i m = _mm256_loadu_si256((const __m256i *)(const void *)(l->mult + first + j));
        const __m256i s = _mm256_loadu_si256((const __m256i *)(const void *)(l->shift + first + j));
        const __m256i lanes = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        /* the high half of a product is enough for shifts of 33 and more: up to there the sum is raised, if it has room */
        const __m256i up = _mm256_and_si256(lanes, _mm256_max_epi32(_mm256_sub_epi32(_mm256_set1_epi32(33), s), _mm256_setzero_si256()));
        const int raised = !_mm256_testz_si256(up, up);
        int small = 0;
        for (size_t c = first + j; raised && c < first + j + count; c++) small |= 33 - l->shift[c] > qk_room(l, c);
        if (small) {
            qk_portable_store(l, first + j, rows, count, tile + j, stride, (uint8_t *)y + j * size, ldy, type);
            continue;
        }
        const __m256i shift = _mm256_sub_epi32(_mm256_add_epi32(s, up), _mm256_set1_epi32(32));
        const __m256i half = _mm256_srli_epi32(_mm256_sllv_epi32(_mm256_set1_epi32(1), shift), 1);
        for (size_t i = 0; i < rows; i++) {
            const __m256i sums = _mm256_loadu_si256((const __m256i *)(const void *)(tile + i * stride + j));
            const __m256i high = qk_avx2_high(raised ? _mm256_sllv_epi32(sums, up) : sums, m);
            const __m256i v = _mm256_add_epi32(_mm256_srav_epi32(_mm256_add_epi32(high, half), shift), zero);
            const __m256i code = _mm256_min_epi32(_mm256_max_epi32(v, lo), hi);
            uint8_t *to = (uint8_t *)y + (i * ldy + j) * size;
            /* the low bytes of each lane, side by side */
            const __m256i near = _mm256_shuffle_epi8(code, size == 1 ? bytes : words);
            const __m256i put = size == 4   ? code
                                : size == 2 ? _mm256_permute4x64_epi64(near, 0x08)
                                            : _mm256_permutevar8x32_epi32(near, _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4));
            if (count < 8) {
                uint8_t all[32];
                _mm256_storeu_si256((__m256i *)(void *)all, put);
                memcpy(to, all, count * size);
            } else if (size == 4)
                _mm256_storeu_si256((__m256i *)(void *)to, put);
            else if (size == 2)
                _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(put));
            else
                _mm_storel_epi64((__m128i *)(void *)to, _mm256_castsi256_si128(put));
        }
    }
}

#include "qk_plain.h"
#undef QK_OWN_TILE
#undef QK_OWN_STORE
#undef QK_VARIANT
#undef QK_NAME
#undef QK_ATTR
