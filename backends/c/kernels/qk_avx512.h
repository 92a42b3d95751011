/* AVX-512 with VNNI: products by vpdpbusd, tables by vpermi2w. */
#include <immintrin.h>

#if defined(__cplusplus) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push /* of gcc's own intrinsics, where they leave lanes undefined on purpose */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define QK_VARIANT qk_avx512_
#define QK_NAME "avx512"
#define QK_ATTR __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

/* ---- tiles: every sum in a register of its own ---- */

#define QK_ROWS_1(f, c) f(0, c)
#define QK_ROWS_6(f, c) f(0, c) f(1, c) f(2, c) f(3, c) f(4, c) f(5, c)
#define QK_ROWS_9(f, c) QK_ROWS_6(f, c) f(6, c) f(7, c) f(8, c)
#define QK_COLUMNS_1(f, r) f(r, 0)
#define QK_COLUMNS_2(f, r) f(r, 0) f(r, 1)
#define QK_COLUMNS_3(f, r) f(r, 0) f(r, 1) f(r, 2)
#define QK_COLUMNS_4(f, r) f(r, 0) f(r, 1) f(r, 2) f(r, 3)

#define QK_BIAS(r, c) __m512i s##r##c = _mm512_loadu_si512(bias + 16 * c);
#define QK_DOT(r, c) s##r##c = _mm512_dpbusd_epi32(s##r##c, v, w##c);
#define QK_KEEP(r, c) _mm512_storeu_si512(sums + (r * blocks + c) * 16, s##r##c);
#define QK_LOAD(r, c) const __m512i w##c = _mm512_loadu_si512(panel + 64 * c);
#define QK_START(r, columns)                                                                                                  \
    const uint8_t *x##r = x + (r < rows ? r : rows - 1) * ldx;                                                                 \
    columns(QK_BIAS, r)
#define QK_STEP(r, columns)                                                                                                   \
    {                                                                                                                          \
        int32_t four;                                                                                                          \
        memcpy(&four, x##r + at, 4);                                                                                           \
        const __m512i v = _mm512_set1_epi32(four);                                                                             \
        columns(QK_DOT, r)                                                                                                     \
    }
#define QK_END(r, columns) columns(QK_KEEP, r)

/* Rows beyond `rows` repeat the last one, and are not written anywhere but in sums. */
#define QK_TILE(name, count, columns, wide)                                                                                   \
    QK_ATTR QK_NOINLINE static void name(const int8_t *panel, size_t steps, const int32_t *bias, size_t rows,                  \
                                         const uint8_t *x, size_t ldx, int32_t *sums)                                          \
    {                                                                                                                          \
        enum { blocks = wide };                                                                                                \
        count(QK_START, columns) for (size_t at = 0; at < 4 * steps; at += 4, panel += 64 * blocks)                            \
        {                                                                                                                      \
            columns(QK_LOAD, 0) count(QK_STEP, columns)                                                                        \
        }                                                                                                                      \
        count(QK_END, columns)                                                                                                 \
    }

QK_TILE(qk_avx512_9x1, QK_ROWS_9, QK_COLUMNS_1, 1)
QK_TILE(qk_avx512_9x2, QK_ROWS_9, QK_COLUMNS_2, 2)
QK_TILE(qk_avx512_9x3, QK_ROWS_9, QK_COLUMNS_3, 3)
QK_TILE(qk_avx512_6x4, QK_ROWS_6, QK_COLUMNS_4, 4)
QK_TILE(qk_avx512_1x1, QK_ROWS_1, QK_COLUMNS_1, 1)
QK_TILE(qk_avx512_1x2, QK_ROWS_1, QK_COLUMNS_2, 2)
QK_TILE(qk_avx512_1x3, QK_ROWS_1, QK_COLUMNS_3, 3)
QK_TILE(qk_avx512_1x4, QK_ROWS_1, QK_COLUMNS_4, 4)
#undef QK_BIAS
#undef QK_DOT
#undef QK_KEEP
#undef QK_LOAD
#undef QK_START
#undef QK_STEP
#undef QK_END
#undef QK_TILE

#define QK_OWN_TILE
QK_ATTR static inline size_t qk_avx512_tile_rows(size_t m, size_t blocks)
{
    return m < 3 ? 1 : blocks == 4 ? 6 : 9;
}

QK_ATTR static inline void qk_avx512_tile(const int8_t *panel, size_t steps, size_t blocks, const int32_t *bias, size_t rows,
                                          const uint8_t *x, size_t ldx, int32_t *sums, size_t most)
{
    switch (blocks) {
    case 1: (most == 1 ? qk_avx512_1x1 : qk_avx512_9x1)(panel, steps, bias, rows, x, ldx, sums); break;
    case 2: (most == 1 ? qk_avx512_1x2 : qk_avx512_9x2)(panel, steps, bias, rows, x, ldx, sums); break;
    case 3: (most == 1 ? qk_avx512_1x3 : qk_avx512_9x3)(panel, steps, bias, rows, x, ldx, sums); break;
    default: (most == 1 ? qk_avx512_1x4 : qk_avx512_6x4)(panel, steps, bias, rows, x, ldx, sums);
    }
}

/* ---- panels of what is known only at run time: keys and values ---- */

/* 16 rows of 16 times 4 bytes, transposed. */
QK_ATTR static inline __attribute__((always_inline)) void qk_avx512_transpose(__m512i *r)
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) /* in each lane a column of four rows */
        for (int h = 0; h < 2; h++) {
            r[i + 2 * h] = _mm512_unpacklo_epi64(t[i + h], t[i + 2 + h]);
            r[i + 2 * h + 1] = _mm512_unpackhi_epi64(t[i + h], t[i + 2 + h]);
        }
    for (int i = 0; i < 4; i++) {
        const __m512i a = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x44), b = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xEE);
        const __m512i c = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x44), d = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xEE);
        t[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(a, c, 0xDD);
        t[i + 8] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(b, d, 0xDD);
    }
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

QK_ATTR static inline __mmask64 qk_avx512_first(size_t n)
{
    return n < 64 ? ((__mmask64)1 << n) - 1 : ~(__mmask64)0;
}

/* Rows that lie along k: 16 of them and 64 codes at a time. */
QK_ATTR static void qk_avx512_pack_rows(size_t n, size_t k, const int8_t *w, size_t step_n, size_t width, int8_t *panel)
{
    for (size_t j = 0; j < width; j += 16)
        for (size_t i = 0; i < k; i += 64) {
            __m512i r[16];
            for (size_t c = 0; c < 16; c++)
                r[c] = j + c < n ? _mm512_maskz_loadu_epi8(qk_avx512_first(k - i), w + (j + c) * step_n + i) : _mm512_setzero_si512();
            qk_avx512_transpose(r);
            for (size_t q = 0; q < 16 && i + 4 * q < k; q++) _mm512_storeu_si512(panel + (i + 4 * q) * width + 4 * j, r[q]);
        }
}

/* Columns that lie along n: up to 64 of them and 4 codes at a time. */
QK_ATTR static void qk_avx512_pack_columns(size_t n, size_t k, const int8_t *w, size_t step_k, size_t width, int8_t *panel)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __mmask64 keep = qk_avx512_first(n);
    for (size_t i = 0; i < k; i += 4, panel += 4 * width) {
        __m512i r[4], put[4];
        for (size_t q = 0; q < 4; q++) {
            const __m512i row = i + q < k ? _mm512_maskz_loadu_epi8(keep, w + (i + q) * step_k) : _mm512_setzero_si512();
            r[q] = _mm512_permutexvar_epi32(order, row);
        }
        const __m512i a = _mm512_unpacklo_epi8(r[0], r[1]), b = _mm512_unpackhi_epi8(r[0], r[1]);
        const __m512i c = _mm512_unpacklo_epi8(r[2], r[3]), d = _mm512_unpackhi_epi8(r[2], r[3]);
        put[0] = _mm512_unpacklo_epi16(a, c), put[1] = _mm512_unpackhi_epi16(a, c);
        put[2] = _mm512_unpacklo_epi16(b, d), put[3] = _mm512_unpackhi_epi16(b, d);
        for (size_t q = 0; q < 4 && 16 * q < width; q++) _mm512_storeu_si512(panel + 64 * q, put[q]);
    }
}

#define QK_OWN_PACK
QK_ATTR static void qk_avx512_pack(size_t n, size_t k, const int8_t *w, size_t step_n, size_t step_k, int8_t *panels)
{
    if (step_k != 1 && step_n != 1) {
        qk_portable_pack(n, k, w, step_n, step_k, panels);
        return;
    }
    for (size_t first = 0, width; first < n; first += width, panels += width * qk_up(k, 4)) {
        width = 16 * qk_panel(n - first);
        const size_t columns = n - first < width ? n - first : width;
        if (step_k == 1)
            qk_avx512_pack_rows(columns, k, w + first * step_n, step_n, width, panels);
        else
            qk_avx512_pack_columns(columns, k, w + first, step_k, width, panels);
    }
}

#define QK_OWN_BIAS
QK_ATTR static void qk_avx512_bias(size_t n, size_t k, const int8_t *panels, int32_t *bias)
{
    const __m512i by = _mm512_set1_epi8(-128); /* 128 as an unsigned byte */
    for (size_t first = 0, width; first < n; first += width, panels += width * k) {
        width = 16 * qk_panel(n - first);
        for (size_t j = 0; j < width; j += 16) {
            __m512i sum = _mm512_setzero_si512();
            for (size_t i = 0; i < k; i += 4) sum = _mm512_dpbusd_epi32(sum, by, _mm512_loadu_si512(panels + i * width + 4 * j));
            _mm512_storeu_si512(bias + first + j, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
        }
    }
}

/* ---- what follows the product ---- */

/* The high halves of a m, odd lanes of m also in `odd`. */
QK_ATTR static inline __m512i qk_avx512_high(__m512i a, __m512i m, __m512i odd)
{
    const __m512i low = _mm512_mul_epi32(a, m), high = _mm512_mul_epi32(_mm512_srli_epi64(a, 32), odd);
    return _mm512_mask_shuffle_epi32(high, 0x5555, low, _MM_PERM_DDBB);
}

/* clip(round(a m / 2^s) + zero) with shifts of any size, 8 lanes of 64 bits. */
QK_ATTR static inline __m512i qk_avx512_wide(__m512i a, __m512i m, __m512i s, int32_t zero, int32_t lo, int32_t hi)
{
    const __m512i half = _mm512_srli_epi64(_mm512_sllv_epi64(_mm512_set1_epi64(1), s), 1);
    const __m512i v = _mm512_srav_epi64(_mm512_add_epi64(_mm512_mul_epi32(a, m), half), s);
    return _mm512_min_epi64(_mm512_max_epi64(_mm512_add_epi64(v, _mm512_set1_epi64(zero)), _mm512_set1_epi64(lo)),
                            _mm512_set1_epi64(hi));
}

QK_ATTR static inline __m512i qk_avx512_any(__m512i a, __m512i m, __m512i s, int32_t zero, int32_t lo, int32_t hi)
{
    const __m512i low = qk_avx512_wide(a, m, _mm512_maskz_mov_epi32(0x5555, s), zero, lo, hi);
    const __m512i high = qk_avx512_wide(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(m, 32), _mm512_srli_epi64(s, 32), zero, lo, hi);
    return _mm512_mask_mov_epi32(low, 0xAAAA, _mm512_slli_epi64(high, 32));
}

/* Codes of a type that has all of them, or what saturates to the type's least or greatest code. */
QK_ATTR static inline __attribute__((always_inline)) void qk_avx512_put(void *y, size_t at, __mmask16 keep, __m512i code,
                                                                      qk_type type)
{
    const int all = keep == 0xFFFF; /* writing without a mask is faster on some processors */
    if (type == QK_S32)
        _mm512_mask_storeu_epi32((int32_t *)y + at, keep, code);
    else if (type == QK_S16 && all)
        _mm256_storeu_si256((__m256i *)(void *)((int16_t *)y + at), _mm512_cvtsepi32_epi16(code));
    else if (type == QK_S16)
        _mm512_mask_cvtsepi32_storeu_epi16((int16_t *)y + at, keep, code);
    else {
        const __m512i byte = type == QK_U8 ? _mm512_max_epi32(code, _mm512_setzero_si512()) : code;
        const __m128i short_of = type == QK_U8 ? _mm512_cvtusepi32_epi8(byte) : _mm512_cvtsepi32_epi8(byte);
        if (all)
            _mm_storeu_si128((__m128i *)(void *)((uint8_t *)y + at), short_of);
        else
            _mm_mask_storeu_epi8((uint8_t *)y + at, keep, short_of);
    }
}

/* Whether lo and hi are other than the type's own limits, which qk_avx512_put has anyway. */
QK_ATTR static inline int qk_avx512_narrow(qk_type type, int32_t lo, int32_t hi)
{
    const int32_t least = type == QK_S8 ? INT8_MIN : type == QK_U8 ? 0 : type == QK_S16 ? INT16_MIN : INT32_MIN;
    const int32_t most = type == QK_S8 ? INT8_MAX : type == QK_U8 ? UINT8_MAX : type == QK_S16 ? INT16_MAX : INT32_MAX;
    return lo > least || hi < most;
}

QK_ATTR static inline __attribute__((always_inline)) void qk_avx512_store_as(const qk_layer *l, size_t first, size_t rows, size_t n,
                                                                            const int32_t *tile, size_t stride, void *y,
                                                                            size_t ldy, qk_type type)
{
    const __m512i zero = _mm512_set1_epi32(l->zero), lo = _mm512_set1_epi32(l->lo), hi = _mm512_set1_epi32(l->hi);
    const int narrow = qk_avx512_narrow(type, l->lo, l->hi);
    for (size_t j = 0; j < n; j += 16) {
        const __mmask16 keep = (__mmask16)(n - j < 16 ? (1U << (n - j)) - 1 : 0xFFFF);
        const __m512i m = _mm512_loadu_si512(l->mult + first + j), s = _mm512_loadu_si512(l->shift + first + j);
        /* the high half of a product is enough for shifts of 33 and more: up to there the sum is raised, if it has room */
        const __m512i up = _mm512_max_epi32(_mm512_sub_epi32(_mm512_set1_epi32(33), s), _mm512_setzero_si512());
        const __m512i bias = _mm512_abs_epi32(_mm512_loadu_si512(l->bias + first + j));
        const __m512i reach = _mm512_add_epi32(bias, _mm512_set1_epi32(255 * 128 * l->k));
        const int raised = _mm512_mask_test_epi32_mask(keep, up, up) != 0;
        const __m512i odd = _mm512_srli_epi64(m, 32), shift = _mm512_sub_epi32(_mm512_add_epi32(s, up), _mm512_set1_epi32(32));
        /* zero joins the half: high halves are of 31 bits, and with half and zero below 2^30 in all, their sum is of 32 */
        const __m512i room = _mm512_srlv_epi32(_mm512_set1_epi32(1 << 29), shift);
        if (_mm512_mask_cmpgt_epu32_mask(keep, _mm512_abs_epi32(zero), room) ||
            (raised && (l->k > 1 << 15 || _mm512_mask_cmpgt_epu32_mask(keep, reach, _mm512_srlv_epi32(_mm512_set1_epi32(INT32_MAX), up))))) {
            for (size_t i = 0; i < rows; i++) {
                const __m512i a = _mm512_loadu_si512(tile + i * stride + j);
                qk_avx512_put(y, i * ldy + j, keep, qk_avx512_any(a, m, s, l->zero, l->lo, l->hi), type);
            }
            continue;
        }
        const __m512i half = _mm512_srli_epi32(_mm512_sllv_epi32(_mm512_set1_epi32(1), shift), 1);
        const __m512i more = _mm512_add_epi32(half, _mm512_sllv_epi32(zero, shift));
        for (size_t i = 0; i < rows; i++) {
            const __m512i sums = _mm512_loadu_si512(tile + i * stride + j);
            const __m512i high = qk_avx512_high(raised ? _mm512_sllv_epi32(sums, up) : sums, m, odd);
            __m512i code = _mm512_srav_epi32(_mm512_add_epi32(high, more), shift);
            if (narrow) code = _mm512_min_epi32(_mm512_max_epi32(code, lo), hi);
            qk_avx512_put(y, i * ldy + j, keep, code, type);
        }
    }
}

#define QK_OWN_STORE
QK_ATTR QK_NOINLINE static void qk_avx512_store(const qk_layer *l, size_t first, size_t rows, size_t n, const int32_t *tile,
                                                size_t stride, void *y, size_t ldy, qk_type type)
{
    if (type == QK_S16)
        qk_avx512_store_as(l, first, rows, n, tile, stride, y, ldy, QK_S16);
    else if (type == QK_S32)
        qk_avx512_store_as(l, first, rows, n, tile, stride, y, ldy, QK_S32);
    else if (l->lo >= 0) /* not by the type: behind a table it is that of other codes */
        qk_avx512_store_as(l, first, rows, n, tile, stride, y, ldy, QK_U8);
    else
        qk_avx512_store_as(l, first, rows, n, tile, stride, y, ldy, QK_S8);
}

#define QK_OWN_DIVIDE
QK_ATTR static void qk_avx512_divide(int32_t mult, int32_t shift, int32_t zero, int32_t lo, int32_t hi, size_t rows, size_t n,
                                     const int32_t *acc, size_t ldacc, const int32_t *divisors, uint8_t *y, size_t ldy)
{
    const __m512i z = _mm512_set1_epi32(zero), least = _mm512_set1_epi32(lo), most = _mm512_set1_epi32(hi);
    for (size_t i = 0; i < rows; i++, acc += ldacc, y += ldy) {
        int32_t more;
        const int32_t r = qk_over(mult, divisors[i], &more);
        const int32_t s = shift + more;
        if (s < 33 || s > 62) {
            qk_portable_divide(mult, shift, zero, lo, hi, 1, n, acc, ldacc, divisors + i, y, ldy);
            continue;
        }
        const __m512i m = _mm512_set1_epi32(r), half = _mm512_set1_epi32((int32_t)1 << (s - 33));
        const __m128i by = _mm_cvtsi32_si128(s - 32);
        for (size_t j = 0; j < n; j += 16) {
            const __mmask16 keep = (__mmask16)(n - j < 16 ? (1U << (n - j)) - 1 : 0xFFFF);
            const __m512i high = qk_avx512_high(_mm512_maskz_loadu_epi32(keep, acc + j), m, m);
            const __m512i v = _mm512_add_epi32(_mm512_sra_epi32(_mm512_add_epi32(high, half), by), z);
            _mm512_mask_cvtepi32_storeu_epi8(y + j, keep, _mm512_min_epi32(_mm512_max_epi32(v, least), most));
        }
    }
}

/* ---- tables ---- */

/* The words of code modulo 64. */
QK_ATTR static inline __m512i qk_avx512_words(const __m512i *table, __m512i code)
{
    return _mm512_permutex2var_epi16(table[0], code, table[1]);
}

/* Bytes of a table of 256; codes 0..255 in words. */
QK_ATTR static inline __m512i qk_avx512_bytes(const __m512i *table, __m512i code)
{
    const __m512i pair = _mm512_srli_epi16(code, 1);
    __m512i found = qk_avx512_words(table, pair);
    found = _mm512_mask_mov_epi16(found, _mm512_test_epi16_mask(code, _mm512_set1_epi16(128)), qk_avx512_words(table + 2, pair));
    found = _mm512_srlv_epi16(found, _mm512_slli_epi16(_mm512_and_si512(code, _mm512_set1_epi16(1)), 3));
    return _mm512_and_si512(found, _mm512_set1_epi16(255));
}

QK_ATTR static inline __mmask32 qk_avx512_tail(size_t left)
{
    return left < 32 ? (__mmask32)((1U << left) - 1) : 0xFFFFFFFFU;
}

#define QK_OWN_TABLE
QK_ATTR static void qk_avx512_table(const uint8_t *table, size_t n, const uint8_t *x, uint8_t *y)
{
    __m512i t[4];
    for (int i = 0; i < 4; i++) t[i] = _mm512_loadu_si512(table + 64 * i);
    for (size_t j = 0; j < n; j += 32) {
        const __mmask32 keep = qk_avx512_tail(n - j);
        const __m512i code = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(keep, x + j));
        _mm512_mask_cvtepi16_storeu_epi8(y + j, keep, qk_avx512_bytes(t, code));
    }
}

/* Of a table of 128 bytes, each in a word. */
QK_ATTR static inline __m512i qk_avx512_half(const __m512i *table, __m512i code)
{
    const __mmask32 upper = _mm512_test_epi16_mask(code, _mm512_set1_epi16(64));
    return _mm512_mask_mov_epi16(qk_avx512_words(table, code), upper, qk_avx512_words(table + 2, code));
}

QK_ATTR static inline __attribute__((always_inline)) void qk_avx512_softmax_as(const uint8_t *weights, size_t rows, size_t n,
                                                                              const int16_t *x, size_t ldx, uint8_t *y,
                                                                              size_t ldy, int32_t *sums, int half)
{
    __m512i t[4];
    for (int i = 0; i < 4; i++)
        t[i] = half ? _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(weights + 32 * i)))
                    : _mm512_loadu_si512(weights + 64 * i);
    const __m512i farthest = _mm512_set1_epi16(half ? 127 : 255), least = _mm512_set1_epi16(INT16_MIN);
    const size_t full = n / 32 * 32;
    const __mmask32 rest = qk_avx512_tail(n - full);
    for (size_t i = 0; i < rows; i++, x += ldx, y += ldy) {
        __m512i most = _mm512_mask_loadu_epi16(least, rest, x + full), sum = _mm512_setzero_si512();
        for (size_t j = 0; j < full; j += 32) most = _mm512_max_epi16(most, _mm512_loadu_si512(x + j));
        const __m256i m16 = _mm256_max_epi16(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
        __m128i m8 = _mm_max_epi16(_mm256_castsi256_si128(m16), _mm256_extracti128_si256(m16, 1));
        m8 = _mm_minpos_epu16(_mm_sub_epi16(_mm_set1_epi16(INT16_MAX), m8)); /* as unsigned, the largest is the least */
        const __m512i top = _mm512_set1_epi16((int16_t)(INT16_MAX - _mm_extract_epi16(m8, 0)));
        for (size_t j = 0; j < full; j += 32) {
            const __m512i d = _mm512_min_epu16(_mm512_sub_epi16(top, _mm512_loadu_si512(x + j)), farthest); /* unsigned */
            const __m512i w = half ? qk_avx512_half(t, d) : qk_avx512_bytes(t, d);
            sum = _mm512_add_epi64(sum, _mm512_sad_epu8(w, _mm512_setzero_si512()));
            _mm256_storeu_si256((__m256i *)(void *)(y + j), _mm512_cvtepi16_epi8(w));
        }
        if (rest) {
            const __m512i d = _mm512_min_epu16(_mm512_sub_epi16(top, _mm512_maskz_loadu_epi16(rest, x + full)), farthest);
            const __m512i w = _mm512_maskz_mov_epi16(rest, half ? qk_avx512_half(t, d) : qk_avx512_bytes(t, d));
            sum = _mm512_add_epi64(sum, _mm512_sad_epu8(w, _mm512_setzero_si512()));
            _mm512_mask_cvtepi16_storeu_epi8(y + full, rest, w);
        }
        const int32_t total = (int32_t)_mm512_reduce_add_epi64(sum);
        sums[i] = total == 0 ? 255 : total;
    }
}

#define QK_OWN_SOFTMAX
QK_ATTR QK_NOINLINE static void qk_avx512_softmax(const uint8_t *weights, size_t rows, size_t n, const int16_t *x, size_t ldx,
                                                  uint8_t *y, size_t ldy, int32_t *sums)
{
    /* where all beyond 127 is what 127 is, half of the table does */
    int half = 1;
    for (int i = 128; i < 256; i++) half &= weights[i] == weights[127];
    if (half)
        qk_avx512_softmax_as(weights, rows, n, x, ldx, y, ldy, sums, 1);
    else
        qk_avx512_softmax_as(weights, rows, n, x, ldx, y, ldy, sums, 0);
}

/* 32 codes of quad before the guard bits go; words, modulo 2^16. */
QK_ATTR static inline __m512i qk_avx512_piece(const __m512i *constant, const __m512i *linear, const __m512i *square,
                                              __m512i position, __m128i segment, __m128i rest)
{
    const __m512i j = _mm512_srl_epi16(position, segment);
    const __m512i r = _mm512_xor_si512(_mm512_sll_epi16(position, rest), _mm512_set1_epi16(INT16_MIN));
    const __m512i slope = _mm512_add_epi16(qk_avx512_words(linear, j), _mm512_mulhrs_epi16(r, qk_avx512_words(square, j)));
    return _mm512_add_epi16(qk_avx512_words(constant, j), _mm512_mulhrs_epi16(r, slope));
}

/* quad where words do: form 0, a guard of 1 or more, and an offset that leaves room to saturate. */
typedef struct {
    __m512i constant[2], linear[2], square[2], lowest, cap, rounding, offset, lo, hi;
    __m128i segment, rest;
} qk_avx512_curve;

QK_ATTR static inline __attribute__((always_inline)) __m512i qk_avx512_quad_words(const qk_avx512_curve *w, __m512i code)
{
    const __m512i position = _mm512_min_epu16(_mm512_sub_epi16(code, w->lowest), w->cap);
    const __m512i piece = qk_avx512_piece(w->constant, w->linear, w->square, position, w->segment, w->rest);
    const __m512i v = _mm512_add_epi16(_mm512_mulhrs_epi16(piece, w->rounding), w->offset);
    return _mm512_min_epi16(_mm512_max_epi16(v, w->lo), w->hi);
}

/* The lower or upper 16 words, those of `keep`, as words or bytes. */
QK_ATTR static inline __attribute__((always_inline)) void qk_avx512_put_half(void *y, size_t at, __mmask16 keep, __m256i code,
                                                                            qk_type type)
{
    if (type == QK_S16)
        _mm256_mask_storeu_epi16((int16_t *)y + at, keep, code);
    else
        _mm_mask_storeu_epi8((uint8_t *)y + at, keep, _mm256_cvtepi16_epi8(code));
}

QK_ATTR static inline __attribute__((always_inline)) void qk_avx512_quad_rows(const qk_quad *f, size_t rows, size_t n,
                                                                             const int16_t *x, size_t ldx, void *y, size_t ldy,
                                                                             qk_type type)
{
    const int64_t last = ((int64_t)f->pieces << f->segment) - 1;
    const qk_avx512_curve w = {
        {_mm512_loadu_si512(f->constant), _mm512_loadu_si512(f->constant + 32)},
        {_mm512_loadu_si512(f->linear), _mm512_loadu_si512(f->linear + 32)},
        {_mm512_loadu_si512(f->square), _mm512_loadu_si512(f->square + 32)},
        _mm512_set1_epi16((int16_t)f->lowest),
        _mm512_set1_epi16((int16_t)(uint16_t)(last < 65535 ? last : 65535)),
        _mm512_set1_epi16((int16_t)(1 << (15 - f->guard))), /* by mulhrs the rounding shift, which leaves 15 bits */
        _mm512_set1_epi16((int16_t)f->offset),
        _mm512_set1_epi16((int16_t)f->lo),
        _mm512_set1_epi16((int16_t)f->hi),
        _mm_cvtsi32_si128(f->segment),
        _mm_cvtsi32_si128(16 - f->segment),
    };
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j + 32 <= n; j += 32) {
            const __m512i v = qk_avx512_quad_words(&w, _mm512_loadu_si512(x + i * ldx + j));
            const size_t at = i * ldy + j;
            if (type == QK_S16)
                _mm512_storeu_si512((int16_t *)y + at, v);
            else
                _mm256_storeu_si256((__m256i *)(void *)((uint8_t *)y + at), _mm512_cvtepi16_epi8(v));
        }
    /* up to 16 columns that are left of two rows together, or of one row up to 31 */
    const size_t left = n % 32, at = n - left, both = left > 0 && left <= 16 ? rows / 2 * 2 : 0;
    for (size_t i = 0; i < both; i += 2) {
        const __mmask16 keep = (__mmask16)((1U << left) - 1);
        const int16_t *from = x + i * ldx + at;
        const __m512i code = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(keep, from)),
                                                _mm256_maskz_loadu_epi16(keep, from + ldx), 1);
        const __m512i v = qk_avx512_quad_words(&w, code);
        qk_avx512_put_half(y, i * ldy + at, keep, _mm512_castsi512_si256(v), type);
        qk_avx512_put_half(y, (i + 1) * ldy + at, keep, _mm512_extracti64x4_epi64(v, 1), type);
    }
    for (size_t i = both; i < rows && left; i++) {
        const __mmask32 keep = qk_avx512_tail(left);
        const __m512i v = qk_avx512_quad_words(&w, _mm512_maskz_loadu_epi16(keep, x + i * ldx + at));
        if (type == QK_S16)
            _mm512_mask_storeu_epi16((int16_t *)y + i * ldy + at, keep, v);
        else
            _mm512_mask_cvtepi16_storeu_epi8((uint8_t *)y + i * ldy + at, keep, v);
    }
}

#define QK_OWN_QUAD
QK_ATTR QK_NOINLINE static void qk_avx512_quad(const qk_quad *f, size_t rows, size_t n, const int16_t *x, size_t ldx, void *y,
                                               size_t ldy, qk_type type)
{
    if (f->form == 0 ? f->lowest < INT16_MIN : 0) { /* positions beyond 16 bits */
        qk_portable_quad(f, rows, n, x, ldx, y, ldy, type);
        return;
    }
    if (f->form == 0 && f->guard >= 1 && f->offset > -(1 << 14) && f->offset < 1 << 14) {
        if (type == QK_S16)
            qk_avx512_quad_rows(f, rows, n, x, ldx, y, ldy, QK_S16);
        else
            qk_avx512_quad_rows(f, rows, n, x, ldx, y, ldy, QK_U8);
        return;
    }
    const int64_t last = ((int64_t)f->pieces << f->segment) - 1;
    const __m512i c[2] = {_mm512_loadu_si512(f->constant), _mm512_loadu_si512(f->constant + 32)};
    const __m512i b[2] = {_mm512_loadu_si512(f->linear), _mm512_loadu_si512(f->linear + 32)};
    const __m512i a[2] = {_mm512_loadu_si512(f->square), _mm512_loadu_si512(f->square + 32)};
    const __m512i cap = _mm512_set1_epi16((int16_t)(uint16_t)(last < 65535 ? last : 65535));
    const __m512i lowest = _mm512_set1_epi16((int16_t)f->lowest), zero = _mm512_setzero_si512();
    const __m128i segment = _mm_cvtsi32_si128(f->segment), rest = _mm_cvtsi32_si128(16 - f->segment);
    const __m128i guard = _mm_cvtsi32_si128(f->guard);
    const __m512i half = _mm512_set1_epi32((1 << f->guard) >> 1), offset = _mm512_set1_epi32(f->offset);
    const __m512i lo = _mm512_set1_epi32(f->lo), hi = _mm512_set1_epi32(f->hi);
    for (size_t i = 0; i < rows; i++, x += ldx)
        for (size_t j = 0; j < n; j += 32) {
            const __mmask32 keep = qk_avx512_tail(n - j);
            const __m512i code = _mm512_maskz_loadu_epi16(keep, x + j);
            const __m512i position = f->form == 0 ? _mm512_sub_epi16(code, lowest) : _mm512_abs_epi16(code);
            const __m512i piece = qk_avx512_piece(c, b, a, _mm512_min_epu16(position, cap), segment, rest);
            for (int h = 0; h < 2; h++) {
                const __m512i p = _mm512_cvtepi16_epi32(h ? _mm512_extracti64x4_epi64(piece, 1) : _mm512_castsi512_si256(piece));
                const __m512i q = _mm512_cvtepi16_epi32(h ? _mm512_extracti64x4_epi64(code, 1) : _mm512_castsi512_si256(code));
                __m512i v = p;
                if (f->form == 1) {
                    v = _mm512_mask_sub_epi32(v, _mm512_cmplt_epi32_mask(q, zero), zero, p);
                    v = _mm512_maskz_mov_epi32(_mm512_test_epi32_mask(q, q), v);
                } else if (f->form == 2)
                    v = _mm512_sub_epi32(_mm512_max_epi32(q, zero), p);
                v = _mm512_add_epi32(_mm512_sra_epi32(_mm512_add_epi32(v, half), guard), offset);
                v = _mm512_min_epi32(_mm512_max_epi32(v, lo), hi);
                qk_avx512_put(y, i * ldy + j + 16 * (size_t)h, (__mmask16)(keep >> (16 * h)), v, type);
            }
        }
}

/* ---- normalisation and the residual add ---- */

/* sum x and sum x^2 of a row. */
QK_ATTR static inline void qk_avx512_moments(size_t n, const int16_t *x, int64_t *sum, int64_t *squares)
{
    const __m512i ones = _mm512_set1_epi16(1), even = _mm512_set1_epi64(0xFFFFFFFF);
    __m512i s = _mm512_setzero_si512(), q = s;
    for (size_t j = 0; j < n; j += 32) {
        const __m512i v = n - j < 32 ? _mm512_maskz_loadu_epi16(qk_avx512_tail(n - j), x + j) : _mm512_loadu_si512(x + j);
        const __m512i pairs = _mm512_madd_epi16(v, v); /* up to 2^31, unsigned */
        s = _mm512_add_epi32(s, _mm512_madd_epi16(v, ones));
        q = _mm512_add_epi64(q, _mm512_add_epi64(_mm512_and_si512(pairs, even), _mm512_srli_epi64(pairs, 32)));
    }
    *sum = _mm512_reduce_add_epi32(s);
    *squares = _mm512_reduce_add_epi64(q);
}

enum { QK_AVX512_LN_ROWS = 8 }; /* whose roots are taken one after another, for each takes long */

QK_ATTR static inline __attribute__((always_inline)) void qk_avx512_ln_as(const qk_ln *f, size_t rows, const int16_t *x, size_t ldx,
                                                                         void *y, size_t ldy, qk_type type)
{
    const size_t n = (size_t)f->channels;
    const __m512i channels = _mm512_set1_epi32(f->channels), half = _mm512_set1_epi32((int32_t)1 << (f->guard - 1));
    const __m512i lo = _mm512_set1_epi32(f->lo), hi = _mm512_set1_epi32(f->hi);
    const __m128i guard = _mm_cvtsi32_si128(f->guard);
    const int narrow = qk_avx512_narrow(type, f->lo, f->hi);
    int64_t sums[QK_AVX512_LN_ROWS], squares[QK_AVX512_LN_ROWS], roots[QK_AVX512_LN_ROWS];
    int32_t shifts[QK_AVX512_LN_ROWS];
    for (size_t i = 0; i < rows; i += QK_AVX512_LN_ROWS) {
        const size_t left = rows - i, most = QK_AVX512_LN_ROWS, count = left < most ? left : most;
        for (size_t r = 0; r < count; r++) qk_avx512_moments(n, x + (i + r) * ldx, sums + r, squares + r);
        for (size_t r = 0; r < count; r++) qk_ln_root(f, sums[r], squares[r], roots + r, shifts + r);
        for (size_t j = 0; j < n; j += 16) {
            const __mmask16 keep = (__mmask16)(qk_avx512_tail(n - j) & 0xFFFF);
            const __m512i gain = _mm512_maskz_loadu_epi32(keep, f->gain + j), odd = _mm512_srli_epi64(gain, 32);
            const __m512i offset = _mm512_add_epi32(_mm512_maskz_loadu_epi32(keep, f->offset + j), half);
            for (size_t r = 0; r < count; r++) {
                const __m512i v = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(keep, x + (i + r) * ldx + j));
                const __m512i d = _mm512_sub_epi32(_mm512_mullo_epi32(v, channels), _mm512_set1_epi32((int32_t)sums[r]));
                const __m512i by = _mm512_set1_epi64(roots[r]);
                const __m128i down = _mm_cvtsi32_si128(shifts[r]);
                const __m512i u0 = _mm512_sra_epi64(_mm512_mul_epi32(d, by), down);
                const __m512i u1 = _mm512_sra_epi64(_mm512_mul_epi32(_mm512_srli_epi64(d, 32), by), down);
                const __m512i low = _mm512_mul_epi32(u0, gain), high = _mm512_mul_epi32(u1, odd);
                const __m512i scaled = _mm512_mask_shuffle_epi32(high, 0x5555, low, _MM_PERM_DDBB);
                __m512i code = _mm512_sra_epi32(_mm512_add_epi32(scaled, offset), guard);
                if (narrow) code = _mm512_min_epi32(_mm512_max_epi32(code, lo), hi);
                qk_avx512_put(y, (i + r) * ldy + j, keep, code, type);
            }
        }
    }
}

#define QK_OWN_LN
QK_ATTR static void qk_avx512_ln(const qk_ln *f, size_t rows, const int16_t *x, size_t ldx, void *y, size_t ldy, qk_type type)
{
    if (type == QK_S16)
        qk_avx512_ln_as(f, rows, x, ldx, y, ldy, QK_S16);
    else if (type == QK_S32)
        qk_avx512_ln_as(f, rows, x, ldx, y, ldy, QK_S32);
    else if (type == QK_U8)
        qk_avx512_ln_as(f, rows, x, ldx, y, ldy, QK_U8);
    else
        qk_avx512_ln_as(f, rows, x, ldx, y, ldy, QK_S8);
}

/* m = *high 2^16 + *low, both of 16 bits; 0 where high is not. */
QK_ATTR static inline int qk_avx512_split(int32_t m, int64_t *high, int64_t *low)
{
    *low = (m & 0xFFFF) - ((m & 0x8000) << 1);
    *high = (m - *low) / 65536;
    return *high <= INT16_MAX;
}

/* The multipliers of a and b for madd, on pairs of them. */
QK_ATTR static inline __m512i qk_avx512_pair(int64_t a, int64_t b)
{
    return _mm512_unpacklo_epi16(_mm512_set1_epi16((int16_t)a), _mm512_set1_epi16((int16_t)b));
}

/* |a| + |b| */
QK_ATTR static inline int64_t qk_avx512_size(int64_t a, int64_t b)
{
    return (a < 0 ? -a : a) + (b < 0 ? -b : b);
}

#define QK_OWN_ADD
QK_ATTR static void qk_avx512_add(const qk_add *f, size_t n, const int16_t *a, const int16_t *b, int16_t *y)
{
    /* a mult_a + b mult_b = H 2^16 + L, by the halves of the multipliers. With the constants in both, what L has above 2^16
     * joins H, and the rest of it is below what is shifted out. */
    int64_t high_a, high_b, low_a, low_b;
    const int split = qk_avx512_split(f->mult_a, &high_a, &low_a) & qk_avx512_split(f->mult_b, &high_b, &low_b);
    const int small = qk_avx512_size(f->zero, 0) < 1 << 16 && qk_avx512_size(f->zero_a, f->zero_b) < 1 << 17;
    if (!split || !small || f->shift < 17 || f->shift > 46) {
        qk_portable_add(f, n, a, b, y);
        return;
    }
    const int64_t one = (int64_t)1 << f->shift;
    const int64_t constant = one / 2 + f->zero * one - (int64_t)f->zero_a * f->mult_a - (int64_t)f->zero_b * f->mult_b;
    const int64_t above = qk_floor_shift(constant, 16), below = constant - above * 65536;
    if (qk_avx512_size(high_a, high_b) * 32768 + qk_avx512_size(above, 0) + 65536 > INT32_MAX ||
        qk_avx512_size(low_a, low_b) * 32768 + below > INT32_MAX) {
        qk_portable_add(f, n, a, b, y);
        return;
    }
    const __m512i high = qk_avx512_pair(high_a, high_b), low = qk_avx512_pair(low_a, low_b);
    const __m512i more = _mm512_set1_epi32((int32_t)above), rest = _mm512_set1_epi32((int32_t)below);
    const __m512i lo = _mm512_set1_epi16((int16_t)f->lo), hi = _mm512_set1_epi16((int16_t)f->hi);
    const __m128i down = _mm_cvtsi32_si128(f->shift - 16);
    for (size_t j = 0; j < n; j += 32) {
        const __mmask32 keep = qk_avx512_tail(n - j);
        const int all = n - j >= 32;
        const __m512i p = all ? _mm512_loadu_si512(a + j) : _mm512_maskz_loadu_epi16(keep, a + j);
        const __m512i q = all ? _mm512_loadu_si512(b + j) : _mm512_maskz_loadu_epi16(keep, b + j);
        __m512i pairs[2] = {_mm512_unpacklo_epi16(p, q), _mm512_unpackhi_epi16(p, q)};
        for (int h = 0; h < 2; h++) {
            const __m512i l = _mm512_srai_epi32(_mm512_add_epi32(_mm512_madd_epi16(pairs[h], low), rest), 16);
            const __m512i v = _mm512_add_epi32(_mm512_add_epi32(_mm512_madd_epi16(pairs[h], high), more), l);
            pairs[h] = _mm512_sra_epi32(v, down);
        }
        const __m512i code = _mm512_min_epi16(_mm512_max_epi16(_mm512_packs_epi32(pairs[0], pairs[1]), lo), hi);
        if (all)
            _mm512_storeu_si512(y + j, code);
        else
            _mm512_mask_storeu_epi16(y + j, keep, code);
    }
}

#include "qk_plain.h"
#undef QK_OWN_TILE
#undef QK_OWN_PACK
#undef QK_OWN_BIAS
#undef QK_OWN_STORE
#undef QK_OWN_DIVIDE
#undef QK_OWN_TABLE
#undef QK_OWN_SOFTMAX
#undef QK_OWN_QUAD
#undef QK_OWN_LN
#undef QK_OWN_ADD
#undef QK_VARIANT
#undef QK_NAME
#undef QK_ATTR
#define QK_HAVE_X86
#if defined(__cplusplus) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
