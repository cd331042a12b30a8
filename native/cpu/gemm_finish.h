// The end of a product: a block of finished sums on its way to C.
#pragma once
#include "../core/ops.h"
#include "gemm.h"
#include "transpose.h"

namespace lathe::LATHE_ISA {

/// n elements of C at `at`, from sums that are done: alpha·sums + beta·C.
static inline __attribute__((always_inline)) void write_sums(const Product& c, FloatRef to, int64_t at, VF sums, int n) {
  const VF v = vset(c.alpha) * sums;
  const VF result = c.beta == 0 ? v : fma(vset(c.beta), load(to, at, n), v);
#if defined(__AVX512BF16__)
  if (to.half && n == W) {
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to.data + at * 2), (__m256i)_mm512_cvtneps_pbh((__m512)result));
    return;
  }
#endif
  store(to, at, result, n);
}

/// The same for up to W rows of sums by up to W columns, C lying by columns.
static inline void write_turned(const Product& c, const float* sums, int64_t i0, int rows, int64_t j0, int columns) {
  VU block[W];
#pragma GCC unroll 16
  for (int r = 0; r < W; r++) block[r] = r < rows ? (VU)vload(sums + r * kPanelWidth) : VU{};
  transpose(block);
  if (rows == W && columns == W) {
#pragma GCC unroll 16
    for (int j = 0; j < W; j++) write_sums(c, c.data.at(i0 + (j0 + j) * c.col), 0, (VF)block[j], W);
  } else {
    for (int j = 0; j < columns; j++) write_sums(c, c.data.at(i0 + (j0 + j) * c.col), 0, (VF)block[j], rows);
  }
}

/// C[i0…, j0…] = alpha·sums + beta·C for a block of rows × columns ≤ kPanelWidth; sums: rows of kPanelWidth floats.
static inline void write_tile(const Product& c, const float* sums, int64_t i0, int64_t rows, int64_t j0,
                              int64_t columns) {
  for (int64_t r = 0; c.col == 1 && r < rows; r++) {
    const FloatRef to = c.data.at((i0 + r) * c.row + j0);
    each_vector(columns, [&](int64_t j, int n) { write_sums(c, to, j, vload_n(sums + r * kPanelWidth + j, n), n); });
  }
  if (c.col == 1) return;
  for (int64_t r = 0; r < rows; r += W) {
    for (int64_t j = 0; j < columns; j += W) {
      const float* from = sums + r * kPanelWidth + j;
      const int rows_here = static_cast<int>(min(W, rows - r)), columns_here = static_cast<int>(min(W, columns - j));
      if (c.row == 1) {
        write_turned(c, from, i0 + r, rows_here, j0 + j, columns_here);
        continue;
      }
      for (int y = 0; y < rows_here; y++) {
        for (int x = 0; x < columns_here; x++) {
          const FloatRef to = c.data.at((i0 + r + y) * c.row + (j0 + j + x) * c.col);
          write_sums(c, to, 0, vset(from[y * kPanelWidth + x]), 1);
        }
      }
    }
  }
}

}  // namespace lathe::LATHE_ISA
