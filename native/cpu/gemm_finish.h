// The end of a product: a block of finished sums on its way to C.
#pragma once
#include "../core/ops.h"
#include "gemm.h"

namespace lathe::LATHE_ISA {

/// C[i0…, j0…] = alpha·sums + beta·C for a block of rows × columns ≤ kPanelWidth; sums: rows of kPanelWidth floats.
static inline void write_tile(const Product& c, const float* sums, int64_t i0, int64_t rows, int64_t j0,
                              int64_t columns) {
  const VF alpha = vset(c.alpha), beta = vset(c.beta);
  for (int64_t r = 0; r < rows; r++) {
    const FloatRef to = c.data.at((i0 + r) * c.row + j0 * c.col);
    if (c.col == 1) {
      each_vector(columns, [&](int64_t j, int n) {
        const VF v = alpha * vload_n(sums + r * kPanelWidth + j, n);
        store(to, j, c.beta == 0 ? v : fma(beta, load(to, j, n), v), n);
      });
    } else {
      for (int64_t j = 0; j < columns; j++) {
        const VF v = alpha * sums[r * kPanelWidth + j];
        store(to, j * c.col, c.beta == 0 ? v : fma(beta, load(to, j * c.col, 1), v), 1);
      }
    }
  }
}

}  // namespace lathe::LATHE_ISA
