/* The kernels as a library: the table of functions of a variant, NULL where the processor has none of that name. */
#include "qk_gemm.h"

const qk_kernels *kernels(const char *name);
void weights(const uint16_t *exponentials, uint8_t *table);
size_t linear_scratch(size_t k);
size_t packed_scratch(size_t k);
size_t attention_scratch(size_t keys, size_t depth, size_t width);
void im2col(const size_t *shape, const uint8_t *x, uint8_t pad, uint8_t flip, uint8_t *y);
void transpose(size_t rows, size_t columns, const int16_t *x, size_t ldx, int16_t *y, size_t ldy);

const qk_kernels *kernels(const char *name)
{
    return qk_start(name) == 0 ? qk_chosen : NULL;
}

void weights(const uint16_t *exponentials, uint8_t *table)
{
    qk_weights(exponentials, table);
}

size_t linear_scratch(size_t k)
{
    return qk_linear_scratch(k);
}

size_t packed_scratch(size_t k)
{
    return qk_packed_scratch(k);
}

size_t attention_scratch(size_t keys, size_t depth, size_t width)
{
    return qk_attention_scratch(keys, depth, width);
}

void im2col(const size_t *s, const uint8_t *x, uint8_t pad, uint8_t flip, uint8_t *y)
{
    qk_im2col(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12], x, pad, flip, y);
}

void transpose(size_t rows, size_t columns, const int16_t *x, size_t ldx, int16_t *y, size_t ldy)
{
    qk_transpose_s16(rows, columns, x, ldx, y, ldy);
}
