/* Time of each fast kernel on the shapes of vision transformers, beside the peak of the dot-product instruction, in one process:
 * medians of thread CPU time. Argument: a variant; without one, the fastest. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "qk_gemm.h"

enum { ROUNDS = 25, TOKENS = 197 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *times)
{
    qsort(times, ROUNDS, sizeof *times, ascending);
    return times[ROUNDS / 2];
}

/* GMAC/s of 16 independent chains of vpdpbusd; 0 where there is none. */
#ifdef QK_HAVE_X86
__attribute__((noinline, target("avx512f,avx512vnni"))) static double vnni(void)
{
    __m512i s[16];
    const __m512i ones = _mm512_set1_epi8(1);
    for (int i = 0; i < 16; i++) s[i] = _mm512_setzero_si512();
    const double start = seconds();
    for (int i = 0; i < 60000; i++) {
#define DOT(j) s[j] = _mm512_dpbusd_epi32(s[j], ones, ones);
        DOT(0) DOT(1) DOT(2) DOT(3) DOT(4) DOT(5) DOT(6) DOT(7) DOT(8) DOT(9) DOT(10) DOT(11) DOT(12) DOT(13) DOT(14) DOT(15)
        __asm__ volatile("" ::"v"(s[0]), "v"(s[15]));
    }
    const double time = seconds() - start;
    __m512i sum = s[0];
    for (int i = 1; i < 16; i++) sum = _mm512_add_epi32(sum, s[i]);
    volatile int keep = _mm512_reduce_add_epi32(sum);
    (void)keep;
    return 60000.0 * 16 * 64 / time / 1e9;
}

static double peak(void)
{
    return qk_x86_level() == 2 ? vnni() : 0;
}
#else
static double peak(void)
{
    return 0;
}
#endif

static void *array(size_t size)
{
    uint8_t *found = (uint8_t *)aligned_alloc(64, qk_up(size, 64));
    if (!found) exit(2);
    for (size_t i = 0; i < size; i++) found[i] = (uint8_t)rand();
    return found;
}

/* One line: name, million multiply-accumulates or 0, elements, microseconds, peak. */
#define MEASURE(name, macs, elements, call)                                                                                   \
    {                                                                                                                          \
        double times[ROUNDS], peaks[ROUNDS];                                                                                   \
        call;                                                                                                                  \
        for (int round = 0; round < ROUNDS; round++) {                                                                         \
            peaks[round] = peak();                                                                                             \
            const double start = seconds();                                                                                    \
            call;                                                                                                              \
            times[round] = seconds() - start;                                                                                  \
        }                                                                                                                      \
        printf("%s\t%.4f\t%zu\t%.3f\t%.2f\n", name, (double)(macs) / 1e6, (size_t)(elements), 1e6 * median(times), median(peaks)); \
    }

static const int16_t coefficients[64] = {5, 9, -7, 100, 12000};

static void linear(size_t n, size_t k)
{
    uint8_t *x = array(TOKENS * k), *y = array(TOKENS * n * 4);
    const size_t wide = qk_up(n, 64);
    int8_t *w = array(n * k), *panels = array(wide * qk_up(k, 4));
    int32_t *bias = array(4 * wide), *mult = array(4 * wide), *shift = array(4 * wide);
    for (size_t i = 0; i < wide; i++) {
        bias[i] %= 1000;
        mult[i] = (mult[i] & 0x3FFFFFFF) | 0x40000000;
        shift[i] = 40 + (shift[i] & 1);
    }
    qk_chosen->pack(n, k, w, k, 1, panels);
    const qk_quad f = {0, -32768, 10, 5, 4, 64, 0, 255, coefficients, coefficients, coefficients};
    const qk_layer l = {(int32_t)n, (int32_t)k, panels, bias, mult, shift, 3, -128, 127, NULL, NULL, 8, 0};
    const qk_layer s = {(int32_t)n, (int32_t)k, panels, bias, mult, shift, 3, -32768, 32767, NULL, NULL, 8, 0};
    const qk_layer u = {(int32_t)n, (int32_t)k, panels, bias, mult, shift, 3, -32768, 32767, &f, NULL, 8, 0};
    void *scratch = array(qk_linear_scratch(k));
    char name[64];
    const size_t macs = TOKENS * n * k;
    snprintf(name, sizeof name, "linear %zux%zu i8", n, k);
    MEASURE(name, macs, 0, qk_chosen->linear(&l, TOKENS, x, k, y, n, QK_S8, scratch))
    snprintf(name, sizeof name, "linear %zux%zu i16", n, k);
    MEASURE(name, macs, 0, qk_chosen->linear(&s, TOKENS, x, k, y, n, QK_S16, scratch))
    snprintf(name, sizeof name, "linear %zux%zu quad", n, k);
    MEASURE(name, macs, 0, qk_chosen->linear(&u, TOKENS, x, k, y, n, QK_U8, scratch))
    free(x), free(y), free(w), free(panels), free(bias), free(mult), free(shift), free(scratch);
}

int main(int count, char **arguments)
{
    if (qk_start(count > 1 ? arguments[1] : NULL) != 0) return 3;
    printf("%s\n", qk_chosen->name);
    const size_t shapes[][2] = {{576, 192},  {192, 192},  {768, 192}, {192, 768},  {1152, 384}, {384, 384},
                                {1536, 384}, {384, 1536}, {2304, 768}, {768, 768}, {3072, 768}, {768, 3072}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) linear(shapes[i][0], shapes[i][1]);

    enum { C = 384, N = TOKENS * C, D = 64 };
    int16_t *a = array(2 * N), *b = array(2 * N), *scores = array(2 * TOKENS * TOKENS);
    uint8_t *y = array(2 * N), *bytes = array(N), *table = array(256), *weights = array(256), *p = array(TOKENS * TOKENS);
    int32_t *gain = array(4 * C), *offset = array(4 * C), *sums = array(4 * TOKENS);
    int8_t *q = array(N), *k = array(N), *v = array(N);
    for (int d = 0; d < 256; d++) weights[d] = (uint8_t)(d < 100 ? 255 - 2 * d : 0);
    for (int i = 0; i < C; i++) gain[i] >>= 6, offset[i] >>= 11;
    const qk_ln ln = {C, 16, 0, 255, 14717300, gain, offset};
    const qk_add add = {1498102421, 1318926238, 31, 0, 0, 0, -32768, 32767};
    const qk_quad quad = {0, -32768, 10, 5, 4, 64, 0, 255, coefficients, coefficients, coefficients};
    const qk_attention head = {TOKENS, TOKENS, D, D, 1269676543, 37, 0, -32768, 32767, weights, 1302929007, 30, 141, 0, 255};
    void *scratch = array(qk_attention_scratch(TOKENS, D, D));
    MEASURE("ln i16 -> u8", 0, N, qk_chosen->ln(&ln, TOKENS, a, C, y, C, QK_U8))
    MEASURE("add_requant i16", 0, N, qk_chosen->add(&add, N, a, b, (int16_t *)y))
    MEASURE("quad i16 -> u8", 0, N, qk_chosen->quad(&quad, TOKENS, C, a, C, y, C, QK_U8))
    MEASURE("table u8", 0, N, qk_chosen->table(table, N, bytes, y))
    MEASURE("softmax i16 -> u8", 0, TOKENS * TOKENS, qk_chosen->softmax(weights, TOKENS, TOKENS, scores, TOKENS, p, TOKENS, sums))
    MEASURE("pack keys", 0, TOKENS * D, qk_chosen->pack(TOKENS, D, k, C, 1, (int8_t *)y))
    MEASURE("pack values", 0, TOKENS * D, qk_chosen->pack(D, TOKENS, v, 1, C, (int8_t *)y))
    MEASURE("attention head", 2 * TOKENS * TOKENS * D, 0, qk_chosen->attention(&head, q, C, k, C, v, C, y, C, scratch))
    return 0;
}
