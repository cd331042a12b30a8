// Column sums in two stages without atomics: slices of rows are summed on their own, then added here in their order.
#pragma once
#include "runtime.h"

namespace lathe::cuda {

/// How many slices `rows` are cut into, at most `most` of at least `least` rows: a function of the sizes alone, so that
/// no device gives another order.
static inline int64_t slices_of(int64_t rows, int64_t least, int64_t most) {
  const int64_t slices = ceil_div(rows, least);
  return slices < most ? slices : most;
}

/// out[c] += Σ_s partial[s, c], s rising.
static __global__ void addPartialsKernel(float* out, const float* partial, int64_t columns, int slices) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= columns) return;
  float sum = 0;
  for (int s = 0; s < slices; s++) sum += partial[s * columns + c];
  out[c] += sum;
}

static inline void add_partials(float* out, const float* partial, int64_t columns, int64_t slices) {
  launch("addPartials", addPartialsKernel, dim3(static_cast<unsigned>(ceil_div(columns, 256))), dim3(256), 0, out, partial,
         columns, static_cast<int>(slices));
}

}  // namespace lathe::cuda
