// The own matrix product: bf16 tiles through mma.sync, copies three stages ahead, any transposition, any alignment; and
// f32 tiles by fused multiply-add. Used where cuBLASLt is missing. Each element of C sums over k in one order that
// depends on the sizes alone. Runs under test/native/cuda/emulation.h as it stands.
#pragma once
#include "operand_tile.h"

namespace lathe::cuda {

constexpr int kMostTerms = 4, kGemmStages = 3;

/// One product of the sum: pitches are elements from row to row in memory.
struct GemmTerm {
  const void *a, *b;
  int64_t depth, pitch_a, pitch_b;
  bool wide_a, wide_b;  // rows can be copied 16 bytes at a time
};

/// C = alpha·Σ op(A)·op(B) + bias + beta·C: the sum over k runs through the terms one after the other, so [x|h]·[W|B]ᵀ
/// needs neither matrix in one piece. Split s of a split sum writes its plain sums to partial[s] instead.
struct GemmArguments {
  GemmTerm terms[kMostTerms];
  int first_step[kMostTerms];  // of each term, in tile depths; beyond all steps where there is no such term
  int steps, split_steps;      // in all; per split
  FloatPointer c, bias;        // bias: one per column of C, data null: none
  float* partial;              // null: no split
  int64_t m, n;
  float alpha, beta;
};

/// Block tile kM×kN, warp tile kM/kWarpsM × kN/kWarpsN.
template <int kM, int kN, int kWarpsM, int kWarpsN>
struct GemmShape {
  static constexpr int kThreads = kWarpsM * kWarpsN * 32;
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  static constexpr int kTilesM = kWarpM / 16, kTilesN = kWarpN / 8;
  template <bool kTransA, bool kTransB>
  static constexpr int shared_bytes() {
    return kGemmStages * 2 * (OperandTile<kM, !kTransA>::kElements + OperandTile<kN, kTransB>::kElements);
  }
};

__device__ __forceinline__ void write_sum(const GemmArguments& g, int64_t at, int64_t column, float sum) {
  float value = g.alpha * sum;
  if (g.bias.data) value += g.bias.load(column);
  g.c.store(at, g.beta == 0 ? value : fmaf(g.beta, g.c.load(at), value));
}

__device__ __forceinline__ void write_element(const GemmArguments& g, int64_t row, int64_t column, float sum) {
  if (row >= g.m || column >= g.n) return;
  const int64_t at = row * g.n + column;
  if (g.partial) {
    g.partial[static_cast<int64_t>(blockIdx.z) * g.m * g.n + at] = sum;
  } else {
    write_sum(g, at, column, sum);
  }
}

template <class Shape, int kM, int kN, int kWarpsM, bool kTransA, bool kTransB>
__global__ void __launch_bounds__(Shape::kThreads, 2) gemm_own_kernel(GemmArguments g) {
  using TileA = OperandTile<kM, !kTransA>;
  using TileB = OperandTile<kN, kTransB>;
  LATHE_DYNAMIC_SHARED(memory);
  auto* shared_a = reinterpret_cast<uint16_t*>(memory);
  uint16_t* shared_b = shared_a + kGemmStages * TileA::kElements;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kM, column0 = static_cast<int64_t>(blockIdx.y) * kN;
  const int first = static_cast<int>(blockIdx.z) * g.split_steps;
  const int steps = min(g.split_steps, g.steps - first);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_m = warp % kWarpsM * Shape::kWarpM, warp_n = warp / kWarpsM * Shape::kWarpN;

  const auto fetch = [&](int step) {
    if (step < steps) {
      const int stage = step % kGemmStages;
      GemmTerm t = g.terms[0];
      int64_t k0 = first + step;
#pragma unroll
      for (int i = 1; i < kMostTerms; i++) {
        if (first + step < g.first_step[i]) continue;
        t = g.terms[i];
        k0 = first + step - g.first_step[i];
      }
      k0 *= kGemmDepth;
      TileA::template fetch<Shape::kThreads>(shared_a + stage * TileA::kElements, static_cast<const uint16_t*>(t.a), row0,
                                             k0, g.m, t.depth, t.pitch_a, t.wide_a);
      TileB::template fetch<Shape::kThreads>(shared_b + stage * TileB::kElements, static_cast<const uint16_t*>(t.b),
                                             column0, k0, g.n, t.depth, t.pitch_b, t.wide_b);
    }
    commit_copies();
  };

  float sums[Shape::kTilesM][Shape::kTilesN][4] = {};
  for (int step = 0; step < kGemmStages - 1; step++) fetch(step);
  for (int step = 0; step < steps; step++) {
    wait_copies<kGemmStages - 2>();
    __syncthreads();  // the step's tiles are there, and nobody reads the stage that is filled next
    fetch(step + kGemmStages - 1);
    const uint16_t* tile_a = shared_a + step % kGemmStages * TileA::kElements;
    const uint16_t* tile_b = shared_b + step % kGemmStages * TileB::kElements;
#pragma unroll
    for (int k = 0; k < kGemmDepth; k += 16) {
      uint32_t left[Shape::kTilesM][4], right[Shape::kTilesN / 2][4];
#pragma unroll
      for (int i = 0; i < Shape::kTilesM; i++) TileA::template piece<true>(left[i], tile_a, warp_m + i * 16, k, lane);
#pragma unroll
      for (int j = 0; j < Shape::kTilesN / 2; j++) {
        TileB::template piece<false>(right[j], tile_b, warp_n + j * 16, k, lane);
      }
#pragma unroll
      for (int i = 0; i < Shape::kTilesM; i++) {
#pragma unroll
        for (int j = 0; j < Shape::kTilesN; j++) {
          mma(sums[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < Shape::kTilesM; i++) {
#pragma unroll
    for (int j = 0; j < Shape::kTilesN; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        write_element(g, row0 + warp_m + i * 16 + lane / 4 + e / 2 * 8, column0 + warp_n + j * 8 + lane % 4 * 2 + e % 2,
                      sums[i][j][e]);
      }
    }
  }
}

/// Adds the splits in their order.
__global__ void gemm_own_join(GemmArguments g, int splits) {
  const int64_t count = g.m * g.n, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    float sum = 0;
    for (int s = 0; s < splits; s++) sum += g.partial[s * count + i];
    write_sum(g, i, i % g.n, sum);
  }
}

constexpr int kPlainTile = 64, kPlainDepth = 16, kPlainThreads = 256;

/// f32 operands: element (i, k) of A at i·row_a + k·step_a, element (j, k) of B likewise. 4×4 sums per thread.
struct PlainStrides {
  int64_t row_a, step_a, row_b, step_b;
};

__global__ void __launch_bounds__(kPlainThreads, 2) gemm_own_f32_kernel(GemmArguments g, PlainStrides at) {
  __shared__ float tile_a[kPlainDepth][kPlainTile + 4];
  __shared__ float tile_b[kPlainDepth][kPlainTile + 4];
  const auto* a = static_cast<const float*>(g.terms[0].a);
  const auto* b = static_cast<const float*>(g.terms[0].b);
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kPlainTile;
  const int64_t column0 = static_cast<int64_t>(blockIdx.y) * kPlainTile;
  const int64_t k_begin = static_cast<int64_t>(blockIdx.z) * g.split_steps * kPlainDepth;
  const int64_t k_last = k_begin + static_cast<int64_t>(g.split_steps) * kPlainDepth;
  const int64_t k_end = k_last < g.terms[0].depth ? k_last : g.terms[0].depth;
  const int thread = static_cast<int>(threadIdx.x), my_row = thread / 16 * 4, my_column = thread % 16 * 4;
  float sums[4][4] = {};
  for (int64_t k0 = k_begin; k0 < k_end; k0 += kPlainDepth) {
    for (int e = thread; e < kPlainTile * kPlainDepth; e += kPlainThreads) {
      // Neighbouring threads along whichever index is contiguous in memory.
      const int ka = at.step_a == 1 ? e % kPlainDepth : e / kPlainTile, ia = at.step_a == 1 ? e / kPlainDepth : e % kPlainTile;
      const int kb = at.step_b == 1 ? e % kPlainDepth : e / kPlainTile, ib = at.step_b == 1 ? e / kPlainDepth : e % kPlainTile;
      const bool has_a = k0 + ka < k_end && row0 + ia < g.m, has_b = k0 + kb < k_end && column0 + ib < g.n;
      tile_a[ka][ia] = has_a ? a[(row0 + ia) * at.row_a + (k0 + ka) * at.step_a] : 0.0f;
      tile_b[kb][ib] = has_b ? b[(column0 + ib) * at.row_b + (k0 + kb) * at.step_b] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kPlainDepth; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) sums[i][j] = fmaf(tile_a[k][my_row + i], tile_b[k][my_column + j], sums[i][j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) write_element(g, row0 + my_row + i, column0 + my_column + j, sums[i][j]);
  }
}

}  // namespace lathe::cuda
