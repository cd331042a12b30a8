// Micro-kernels of the matrix product: a tile of R rows by 32 columns kept in registers over a block of k.
// Operands come packed (gemm_pack.h), so all k steps are unit-stride. Each element of the tile is one chain of
// multiply-adds in ascending k, started at zero, and is added to the blocks before it: short chains lose fewer bits, and
// an element's value depends on nothing but its own row and column.
#pragma once
#include "../core/ops.h"
#include "simd.h"

namespace lathe::LATHE_ISA {

#if defined(__AVX512F__)
constexpr int kTileRows = 12;  // 24 accumulators of 32 registers
#elif defined(__AVX2__)
constexpr int kTileRows = 6;  // 12 of 16
#else
constexpr int kTileRows = 4;
#endif
constexpr int kPanel = kPanelWidth;
constexpr int64_t kBlockK = 256;         // k of a chain: 32 KB of a panel, which stay in L1 while rows pass
constexpr int64_t kStepsAhead = 16;  // prefetch distance

/// How a step multiplies. `single`: one k, f32·f32. `half_rows`: the same with B as rows of bf16. `pairs`: two k,
/// f32 by bf16 pairs widened on the fly. `dot`: two k, bf16 pairs by bf16 pairs with vdpbf16ps.
enum class Step { single, half_rows, pairs, dot };

#if defined(__AVX512BF16__)
constexpr bool kHasDot = true;
static inline VF dot_pair(VF acc, uint32_t a, VU b) {
  return (VF)_mm512_dpbf16_ps((__m512)acc, (__m512bh)vuset(a), (__m512bh)b);
}
#else
constexpr bool kHasDot = false;
static inline VF dot_pair(VF acc, uint32_t, VU) { return acc; }  // never chosen: see Depth in gemm.cc
#endif

/// How finished sums go to C: alpha·sum + beta·C (C not read for beta 0), in C's type.
struct Finish {
  float alpha, beta;
  bool half;
};

/// What a tile is added to and where it goes. start: f32 sums of earlier steps (row stride start_row), null for
/// zero. finish: null stores the sums as they are, in f32; then out_row counts elements of that type.
struct TileEnds {
  const float* start;
  int64_t start_row;
  char* out;
  int64_t out_row;
  const Finish* finish;

  TileEnds at(int64_t column) const {
    const int64_t bytes = finish && finish->half ? 2 : 4;
    return {start ? start + column : nullptr, start_row, out + column * bytes, out_row, finish};
  }
};

static inline TileEnds plain_ends(const float* start, float* out, int64_t row) {
  return {start, row, reinterpret_cast<char*>(out), row, nullptr};
}

static inline __attribute__((always_inline)) void finish_vector(const TileEnds& t, int64_t at, VF sum) {
  if (!t.finish) {
    vstore(reinterpret_cast<float*>(t.out) + at, sum);
    return;
  }
  const FloatRef out(t.out, t.finish->half);
  sum = vset(t.finish->alpha) * sum;
  if (t.finish->beta != 0) sum = fma(vset(t.finish->beta), load(out, at), sum);
  store(out, at, sum);
}

/// out[R, 2 vectors] = finish(start + Σ_step a·b), the sum made first. A: step s, row r at a[s·a_step + r·kRowStride] (in 32-bit
/// units; `pairs` has two consecutive a_steps per step); B: step s at b[s·b_step], two vectors wide (for half_rows
/// in elements of bf16).
template <Step kStep, int R, int kRowStride>
static inline __attribute__((always_inline)) void micro_tile(int64_t steps, const float* a, int64_t a_step,
                                                             const float* b, int64_t b_step, const TileEnds& t) {
  VF acc[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    acc[r][0] = VF{};
    acc[r][1] = VF{};
  }
  const uint16_t* rows = reinterpret_cast<const uint16_t*>(b);
  for (int64_t s = 0; s < steps; s++, b += b_step, rows += b_step, a += a_step) {
    constexpr bool kRows = kStep == Step::half_rows;
    const VF b0 = kRows ? bf16_to_float(*reinterpret_cast<const VHm*>(rows)) : vload(b);
    const VF b1 = kRows ? bf16_to_float(*reinterpret_cast<const VHm*>(rows + W)) : vload(b + W);
    if constexpr (R <= 8 && (kStep == Step::single || kRows)) {
      // A thin product reads rows of B in place, a row of the matrix apart: nothing in hardware runs ahead.
      const int64_t ahead = kStepsAhead * b_step;
      const auto* next = kRows ? reinterpret_cast<const char*>(rows + ahead) : reinterpret_cast<const char*>(b + ahead);
      __builtin_prefetch(next);
      if (!kRows) __builtin_prefetch(next + 64);
    }
    if constexpr (kStep == Step::single || kRows) {
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const VF ar = vset(a[r * kRowStride]);
        acc[r][0] = fma(ar, b0, acc[r][0]);
        acc[r][1] = fma(ar, b1, acc[r][1]);
      }
    } else if constexpr (kStep == Step::pairs) {
      const VF low0 = (VF)((VU)b0 << 16), low1 = (VF)((VU)b1 << 16);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const VF ar = vset(a[r * kRowStride]);
        acc[r][0] = fma(ar, low0, acc[r][0]);
        acc[r][1] = fma(ar, low1, acc[r][1]);
      }
      a += a_step;
      const VF high0 = (VF)((VU)b0 & 0xFFFF0000u), high1 = (VF)((VU)b1 & 0xFFFF0000u);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const VF ar = vset(a[r * kRowStride]);
        acc[r][0] = fma(ar, high0, acc[r][0]);
        acc[r][1] = fma(ar, high1, acc[r][1]);
      }
    } else {
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const uint32_t ar = *reinterpret_cast<const U32m*>(a + r * kRowStride);
        acc[r][0] = dot_pair(acc[r][0], ar, (VU)b0);
        acc[r][1] = dot_pair(acc[r][1], ar, (VU)b1);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    const float* start = t.start ? t.start + r * t.start_row : nullptr;
    finish_vector(t, r * t.out_row, start ? vload(start) + acc[r][0] : acc[r][0]);
    finish_vector(t, r * t.out_row + W, start ? vload(start + W) + acc[r][1] : acc[r][1]);
  }
}

/// A whole panel's width: 32 columns, as many vector pairs as that takes.
template <Step kStep, int R, int kRowStride = 1>
static void panel_tile(int64_t steps, const float* a, int64_t a_step, const float* b, int64_t b_step,
                       const TileEnds& t) {
  for (int j = 0; j < kPanel; j += 2 * W) {
    micro_tile<kStep, R, kRowStride>(steps, a, a_step, kStep == Step::half_rows ? b + j / 2 : b + j, b_step, t.at(j));
  }
}

/// Row counts that have a kernel; a smaller remainder is padded with zero rows up to the next one.
static inline int tile_rows(int64_t rows) {
  if (rows >= kTileRows) return kTileRows;
  if (rows > 8) return kTileRows;
  if (rows > 4) return kTileRows < 8 ? kTileRows : 8;
  return rows > 2 ? 4 : rows > 1 ? 2 : 1;
}

}  // namespace lathe::LATHE_ISA
