/* Prints a number for the results of each kernel of a variant (argument 1) on random and extreme codes: what all variants, on all
 * machines, have to agree on. Every array is as long as it must be, so that sanitizers see what is read or written beyond. */
#include <stdio.h>
#include <stdlib.h>

#include "qk_gemm.h"

static uint64_t state = 1;
static uint64_t hash;

static int32_t number(int32_t lo, int32_t hi)
{
    state = state * 6364136223846793005U + 1442695040888963407U;
    return (int32_t)(lo + (int64_t)((state >> 33) % (uint64_t)((int64_t)hi - lo + 1)));
}

static void *space(size_t size)
{
    void *found = malloc(size ? size : 1);
    if (!found) exit(2);
    return found;
}

static void *scratch_of(size_t size)
{
    void *found = NULL;
    if (posix_memalign(&found, 64, size)) exit(2);
    return found;
}

#define FILL(type, name, n, lo, hi)                                                                                           \
    type *name = (type *)space((n) * sizeof(type));                                                                            \
    for (size_t fill = 0; fill < (n); fill++) name[fill] = (type)number(lo, hi);

static void add_to_hash(int64_t value)
{
    hash = (hash ^ (uint64_t)value) * 1099511628211U;
}

static void results(const void *y, size_t n, qk_type type)
{
    for (size_t i = 0; i < n; i++)
        add_to_hash(type == QK_S8    ? ((const int8_t *)y)[i]
                    : type == QK_U8  ? ((const uint8_t *)y)[i]
                    : type == QK_S16 ? ((const int16_t *)y)[i]
                                     : ((const int32_t *)y)[i]);
}

static void line(const char *name)
{
    printf("%s %016llx\n", name, (unsigned long long)hash);
    hash = 14695981039346656037U;
}

static const int32_t limits[5][2] = {{-128, 127}, {0, 255}, {-32768, 32767}, {INT32_MIN, INT32_MAX}, {0, 0}};

static void quad_of(qk_quad *f, int16_t *tables, int32_t form, qk_type type)
{
    const int32_t most[3] = {20000, 4000, 4000};
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < 64; i++) tables[64 * t + i] = (int16_t)number(-most[t], most[t]);
    /* one after another: the parts of an initializer have no order */
    const int32_t segment = number(9, 11), guard = number(0, 8), offset = number(-99, 99);
    const qk_quad made = {form,
                          form == 0 ? -32768 : 0,
                          form == 0 ? 10 : segment,
                          guard,
                          offset,
                          form == 2 ? 32 : 64,
                          limits[type][0],
                          limits[type][1],
                          tables,
                          tables + 64,
                          tables + 128};
    *f = made;
}

static void linear(size_t m, size_t n, size_t k)
{
    FILL(uint8_t, x, m * k, 0, 255)
    FILL(int8_t, w, n * k, -128, 127)
    FILL(uint8_t, table, 256, 0, 255)
    const size_t wide = qk_up(n, 16);
    FILL(int32_t, bias, wide, -99999, 99999)
    FILL(int32_t, mult, wide, 1 << 30, INT32_MAX)
    int8_t *panels = (int8_t *)space(wide * qk_up(k, 4));
    qk_chosen->pack(n, k, w, k, 1, panels);
    results(panels, wide * qk_up(k, 4), QK_S8);
    void *scratch = scratch_of(qk_linear_scratch(k)), *y = space(m * n * 4);
    for (int low = 0; low < 3; low++) {
        FILL(int32_t, shift, wide, low == 0 ? 0 : low == 1 ? 30 : 33, low == 2 ? 42 : 62)
        for (int type = QK_S8; type <= QK_ACC; type++) {
            qk_layer l = {(int32_t)n, (int32_t)k, panels, bias, mult, shift, number(-128, 255), limits[type][0], limits[type][1], NULL, NULL, 8, 0};
            qk_chosen->linear(&l, m, x, k, y, n, (qk_type)type, scratch);
            results(y, m * n, (qk_type)type);
            if (type <= QK_U8) {
                l.table = table;
                qk_chosen->linear(&l, m, x, k, y, n, (qk_type)type, scratch);
                results(y, m * n, (qk_type)type);
                l.table = NULL;
            }
            if (type <= QK_S16) {
                int16_t tables[192];
                qk_quad f;
                quad_of(&f, tables, type == QK_S16 ? number(1, 2) : 0, (qk_type)type);
                l.quad = &f;
                l.lo = -32768, l.hi = 32767;
                qk_chosen->linear(&l, m, x, k, y, n, (qk_type)type, scratch);
                results(y, m * n, (qk_type)type);
            }
        }
        free(shift);
    }
    free(x), free(w), free(table), free(bias), free(mult), free(panels), free(scratch), free(y);
}

/* Weights of 1..7 bits, with and without a sign. */
static void packed(size_t m, size_t n, size_t k)
{
    const size_t wide = qk_up(n, 16);
    FILL(uint8_t, x, m * k, 0, 255)
    FILL(int32_t, bias, wide, -99999, 99999)
    void *scratch = scratch_of(qk_packed_scratch(k)), *y = space(m * n * 4);
    for (int32_t bits = 1; bits < 8; bits++)
        for (int32_t sign = 0; sign < 2; sign++) {
            FILL(uint8_t, panels, wide * qk_up(k, 4) / 8 * (size_t)bits, 0, 255)
            const qk_layer l = {(int32_t)n, (int32_t)k, (const int8_t *)panels, bias, NULL, NULL, 0, 0, 0, NULL, NULL, bits, sign << (bits - 1)};
            qk_chosen->linear(&l, m, x, k, y, n, QK_ACC, scratch);
            results(y, m * n, QK_ACC);
            free(panels);
        }
    free(x), free(bias), free(scratch), free(y);
}

static void attention(size_t tokens, size_t keys, size_t depth, size_t width)
{
    FILL(int8_t, q, tokens * depth, -128, 127)
    FILL(int8_t, k, keys * depth, -128, 127)
    FILL(int8_t, v, keys * width, -128, 127)
    FILL(uint8_t, table, 256, 0, 255)
    uint8_t *y = (uint8_t *)space(tokens * width);
    void *scratch = scratch_of(qk_attention_scratch(keys, depth, width));
    for (int fade = 0; fade < 2; fade++) {
        for (int d = fade ? 100 : 250; d < 256; d++) table[d] = 0;
        table[0] = 255;
        const qk_attention a = {tokens, keys, depth, width, number(1 << 30, INT32_MAX), 37 + fade, 2, -32768, 32767, table, 1302929007, 30, 141, 0, 255};
        qk_chosen->attention(&a, q, depth, k, depth, v, width, y, width, scratch);
        results(y, tokens * width, QK_U8);
    }
    free(q), free(k), free(v), free(table), free(y), free(scratch);
}

static void rows(size_t m, size_t n)
{
    FILL(int16_t, x, m * n, -32768, 32767)
    FILL(int16_t, other, m * n, -32768, 32767)
    FILL(int32_t, acc, m * n, INT32_MIN, INT32_MAX)
    FILL(int32_t, divisors, m, 1, INT32_MAX)
    FILL(int32_t, gain, n, -(1 << 24), 1 << 24)
    FILL(int32_t, offset, n, -(1 << 20), 1 << 20)
    FILL(uint8_t, table, 256, 0, 255)
    void *y = space(m * n * 2);
    int32_t *sums = (int32_t *)space(4 * m);
    uint8_t *bytes = (uint8_t *)space(m * n);
    for (size_t i = 0; i < m * n; i++) bytes[i] = (uint8_t)number(0, 255);
    for (int32_t form = 0; form < 3; form++)
        for (int type = QK_S8; type <= QK_S16; type++) {
            int16_t tables[192];
            qk_quad f;
            quad_of(&f, tables, form, (qk_type)type);
            qk_chosen->quad(&f, m, n, x, n, y, n, (qk_type)type);
            results(y, m * n, (qk_type)type);
        }
    line("quad");
    qk_chosen->table(table, m * n, bytes, bytes);
    results(bytes, m * n, QK_U8);
    line("table");
    qk_chosen->softmax(table, m, n, x, n, (uint8_t *)y, n, sums);
    results(y, m * n, QK_U8);
    results(sums, m, QK_S32);
    line("softmax");
    for (int32_t shift = 0; shift <= 62; shift++) {
        qk_chosen->divide(number(INT32_MIN + 1, INT32_MAX), shift, 3, -128, 127, m, n, acc, n, divisors, (uint8_t *)y, n);
        results(y, m * n, QK_S8);
        const int32_t left = number(INT32_MIN + 1, INT32_MAX), right = number(INT32_MIN + 1, INT32_MAX), zero = number(-9, 9);
        const qk_add f = {left, right, shift, zero, 0, 1, -32768, 32767};
        qk_chosen->add(&f, m * n, x, other, (int16_t *)y);
        results(y, m * n, QK_S16);
    }
    line("divide, add");
    for (int type = QK_S8; type <= QK_S16; type++) {
        const qk_ln f = {(int32_t)n, 12, limits[type][0], limits[type][1], 12345, gain, offset};
        qk_chosen->ln(&f, m, x, n, y, n, (qk_type)type);
        results(y, m * n, (qk_type)type);
    }
    line("ln");
    free(x), free(other), free(acc), free(divisors), free(gain), free(offset), free(table), free(y), free(sums), free(bytes);
}

static void patches(size_t edge, size_t kernel, size_t stride, size_t dilation, size_t pad, size_t out)
{
    FILL(uint8_t, x, 2 * edge * edge, 0, 255)
    uint8_t *y = (uint8_t *)space(out * out * 2 * kernel * kernel);
    qk_im2col(2, edge, edge, kernel, kernel, stride, stride, dilation, dilation, pad, pad, out, out, x, 7, 128, y);
    results(y, out * out * 2 * kernel * kernel, QK_U8);
    free(x), free(y);
}

int main(int count, char **arguments)
{
    if (count != 2 || qk_start(arguments[1]) != 0) return 3;
    line("start");
    for (size_t m = 1; m <= 20; m++) {
        const size_t n = (size_t)number(1, 260), k = (size_t)number(1, 90);
        linear(m, n, k);
    }
    linear(40, 64, 64);
    line("linear");
    packed(5, 70, 37);
    packed(1, 16, 4);
    packed(40, 113, 63);
    line("packed");
    attention(50, 53, 30, 33);
    attention(1, 1, 1, 1);
    attention(37, 197, 64, 64);
    line("attention");
    rows(3, 33);
    rows(2, 384);
    rows(1, 1);
    patches(9, 3, 3, 1, 0, 3);
    patches(9, 3, 1, 2, 2, 9);
    line("patches");
    return 0;
}
