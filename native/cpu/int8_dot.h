// Rows of 16 bits by int8 weights with AVX-512 VNNI: vpdpbusd multiplies unsigned bytes, here weight + 128, with the signed
// high and low bytes of x; 128·Σx is taken off at the end. The processor is asked whether it has the instruction.
#pragma once
#include "int8_kernel.h"

namespace lathe::LATHE_ISA {

#if defined(__AVX512F__) && !defined(__AMX_INT8__)

#define LATHE_VNNI __attribute__((target("avx512vnni")))

/// A chunk is rows of [high bytes, low bytes]; the head has the sums of the rows' high bytes, then of their low ones.
LATHE_VNNI static void place_for_dots(char* chunk, int64_t, int64_t r, const int16_t* numbers, int64_t depth) {
  char* to = chunk + kChunkHead + r * 2 * depth;
  int32_t* head = reinterpret_cast<int32_t*>(chunk) + r;
  __m256i all[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  const __m256i bytes_of_one = _mm256_set1_epi8(1);
  for (int64_t k = 0; k < depth; k += 32) {
    __m256i part[2];
    split_bytes(&part[0], &part[1], numbers + k);
    for (int p = 0; p < 2; p++) {
      _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to + p * depth + k), part[p]);
      const __m256i pairs = _mm256_maddubs_epi16(bytes_of_one, part[p]);
      all[p] = _mm256_add_epi32(all[p], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
  }
  for (int p = 0; p < 2; p++) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), all[p]);
    int32_t sum = 0;
    for (int i = 0; i < 8; i++) sum += lanes[i];
    head[p * kInt8Rows] = sum;
  }
}

/// kRows rows by one panel. int32 wraps on the way; what is left when 128·Σx is taken off fits (int8_tiles.h).
template <int kRows>
LATHE_VNNI static void dot_rows(float* sums, const char* rows, const int32_t* head, const char* panel, int64_t depth,
                                int64_t ahead) {
  __m512i sum[kRows][2][2] = {};
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  for (int64_t k = 0; k < depth; k += 4, panel += kPanelWidth * 4) {
    if (ahead > 0) _mm_prefetch(panel + ahead, _MM_HINT_T1), _mm_prefetch(panel + ahead + 64, _MM_HINT_T1);
    const __m512i left = _mm512_xor_si512(_mm512_loadu_si512(panel), flip);
    const __m512i right = _mm512_xor_si512(_mm512_loadu_si512(panel + 64), flip);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 2
      for (int p = 0; p < 2; p++) {
        int32_t four;
        __builtin_memcpy(&four, rows + (2 * r + p) * depth + k, 4);
        const __m512i x = _mm512_set1_epi32(four);
        sum[r][p][0] = _mm512_dpbusd_epi32(sum[r][p][0], left, x);
        sum[r][p][1] = _mm512_dpbusd_epi32(sum[r][p][1], right, x);
      }
    }
  }
  for (int r = 0; r < kRows; r++) {
    for (int half = 0; half < 2; half++) {
      const auto signed_sum = [&](int p) {
        return (VI)_mm512_sub_epi32(sum[r][p][half], _mm512_set1_epi32(128 * head[p * kInt8Rows + r]));
      };
      vstore(sums + r * kPanelWidth + half * W, joined(signed_sum(0), signed_sum(1)));
    }
  }
}

LATHE_VNNI static void multiply_with_dots(float* sums, const char* chunk, int64_t rows, const char* panel, int64_t depth,
                                          int64_t ahead) {
  constexpr int kTogether = 4;
  const auto* head = reinterpret_cast<const int32_t*>(chunk);
  const char* x = chunk + kChunkHead;
  for (int64_t r = 0; r < rows; r += kTogether) {
    const int64_t count = min(kTogether, rows - r);
    const auto run = count == 4 ? dot_rows<4> : count == 3 ? dot_rows<3> : count == 2 ? dot_rows<2> : dot_rows<1>;
    run(sums + r * kPanelWidth, x + r * 2 * depth, head + r, panel, depth, r == 0 ? ahead : 0);
  }
}

#undef LATHE_VNNI

#endif

}  // namespace lathe::LATHE_ISA
