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

/* Of 16 columns, what a sum becomes a code by: (high half of (sum 2^up) m + more) / 2^shift. */
typedef struct {
    __m512i m, odd, more, shift, up;
} qk_avx512_scales;

/* The high half of a product is enough for shifts of 33 and more: up to there a sum is raised, if it has room. 0 where it has
 * not, or zero, which joins the half, has none: high halves are of 31 bits, and with the two below 2^30 their sum is of 32. */
QK_ATTR static inline int qk_avx512_scale(const qk_layer *l, size_t at, __mmask16 keep, qk_avx512_scales *by)
{
    const __m512i zero = _mm512_set1_epi32(l->zero), one = _mm512_set1_epi32(1), s = _mm512_loadu_si512(l->shift + at);
    by->m = _mm512_loadu_si512(l->mult + at);
    by->odd = _mm512_srli_epi64(by->m, 32);
    by->up = _mm512_maskz_max_epi32(keep, _mm512_sub_epi32(_mm512_set1_epi32(33), s), _mm512_setzero_si512());
    by->shift = _mm512_sub_epi32(_mm512_add_epi32(s, by->up), _mm512_set1_epi32(32));
    by->more = _mm512_add_epi32(_mm512_srli_epi32(_mm512_sllv_epi32(one, by->shift), 1), _mm512_sllv_epi32(zero, by->shift));
    const __m512i room = _mm512_srlv_epi32(_mm512_set1_epi32(1 << 29), by->shift);
    if (_mm512_mask_cmpgt_epu32_mask(keep, _mm512_abs_epi32(zero), room)) return 0;
    if (!_mm512_test_epi32_mask(by->up, by->up)) return 1;
    const __m512i bias = _mm512_abs_epi32(_mm512_loadu_si512(l->bias + at));
    const __m512i reach = _mm512_add_epi32(bias, _mm512_set1_epi32(255 * 128 * l->k));
    return l->k < 1 << 15 && !_mm512_mask_cmpgt_epu32_mask(keep, reach, _mm512_srlv_epi32(_mm512_set1_epi32(INT32_MAX), by->up));
}

/* The scales of up to 64 columns; 0 where the sums have to go another way: a rounding that needs the whole product, limits
 * within the type's own, or columns that are no whole blocks. */
QK_ATTR static int qk_avx512_scales_of(const qk_layer *l, size_t first, size_t columns, qk_type type, qk_avx512_scales *by)
{
    if (type >= QK_S32 || columns % 16 || l->mult == NULL || qk_avx512_narrow(type, l->lo, l->hi)) return 0;
    for (size_t j = 0; j < columns; j += 16, by++)
        if (!qk_avx512_scale(l, first + j, 0xFFFF, by) || (type != QK_S16 && _mm512_test_epi32_mask(by->up, by->up))) return 0;
    return 1;
}

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
#define QK_CODE(r, c)                                                                                                         \
    _mm512_srav_epi32(_mm512_add_epi32(qk_avx512_high(s##r##c, by[c].m, by[c].odd), by[c].more), by[c].shift)
#define QK_PUT_S8(r, c) qk_avx512_put(y, r * ldy + 16 * c, 0xFFFF, QK_CODE(r, c), QK_S8);
#define QK_PUT_U8(r, c) qk_avx512_put(y, r * ldy + 16 * c, 0xFFFF, QK_CODE(r, c), QK_U8);
#define QK_PUT_S16(r, c)                                                                                                      \
    s##r##c = _mm512_sllv_epi32(s##r##c, by[c].up);                                                                            \
    qk_avx512_put(y, r * ldy + 16 * c, 0xFFFF, QK_CODE(r, c), QK_S16);
#define QK_END_S8(r, columns) columns(QK_PUT_S8, r)
#define QK_END_U8(r, columns) columns(QK_PUT_U8, r)
#define QK_END_S16(r, columns) columns(QK_PUT_S16, r)

/* Rows beyond `rows` repeat the last one, and are not written anywhere but in sums. */
#define QK_TILE(name, count, columns, wide)                                                                                   \
    QK_ATTR QK_NOINLINE static void name(const int8_t *panel, size_t steps, const int32_t *bias, size_t rows,                  \
                                         const uint8_t *x, size_t ldx, int32_t *sums, const qk_avx512_scales *by, void *y,     \
                                         size_t ldy, qk_type type)                                                             \
    {                                                                                                                          \
        enum { blocks = wide };                                                                                                \
        count(QK_START, columns) for (size_t at = 0; at < 4 * steps; at += 4, panel += 64 * blocks)                            \
        {                                                                                                                      \
            columns(QK_LOAD, 0) count(QK_STEP, columns)                                                                        \
        }                                                                                                                      \
        if (by == NULL) {                                                                                                      \
            count(QK_END, columns)                                                                                             \
        } else if (type == QK_S16) {                                                                                           \
            count(QK_END_S16, columns)                                                                                         \
        } else if (type == QK_U8) {                                                                                            \
            count(QK_END_U8, columns)                                                                                          \
        } else {                                                                                                               \
            count(QK_END_S8, columns)                                                                                          \
        }                                                                                                                      \
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
#undef QK_CODE
#undef QK_PUT_S8
#undef QK_PUT_U8
#undef QK_PUT_S16
#undef QK_END_S8
#undef QK_END_U8
#undef QK_END_S16
#undef QK_TILE

/* by: codes in y instead of sums. */
QK_ATTR static inline void qk_avx512_tile_as(const int8_t *panel, size_t steps, size_t blocks, const int32_t *bias, size_t rows,
                                             const uint8_t *x, size_t ldx, int32_t *sums, size_t most, const qk_avx512_scales *by,
                                             void *y, size_t ldy, qk_type type)
{
    const int one = most == 1;
    switch (blocks) {
    case 1: (one ? qk_avx512_1x1 : qk_avx512_9x1)(panel, steps, bias, rows, x, ldx, sums, by, y, ldy, type); break;
    case 2: (one ? qk_avx512_1x2 : qk_avx512_9x2)(panel, steps, bias, rows, x, ldx, sums, by, y, ldy, type); break;
    case 3: (one ? qk_avx512_1x3 : qk_avx512_9x3)(panel, steps, bias, rows, x, ldx, sums, by, y, ldy, type); break;
    default: (one ? qk_avx512_1x4 : qk_avx512_6x4)(panel, steps, bias, rows, x, ldx, sums, by, y, ldy, type);
    }
}

#define QK_OWN_TILE
QK_ATTR static inline size_t qk_avx512_tile_rows(size_t m, size_t blocks)
{
    return m < 3 ? 1 : blocks == 4 ? 6 : 9;
}

QK_ATTR static inline void qk_avx512_tile(const int8_t *panel, size_t steps, size_t blocks, const int32_t *bias, size_t rows,
                                          const uint8_t *x, size_t ldx, int32_t *sums, size_t most)
{
    qk_avx512_tile_as(panel, steps, blocks, bias, rows, x, ldx, sums, most, NULL, NULL, 0, QK_ACC);
}

#define QK_OWN_CODES
QK_ATTR static inline void qk_avx512_tile_codes(const int8_t *panel, size_t steps, size_t blocks, const int32_t *bias,
                                                const uint8_t *x, size_t ldx, size_t most, const qk_avx512_scales *by, void *y,
                                                size_t ldy, qk_type type)
{
    qk_avx512_tile_as(panel, steps, blocks, bias, most, x, ldx, NULL, most, by, y, ldy, type);
}

/* ---- weights of fewer than 8 bits ---- */

#define QK_OWN_UNPACK
QK_ATTR QK_NOINLINE static void qk_avx512_unpack(const uint8_t *from, size_t groups, int32_t bits, int32_t sign, int8_t *to)
{
    const __m512i four = _mm512_set1_epi8(15), two = _mm512_set1_epi8(3), top = _mm512_set1_epi8((char)sign);
    /* of the pairs, each 128 bits have another two bits of the same bytes; of the last bits, each 64 another one */
    const __m512i pair = _mm512_set_epi64(0x0006000600060006, 0x0006000600060006, 0x0004000400040004, 0x0004000400040004,
                                          0x0002000200020002, 0x0002000200020002, 0, 0);
    const __m512i which = _mm512_sllv_epi64(_mm512_set1_epi64(0x0101010101010101), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
    const __m512i last = _mm512_set1_epi8((char)(1 << (bits - 1)));
    const __m128i below = _mm_cvtsi32_si128(bits & 4);
    for (; groups > 0; groups--, to += 64) {
        __m512i code = _mm512_setzero_si512();
        if (bits & 4) {
            const __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)from);
            code = _mm512_inserti64x4(_mm512_castsi256_si512(both), _mm256_srli_epi16(both, 4), 1);
            code = _mm512_and_si512(code, four);
            from += 32;
        }
        if (bits & 2) {
            const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)from));
            const __m512i part = _mm512_and_si512(_mm512_srlv_epi16(all, pair), two);
            code = _mm512_or_si512(code, _mm512_sll_epi16(part, below));
            from += 16;
        }
        if (bits & 1) {
            int64_t all;
            memcpy(&all, from, 8);
            code = _mm512_or_si512(code, _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(_mm512_set1_epi64(all), which), last));
            from += 8;
        }
        _mm512_storeu_si512(to, _mm512_sub_epi8(_mm512_xor_si512(code, top), top));
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

QK_ATTR static inline __attribute__((always_inline)) void qk_avx512_store_as(const qk_layer *l, size_t first, size_t rows, size_t n,
                                                                            const int32_t *tile, size_t stride, void *y,
                                                                            size_t ldy, qk_type type)
{
    const __m512i lo = _mm512_set1_epi32(l->lo), hi = _mm512_set1_epi32(l->hi);
    const int narrow = qk_avx512_narrow(type, l->lo, l->hi);
    for (size_t j = 0; j < n; j += 16) {
        const __mmask16 keep = (__mmask16)(n - j < 16 ? (1U << (n - j)) - 1 : 0xFFFF);
        qk_avx512_scales by;
        if (!qk_avx512_scale(l, first + j, keep, &by)) {
            const __m512i s = _mm512_loadu_si512(l->shift + first + j);
            for (size_t i = 0; i < rows; i++) {
                const __m512i a = _mm512_loadu_si512(tile + i * stride + j);
                qk_avx512_put(y, i * ldy + j, keep, qk_avx512_any(a, by.m, s, l->zero, l->lo, l->hi), type);
            }
            continue;
        }
        for (size_t i = 0; i < rows; i++) {
            const __m512i sums = _mm512_sllv_epi32(_mm512_loadu_si512(tile + i * stride + j), by.up);
            __m512i code = _mm512_srav_epi32(_mm512_add_epi32(qk_avx512_high(sums, by.m, by.odd), by.more), by.shift);
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

#include "qk_avx512_rows.h"

#include "qk_plain.h"
#undef QK_OWN_TILE
#undef QK_OWN_CODES
#undef QK_OWN_PACK
#undef QK_OWN_BIAS
#undef QK_OWN_UNPACK
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
