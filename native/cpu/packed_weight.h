// Weights that packWeight and packWeightInt8 laid out, as kernels read them, and products with them.
#pragma once
#include "../core/ops.h"
#include "gemm.h"

namespace lathe::LATHE_ISA {

/// W [n, k] as panels of kPanelWidth rows. f32 and bf16: see gemm_pack.h. int8 (dtype u8): for every pair of k and every
/// 16 rows, the numbers of k even, then those of k odd; a row's weights are its numbers times scales[row].
struct PackedWeight {
  int64_t n, k;
  DType dtype;
  const float* scales;  // int8 only; rows beyond n have scale 0
  const char* panels;

  explicit PackedWeight(In packed);

  bool int8() const { return dtype == DType::u8; }
  int64_t pairs() const { return (k + 1) / 2; }
  int64_t panel_count() const { return (n + kPanelWidth - 1) / kPanelWidth; }
  int64_t panel_bytes() const {
    return kPanelWidth * (int8() ? 2 * pairs() : dtype == DType::bf16 ? 4 * pairs() : 4 * k);
  }
};

/// C = alpha·A·Wᵀ + beta·C for any number of rows; a row's result does not depend on how many there are.
void multiply_packed_weight(const Product& c, const Operand& a, const PackedWeight& w, int64_t m);

/// W [n, k] as int8 panels: per row, scale = largest magnitude / 127 and numbers rounded to the nearest (ties to even).
void pack_int8(Out packed, In w);

/// W numbers as f32. By hand: the compiler's own conversion of such vectors goes number by number.
static inline __attribute__((always_inline)) VF int8_to_float(const int8_t* from) {
#if defined(__AVX512F__)
  const __m128i numbers = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return (VF)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(numbers));
#elif defined(__AVX2__)
  const __m128i numbers = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return (VF)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(numbers));
#else
  VF wide;
  for (int i = 0; i < W; i++) wide[i] = from[i];
  return wide;
#endif
}

/// W pairs of int8 (of 32 bytes: 16 numbers of k even, 16 of k odd) as bf16 pairs.
static inline __attribute__((always_inline)) VU bf16_pairs(const int8_t* from) {
  const VF even = int8_to_float(from), odd = int8_to_float(from + 16);
  return (VU)even >> 16 | ((VU)odd & vuset(0xFFFF0000u));  // small integers: their lower 16 bits are zero
}

}  // namespace lathe::LATHE_ISA
