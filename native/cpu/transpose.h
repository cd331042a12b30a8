// A square of 32-bit lanes transposed in registers.
#pragma once
#include "simd.h"

namespace lathe::LATHE_ISA {

#if defined(__AVX512F__)
static inline VU low32(VU a, VU b) { return (VU)_mm512_unpacklo_epi32((__m512i)a, (__m512i)b); }
static inline VU high32(VU a, VU b) { return (VU)_mm512_unpackhi_epi32((__m512i)a, (__m512i)b); }
static inline VU low64(VU a, VU b) { return (VU)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b); }
static inline VU high64(VU a, VU b) { return (VU)_mm512_unpackhi_epi64((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
static inline VU low32(VU a, VU b) { return (VU)_mm256_unpacklo_epi32((__m256i)a, (__m256i)b); }
static inline VU high32(VU a, VU b) { return (VU)_mm256_unpackhi_epi32((__m256i)a, (__m256i)b); }
static inline VU low64(VU a, VU b) { return (VU)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b); }
static inline VU high64(VU a, VU b) { return (VU)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b); }
#else
static inline VU low32(VU a, VU b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
static inline VU high32(VU a, VU b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
static inline VU low64(VU a, VU b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
static inline VU high64(VU a, VU b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }
#endif

/// r[i][j] → r[j][i]. First 4×4 within each 128-bit lane, then whole lanes.
static inline __attribute__((always_inline)) void transpose(VU r[W]) {
  VU u[W];
#pragma GCC unroll 4
  for (int g = 0; g < W; g += 4) {
    const VU a = low32(r[g], r[g + 1]), b = low32(r[g + 2], r[g + 3]);
    const VU c = high32(r[g], r[g + 1]), d = high32(r[g + 2], r[g + 3]);
    u[g] = low64(a, b);
    u[g + 1] = high64(a, b);
    u[g + 2] = low64(c, d);
    u[g + 3] = high64(c, d);
  }
#pragma GCC unroll 4
  for (int q = 0; q < 4; q++) {
#if defined(__AVX512F__)
    const __m512i a = (__m512i)u[q], b = (__m512i)u[4 + q], c = (__m512i)u[8 + q], d = (__m512i)u[12 + q];
    const __m512i even_ab = _mm512_shuffle_i32x4(a, b, 0x88), odd_ab = _mm512_shuffle_i32x4(a, b, 0xDD);
    const __m512i even_cd = _mm512_shuffle_i32x4(c, d, 0x88), odd_cd = _mm512_shuffle_i32x4(c, d, 0xDD);
    r[q] = (VU)_mm512_shuffle_i32x4(even_ab, even_cd, 0x88);
    r[4 + q] = (VU)_mm512_shuffle_i32x4(odd_ab, odd_cd, 0x88);
    r[8 + q] = (VU)_mm512_shuffle_i32x4(even_ab, even_cd, 0xDD);
    r[12 + q] = (VU)_mm512_shuffle_i32x4(odd_ab, odd_cd, 0xDD);
#elif defined(__AVX2__)
    r[q] = (VU)_mm256_permute2x128_si256((__m256i)u[q], (__m256i)u[4 + q], 0x20);
    r[4 + q] = (VU)_mm256_permute2x128_si256((__m256i)u[q], (__m256i)u[4 + q], 0x31);
#else
    r[q] = u[q];
#endif
  }
}

}  // namespace lathe::LATHE_ISA
