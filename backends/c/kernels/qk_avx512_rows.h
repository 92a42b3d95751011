/* The part of qk_avx512.h that has no products: tables, softmax, functions by pieces, normalisation and the residual add. */

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
