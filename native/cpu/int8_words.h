// Rows of 16 bits by int8 weights in 16-bit products and int32 sums: with AVX2 (vpmaddwd), or plainly. Blocks of 512 k
// cannot overflow (512·32,639·127 < 2³¹) and are added in f64, which holds the whole sum exactly.
#pragma once
#include "int8_kernel.h"

namespace lathe::LATHE_ISA {

constexpr int64_t kWordsBlock = 512;

/// A chunk is rows of 16-bit numbers.
static inline void place_words(char* chunk, int64_t, int64_t r, const int16_t* numbers, int64_t depth) {
  __builtin_memcpy(chunk + kChunkHead + r * 2 * depth, numbers, depth * 2);
}

/// sums[32] = Σ x[k]·panel[k][column] over a block.
static inline void block_sums(int32_t* sums, const int16_t* x, const char* panel, int64_t depth) {
#if defined(__AVX2__)
  for (int64_t half = 0; half < 2; half++) {
    __m256i sum[4] = {};  // four columns each: their even and odd pairs of k
    const char* w = panel + half * 64;
    for (int64_t k = 0; k < depth; k += 4, w += kPanelWidth * 4) {
      int64_t four;
      __builtin_memcpy(&four, x + k, 8);
      const __m256i numbers = _mm256_set1_epi64x(four);
#pragma GCC unroll 4
      for (int q = 0; q < 4; q++) {
        const __m256i words = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w + q * 16)));
        sum[q] = _mm256_add_epi32(sum[q], _mm256_madd_epi16(words, numbers));
      }
    }
    for (int q = 0; q < 4; q++) {
      alignas(32) int32_t pairs[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(pairs), sum[q]);
      for (int c = 0; c < 4; c++) sums[half * 16 + q * 4 + c] = pairs[2 * c] + pairs[2 * c + 1];
    }
  }
#else
  const auto* w = reinterpret_cast<const int8_t*>(panel);
  for (int64_t c = 0; c < kPanelWidth; c++) sums[c] = 0;
  for (int64_t k = 0; k < depth; k += 4, w += kPanelWidth * 4) {
    for (int64_t c = 0; c < kPanelWidth; c++) {
      sums[c] += x[k] * w[c * 4] + x[k + 1] * w[c * 4 + 1] + x[k + 2] * w[c * 4 + 2] + x[k + 3] * w[c * 4 + 3];
    }
  }
#endif
}

static inline void multiply_words(float* sums, const char* chunk, int64_t rows, const char* panel, int64_t depth,
                                  int64_t ahead) {
  for (int64_t r = 0; r < rows; r++, sums += kPanelWidth) {
    const auto* x = reinterpret_cast<const int16_t*>(chunk + kChunkHead + r * 2 * depth);
    double totals[kPanelWidth] = {};
    for (int64_t k = 0; k < depth; k += kWordsBlock) {
      int32_t block[kPanelWidth];
      const int64_t here = min(kWordsBlock, depth - k), bytes = here * kPanelWidth;
      const char* from = panel + k * kPanelWidth;
      for (int64_t i = 0; ahead > 0 && r == 0 && i < bytes; i += 64) __builtin_prefetch(from + bytes + i, 0, 2);
      block_sums(block, x + k, from, here);
      for (int64_t c = 0; c < kPanelWidth; c++) totals[c] += block[c];
    }
    for (int64_t c = 0; c < kPanelWidth; c++) sums[c] = static_cast<float>(totals[c]);
  }
}

}  // namespace lathe::LATHE_ISA
