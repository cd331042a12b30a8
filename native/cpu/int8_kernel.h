// How one instruction set multiplies rows of 16 bits with a panel of int8 weights: [depth/4][32 columns][4 k], depth a
// multiple of 64. Sums of integers have no order, so every kernel, batch and number of threads gives the same bits.
#pragma once
#include "int8_rows.h"

namespace lathe::LATHE_ISA {

constexpr int64_t kInt8Rows = 16;       // most rows of a chunk
constexpr int64_t kInt8StepBytes = kPanelWidth * kInt8Fill;
constexpr int64_t kChunkHead = 2 * kInt8Rows * 4;  // what a kernel notes of the rows

/// Rows of x in the form that the kernel reads, 2·depth bytes each behind kChunkHead bytes.
struct Int8Kernel {
  /// Row r of a chunk of `rows`.
  void (*place)(char* chunk, int64_t rows, int64_t r, const int16_t* numbers, int64_t depth);
  /// sums[r][32] = Σ_k numbers[r][k]·panel[k][column], exact, rounded once to f32. ahead: asks for what lies so many bytes
  /// behind what is read; 0 for nothing.
  void (*multiply)(float* sums, const char* chunk, int64_t rows, const char* panel, int64_t depth, int64_t ahead);
};

#if defined(__AVX512F__)

/// 256·high + low as f32: in f64 it is exact.
static inline VF joined(VI high, VI low) {
  const auto half = [](__m256i h, __m256i l) {
    return _mm512_cvtpd_ps(_mm512_fmadd_pd(_mm512_cvtepi32_pd(h), _mm512_set1_pd(256), _mm512_cvtepi32_pd(l)));
  };
  const __m512i h = (__m512i)high, l = (__m512i)low;
  const __m256 lower = half(_mm512_castsi512_si256(h), _mm512_castsi512_si256(l));
  const __m256 upper = half(_mm512_extracti64x4_epi64(h, 1), _mm512_extracti64x4_epi64(l, 1));
  return (VF)_mm512_insertf32x8(_mm512_castps256_ps512(lower), upper, 1);
}

/// 32 numbers as their high and low bytes: number = 256·high + low, both −128…127.
static inline void split_bytes(__m256i* high, __m256i* low, const int16_t* numbers) {
  const __m512i number = _mm512_loadu_si512(numbers);
  *high = _mm512_cvtepi16_epi8(_mm512_srai_epi16(_mm512_add_epi16(number, _mm512_set1_epi16(128)), 8));
  *low = _mm512_cvtepi16_epi8(number);
}

#endif

}  // namespace lathe::LATHE_ISA
