// The left operand of a product on AMX tiles: rows as tiles of bf16, f32 split into parts that add up to it.
#pragma once
#include "../core/ops.h"
#include "gemm_pack.h"
#include "transpose.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)

constexpr int kSide = 16;             // rows of a tile, and its columns of f32
constexpr int64_t kStepK = 32;        // k of one tile instruction
constexpr int64_t kStepUnits = 16;    // the same in pairs
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kRows = 2 * kSide;  // rows of C that go through the tiles together
constexpr int64_t kPanel = kPanelWidth;
constexpr int kParts = 2;
/// The upper 16 bits of the lanes: bf16 by truncation.
static inline __m256i upper(VU v) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)v, 16)); }

/// Rounds to nearest even on the way to the upper 16 bits; NaN stays one.
static inline VU to_nearest(VF x) {
  const VU bits = (VU)x, rounded = bits + vuset(0x7FFF) + (bits >> 16 & vuset(1));
  return (VU)_mm512_mask_mov_epi32((__m512i)rounded, _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q),
                                   (__m512i)bits);
}

/// Splits x into parts whose upper halves count: each takes what the ones before it left over, which is exact.
template <int kPartCount>
static inline void split(VF x, VU parts[kPartCount]) {
#pragma GCC unroll 4
  for (int p = 0; p < kPartCount; p++) {
    parts[p] = to_nearest(x);
    if (p + 1 < kPartCount) x -= (VF)(parts[p] & vuset(0xFFFF0000u));
  }
}

/// Where the tile row of row r, part p of a step lies.
template <int kPartCount>
static inline char* tile_row(char* dst, int64_t s, int p, int64_t r) {
  return dst + ((s * kPartCount + p) * 2 + r / kSide) * kTileBytes + r % kSide * 64;
}

/// Rows of f32 that are contiguous in k.
template <int kPartCount>
static inline void pack_floats_along_k(char* dst, const float* source, int64_t row, int64_t rows, int64_t depth) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t s = 0; s * kStepK < depth; s++) {
      VU low[kPartCount], high[kPartCount];
      const float* from = source + r * row + s * kStepK;
      const int64_t left = depth - s * kStepK;
      split<kPartCount>(left >= W ? vload(from) : vload_part(from, static_cast<int>(left)), low);
      const int64_t more = left - W;
      split<kPartCount>(more >= W ? vload(from + W) : more > 0 ? vload_part(from + W, static_cast<int>(more)) : VF{}, high);
#pragma GCC unroll 4
      for (int p = 0; p < kPartCount; p++) {
        char* to = tile_row<kPartCount>(dst, s, p, r);
        _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to), upper(low[p]));
        _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to + 32), upper(high[p]));
      }
    }
  }
}

/// Any operand: 16 rows at a time, pairs of k in 16 registers, transposed into tile rows.
template <int kPartCount>
static inline void pack_pairs(char* dst, const Operand& a, int64_t rows, int64_t depth) {
  const auto lanes = [&](int64_t i, int64_t k, int n) {
    if (k >= depth || n <= 0) return VF{};
    if (a.row == 1) return load(a.data, i + k * a.col, n);
    VF v = {};
    for (int j = 0; j < n; j++) v[j] = load(a.data, (i + j) * a.row + k * a.col, 1)[0];
    return v;
  };
  for (int64_t i = 0; i < kRows; i += kSide) {
    const int n = static_cast<int>(min(kSide, rows - i));
    for (int64_t s = 0; s * kStepK < depth; s++) {
      VU parts[kPartCount][W];
      for (int u = 0; u < W; u++) {
        VU even[kPartCount], odd[kPartCount];
        split<kPartCount>(lanes(i, s * kStepK + 2 * u, n), even);
        split<kPartCount>(lanes(i, s * kStepK + 2 * u + 1, n), odd);
#pragma GCC unroll 4
        for (int p = 0; p < kPartCount; p++) parts[p][u] = even[p] >> 16 | (odd[p] & vuset(0xFFFF0000u));
      }
#pragma GCC unroll 4
      for (int p = 0; p < kPartCount; p++) {
        transpose(parts[p]);
        for (int r = 0; r < kSide; r++) {
          *reinterpret_cast<VUm*>(tile_row<kPartCount>(dst, s, p, i + r)) = parts[p][r];
        }
      }
    }
  }
}

static inline void zero_rows(char* dst, int64_t first, int64_t steps, int parts) {
  for (int64_t t = 0; t < steps * parts * 2; t++) {
    const int64_t from = max(0, first - t % 2 * kSide);
    if (from < kSide) __builtin_memset(dst + t * kTileBytes + from * 64, 0, (kSide - from) * 64);
  }
}

/// Rows [0, rows) of `a`, k in [0, depth), as the tiles of kRows rows.
static inline void pack_left(char* dst, const Operand& a, int64_t rows, int64_t depth, int parts) {
  const int64_t steps = (depth + kStepK - 1) / kStepK;
  if (!a.data.half && a.col == 1) {
    const auto* source = reinterpret_cast<const float*>(a.data.data);
    parts == 1 ? pack_floats_along_k<1>(dst, source, a.row, rows, depth)
               : pack_floats_along_k<kParts>(dst, source, a.row, rows, depth);
    zero_rows(dst, rows, steps, parts);
  } else if (parts > 1) {
    pack_pairs<kParts>(dst, a, rows, depth);
  } else if (a.col == 1 && depth % kStepK == 0) {
    for (int64_t r = 0; r < rows; r++) {
      const char* from = a.data.at(r * a.row).data;
      for (int64_t s = 0; s < steps; s++) *reinterpret_cast<VUm*>(tile_row<1>(dst, s, 0, r)) = *reinterpret_cast<const VUm*>(from + s * 64);
    }
    zero_rows(dst, rows, steps, 1);
  } else {
    pack_pairs<1>(dst, a, rows, depth);
  }
}

#endif

}  // namespace lathe::LATHE_ISA
