// The low-rank branch of a row with an adapter of its own: hidden = scale·(x·Aᵀ), then sums += hidden·Bᵀ. Every value is one
// chain in an order that depends on the adapter's sizes alone, so a row's result is the same whatever rows lie beside it.
#pragma once
#include "simd.h"
#include "transpose.h"

namespace lathe::LATHE_ISA {

constexpr int kChains = 4;           // partial sums of a dot product: W·4 elements of k a turn
constexpr int64_t kDotsAhead = 2048;  // bytes of A asked for ahead, into L2: see fetch_far in attention_narrow.h

/// hidden[t] = scale·(rows[t]·a) for R rows of x; rows and a hold `depth` elements.
template <int R, bool kHalf>
static inline __attribute__((always_inline)) void dots(float* hidden, int64_t hidden_row, FloatRef x, int64_t x_row,
                                                       FloatRef a, int64_t depth, float scale) {
  VF sum[R][kChains] = {};
  int64_t k = 0;
  for (; k + kChains * W <= depth; k += kChains * W) {
    const char* at = a.data + k * (kHalf ? 2 : 4);
#pragma GCC unroll 4
    for (int64_t line = 0; line < kChains * W * (kHalf ? 2 : 4); line += 64) {
      __builtin_prefetch(at + kDotsAhead + line, 0, 2);
    }
#pragma GCC unroll 4
    for (int q = 0; q < kChains; q++) {
      const VF right = kHalf ? bf16_to_float(reinterpret_cast<const VHm*>(at)[q])
                             : vload(reinterpret_cast<const float*>(at) + q * W);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sum[r][q] = fma(load(x, r * x_row + k + q * W), right, sum[r][q]);
    }
  }
  for (; k < depth; k += W) {
    const int n = static_cast<int>(min(W, depth - k));
    const VF right = load(a, k, n);
    for (int r = 0; r < R; r++) sum[r][0] = fma(load(x, r * x_row + k, n), right, sum[r][0]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
    hidden[r * hidden_row] = vsum((sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3])) * scale;
  }
}

template <bool kHalf>
static inline void shrink_typed(float* hidden, int64_t hidden_row, FloatRef x, int64_t rows, FloatRef a, int64_t depth,
                                int64_t rank, float scale) {
  int64_t t = 0;
  for (; t + 4 <= rows; t += 4) {
    for (int64_t r = 0; r < rank; r++) {
      dots<4, kHalf>(hidden + t * hidden_row + r, hidden_row, x.at(t * depth), depth, a.at(r * depth), depth, scale);
    }
  }
  for (; t < rows; t++) {
    for (int64_t r = 0; r < rank; r++) {
      dots<1, kHalf>(hidden + t * hidden_row + r, hidden_row, x.at(t * depth), depth, a.at(r * depth), depth, scale);
    }
  }
}

/// hidden[t·hidden_row + r] for `rows` rows of x and the `rank` rows of A [rank, depth].
static inline void shrink(float* hidden, int64_t hidden_row, FloatRef x, int64_t rows, FloatRef a, int64_t depth,
                          int64_t rank, float scale) {
  for (int64_t line = 0; line < kDotsAhead; line += 64) __builtin_prefetch(a.data + line, 0, 2);
  (a.half ? shrink_typed<true> : shrink_typed<false>)(hidden, hidden_row, x, rows, a, depth, rank, scale);
}

constexpr int64_t kColumnsAhead = 64;  // of B: what thin_products comes to next
constexpr int kRanks = W < 8 ? W : 8;  // ranks of B turned at a time; ranks are multiples of 8

/// turned[r] = B[c … c+W, r] for kRanks ranks; b points at B[c, first rank], rows `rank` apart, `columns` of them there.
static inline __attribute__((always_inline)) void turn_columns(VF turned[kRanks], FloatRef b, int64_t rank,
                                                               int64_t columns) {
#if defined(__AVX512F__)
  // Two columns a register (c and c + 8), then 8×8 within each half.
  const auto eight = [&](int64_t column) {
    const int64_t at = min(column, columns - 1) * rank;
    if (!b.half) return _mm256_loadu_ps(reinterpret_cast<const float*>(b.data) + at);
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b.data + at * 2));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  };
  __m512 r[8], u[8];
#pragma GCC unroll 8
  for (int q = 0; q < 8; q++) r[q] = _mm512_insertf32x8(_mm512_castps256_ps512(eight(q)), eight(q + 8), 1);
#pragma GCC unroll 4
  for (int q = 0; q < 8; q += 2) {
    u[q] = _mm512_unpacklo_ps(r[q], r[q + 1]);
    u[q + 1] = _mm512_unpackhi_ps(r[q], r[q + 1]);
  }
#pragma GCC unroll 2
  for (int q = 0; q < 8; q += 4) {
    const auto low = [](__m512 a, __m512 c) {
      return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
    };
    const auto high = [](__m512 a, __m512 c) {
      return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
    };
    r[q] = low(u[q], u[q + 2]);
    r[q + 1] = high(u[q], u[q + 2]);
    r[q + 2] = low(u[q + 1], u[q + 3]);
    r[q + 3] = high(u[q + 1], u[q + 3]);
  }
  // r[q] holds ranks q (lower 128 bits of each half) and q + 4 of columns 0–3, r[q + 4] of columns 4–7.
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 4
  for (int q = 0; q < 4; q++) {
    const __m512d a = _mm512_castps_pd(r[q]), c = _mm512_castps_pd(r[q + 4]);
    turned[q] = (VF)_mm512_permutex2var_pd(a, first, c);
    turned[q + 4] = (VF)_mm512_permutex2var_pd(a, second, c);
  }
#else
  VU block[W];
  for (int q = 0; q < W; q++) block[q] = (VU)load(b, min(q, columns - 1) * rank);
  transpose(block);
  for (int r = 0; r < kRanks; r++) turned[r] = (VF)block[r];
#endif
}

#if defined(__AVX512F__)

/// W sums of bf16 B: a register holds 4 columns of 8 ranks, the even ranks of a pair apart from the odd ones, and the
/// four partial sums of each column meet at the end.
static inline __attribute__((always_inline)) VF expand_halves(const uint16_t* b, const float* hidden, int64_t rank,
                                                              int64_t columns) {
  VF part[4] = {};
  for (int64_t r = 0; r < rank; r += 8) {
    const __m512 h = _mm512_broadcast_f32x8(_mm256_loadu_ps(hidden + r));
    const VF even = (VF)_mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6), h);
    const VF odd = (VF)_mm512_permutexvar_ps(_mm512_setr_epi32(1, 3, 5, 7, 1, 3, 5, 7, 1, 3, 5, 7, 1, 3, 5, 7), h);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
      const auto eight = [&](int64_t column) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + min(column, columns - 1) * rank + r));
      };
      __m512i pairs;
      if (rank == 8 && columns >= W) {
        pairs = _mm512_loadu_si512(b + v * 32);
      } else {
        pairs = _mm512_castsi128_si512(eight(4 * v));
        pairs = _mm512_inserti32x4(pairs, eight(4 * v + 1), 1);
        pairs = _mm512_inserti32x4(pairs, eight(4 * v + 2), 2);
        pairs = _mm512_inserti32x4(pairs, eight(4 * v + 3), 3);
      }
      part[v] = fma((VF)((VU)pairs << 16), even, part[v]);
      part[v] = fma((VF)((VU)pairs & 0xFFFF0000u), odd, part[v]);
    }
  }
  const auto fold = [](VF x, VF y) {  // per 128 bits: x0+x2, y0+y2, x1+x3, y1+y3
    return (__m512d)((VF)_mm512_unpacklo_ps((__m512)x, (__m512)y) + (VF)_mm512_unpackhi_ps((__m512)x, (__m512)y));
  };
  const __m512d low = fold(part[0], part[1]), high = fold(part[2], part[3]);
  const VF sums = (VF)_mm512_unpacklo_pd(low, high) + (VF)_mm512_unpackhi_pd(low, high);  // column 4v+i at 4i+v
  return (VF)_mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), (__m512)sums);
}

#endif

/// sums[j] += Σ_r hidden[r]·B[j, r] for `columns` columns; B [columns, rank].
static inline void expand(float* sums, FloatRef b, const float* hidden, int64_t rank, int64_t columns) {
  for (int64_t j = 0; j < columns; j += W) {
    const int n = static_cast<int>(min(W, columns - j));
    VF sum = vload_n(sums + j, n);
    const char* ahead = b.at((j + kColumnsAhead) * rank).data;
    for (int64_t line = 0; line < W * rank * (b.half ? 2 : 4); line += 64) __builtin_prefetch(ahead + line, 0, 2);
#if defined(__AVX512F__)
    if (b.half) {
      vstore_n(sums + j, sum + expand_halves(reinterpret_cast<const uint16_t*>(b.at(j * rank).data), hidden, rank, n), n);
      continue;
    }
#endif
    for (int64_t r = 0; r < rank; r += kRanks) {
      VF turned[kRanks];
      turn_columns(turned, b.at(j * rank + r), rank, n);
#pragma GCC unroll 8
      for (int q = 0; q < kRanks; q++) sum = fma(vset(hidden[r + q]), turned[q], sum);
    }
    vstore_n(sums + j, sum, n);
  }
}

}  // namespace lathe::LATHE_ISA
