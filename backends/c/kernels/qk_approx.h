/* Integer approximations of softmax, elementwise functions and layer normalisation, a row at a time.
 *
 * A row is n numbers of 64 bits that a function changes in place: qk_load_* and qk_below_* fill it from a tensor of any
 * element type, qk_store_* empties it into one, saturating. Each qk_row_<name> is the approximation of that name in qvit's
 * dialect; its parameters are the tables, their length where that may differ, and the fields of the attribute, in their
 * order. Nothing overflows: who calls one has proven, from the type of the codes, that every intermediate fits 62 bits
 * and its sign.
 */
#ifndef QK_APPROX_H
#define QK_APPROX_H

#include "qk_base.h"

/* --- rows from tensors and to tensors --- */

/* qk_load: x - zero. qk_below: by how much each entry is below the largest of those that take part, -1 for the others:
 * entry j takes part unless mask[j * step] is 0; without a mask, all do. qk_store: min(max(row, lo), hi).
 * qk_row_table: row = table[row - lowest]. */
#define QK_ROWS_OF(name, type)                                                                                         \
    static inline void qk_load_##name(size_t n, const type *x, int64_t zero, int64_t *row) {                           \
        for (size_t j = 0; j < n; ++j) {                                                                               \
            row[j] = (int64_t)x[j] - zero;                                                                             \
        }                                                                                                              \
    }                                                                                                                  \
    static inline void qk_below_##name(size_t n, const type *x, const uint8_t *mask, size_t step, int64_t *row) {      \
        int64_t top = INT64_MIN;                                                                                       \
        for (size_t j = 0; j < n; ++j) {                                                                               \
            top = mask == NULL || mask[j * step] ? qk_max(top, x[j]) : top;                                            \
        }                                                                                                              \
        for (size_t j = 0; j < n; ++j) {                                                                               \
            row[j] = mask == NULL || mask[j * step] ? top - x[j] : -1;                                                 \
        }                                                                                                              \
    }                                                                                                                  \
    static inline void qk_store_##name(size_t n, const int64_t *row, int64_t lo, int64_t hi, type *y) {                \
        for (size_t j = 0; j < n; ++j) {                                                                               \
            y[j] = (type)qk_clamp(row[j], lo, hi);                                                                     \
        }                                                                                                              \
    }                                                                                                                  \
    static inline void qk_row_table_##name(size_t n, int64_t *row, const type *table, int64_t lowest) {                \
        for (size_t j = 0; j < n; ++j) {                                                                               \
            row[j] = table[row[j] - lowest];                                                                           \
        }                                                                                                              \
    }

QK_ROWS_OF(i8, int8_t)
QK_ROWS_OF(u8, uint8_t)
QK_ROWS_OF(i16, int16_t)
QK_ROWS_OF(u16, uint16_t)
QK_ROWS_OF(i32, int32_t)
QK_ROWS_OF(u32, uint32_t)
QK_ROWS_OF(i64, int64_t)

/* --- what several approximations are made of --- */

#define QK_LARGEST INT64_C(0x7fffffff)

/* floor(x 2^power); what a positive power multiplies has to fit. */
static inline int64_t qk_times_power(int64_t x, int power) {
    return power < 0 ? qk_asr(x, power > -63 ? (unsigned)-power : 63) : qk_shl(x, power < 63 ? (unsigned)power : 63);
}

/* floor(a / b), b != 0. */
static inline int64_t qk_floor_div(int64_t a, int64_t b) {
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static inline int64_t qk_sign(int64_t x) {
    return (x > 0) - (x < 0);
}

static inline int64_t qk_magnitude(int64_t x) {
    return x < 0 ? -x : x;
}

static inline int64_t qk_row_sum(size_t n, const int64_t *row) {
    int64_t total = 0;
    for (size_t j = 0; j < n; ++j) {
        total += row[j];
    }
    return total;
}

static inline int64_t qk_row_squares(size_t n, const int64_t *row) {
    int64_t total = 0;
    for (size_t j = 0; j < n; ++j) {
        total += row[j] * row[j];
    }
    return total;
}

/* floor(sqrt(x)), x >= 0: Newton's iteration from 2^ceil(bits / 2), until it stops falling. */
static inline int64_t qk_floor_sqrt(int64_t x) {
    if (x == 0) {
        return 0;
    }
    int64_t root = (int64_t)1 << ((qk_bit_length((uint64_t)x) + 1) / 2);
    for (;;) {
        const int64_t next = (root + x / root) >> 1;
        if (next >= root) {
            return root;
        }
        root = next;
    }
}

/* --- softmax: a row holds how far each score is below its maximum (qk_below), and then the result --- */

/* row = min(round(e R / 2^shift), top), half up, R = round(one 2^shift / sum e), shift = bits of the sum + extra. */
static inline void qk_row_divide(size_t n, int64_t *row, int64_t sum, unsigned extra, int64_t one, int64_t top) {
    const unsigned shift = qk_bit_length((uint64_t)sum) + extra;
    const int64_t reciprocal = (qk_shl(one, shift) + (sum >> 1)) / sum;
    const int64_t half = (int64_t)1 << (shift - 1);
    for (size_t j = 0; j < n; ++j) {
        row[j] = qk_min((row[j] * reciprocal + half) >> shift, top);
    }
}

/* row = table[min(d, size - 1)]; the sum, 65535 for a row without any. */
static inline int64_t qk_row_exponentials(size_t n, int64_t *row, const uint16_t *table, size_t size) {
    for (size_t j = 0; j < n; ++j) {
        row[j] = row[j] < 0 ? 0 : table[qk_min(row[j], (int64_t)size - 1)];
    }
    const int64_t sum = qk_row_sum(n, row);
    return sum ? sum : 65535;
}

/* round(top E / sum E), half up. */
static inline void qk_row_sm8(size_t n, int64_t *row, const uint16_t *table, size_t size, int64_t top) {
    const int64_t sum = qk_row_exponentials(n, row, table, size);
    const unsigned bits = (unsigned)qk_max(qk_bit_length((uint64_t)sum), 10);
    const int64_t reciprocal = (qk_shl(top, bits + 7) + (sum >> 1)) / sum;
    for (size_t j = 0; j < n; ++j) {
        row[j] = (((row[j] * reciprocal) >> (bits + 6)) + 1) >> 1;
    }
}

/* round(E / 257); returns the sum of them, 255 for a row without any. */
static inline int64_t qk_row_sm8_late(size_t n, int64_t *row, const uint16_t *table, size_t size) {
    (void)qk_row_exponentials(n, row, table, size);
    for (size_t j = 0; j < n; ++j) {
        row[j] = (row[j] - (row[j] >> 8) + 128) >> 8;
    }
    const int64_t sum = qk_row_sum(n, row);
    return sum ? sum : 255;
}

/* #{m = 1..levels : 2 E M >= (2 m - 1) (sum E) 2^shift}, by halves: the thresholds rise. */
static inline void qk_row_threshold_softmax(size_t n, int64_t *row, int64_t factor, int64_t multiplier, unsigned shift,
                                            int64_t levels) {
    int64_t sum = 0;
    for (size_t j = 0; j < n; ++j) {
        const int64_t exponent = row[j] * factor, octaves = qk_min(exponent >> 16, 16);
        row[j] = row[j] < 0 ? 0 : ((1 << 17) - (exponent & 0xffff)) >> (octaves + 2);
        sum += row[j];
    }
    const int64_t unit = qk_max(sum, 1 << 15) << shift;
    for (size_t j = 0; j < n; ++j) {
        const int64_t reached = 2 * multiplier * row[j];
        int64_t count = 0;
        for (int64_t step = (levels + 1) >> 1; step; step >>= 1) {
            count += reached >= (2 * (count + step) - 1) * unit ? step : 0;
        }
        row[j] = count;
    }
}

/* The exponential of sw and sw_late, piecewise linear between powers of two; returns the sum, 2^bits for a row without any. */
static inline int64_t qk_row_wide(size_t n, int64_t *row, const int32_t *nodes, const int16_t *slopes, unsigned bits,
                                  unsigned index, int64_t rate, int64_t last, unsigned drop) {
    const unsigned down = qk_bit_length((uint64_t)last), rest = 16 - index;
    for (size_t j = 0; j < n; ++j) {
        if (row[j] < 0) {
            row[j] = 0;
            continue;
        }
        const int64_t t = (qk_min(row[j], last) * rate) >> down;
        const int64_t piece = (t >> rest) & (((int64_t)1 << index) - 1), q = t & (((int64_t)1 << rest) - 1);
        const int64_t mantissa = nodes[piece] - ((slopes[piece] * q) >> (rest - drop));
        row[j] = ((mantissa >> (t >> 16)) + 1) >> 1;
    }
    const int64_t sum = qk_row_sum(n, row);
    return sum ? sum : (int64_t)1 << bits;
}

static inline void qk_row_sw(size_t n, int64_t *row, const int32_t *nodes, const int16_t *slopes, unsigned bits,
                             unsigned index, int64_t rate, int64_t last, unsigned drop, int64_t top) {
    qk_row_divide(n, row, qk_row_wide(n, row, nodes, slopes, bits, index, rate, last, drop), 14, top, top);
}

/* Weights relative to the maximum; returns the sum of the exponentials. */
static inline int64_t qk_row_sw_late(size_t n, int64_t *row, const int32_t *nodes, const int16_t *slopes,
                                     unsigned bits, unsigned index, int64_t rate, int64_t last, unsigned drop) {
    const int64_t sum = qk_row_wide(n, row, nodes, slopes, bits, index, rate, last, drop);
    for (size_t j = 0; j < n; ++j) {
        row[j] = (255 * row[j] + ((int64_t)1 << (bits - 1))) >> bits;
    }
    return sum;
}

/* *q octaves and the rest r < octave steps, for d codes below the maximum; a code is 2^up steps. From 31 octaves on q >= 31. */
static inline int64_t qk_octaves(int64_t d, int up, int64_t octave, unsigned *q) {
    const int64_t all = 31 * octave;
    const int64_t end = up < 0 ? qk_times_power(all, -up) : -qk_times_power(-all, -up);
    const int64_t steps = qk_times_power(qk_min(d, end), up);
    *q = (unsigned)qk_min(steps / octave, 31);
    return steps % octave;
}

/* floor(2^n (2 octave - r) / 2^q) */
static inline int64_t qk_shift_exponential(int64_t d, int up, int64_t octave, unsigned n) {
    unsigned q;
    const int64_t r = qk_octaves(d, up, octave, &q);
    return ((2 * octave - r) << n) >> q;
}

static inline void qk_row_shiftmax(size_t n, int64_t *row, int up, int64_t octave, unsigned left, int64_t one,
                                   int64_t top) {
    for (size_t j = 0; j < n; ++j) {
        row[j] = row[j] < 0 ? 0 : qk_shift_exponential(row[j], up, octave, left);
    }
    qk_row_divide(n, row, qk_max(qk_row_sum(n, row), (2 * octave) << left), 14, one, top);
}

static inline int64_t qk_published_exponent(int64_t x) {
    return x + qk_asr(x, 1) - qk_asr(x, 4);
}

/* p = max(x log2(e), n i0) = q i0 + r: (r - 2 i0) 2^(n - q - 1), floored. x may be positive. */
static inline int64_t qk_published_exponential(int64_t x, int64_t i0, int64_t n) {
    const int64_t p = qk_max(qk_published_exponent(x), n * i0);
    const int64_t q = qk_floor_div(p, i0), line = p - q * i0 - 2 * i0;
    return qk_times_power(line, (int)qk_min(n - q - 1, 31));
}

static inline void qk_row_shiftmax_published(size_t n, int64_t *row, int64_t i0, unsigned octaves, unsigned bits) {
    const int64_t peak = qk_shl(-i0, octaves);
    int64_t sum = 0;
    for (size_t j = 0; j < n; ++j) {
        row[j] = row[j] < 0 ? 0 : qk_published_exponential(-row[j], i0, octaves);
        sum += qk_min(row[j], QK_LARGEST);
    }
    const int64_t reciprocal = QK_LARGEST / qk_min(qk_max(sum, peak), QK_LARGEST);
    for (size_t j = 0; j < n; ++j) {
        row[j] = (row[j] * reciprocal) >> (32 - bits);
    }
}

static inline void qk_row_i_softmax(size_t n, int64_t *row, int up, int64_t octave, int64_t b, int64_t c, int64_t one,
                                    int64_t top) {
    for (size_t j = 0; j < n; ++j) {
        if (row[j] < 0) {
            row[j] = 0;
            continue;
        }
        unsigned q;
        const int64_t r = qk_octaves(row[j], up, octave, &q);
        row[j] = (c - r * (b - r)) >> q;
    }
    qk_row_divide(n, row, qk_max(qk_row_sum(n, row), c), 14, one, top);
}

/* clip16(round((r (r + b) + c) multiplier / 2^(shift - n + q))), half even, for d = -(q x0 + r) codes below the maximum. */
static inline int64_t qk_i_exponential(int64_t d, int64_t x0, int64_t b, int64_t c, int n, int64_t multiplier,
                                       int shift) {
    const int64_t below = qk_min(d, -x0 * n), q = below / -x0, r = -below - q * x0;
    const int64_t product = qk_max(r * (r + b) + c, 0) * multiplier;
    const int right = (int)qk_min(shift - n + q, 62);
    if (right < 0) {
        return product > 32767 >> qk_min(-right, 31) ? 32767 : qk_shl(product, (unsigned)-right);
    }
    return qk_min(qk_round_shift(product, (unsigned)right, QK_HALF_EVEN), 32767);
}

static inline void qk_row_i_softmax_published(size_t n, int64_t *row, int64_t x0, int64_t b, int64_t c, int octaves,
                                              int64_t multiplier, int shift, unsigned bits) {
    const int64_t peak = qk_max(qk_i_exponential(0, x0, b, c, octaves, multiplier, shift), 1);
    for (size_t j = 0; j < n; ++j) {
        row[j] = row[j] < 0 ? 0 : qk_i_exponential(row[j], x0, b, c, octaves, multiplier, shift);
    }
    const int64_t reciprocal = ((int64_t)1 << 32) / qk_max(qk_row_sum(n, row), peak);
    for (size_t j = 0; j < n; ++j) {
        row[j] = (row[j] * reciprocal) >> (32 - bits);
    }
}

/* round(log2(round(sum e / e))): half even, then up from 1.5 * 2^k on; 16 from 2^16 on, and where e is 0. */
static inline void qk_row_log_codes(size_t n, int64_t *row) {
    const int64_t sum = qk_row_sum(n, row);
    for (size_t j = 0; j < n; ++j) {
        const int64_t e = row[j];
        if (e == 0) {
            row[j] = 16;
            continue;
        }
        const int64_t quotient = sum / e, rest = sum % e;
        const int64_t t = quotient + (rest > e - rest || (rest == e - rest && quotient % 2));
        const unsigned below = qk_bit_length((uint64_t)t) - 1;
        const int64_t more = t - ((int64_t)1 << below);
        row[j] = qk_min(below + (2 * more >= (int64_t)1 << below), 16);
    }
}

/* -below = q x0 + r: r (r + b) + c, not below 0. */
static inline int64_t qk_octave_parabola(int64_t below, int64_t x0, int64_t b, int64_t c, int *q) {
    *q = (int)(below / -x0);
    const int64_t r = -(below % -x0);
    return qk_max(r * (r + b) + c, 0);
}

static inline void qk_row_lis_published(size_t n, int64_t *row, int64_t x0, int64_t b, int64_t c, int octaves) {
    for (size_t j = 0; j < n; ++j) {
        int q = 0;
        const int64_t z = row[j] < 0 ? 0 : qk_octave_parabola(qk_min(row[j], -x0 * octaves), x0, b, c, &q);
        row[j] = qk_shl(z, (unsigned)(octaves - q));
    }
    qk_row_log_codes(n, row);
}

static inline void qk_row_lis(size_t n, int64_t *row, unsigned up, int64_t x0, int64_t b, int64_t c, int left) {
    const int64_t end = -x0 * (left + (int)qk_bit_length((uint64_t)c));
    for (size_t j = 0; j < n; ++j) {
        int q = 0;
        const int64_t z = row[j] < 0 ? 0 : qk_octave_parabola(qk_min(qk_shl(row[j], up), end), x0, b, c, &q);
        row[j] = qk_times_power(z, left - q);
    }
    qk_row_log_codes(n, row);
}

/* (r >> 1) + (r >> 3) + (r >> 4), each rounded down. */
static inline int64_t qk_slope(int64_t r) {
    return qk_asr(r, 1) + qk_asr(r, 3) + qk_asr(r, 4);
}

/* 1.4375 times -steps, not below `last` octaves, is *q i0 + r. */
static inline int64_t qk_bit_octaves(int64_t steps, int64_t i0, int64_t last, int *q) {
    const int64_t p = qk_max(qk_published_exponent(-steps), last * i0);
    *q = (int)(p / i0);
    return p % i0;
}

static inline void qk_row_bit_softmax_published(size_t n, int64_t *row, int64_t i0, int octaves, unsigned m,
                                                unsigned bits) {
    for (size_t j = 0; j < n; ++j) {
        if (row[j] < 0) {
            row[j] = 0;
            continue;
        }
        int q;
        const int64_t r = qk_bit_octaves(row[j], i0, octaves, &q);
        row[j] = qk_max(qk_slope(r) - i0, 0) << (octaves - q);
    }
    const int64_t reciprocal = ((int64_t)1 << m) / qk_max(qk_row_sum(n, row), 1);
    for (size_t j = 0; j < n; ++j) {
        row[j] = (row[j] * reciprocal) >> (m - bits + 1);
    }
}

static inline void qk_row_bit_softmax(size_t n, int64_t *row, unsigned up, int64_t i0, int left, int64_t one,
                                      int64_t top) {
    const int64_t last = left + (int)qk_bit_length((uint64_t)(-2 * i0));
    for (size_t j = 0; j < n; ++j) {
        if (row[j] < 0) {
            row[j] = 0;
            continue;
        }
        int q;
        const int64_t r = qk_bit_octaves(qk_shl(row[j], up), i0, last, &q);
        const int64_t t = qk_max(2 * (qk_slope(r) - i0), qk_slope(r - i0) - i0);
        row[j] = qk_times_power(t, left - q);
    }
    qk_row_divide(n, row, qk_max(qk_row_sum(n, row), 1), 7, one, top);
}

/* round(d / 2^shift), half up; beyond 62 all is shifted out. */
static inline unsigned qk_ita_octaves(int64_t d, unsigned shift) {
    return (unsigned)qk_min((d + (((int64_t)1 << shift) >> 1)) >> shift, 62);
}

/* The sum is that of a stream: where a group raises the maximum, what was summed so far is shifted down. */
static inline void qk_row_ita(size_t n, int64_t *row, unsigned shift, size_t group) {
    int64_t nearest = INT64_MAX, sum = 0;
    for (size_t start = 0; start < n; start += group) {
        const size_t end = n - start < group ? n : start + group;
        int64_t least = nearest;
        for (size_t j = start; j < end; ++j) {
            least = row[j] < 0 ? least : qk_min(least, row[j]);
        }
        /* before the first entry that takes part the sum is 0 */
        sum = sum ? sum >> qk_ita_octaves(nearest - least, shift) : 0;
        for (size_t j = start; j < end; ++j) {
            sum += row[j] < 0 ? 0 : 256 >> qk_min(qk_ita_octaves(row[j] - least, shift), 9);
        }
        nearest = least;
    }
    const int64_t reciprocal = 65280 / qk_max(sum, 1);
    for (size_t j = 0; j < n; ++j) {
        row[j] = row[j] < 0 ? 0 : reciprocal >> qk_ita_octaves(row[j], shift);
    }
}

/* --- functions: a row holds the codes, centred where the approximation is made for that --- */

static inline void qk_row_lin(size_t n, int64_t *row, const int16_t *nodes, int64_t lowest, unsigned segment,
                              unsigned guard, int64_t offset) {
    const int64_t half = (int64_t)1 << (segment - 1), round = ((int64_t)1 << guard) >> 1;
    for (size_t j = 0; j < n; ++j) {
        const int64_t position = row[j] - lowest, piece = position >> segment;
        const int64_t r = position & (((int64_t)1 << segment) - 1);
        const int64_t rise = (nodes[piece + 1] - nodes[piece]) * r;
        row[j] = qk_asr(nodes[piece] + qk_asr(rise + half, segment) + round, guard) + offset;
    }
}

/* a b / 2^15, half up. */
static inline int64_t qk_mulhrs(int64_t a, int64_t b) {
    return qk_asr(a * b + (1 << 14), 15);
}

/* form 0: the pieces' value at x - lowest; 1: sign(x) times that at |x|; 2: max(x, 0) less that at |x|. */
static inline void qk_row_quad(size_t n, int64_t *row, const int16_t *constant, const int16_t *linear,
                               const int16_t *square, size_t pieces, int form, int64_t lowest, unsigned segment,
                               unsigned guard, int64_t offset) {
    const int64_t end = ((int64_t)pieces << segment) - 1, round = ((int64_t)1 << guard) >> 1;
    const int64_t mask = ((int64_t)1 << segment) - 1, half = (int64_t)1 << (segment - 1);
    for (size_t j = 0; j < n; ++j) {
        const int64_t x = row[j], a = qk_min(form == 0 ? x - lowest : qk_magnitude(x), end);
        const int64_t piece = a >> segment, r = ((a & mask) - half) * ((int64_t)1 << (16 - segment));
        const int64_t p = constant[piece] + qk_mulhrs(r, linear[piece] + qk_mulhrs(r, square[piece]));
        const int64_t value = form == 0 ? p : form == 1 ? qk_sign(x) * p : qk_max(x, 0) - p;
        row[j] = qk_asr(value + round, guard) + offset;
    }
}

static inline void qk_row_shiftgelu(size_t n, int64_t *row, int up, int64_t octave) {
    const int64_t peak = (2 * octave) << 3;
    for (size_t j = 0; j < n; ++j) {
        const int64_t x = row[j], sum = peak + qk_shift_exponential(qk_magnitude(x), up, octave, 3);
        const int64_t sigma = ((peak << 15) + (sum >> 1)) / sum;
        row[j] = x * (x < 0 ? (1 << 15) - sigma : sigma);
    }
}

/* Relative to the row's maximum, so that equal codes have different results in different rows. */
static inline void qk_row_shiftgelu_published(size_t n, int64_t *row, int64_t i0, int64_t octaves, unsigned bits) {
    int64_t top = row[0];
    for (size_t j = 1; j < n; ++j) {
        top = qk_max(top, row[j]);
    }
    const int64_t zero = qk_published_exponential(-top, i0, octaves);
    for (size_t j = 0; j < n; ++j) {
        const int64_t e = qk_published_exponential(row[j] - top, i0, octaves);
        row[j] *= (e * (QK_LARGEST / qk_min(e + zero, QK_LARGEST))) >> (32 - bits);
    }
}

/* sgn(x) ((min(|x|, -b) + b)^2 + c) >> shift */
static inline int64_t qk_i_erf(int64_t x, int64_t b, int64_t c, unsigned shift) {
    const int64_t root = qk_min(qk_magnitude(x), -b) + b;
    return qk_asr(qk_sign(x) * (root * root + c), shift);
}

static inline void qk_row_i_gelu(size_t n, int64_t *row, unsigned up, int64_t b, int64_t c, unsigned shift) {
    const int64_t one = -(-c >> shift);
    for (size_t j = 0; j < n; ++j) {
        row[j] *= qk_i_erf(qk_shl(qk_clamp(row[j], b, -b), up), b, c, shift) + one;
    }
}

static inline void qk_row_i_gelu_published(size_t n, int64_t *row, int64_t b, int64_t c, int64_t one, unsigned shift) {
    for (size_t j = 0; j < n; ++j) {
        row[j] *= qk_i_erf(row[j], b, c, shift) + one;
    }
}

static inline void qk_row_poly_gelu(size_t n, int64_t *row, unsigned up, int64_t b, int64_t c, unsigned shift,
                                    unsigned drop) {
    for (size_t j = 0; j < n; ++j) {
        const int64_t x = row[j], v = qk_min(qk_shl(qk_magnitude(x), up), -b) + b, root = (v * v) >> shift;
        row[j] = x * qk_asr(qk_sign(x) * (root * root + c) + c, drop);
    }
}

static inline void qk_row_ita_gelu(size_t n, int64_t *row, int64_t b, int64_t c) {
    for (size_t j = 0; j < n; ++j) {
        const int64_t x = qk_max(row[j], -127), d = qk_min(qk_magnitude(x), -b) + b;
        row[j] = x * (qk_sign(x) * (d * d + c) + c);
    }
}

/* --- layer normalisation: a row holds the codes of all channels --- */

/* 2^15 / sqrt(w / 2^30) in the middle of each of 96 pieces of 2^30..2^32. */
static const uint16_t qk_rsqrt_starts[96] = {
    32514, 32025, 31558, 31110, 30681, 30269, 29874, 29493, 29127, 28774, 28433, 28104, 27787, 27480, 27183, 26895,
    26616, 26346, 26084, 25829, 25582, 25342, 25108, 24881, 24660, 24445, 24235, 24030, 23831, 23636, 23446, 23261,
    23080, 22903, 22730, 22561, 22396, 22234, 22076, 21921, 21769, 21621, 21475, 21332, 21193, 21055, 20921, 20789,
    20659, 20532, 20407, 20285, 20164, 20046, 19930, 19816, 19703, 19593, 19485, 19378, 19273, 19169, 19068, 18968,
    18869, 18772, 18676, 18582, 18490, 18398, 18308, 18220, 18132, 18046, 17961, 17878, 17795, 17714, 17633, 17554,
    17476, 17399, 17322, 17247, 17173, 17100, 17028, 16956, 16886, 16816, 16747, 16679, 16612, 16546, 16480, 16416
};

/* 2^45 / sqrt(w) for w in 2^30 .. 2^32 - 1, as 2^29 .. 2^30 - 1: two steps of Newton's iteration. */
static inline int64_t qk_rsqrt(int64_t w) {
    int64_t y = (int64_t)qk_rsqrt_starts[(w >> 25) - 32] << 15;
    for (int step = 0; step < 2; ++step) {
        y = (y * (((int64_t)3 << 29) - ((((y * y) >> 29) * w) >> 32))) >> 30;
    }
    return y;
}

/* *half and w = variance / 4^half, floored, in 2^30 .. 2^32 - 1; variance > 0. */
static inline int64_t qk_normalised(int64_t variance, int *half) {
    *half = (int)qk_asr((int64_t)qk_bit_length((uint64_t)variance) - 31, 1);
    return qk_times_power(variance, -2 * *half);
}

/* row = C x - sum x; returns C^2 var + epsilon, at least 1. */
static inline int64_t qk_row_deviations(size_t n, int64_t *row, int64_t epsilon) {
    const int64_t channels = (int64_t)n, sum = qk_row_sum(n, row);
    const int64_t variance = channels * qk_row_squares(n, row) - sum * sum + epsilon;
    for (size_t j = 0; j < n; ++j) {
        row[j] = channels * row[j] - sum;
    }
    return qk_max(variance, 1);
}

/* ((u G >> 32) + B + 2^(guard - 1)) >> guard, u = row * reciprocal >> shift. */
static inline void qk_row_affine(size_t n, int64_t *row, int64_t reciprocal, int shift, const int32_t *gain,
                                 const int32_t *offset, unsigned guard) {
    for (size_t j = 0; j < n; ++j) {
        const int64_t u = qk_asr(row[j] * reciprocal, (unsigned)shift);
        row[j] = qk_asr(qk_asr(u * gain[j], 32) + offset[j] + ((int64_t)1 << (guard - 1)), guard);
    }
}

static inline void qk_row_ln(size_t n, int64_t *row, const int32_t *gain, const int32_t *offset, unsigned guard,
                             int64_t epsilon) {
    int half;
    const int64_t w = qk_normalised(qk_row_deviations(n, row, epsilon), &half);
    qk_row_affine(n, row, qk_rsqrt(w), 21 + half, gain, offset, guard);
}

/* lowest + #{m : sign(d) d^2 2^20 >= thresholds[m][j] w}, by halves: the thresholds of a channel do not fall. */
static inline void qk_row_threshold_layernorm(size_t n, int64_t *row, const int8_t *sign, const int32_t *thresholds,
                                              int64_t levels, int64_t lowest, int64_t epsilon) {
    int half;
    const int64_t w = qk_normalised(qk_row_deviations(n, row, epsilon), &half);
    for (size_t j = 0; j < n; ++j) {
        const int64_t deviation = row[j] * sign[j], d = qk_times_power(qk_magnitude(deviation), -half);
        const int64_t reached = (deviation < 0 ? -(d * d) : d * d) * ((int64_t)1 << 20);
        int64_t count = 0;
        for (int64_t step = (levels + 1) >> 1; step; step >>= 1) {
            count += reached >= thresholds[(size_t)(count + step - 1) * n + j] * w ? step : 0;
        }
        row[j] = lowest + count;
    }
}

static inline void qk_row_i_layernorm(size_t n, int64_t *row, const int32_t *gain, const int32_t *offset,
                                      unsigned guard, int64_t epsilon) {
    const int64_t variance = qk_row_deviations(n, row, epsilon);
    const int up = (62 - (int)qk_bit_length((uint64_t)variance)) / 2;
    const int64_t root = qk_floor_sqrt(qk_shl(variance, (unsigned)(2 * up)));
    qk_row_affine(n, row, ((int64_t)1 << 61) / root, 37 - up, gain, offset, guard);
}

static inline void qk_row_ibert_layernorm(size_t n, int64_t *row, const int32_t *gain, const int32_t *offset,
                                          unsigned guard, int64_t epsilon) {
    int half;
    const int64_t w = qk_normalised(qk_row_deviations(n, row, epsilon), &half);
    qk_row_affine(n, row, ((int64_t)1 << 46) / qk_floor_sqrt(w), 22 + half, gain, offset, guard);
}

/* row = x - mean, the mean rounded half to even. */
static inline void qk_row_from_mean(size_t n, int64_t *row) {
    const int64_t channels = (int64_t)n, sum = qk_row_sum(n, row), floor = qk_floor_div(sum, channels);
    const int64_t twice = 2 * (sum - floor * channels);
    const int64_t mean = floor + (twice > channels || (twice == channels && floor % 2));
    for (size_t j = 0; j < n; ++j) {
        row[j] -= mean;
    }
}

/* row = (row reciprocal >> 1) + bias */
static inline void qk_row_biased(size_t n, int64_t *row, int64_t reciprocal, const int32_t *bias) {
    for (size_t j = 0; j < n; ++j) {
        row[j] = qk_asr(row[j] * reciprocal, 1) + bias[j];
    }
}

static inline void qk_row_i_layernorm_published(size_t n, int64_t *row, const int32_t *bias) {
    qk_row_from_mean(n, row);
    const int64_t squares = qk_row_squares(n, row);
    int64_t root = (int64_t)1 << 16;
    for (int step = 0; step < 10; ++step) {
        root = (root + squares / root) >> 1;
    }
    qk_row_biased(n, row, QK_LARGEST / root, bias);
}

static inline void qk_row_ibert_layernorm_published(size_t n, int64_t *row, const int32_t *bias, unsigned shift) {
    qk_row_from_mean(n, row);
    int64_t squares = 0;
    for (size_t j = 0; j < n; ++j) {
        const int64_t shifted = qk_asr(row[j], shift);
        squares += shifted * shifted;
    }
    const int64_t root = qk_max(qk_floor_sqrt(squares), 1) << shift;
    qk_row_biased(n, row, ((int64_t)1 << 31) / root, bias);
}

/* row = (x - zero point) 2^factor */
static inline void qk_row_align(size_t n, int64_t *row, const int8_t *factor, int64_t zero_point) {
    for (size_t j = 0; j < n; ++j) {
        row[j] = (row[j] - zero_point) * ((int64_t)1 << factor[j]);
    }
}

static inline void qk_row_ptf_layernorm(size_t n, int64_t *row, const int8_t *factor, const int32_t *gain,
                                        const int8_t *power, const int32_t *offset, unsigned bits, unsigned guard,
                                        int64_t epsilon, int64_t zero_point) {
    (void)bits; /* of the gains */
    int half;
    qk_row_align(n, row, factor, zero_point);
    const int64_t rsqrt = qk_rsqrt(qk_normalised(qk_row_deviations(n, row, epsilon), &half));
    for (size_t j = 0; j < n; ++j) {
        const int64_t mantissa = (((rsqrt * qk_magnitude(gain[j])) >> 29) + 1) >> 1;
        const int64_t product = qk_sign(gain[j]) * mantissa * row[j];
        const int64_t scaled = qk_times_power(product, (int)guard - 15 - half - power[j]);
        row[j] = qk_asr(scaled + offset[j] + ((int64_t)1 << (guard - 1)), guard);
    }
}

/* --- ptf_layernorm_published finds its constants by comparing roots exactly, in natural numbers of many words --- */

#define QK_WIDE_WORDS 64

/* The number sum word[i] 2^(32 i), i < size; the last word is not 0. */
typedef struct {
    size_t size;
    uint32_t word[QK_WIDE_WORDS];
} qk_wide;

static inline void qk_wide_set(qk_wide *x, uint64_t value) {
    x->word[0] = (uint32_t)(value & UINT32_MAX);
    x->word[1] = (uint32_t)(value >> 32);
    x->size = x->word[1] ? 2 : x->word[0] ? 1 : 0;
}

static inline void qk_wide_trim(qk_wide *x) {
    while (x->size && x->word[x->size - 1] == 0) {
        --x->size;
    }
}

static inline int64_t qk_wide_bits(const qk_wide *x) {
    return x->size ? (int64_t)(32 * (x->size - 1) + qk_bit_length(x->word[x->size - 1])) : 0;
}

/* x = a b, x neither of them. */
static inline void qk_wide_multiply(qk_wide *x, const qk_wide *a, const qk_wide *b) {
    x->size = a->size && b->size ? a->size + b->size : 0;
    for (size_t i = 0; i < x->size; ++i) {
        x->word[i] = 0;
    }
    for (size_t i = 0; x->size && i < a->size; ++i) {
        uint64_t carry = 0;
        for (size_t j = 0; j < b->size; ++j) {
            carry += (uint64_t)a->word[i] * b->word[j] + x->word[i + j];
            x->word[i + j] = (uint32_t)(carry & UINT32_MAX);
            carry >>= 32;
        }
        x->word[i + b->size] = (uint32_t)carry;
    }
    qk_wide_trim(x);
}

static inline void qk_wide_square(qk_wide *x) {
    const qk_wide copy = *x;
    qk_wide_multiply(x, &copy, &copy);
}

/* x = x value */
static inline void qk_wide_times(qk_wide *x, uint64_t value) {
    const qk_wide copy = *x;
    qk_wide factor;
    qk_wide_set(&factor, value);
    qk_wide_multiply(x, &copy, &factor);
}

/* x = x 2^shift, shift >= 0 */
static inline void qk_wide_shl(qk_wide *x, int64_t shift) {
    if (x->size == 0) {
        return;
    }
    const size_t words = (size_t)(shift / 32), size = x->size;
    const unsigned bits = (unsigned)(shift % 32);
    x->size += words + 1;
    x->word[x->size - 1] = 0;
    for (size_t i = size; i-- > 0;) {
        const uint64_t moved = (uint64_t)x->word[i] << bits;
        x->word[i + words + 1] |= (uint32_t)(moved >> 32);
        x->word[i + words] = (uint32_t)(moved & UINT32_MAX);
    }
    for (size_t i = 0; i < words; ++i) {
        x->word[i] = 0;
    }
    qk_wide_trim(x);
}

/* -1, 0, 1 where a is smaller than b, equal, larger. */
static inline int qk_wide_compare(const qk_wide *a, const qk_wide *b) {
    if (a->size != b->size) {
        return a->size < b->size ? -1 : 1;
    }
    for (size_t i = a->size; i-- > 0;) {
        if (a->word[i] != b->word[i]) {
            return a->word[i] < b->word[i] ? -1 : 1;
        }
    }
    return 0;
}

/* x = a + b, or |a - b| with the sign of a - b returned. */
static inline void qk_wide_add(qk_wide *x, const qk_wide *a, const qk_wide *b) {
    uint64_t carry = 0;
    x->size = (a->size > b->size ? a->size : b->size) + 1;
    for (size_t i = 0; i < x->size; ++i) {
        carry += (uint64_t)(i < a->size ? a->word[i] : 0) + (i < b->size ? b->word[i] : 0);
        x->word[i] = (uint32_t)(carry & UINT32_MAX);
        carry >>= 32;
    }
    qk_wide_trim(x);
}

static inline int qk_wide_subtract(qk_wide *x, const qk_wide *a, const qk_wide *b) {
    const int sign = qk_wide_compare(a, b);
    const qk_wide *large = sign < 0 ? b : a, *small = sign < 0 ? a : b;
    uint64_t borrow = 0;
    x->size = large->size;
    for (size_t i = 0; i < x->size; ++i) {
        const uint64_t difference = (uint64_t)large->word[i] - (i < small->size ? small->word[i] : 0) - borrow;
        x->word[i] = (uint32_t)(difference & UINT32_MAX);
        borrow = difference >> 63;
    }
    qk_wide_trim(x);
    return sign;
}

/* (beta 2^beta_power - sign root) / denominator, root = gamma 2^gamma_power / sqrt(variance); gamma is 0 or more. */
typedef struct {
    int64_t beta, beta_power, gamma_power, denominator, variance;
    int sign;
    qk_wide gamma;
} qk_shifted_root;

/* The sign of v - half / 2, v the number that s stands for. */
static inline int qk_compare_root(const qk_shifted_root *s, int64_t half) {
    /* 2 denominator v - denominator half = whole - sign root 2, all times 2^up to make whole numbers of them */
    const int64_t beta_power = s->beta ? s->beta_power + 1 : 0, gamma_power = s->gamma.size ? s->gamma_power + 1 : 0;
    const int64_t up = -qk_min(qk_min(beta_power, gamma_power), 0);
    qk_wide beta, other, whole, root = s->gamma;
    qk_wide_set(&beta, qk_abs(s->beta));
    qk_wide_shl(&beta, beta_power + up);
    qk_wide_set(&other, qk_abs(half));
    qk_wide_times(&other, (uint64_t)s->denominator);
    qk_wide_shl(&other, up);
    int sign = s->beta < 0 ? -1 : 1;
    if ((s->beta < 0) == (half < 0)) {
        sign *= qk_wide_subtract(&whole, &beta, &other);
    } else {
        qk_wide_add(&whole, &beta, &other);
    }
    sign = whole.size ? sign : 0;
    const int root_sign = root.size ? -s->sign : 0;
    if (sign * root_sign >= 0) {
        return sign ? sign : root_sign;
    }
    qk_wide_square(&whole);
    qk_wide_times(&whole, (uint64_t)s->variance);
    qk_wide_shl(&root, gamma_power + up);
    qk_wide_square(&root);
    return sign * qk_wide_compare(&whole, &root);
}

/* The number v that s stands for, less than 2^60, rounded half to even. */
static inline int64_t qk_round_root(const qk_shifted_root *s) {
    /* |v| < 2^bits by the bits of what v is made of; low - 1/2 <= v < high - 1/2 */
    const int64_t beta_bits = s->beta ? qk_bit_length(qk_abs(s->beta)) + s->beta_power : INT16_MIN;
    const int64_t root_bits = (qk_bit_length((uint64_t)s->variance) - 1) / 2;
    const int64_t gamma_bits = s->gamma.size ? qk_wide_bits(&s->gamma) + s->gamma_power - root_bits : INT16_MIN;
    const int64_t bits = qk_max(beta_bits, gamma_bits) + 2 - qk_bit_length((uint64_t)s->denominator);
    int64_t high = ((int64_t)1 << qk_clamp(bits, 0, 60)) + 1, low = 1 - high;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (qk_compare_root(s, 2 * middle - 1) >= 0) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low - (low % 2 && qk_compare_root(s, 2 * low - 1) == 0);
}

/* M and *shift with M / 2^shift = sqrt(square 4^power / under): shift = clip(7 - floor(log2), 0, 31), M = min(255, floor). */
static inline int64_t qk_mantissa(const qk_wide *square, int64_t power, const qk_wide *under, int *shift) {
    *shift = 31;
    if (square->size == 0) {
        return 0;
    }
    const int64_t bits = qk_wide_bits(square) - qk_wide_bits(under);
    qk_wide low = *square, high = *under;
    qk_wide_shl(&low, qk_max(-bits, 0));
    qk_wide_shl(&high, qk_max(bits, 0));
    const int64_t log2 = bits + 2 * power - (qk_wide_compare(&low, &high) < 0);
    *shift = (int)qk_clamp(7 - qk_asr(log2, 1), 0, 31);
    const int64_t up = 2 * (power + *shift);
    if (log2 >= 16 || log2 + 2 * *shift < 0) {
        return log2 < 16 ? 0 : 255;
    }
    qk_wide scaled = *square, unit = *under;
    qk_wide_shl(&scaled, qk_max(up, 0));
    qk_wide_shl(&unit, qk_max(-up, 0));
    int64_t mantissa = 0;
    for (int64_t bit = 128; bit > 0; bit >>= 1) {
        qk_wide tried = unit;
        qk_wide_times(&tried, (uint64_t)((mantissa + bit) * (mantissa + bit)));
        mantissa += qk_wide_compare(&tried, &scaled) <= 0 ? bit : 0;
    }
    return mantissa;
}

/* round((sgn(gamma) M X + B) / 2^N), half even, with a mantissa M of 8 bits, a shift N and an offset B of each channel. */
static inline void qk_row_ptf_layernorm_published(size_t n, int64_t *row, const int8_t *factor, const int64_t *gain,
                                                  const int16_t *gain_power, const int64_t *offset,
                                                  const int16_t *offset_power, int64_t denominator,
                                                  int64_t input_zero_point, int64_t zero_point) {
    qk_row_align(n, row, factor, input_zero_point);
    const int64_t sum = qk_row_sum(n, row), variance = (int64_t)n * qk_row_squares(n, row) - sum * sum;
    qk_wide under;
    qk_wide_set(&under, (uint64_t)denominator);
    qk_wide_square(&under);
    qk_wide_times(&under, (uint64_t)qk_max(variance, 1));
    for (size_t j = 0; j < n; ++j) {
        int shift;
        qk_wide square;
        qk_wide_set(&square, variance > 0 ? qk_abs(gain[j]) : 0);
        qk_shifted_root root;
        root.gamma = square;
        qk_wide_times(&root.gamma, qk_abs(sum));
        qk_wide_times(&square, n);
        qk_wide_square(&square);
        const int64_t mantissa = qk_mantissa(&square, gain_power[j], &under, &shift);
        root.beta = offset[j];
        root.beta_power = offset_power[j] + shift;
        root.gamma_power = gain_power[j] + shift;
        root.denominator = denominator;
        root.variance = qk_max(variance, 1);
        root.sign = (gain[j] < 0) == (sum < 0) ? 1 : -1;
        const int64_t moved = qk_sign(gain[j]) * mantissa * row[j] + qk_round_root(&root);
        row[j] = qk_round_shift(moved, (unsigned)shift, QK_HALF_EVEN) + zero_point;
    }
}

#endif
