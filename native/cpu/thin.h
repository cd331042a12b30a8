// Products with one thin side (a rank), that read their wide operand once: rows by a few factors, and sums over rows.
// A factor block holds the factors of up to kThinColumns columns, [rank rounded up to 4][kThinColumns], zero beyond.
#pragma once
#include "gemm_pack.h"
#include "parallel.h"
#include "transpose.h"

namespace lathe::LATHE_ISA {

constexpr int64_t kThinColumns = 512;
constexpr int64_t kThinRows = 8;                     // rows whose columns of a block stay in L1
constexpr int kDotRows = W >= 16 ? 4 : 2;            // by 4 factors: as many accumulators as the registers hold
constexpr int64_t kThinRanks = 4;

static inline int64_t padded_rank(int64_t rank) { return round_up(rank, kThinRanks); }

/// block[r][c] = factor (r, first + c); element (r, c) of `factor` at data[r·row + c·col], one of them 1.
static inline void load_factors(float* block, const Operand& factor, int64_t rank, int64_t first, int64_t columns) {
  __builtin_memset(block, 0, padded_rank(rank) * kThinColumns * 4);
  if (factor.col == 1) {
    for (int64_t r = 0; r < rank; r++) {
      const FloatRef from = factor.data.at(r * factor.row + first);
      each_vector(columns, [&](int64_t c, int n) { vstore_n(block + r * kThinColumns + c, load(from, c, n), n); });
    }
  } else {
    pack_panel(reinterpret_cast<uint32_t*>(block), {factor.data, factor.col, factor.row}, first, columns, kThinColumns,
               {kThinColumns, rank, rank, false});
  }
}

/// x as f32 rows: where it lies, or widened into `room` [kThinRows][kThinColumns].
struct ThinRows {
  const float* data;
  int64_t row;

  ThinRows(FloatRef x, int64_t stride, int64_t first_row, int64_t rows, int64_t first, int64_t columns, float* room) {
    if (!x.half) {
      data = reinterpret_cast<const float*>(x.at(first_row * stride + first).data);
      row = stride;
      return;
    }
    for (int64_t t = 0; t < rows; t++) {
      const FloatRef from = x.at((first_row + t) * stride + first);
      each_vector(columns, [&](int64_t c, int n) { vstore_n(room + t * kThinColumns + c, load(from, c, n), n); });
    }
    data = room;
    row = kThinColumns;
  }
};

/// out[t][r] += Σ_c x[t][c]·factor[r][c] for kRows rows and 4 factors.
template <int kRows>
static inline __attribute__((always_inline)) void dot_tile(float* out, int64_t out_row, const float* x, int64_t x_row,
                                                           const float* factor, int64_t columns) {
  VF sum[kRows][kThinRanks] = {};
  const auto step = [&](int64_t c, int n) __attribute__((always_inline)) {
    VF f[kThinRanks];
#pragma GCC unroll 4
    for (int r = 0; r < kThinRanks; r++) f[r] = vload_n(factor + r * kThinColumns + c, n);
#pragma GCC unroll 4
    for (int t = 0; t < kRows; t++) {
      const VF v = vload_n(x + t * x_row + c, n);
#pragma GCC unroll 4
      for (int r = 0; r < kThinRanks; r++) sum[t][r] = fma(v, f[r], sum[t][r]);
    }
  };
  int64_t c = 0;
  for (; c + W <= columns; c += W) step(c, W);
  if (c < columns) step(c, static_cast<int>(columns - c));
#pragma GCC unroll 4
  for (int t = 0; t < kRows; t++) {
#pragma GCC unroll 4
    for (int r = 0; r < kThinRanks; r++) out[t * out_row + r] += vsum(sum[t][r]);
  }
}

/// out[t][r] += Σ_c x[t][c]·factors[r][c] over a block's columns; out rows of padded_rank(rank).
static inline void dot_rows(float* out, const ThinRows& x, int64_t rows, const float* factors, int64_t rank,
                            int64_t columns) {
  const int64_t width = padded_rank(rank);
  for (int64_t r = 0; r < width; r += kThinRanks) {
    const float* f = factors + r * kThinColumns;
    int64_t t = 0;
    for (; t + kDotRows <= rows; t += kDotRows) {
      dot_tile<kDotRows>(out + t * width + r, width, x.data + t * x.row, x.row, f, columns);
    }
    for (; t < rows; t++) dot_tile<1>(out + t * width + r, width, x.data + t * x.row, x.row, f, columns);
  }
}

/// sums[r][c] += Σ_t weights[t][r]·x[t][c], in the order of t; weights of rows up to kThinRows, zero beyond `rows`.
static inline void outer_rows(float* sums, const float* weights, int64_t weights_row, const ThinRows& x, int64_t rows,
                              int64_t rank, int64_t columns) {
  each_vector(columns, [&](int64_t c, int n) __attribute__((always_inline)) {
    VF v[kThinRows];
#pragma GCC unroll 8
    for (int t = 0; t < kThinRows; t++) v[t] = t < rows ? vload_n(x.data + t * x.row + c, n) : VF{};
    for (int64_t r = 0; r < rank; r++) {
      VF sum = vload_n(sums + r * kThinColumns + c, n);
#pragma GCC unroll 8
      for (int t = 0; t < kThinRows; t++) sum = fma(vset(weights[t * weights_row + r]), v[t], sum);
      vstore_n(sums + r * kThinColumns + c, sum, n);
    }
  });
}

/// to[c·rank + r] += sums[r][c]: a block of sums into a matrix whose rows are columns of the block.
static inline void add_transposed(float* to, const float* sums, int64_t rank, int64_t columns) {
  for (int64_t r = 0; r < rank; r += W) {
    const int ranks = static_cast<int>(min(W, rank - r));
    for (int64_t c = 0; c < columns; c += W) {
      const int64_t here = min(W, columns - c);
      VU block[W];
#pragma GCC unroll 16
      for (int q = 0; q < W; q++) block[q] = q < ranks ? (VU)vload(sums + (r + q) * kThinColumns + c) : VU{};
      transpose(block);
      for (int64_t i = 0; i < here; i++) {
        float* at = to + (c + i) * rank + r;
        vstore_n(at, vload_n(at, ranks) + (VF)block[i], ranks);
      }
    }
  }
}

}  // namespace lathe::LATHE_ISA
