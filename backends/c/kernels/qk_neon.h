/* NEON with the dot product: signed by signed, so that codes of x are taken less 128. All else is plain C. */
#include <arm_neon.h>
#ifndef __ARM_FEATURE_DOTPROD
#include <sys/auxv.h>
#endif

#define QK_VARIANT qk_neon_
#define QK_NAME "neon"
#if defined(__ARM_FEATURE_DOTPROD)
#define QK_ATTR
#else
#define QK_ATTR __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define QK_HAVE_NEON

static inline int qk_neon_found(void)
{
#ifdef __ARM_FEATURE_DOTPROD
    return 1;
#else
    return (getauxval(16 /* AT_HWCAP */) >> 20 & 1) != 0; /* asimddp */
#endif
}

#define QK_START(r)                                                                                                           \
    const uint8_t *x##r = x + (r < rows ? r : rows - 1) * ldx;                                                                 \
    int32x4_t s##r##0 = b0, s##r##1 = b1, s##r##2 = b2, s##r##3 = b3;
#define QK_STEP(r)                                                                                                            \
    {                                                                                                                          \
        uint32_t four;                                                                                                         \
        memcpy(&four, x##r + at, 4);                                                                                           \
        const int8x16_t v = vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080U));                                             \
        s##r##0 = vdotq_s32(s##r##0, w0, v);                                                                                   \
        s##r##1 = vdotq_s32(s##r##1, w1, v);                                                                                   \
        s##r##2 = vdotq_s32(s##r##2, w2, v);                                                                                   \
        s##r##3 = vdotq_s32(s##r##3, w3, v);                                                                                   \
    }
#define QK_END(r)                                                                                                             \
    vst1q_s32(sums + r * stride, s##r##0);                                                                                     \
    vst1q_s32(sums + r * stride + 4, s##r##1);                                                                                 \
    vst1q_s32(sums + r * stride + 8, s##r##2);                                                                                 \
    vst1q_s32(sums + r * stride + 12, s##r##3);

/* bias + 128 sum_k w: what x less 128 lacks; a panel's 16 columns. Modulo 2^32, as all sums here. */
QK_ATTR static void qk_neon_lacking(const int8_t *panel, size_t steps, size_t stride, const int32_t *bias, int32_t *sums)
{
    const int8x16_t ones = vdupq_n_s8(1);
    int32x4_t s0 = vdupq_n_s32(0), s1 = s0, s2 = s0, s3 = s0;
    for (size_t i = 0; i < steps; i++, panel += 4 * stride) {
        s0 = vdotq_s32(s0, vld1q_s8(panel), ones);
        s1 = vdotq_s32(s1, vld1q_s8(panel + 16), ones);
        s2 = vdotq_s32(s2, vld1q_s8(panel + 32), ones);
        s3 = vdotq_s32(s3, vld1q_s8(panel + 48), ones);
    }
    vst1q_s32(sums, vaddq_s32(vld1q_s32(bias), vshlq_n_s32(s0, 7)));
    vst1q_s32(sums + 4, vaddq_s32(vld1q_s32(bias + 4), vshlq_n_s32(s1, 7)));
    vst1q_s32(sums + 8, vaddq_s32(vld1q_s32(bias + 8), vshlq_n_s32(s2, 7)));
    vst1q_s32(sums + 12, vaddq_s32(vld1q_s32(bias + 12), vshlq_n_s32(s3, 7)));
}

QK_ATTR QK_NOINLINE static void qk_neon_4x16(const int8_t *panel, size_t steps, const int32_t *bias, size_t rows, const uint8_t *x,
                                             size_t ldx, int32_t *sums, size_t stride)
{
    const int32x4_t b0 = vld1q_s32(bias), b1 = vld1q_s32(bias + 4), b2 = vld1q_s32(bias + 8), b3 = vld1q_s32(bias + 12);
    QK_START(0) QK_START(1) QK_START(2) QK_START(3)
    for (size_t at = 0; at < 4 * steps; at += 4, panel += 4 * stride) {
        const int8x16_t w0 = vld1q_s8(panel), w1 = vld1q_s8(panel + 16), w2 = vld1q_s8(panel + 32), w3 = vld1q_s8(panel + 48);
        QK_STEP(0) QK_STEP(1) QK_STEP(2) QK_STEP(3)
    }
    QK_END(0) QK_END(1) QK_END(2) QK_END(3)
}
#undef QK_START
#undef QK_STEP
#undef QK_END

#define QK_OWN_TILE
QK_ATTR static inline size_t qk_neon_tile_rows(size_t m, size_t blocks)
{
    (void)m, (void)blocks;
    return 16;
}

QK_ATTR static inline void qk_neon_tile(const int8_t *panel, size_t steps, size_t blocks, const int32_t *bias, size_t rows,
                                        const uint8_t *x, size_t ldx, int32_t *sums, size_t most)
{
    (void)most;
    for (size_t b = 0; b < blocks; b++) {
        int32_t start[16];
        qk_neon_lacking(panel + 64 * b, steps, 16 * blocks, bias + 16 * b, start);
        for (size_t r = 0; r < rows; r += 4)
            qk_neon_4x16(panel + 64 * b, steps, start, rows - r, x + r * ldx, ldx, sums + 16 * (r * blocks + b), 16 * blocks);
    }
}

#include "qk_plain.h"
#undef QK_OWN_TILE
#undef QK_VARIANT
#undef QK_NAME
#undef QK_ATTR
