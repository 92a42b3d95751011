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

QK_ATTR static inline void qk_avx512_put(void *y, size_t at, __mmask16 keep, __m512i code, qk_type type)
{
    if (type == QK_S16)
        _mm512_mask_cvtepi32_storeu_epi16((int16_t *)y + at, keep, code);
    else if (type == QK_S32)
        _mm512_mask_storeu_epi32((int32_t *)y + at, keep, code);
    else
        _mm512_mask_cvtepi32_storeu_epi8((uint8_t *)y + at, keep, code);
}

QK_ATTR static inline __attribute__((always_inline)) void qk_avx512_store_as(const qk_layer *l, size_t first, size_t rows, size_t n,
                                                                            const int32_t *tile, size_t stride, void *y,
                                                                            size_t ldy, qk_type type)
{
    const __m512i zero = _mm512_set1_epi32(l->zero), lo = _mm512_set1_epi32(l->lo), hi = _mm512_set1_epi32(l->hi);
    for (size_t j = 0; j < n; j += 16) {
        const __mmask16 keep = (__mmask16)(n - j < 16 ? (1U << (n - j)) - 1 : 0xFFFF);
        const __m512i m = _mm512_loadu_si512(l->mult + first + j), s = _mm512_loadu_si512(l->shift + first + j);
        if (_mm512_mask_cmplt_epi32_mask(keep, s, _mm512_set1_epi32(33))) {
            for (size_t i = 0; i < rows; i++) {
                const __m512i a = _mm512_loadu_si512(tile + i * stride + j);
                qk_avx512_put(y, i * ldy + j, keep, qk_avx512_any(a, m, s, l->zero, l->lo, l->hi), type);
            }
            continue;
        }
        const __m512i odd = _mm512_srli_epi64(m, 32), shift = _mm512_sub_epi32(s, _mm512_set1_epi32(32));
        const __m512i half = _mm512_srli_epi32(_mm512_sllv_epi32(_mm512_set1_epi32(1), shift), 1);
        for (size_t i = 0; i < rows; i++) {
            const __m512i high = qk_avx512_high(_mm512_loadu_si512(tile + i * stride + j), m, odd);
            const __m512i v = _mm512_add_epi32(_mm512_srav_epi32(_mm512_add_epi32(high, half), shift), zero);
            const __m512i code = _mm512_min_epi32(_mm512_max_epi32(v, lo), hi);
            const size_t at = i * ldy + j;
            if (keep != 0xFFFF)
                qk_avx512_put(y, at, keep, code, type);
            else if (type == QK_S16)
                _mm256_storeu_si256((__m256i *)(void *)((int16_t *)y + at), _mm512_cvtepi32_epi16(code));
            else if (type == QK_S32)
                _mm512_storeu_si512((int32_t *)y + at, code);
            else
                _mm_storeu_si128((__m128i *)(void *)((uint8_t *)y + at), _mm512_cvtepi32_epi8(code));
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
    else
        qk_avx512_store_as(l, first, rows, n, tile, stride, y, ldy, QK_U8);
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

/* Bytes of a table of 256, of which only the first 128 matter where half is set; codes 0..255, or 0..127, in words. */
QK_ATTR static inline __m512i qk_avx512_bytes(const __m512i *table, int half, __m512i code)
{
    const __m512i pair = _mm512_srli_epi16(code, 1);
    __m512i found = qk_avx512_words(table, pair);
    if (!half)
        found = _mm512_mask_mov_epi16(found, _mm512_test_epi16_mask(code, _mm512_set1_epi16(128)),
                                      qk_avx512_words(table + 2, pair));
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
        _mm512_mask_cvtepi16_storeu_epi8(y + j, keep, qk_avx512_bytes(t, 0, code));
    }
}

#define QK_OWN_SOFTMAX
QK_ATTR QK_NOINLINE static void qk_avx512_softmax(const uint8_t *weights, size_t rows, size_t n, const int16_t *x, size_t ldx,
                                                  uint8_t *y, size_t ldy, int32_t *sums)
{
    __m512i t[4];
    for (int i = 0; i < 4; i++) t[i] = _mm512_loadu_si512(weights + 64 * i);
    /* where all beyond 127 is what 127 is, half of the table does */
    int half = 1;
    for (int i = 128; i < 256; i++) half &= weights[i] == weights[127];
    const __m512i farthest = _mm512_set1_epi16(half ? 127 : 255), least = _mm512_set1_epi16(INT16_MIN);
    for (size_t i = 0; i < rows; i++, x += ldx, y += ldy) {
        __m512i most = least, sum = _mm512_setzero_si512();
        for (size_t j = 0; j < n; j += 32)
            most = _mm512_max_epi16(most, _mm512_mask_loadu_epi16(least, qk_avx512_tail(n - j), x + j));
        const __m256i m16 = _mm256_max_epi16(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
        __m128i m8 = _mm_max_epi16(_mm256_castsi256_si128(m16), _mm256_extracti128_si256(m16, 1));
        m8 = _mm_minpos_epu16(_mm_sub_epi16(_mm_set1_epi16(INT16_MAX), m8)); /* as unsigned, the largest is the least */
        const __m512i top = _mm512_set1_epi16((int16_t)(INT16_MAX - _mm_extract_epi16(m8, 0)));
        for (size_t j = 0; j < n; j += 32) {
            const __mmask32 keep = qk_avx512_tail(n - j);
            const __m512i d = _mm512_sub_epi16(top, _mm512_maskz_loadu_epi16(keep, x + j)); /* unsigned */
            const __m512i w = _mm512_maskz_mov_epi16(keep, qk_avx512_bytes(t, half, _mm512_min_epu16(d, farthest)));
            sum = _mm512_add_epi64(sum, _mm512_sad_epu8(w, _mm512_setzero_si512()));
            _mm512_mask_cvtepi16_storeu_epi8(y + j, keep, w);
        }
        const int32_t total = (int32_t)_mm512_reduce_add_epi64(sum);
        sums[i] = total == 0 ? 255 : total;
    }
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

#define QK_OWN_QUAD
QK_ATTR QK_NOINLINE static void qk_avx512_quad(const qk_quad *f, size_t rows, size_t n, const int16_t *x, size_t ldx, void *y,
                                               size_t ldy, qk_type type)
{
    if (f->form == 0 ? f->lowest < INT16_MIN : 0) { /* positions beyond 16 bits */
        qk_portable_quad(f, rows, n, x, ldx, y, ldy, type);
        return;
    }
    /* words do where the rounding has a spare bit and the offset leaves room to saturate */
    const int words = f->form == 0 && f->guard >= 2 && f->offset > -(1 << 14) && f->offset < 1 << 14;
    const int64_t last = ((int64_t)f->pieces << f->segment) - 1;
    const __m512i c[2] = {_mm512_loadu_si512(f->constant), _mm512_loadu_si512(f->constant + 32)};
    const __m512i b[2] = {_mm512_loadu_si512(f->linear), _mm512_loadu_si512(f->linear + 32)};
    const __m512i a[2] = {_mm512_loadu_si512(f->square), _mm512_loadu_si512(f->square + 32)};
    const __m512i cap = _mm512_set1_epi16((int16_t)(uint16_t)(last < 65535 ? last : 65535));
    const __m512i lowest = _mm512_set1_epi16((int16_t)f->lowest), zero = _mm512_setzero_si512();
    const __m128i segment = _mm_cvtsi32_si128(f->segment), rest = _mm_cvtsi32_si128(16 - f->segment);
    const __m128i guard = _mm_cvtsi32_si128(f->guard), above = _mm_cvtsi32_si128(f->guard - 1);
    const __m512i half = _mm512_set1_epi32((1 << f->guard) >> 1), offset = _mm512_set1_epi32(f->offset);
    const __m512i offset16 = _mm512_set1_epi16((int16_t)f->offset), one = _mm512_set1_epi16(1);
    const __m512i lo = _mm512_set1_epi32(f->lo), hi = _mm512_set1_epi32(f->hi);
    const __m512i lo16 = _mm512_set1_epi16((int16_t)f->lo), hi16 = _mm512_set1_epi16((int16_t)f->hi);
    for (size_t i = 0; i < rows; i++, x += ldx)
        for (size_t j = 0; j < n; j += 32) {
            const __mmask32 keep = qk_avx512_tail(n - j);
            const __m512i code = _mm512_maskz_loadu_epi16(keep, x + j);
            const __m512i position = f->form == 0 ? _mm512_sub_epi16(code, lowest) : _mm512_abs_epi16(code);
            const __m512i piece = qk_avx512_piece(c, b, a, _mm512_min_epu16(position, cap), segment, rest);
            const size_t at = i * ldy + j;
            if (words) {
                __m512i v = _mm512_srai_epi16(_mm512_add_epi16(_mm512_sra_epi16(piece, above), one), 1);
                v = _mm512_min_epi16(_mm512_max_epi16(_mm512_add_epi16(v, offset16), lo16), hi16);
                if (type == QK_S16)
                    _mm512_mask_storeu_epi16((int16_t *)y + at, keep, v);
                else
                    _mm512_mask_cvtepi16_storeu_epi8((uint8_t *)y + at, keep, v);
                continue;
            }
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
                qk_avx512_put(y, at + 16 * (size_t)h, (__mmask16)(keep >> (16 * h)), v, type);
            }
        }
}

/* ---- normalisation and the residual add ---- */

#define QK_OWN_LN
QK_ATTR static void qk_avx512_ln(const qk_ln *f, size_t rows, const int16_t *x, size_t ldx, void *y, size_t ldy, qk_type type)
{
    const size_t n = (size_t)f->channels;
    const __m512i ones = _mm512_set1_epi16(1), channels = _mm512_set1_epi32(f->channels);
    const __m512i half = _mm512_set1_epi32((int32_t)1 << (f->guard - 1)), lo = _mm512_set1_epi32(f->lo), hi = _mm512_set1_epi32(f->hi);
    const __m128i guard = _mm_cvtsi32_si128(f->guard);
    const __m512i even = _mm512_set1_epi64(0xFFFFFFFF);
    for (size_t i = 0; i < rows; i++, x += ldx) {
        __m512i s = _mm512_setzero_si512(), q = s;
        for (size_t j = 0; j < n; j += 32) {
            const __m512i v = _mm512_maskz_loadu_epi16(qk_avx512_tail(n - j), x + j);
            const __m512i pairs = _mm512_madd_epi16(v, v); /* up to 2^31, unsigned */
            s = _mm512_add_epi32(s, _mm512_madd_epi16(v, ones));
            q = _mm512_add_epi64(q, _mm512_add_epi64(_mm512_and_si512(pairs, even), _mm512_srli_epi64(pairs, 32)));
        }
        const int64_t sum = _mm512_reduce_add_epi32(s), squares = _mm512_reduce_add_epi64(q);
        int64_t root;
        int32_t shift;
        qk_ln_root(f, sum, squares, &root, &shift);
        const __m512i by = _mm512_set1_epi64(root), total = _mm512_set1_epi32((int32_t)sum);
        const __m128i down = _mm_cvtsi32_si128(shift);
        for (size_t j = 0; j < n; j += 16) {
            const __mmask16 keep = (__mmask16)(qk_avx512_tail(n - j) & 0xFFFF);
            const __m512i v = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(keep, x + j));
            const __m512i d = _mm512_sub_epi32(_mm512_mullo_epi32(v, channels), total);
            const __m512i gain = _mm512_maskz_loadu_epi32(keep, f->gain + j), offset = _mm512_maskz_loadu_epi32(keep, f->offset + j);
            const __m512i u0 = _mm512_sra_epi64(_mm512_mul_epi32(d, by), down);
            const __m512i u1 = _mm512_sra_epi64(_mm512_mul_epi32(_mm512_srli_epi64(d, 32), by), down);
            const __m512i low = _mm512_mul_epi32(u0, gain), high = _mm512_mul_epi32(u1, _mm512_srli_epi64(gain, 32));
            const __m512i scaled = _mm512_mask_shuffle_epi32(high, 0x5555, low, _MM_PERM_DDBB);
            const __m512i r = _mm512_sra_epi32(_mm512_add_epi32(_mm512_add_epi32(scaled, offset), half), guard);
            qk_avx512_put(y, i * ldy + j, keep, _mm512_min_epi32(_mm512_max_epi32(r, lo), hi), type);
        }
    }
}

#define QK_OWN_ADD
QK_ATTR static void qk_avx512_add(const qk_add *f, size_t n, const int16_t *a, const int16_t *b, int16_t *y)
{
    /* codes shifted up by `more`, so that the high half of the sum has all that the rounding needs */
    const int32_t more = f->shift < 33 ? 33 - f->shift : 0;
    const int zeros_fit = f->zero_a > -(1 << 15) && f->zero_a < 1 << 15 && f->zero_b > -(1 << 15) && f->zero_b < 1 << 15;
    /* |codes| <= 2^16, so that they fit 31 bits, and the sum, below (2^31 + 2^31) 2^(16 + more), 63 */
    if (!zeros_fit || more > 14) {
        qk_portable_add(f, n, a, b, y);
        return;
    }
    const __m512i m_a = _mm512_set1_epi32(f->mult_a), m_b = _mm512_set1_epi32(f->mult_b);
    const __m512i z_a = _mm512_set1_epi32(f->zero_a), z_b = _mm512_set1_epi32(f->zero_b), zero = _mm512_set1_epi32(f->zero);
    const __m512i lo = _mm512_set1_epi32(f->lo), hi = _mm512_set1_epi32(f->hi);
    const int32_t s = f->shift + more - 32;
    const __m512i half = _mm512_set1_epi32((int32_t)1 << (s - 1));
    const __m128i up = _mm_cvtsi32_si128(more), down = _mm_cvtsi32_si128(s);
    for (size_t j = 0; j < n; j += 16) {
        const __mmask16 keep = (__mmask16)(qk_avx512_tail(n - j) & 0xFFFF);
        const __m512i p = _mm512_sll_epi32(_mm512_sub_epi32(_mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(keep, a + j)), z_a), up);
        const __m512i q = _mm512_sll_epi32(_mm512_sub_epi32(_mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(keep, b + j)), z_b), up);
        const __m512i low = _mm512_add_epi64(_mm512_mul_epi32(p, m_a), _mm512_mul_epi32(q, m_b));
        const __m512i high = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(p, 32), m_a),
                                              _mm512_mul_epi32(_mm512_srli_epi64(q, 32), m_b));
        const __m512i top = _mm512_mask_shuffle_epi32(high, 0x5555, low, _MM_PERM_DDBB);
        const __m512i v = _mm512_add_epi32(_mm512_sra_epi32(_mm512_add_epi32(top, half), down), zero);
        _mm512_mask_cvtepi32_storeu_epi16(y + j, keep, _mm512_min_epi32(_mm512_max_epi32(v, lo), hi));
    }
}

#include "qk_plain.h"
#undef QK_OWN_TILE
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
