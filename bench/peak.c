/* The processor's limit for 8-bit products: nothing but VPDPBUSD on registers, 64 multiply-accumulates each.

   24 accumulators: more than latency times throughput of any core so far, and few enough to stay in the 32 registers. */

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define ACCUMULATORS(X)                                                                                                \
  X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)                                                       \
  X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define DECLARE(i) __m512i a##i = _mm512_set1_epi32(i);
/* assembly, so that no compiler may fold equal products into one */
#define STEP(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(a##i) : "v"(x), "v"(y));
#define SUM(i) sum = _mm512_add_epi32(sum, a##i);

/* -> multiply-accumulates done; *result depends on all of them */
__attribute__((target("avx512f,avx512bw,avx512vnni"))) static int64_t vnni(int64_t rounds, int32_t *result) {
  __m512i x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(5), sum = _mm512_setzero_si512();
  ACCUMULATORS(DECLARE)
  for (int64_t i = 0; i < rounds; i++) {
    ACCUMULATORS(STEP)
  }
  ACCUMULATORS(SUM)
  *result = _mm512_reduce_add_epi32(sum);
  return rounds * 24 * 64;
}

/* `rounds` of 24 instructions; -> multiply-accumulates done, 0 where the processor has no AVX512-VNNI */
int64_t peak(int64_t rounds, int32_t *result) {
  return __builtin_cpu_supports("avx512vnni") ? vnni(rounds, result) : 0;
}
#else
int64_t peak(int64_t rounds, int32_t *result) {
  (void)rounds;
  *result = 0;
  return 0;
}
#endif
