// Micro-kernel of a product that reads the rows of its left operand where they lie, k side by side: no row is packed, a
// number goes to all lanes as it is read. The chains are those of gemm_kernel.h. Few rows by many columns, because what
// limits it beside a busy neighbour core is the number of instructions: 6×64 takes 1.4 for each multiply-add, 12×32 1.6.
#pragma once
#include "gemm_kernel.h"

namespace lathe::LATHE_ISA {

constexpr int64_t kLineSteps = 16;    // k of a cache line
constexpr int64_t kStripRows = 48;    // a multiple of every tile's rows, and of W: whole squares to turn
constexpr int kWideColumns = 64;      // of a whole panel; the last one has 16, 32, 48 or 64
constexpr int64_t kSumsBlock = kStripRows * kPanelWidth;  // sums lie in blocks of kPanelWidth columns

/// Rows that will be read after this tile, a block of k from `at` on: asked into L2 line by line as the tile proceeds.
struct Upcoming {
  const char* at;
  int64_t stride;  // bytes from row to row
  int64_t rows;
};

/// sums[r][j] (+)= Σ_s a[r·row + s]·b[s·kWidth + j] for R rows and V vectors of columns from `column` on.
template <int R, int V, int kWidth>
static inline __attribute__((always_inline)) void row_tile(int64_t steps, const float* a, int64_t row, const float* b,
                                                           int column, float* sums, bool add, const Upcoming& next) {
  constexpr int kThirds = (R + 2) / 3;
  const int64_t stride = row * 4;
  VF acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) acc[r][v] = VF{};
  }
  // A pointer for three rows: base, base + stride, base + 2·stride are all addresses an instruction can form.
  const char* at[kThirds];
#pragma GCC unroll 4
  for (int t = 0; t < kThirds; t++) at[t] = reinterpret_cast<const char*>(a) + 3 * t * stride;
  b += column;
  const auto step = [&](int u) __attribute__((always_inline)) {
    VF right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) right[v] = vload(b + u * kWidth + v * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const VF left = vset(*reinterpret_cast<const float*>(at[r / 3] + r % 3 * stride + u * 4));
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) acc[r][v] = fma(left, right[v], acc[r][v]);
    }
  };
  const auto advance = [&](int64_t count) __attribute__((always_inline)) {
    b += count * kWidth;
#pragma GCC unroll 4
    for (int t = 0; t < kThirds; t++) {
      at[t] += count * 4;
      __asm__("" : "+r"(at[t]));  // else the compiler makes a pointer for every row, more than there are registers
    }
  };
  int64_t s = 0;
  for (const char* line = next.at; s + kLineSteps <= steps; s += kLineSteps, line += kLineSteps * 4) {
    for (int64_t r = 0; r < next.rows; r++) __builtin_prefetch(line + r * next.stride, 0, 2);
    for (int u = 0; u < kLineSteps; u += 4) {
      step(0);
      step(1);
      step(2);
      step(3);
      advance(4);
    }
  }
  for (; s < steps; s++) {
    step(0);
    advance(1);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const int j = column + v * W;
      float* to = sums + j / kPanelWidth * kSumsBlock + r * kPanelWidth + j % kPanelWidth;
      vstore(to, add ? vload(to) + acc[r][v] : acc[r][v]);
    }
  }
}

/// The same over all columns of a panel of kWidth.
template <int R, int kWidth>
static void row_panel(int64_t steps, const float* a, int64_t row, const float* b, float* sums, bool add,
                      const Upcoming& next) {
#if defined(__AVX512F__)
  row_tile<R, kWidth / W, kWidth>(steps, a, row, b, 0, sums, add, next);
#else
  for (int j = 0; j < kWidth; j += 2 * W) {
    row_tile<R, 2, kWidth>(steps, a, row, b, j, sums, add, j == 0 ? next : Upcoming{nullptr, 0, 0});
  }
#endif
}

using RowPanel = void (*)(int64_t, const float*, int64_t, const float*, float*, bool, const Upcoming&);

/// A kernel for rows of which `left` are left, and how many it takes.
struct RowKernel {
  RowPanel run;
  int rows;
};

template <int kWidth>
static inline RowKernel row_kernel_of(int64_t left) {
#if defined(__AVX512F__)
  constexpr int kRows = kWidth == 64 ? 6 : kWidth == 48 ? 8 : 12;  // 24 sums of 32 registers
#else
  constexpr int kRows = kTileRows;
#endif
  if (left >= kRows) return {row_panel<kRows, kWidth>, kRows};
  if (left >= 4) return {row_panel<4, kWidth>, 4};
  return left >= 2 ? RowKernel{row_panel<2, kWidth>, 2} : RowKernel{row_panel<1, kWidth>, 1};
}

static inline RowKernel row_kernel(int64_t width, int64_t left) {
  return width == 64   ? row_kernel_of<64>(left)
         : width == 48 ? row_kernel_of<48>(left)
         : width == 32 ? row_kernel_of<32>(left)
                       : row_kernel_of<16>(left);
}

}  // namespace lathe::LATHE_ISA
