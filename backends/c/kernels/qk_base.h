/* Integer arithmetic that is the same on every machine: C11 and C++17, no floating point, nothing undefined.
 *
 * The rounding modes, saturation and exactness are those of qvit's semantics; every function gives the exact result on
 * the range that it states. Shifts of negative numbers and conversions to signed types are written so that the standard
 * defines them; compilers make single instructions of them.
 */
#ifndef QK_BASE_H
#define QK_BASE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__cplusplus) && (defined(__GNUC__) || defined(__clang__))
#define QK_RESTRICT __restrict__
#elif defined(__cplusplus)
#define QK_RESTRICT
#else
#define QK_RESTRICT restrict
#endif

/* How a number between two integers becomes one of them; ties lie in the middle. */
enum qk_rounding {
    QK_HALF_EVEN, /* nearest, ties to the even neighbour */
    QK_HALF_UP,   /* nearest, ties towards plus infinity */
    QK_HALF_AWAY, /* nearest, ties away from zero */
    QK_FLOOR      /* towards minus infinity */
};

/* The signed number that is equal to u modulo 2^32, 2^64. Sums that fit are exact though their parts may not have fitted. */
static inline int32_t qk_i32(uint32_t u) {
    return u <= (uint32_t)INT32_MAX ? (int32_t)u : -(int32_t)(UINT32_MAX - u) - 1;
}

static inline int64_t qk_i64(uint64_t u) {
    return u <= (uint64_t)INT64_MAX ? (int64_t)u : -(int64_t)(UINT64_MAX - u) - 1;
}

/* x modulo 2^32, 2^64. */
static inline uint32_t qk_u32(int64_t x) {
    return (uint32_t)((uint64_t)x & UINT32_MAX);
}

static inline uint64_t qk_u64(int64_t x) {
    return (uint64_t)x;
}

static inline int64_t qk_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t qk_max(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static inline int64_t qk_clamp(int64_t x, int64_t lo, int64_t hi) {
    return x < lo ? lo : x > hi ? hi : x;
}

static inline int32_t qk_clamp32(int32_t x, int32_t lo, int32_t hi) {
    return x < lo ? lo : x > hi ? hi : x;
}

/* |x|, also of the least number. */
static inline uint64_t qk_abs(int64_t x) {
    return x < 0 ? 0 - (uint64_t)x : (uint64_t)x;
}

/* floor(x / 2^shift), shift 0..63. */
static inline int64_t qk_asr(int64_t x, unsigned shift) {
    return x < 0 ? ~(~x >> shift) : x >> shift;
}

/* x * 2^shift modulo 2^64, shift 0..63. */
static inline int64_t qk_shl(int64_t x, unsigned shift) {
    return qk_i64((uint64_t)x << shift);
}

/* The bits that x takes: floor(log2 x) + 1; 0 for 0. */
static inline unsigned qk_bit_length(uint64_t x) {
    unsigned n = 0;
    for (unsigned step = 32; step > 0; step >>= 1) {
        if (x >> step) {
            x >>= step;
            n += step;
        }
    }
    return n + (unsigned)x;
}

/* round(x / 2^shift), shift 0..63, exact for every x: the floor, and one more where the first lost bit says so. */
static inline int64_t qk_round_shift(int64_t x, unsigned shift, enum qk_rounding rounding) {
    if (shift == 0) {
        return x;
    }
    const int64_t floor = qk_asr(x, shift);
    const uint64_t half = ((uint64_t)x >> (shift - 1)) & 1;
    const uint64_t rest = (uint64_t)x & (((uint64_t)1 << (shift - 1)) - 1);
    switch (rounding) {
    case QK_HALF_EVEN:
        return floor + (int64_t)(half & ((rest != 0) | ((uint64_t)floor & 1)));
    case QK_HALF_UP:
        return floor + (int64_t)half;
    case QK_HALF_AWAY:
        return floor + (int64_t)(half & ((rest != 0) | (x >= 0)));
    case QK_FLOOR:
    default:
        return floor;
    }
}

/* round(x / 2^shift) for any shift of either sign; |x| < 2^63, and x * 2^-shift fits where the shift is negative. */
static inline int64_t qk_round_scale(int64_t x, int shift, enum qk_rounding rounding) {
    if (shift < 0) {
        return qk_shl(x, (unsigned)-shift);
    }
    if (shift > 63) { /* within half of 0, and no tie */
        return rounding == QK_FLOOR && x < 0 ? -1 : 0;
    }
    return qk_round_shift(x, (unsigned)shift, rounding);
}

/* The reciprocal of a divisor: R and *k with m / d = R / 2^k, k = bit length of d less 1, |R| = floor(|m| 2^k / d).
 * |m| < 2^31, d > 0. A divisor that is not positive has none: 0. */
static inline int64_t qk_reciprocal(int64_t m, int64_t d, int *k) {
    if (d <= 0) {
        *k = 0;
        return 0;
    }
    const unsigned bits = qk_bit_length((uint64_t)d) - 1;
    const uint64_t divisor = (uint64_t)d, size = qk_abs(m);
    uint64_t quotient;
    if (bits <= 32) {
        quotient = (size << bits) / divisor;
    } else { /* digit by digit: |m| 2^k has more than 64 bits */
        uint64_t rest = size % divisor;
        quotient = size / divisor;
        for (unsigned i = 0; i < bits; ++i) {
            rest <<= 1;
            quotient <<= 1;
            if (rest >= divisor) {
                rest -= divisor;
                quotient |= 1;
            }
        }
    }
    *k = (int)bits;
    return m < 0 ? -(int64_t)quotient : (int64_t)quotient;
}

/* --- numbers of 256 bits, two's complement, least limb first: for the few products that 64 bits cannot hold --- */

typedef struct {
    uint32_t limb[8];
} qk_big;

static inline qk_big qk_big_of(int64_t x) {
    qk_big y;
    const uint32_t sign = x < 0 ? UINT32_MAX : 0;
    for (int i = 0; i < 8; ++i) {
        y.limb[i] = sign;
    }
    y.limb[0] = (uint32_t)((uint64_t)x & UINT32_MAX);
    y.limb[1] = (uint32_t)((uint64_t)x >> 32);
    return y;
}

static inline int qk_big_negative(const qk_big *x) {
    return (int)(x->limb[7] >> 31);
}

static inline qk_big qk_big_add(qk_big a, qk_big b) {
    uint64_t carry = 0;
    for (int i = 0; i < 8; ++i) {
        carry += (uint64_t)a.limb[i] + b.limb[i];
        a.limb[i] = (uint32_t)(carry & UINT32_MAX);
        carry >>= 32;
    }
    return a;
}

static inline qk_big qk_big_negate(qk_big a) {
    for (int i = 0; i < 8; ++i) {
        a.limb[i] = ~a.limb[i];
    }
    return qk_big_add(a, qk_big_of(1));
}

/* a * m, |m| < 2^32. */
static inline qk_big qk_big_times(qk_big a, int64_t m) {
    const uint64_t size = qk_abs(m);
    uint64_t carry = 0;
    for (int i = 0; i < 8; ++i) {
        carry += a.limb[i] * size;
        a.limb[i] = (uint32_t)(carry & UINT32_MAX);
        carry >>= 32;
    }
    return m < 0 ? qk_big_negate(a) : a;
}

static inline unsigned qk_big_bit(const qk_big *a, unsigned index) {
    return (a->limb[index / 32] >> index % 32) & 1;
}

/* a * 2^shift modulo 2^256, shift 0..255. */
static inline qk_big qk_big_shl(qk_big a, unsigned shift) {
    const unsigned limbs = shift / 32, bits = shift % 32;
    for (unsigned i = 8; i-- > 0;) {
        uint64_t pair = i >= limbs ? (uint64_t)a.limb[i - limbs] << 32 : 0;
        pair |= i > limbs ? a.limb[i - limbs - 1] : 0;
        a.limb[i] = (uint32_t)((pair << bits) >> 32);
    }
    return a;
}

/* round(a / 2^shift) for shift -63..255; what a negative shift multiplies has to fit. */
static inline qk_big qk_big_round_scale(qk_big a, int shift, enum qk_rounding rounding) {
    if (shift <= 0) {
        return qk_big_shl(a, (unsigned)-shift);
    }
    const unsigned s = (unsigned)shift, limbs = s / 32, bits = s % 32;
    const int negative = qk_big_negative(&a);
    const uint32_t sign = negative ? UINT32_MAX : 0;
    const unsigned half = qk_big_bit(&a, s - 1);
    unsigned rest = 0;
    for (unsigned i = 0; i + 1 < s && !rest; ++i) {
        rest = qk_big_bit(&a, i);
    }
    qk_big floor;
    for (unsigned i = 0; i < 8; ++i) {
        const uint64_t low = i + limbs < 8 ? a.limb[i + limbs] : sign;
        const uint64_t high = i + limbs + 1 < 8 ? a.limb[i + limbs + 1] : sign;
        floor.limb[i] = (uint32_t)((((high << 32) | low) >> bits) & UINT32_MAX);
    }
    unsigned up = 0;
    switch (rounding) {
    case QK_HALF_EVEN:
        up = half & (rest | (floor.limb[0] & 1));
        break;
    case QK_HALF_UP:
        up = half;
        break;
    case QK_HALF_AWAY:
        up = half & (rest | (unsigned)!negative);
        break;
    case QK_FLOOR:
    default:
        break;
    }
    return up ? qk_big_add(floor, qk_big_of(1)) : floor;
}

/* min(max(a, lo), hi). */
static inline int64_t qk_big_clamp(qk_big a, int64_t lo, int64_t hi) {
    const int negative = qk_big_negative(&a);
    const uint32_t sign = negative ? UINT32_MAX : 0;
    for (int i = 2; i < 8; ++i) {
        if (a.limb[i] != sign) {
            return negative ? lo : hi;
        }
    }
    if ((a.limb[1] >> 31) != (unsigned)negative) {
        return negative ? lo : hi;
    }
    return qk_clamp(qk_i64((uint64_t)a.limb[1] << 32 | a.limb[0]), lo, hi);
}

/* --- what memory holds: a number that damage changes --- */

/* Of `size` bytes, a multiple of 64, as 64-bit words in the byte order of this machine: the sum of every eighth word, and the sum
 * of what that sum is after each of them, made one number. Damage leaves it as it is by a chance of 2^-64. */
static inline uint64_t qk_checksum(const unsigned char *data, size_t size) {
    uint64_t first[8] = {0}, second[8] = {0}, all = 0;
    for (size_t at = 0; at < size; at += 64) {
        uint64_t word[8];
        memcpy(word, data + at, 64);
        for (int i = 0; i < 8; ++i) {
            first[i] += word[i];
            second[i] += first[i];
        }
    }
    for (int i = 0; i < 16; ++i) {
        all = (all ^ (i < 8 ? first[i] : second[i - 8])) * UINT64_C(0x9e3779b97f4a7c15);
        all ^= all >> 32;
    }
    return all;
}

/* --- packed constants: `bits` bits a value, 1..7, least significant bit first, one after another --- */

/* Values begin..end - 1, of two's complement where `is_signed`, one value a byte; begin is a multiple of 8. Reads no byte
 * beyond number ceil(end * bits / 8). */
static inline void qk_unpack(
    void *out, const uint8_t *packed, unsigned bits, int is_signed, size_t begin, size_t end) {
    uint8_t *y = (uint8_t *)out;
    const unsigned mask = (1u << bits) - 1, top = 1u << (bits - 1);
    unsigned held = 0, buffer = 0;
    packed += begin / 8 * bits;
    for (size_t i = begin; i < end; ++i) {
        if (held < bits) {
            buffer |= (unsigned)*packed++ << held;
            held += 8;
        }
        const unsigned value = buffer & mask;
        y[i] = (uint8_t)(is_signed && (value & top) ? (value | ~mask) & 0xff : value);
        buffer >>= bits;
        held -= bits;
    }
}

#endif
