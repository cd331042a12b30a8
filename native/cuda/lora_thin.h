// The thin products of the low-rank branches in training, for all linears of a group in one launch each: rows (h = x·Aᵀ,
// dh_i = dy_i·B_i: one row per token) and gradients (dB_i = dy_iᵀ·h_i, dA = dhᵀ·x: sums over tokens). bf16 by mma.sync,
// sums in f32; k is split by the sizes alone and the parts are added in their order (lora_copies.h), so two runs agree.
// Bound by the bytes of x and dy, each read once while the ranks fit one tile: four stages of 8 KiB under way per block,
// two blocks or more an SM. Runs under test/native/cuda/emulation.h as it stands.
#pragma once
#include "lora_layout.h"
#include "operand_tile.h"
#include "runtime.h"

namespace lathe::cuda {

/// sums += one step of both operands: 16 rows of the left one for this warp by kN columns.
template <int kN, class Left, class Right>
__device__ __forceinline__ void thin_step(float (&sums)[kN / 8][4], const uint16_t* left, const uint16_t* right,
                                          int warp, int lane) {
#pragma unroll
  for (int k = 0; k < kThinDepth; k += 16) {
    uint32_t x[4], b[4];
    Left::template piece<true>(x, left, warp * 16, k, lane);
#pragma unroll
    for (int j = 0; j < kN / 16; j++) {
      Right::template piece<false>(b, right, j * 16, k, lane);
      mma(sums[2 * j], x, b[0], b[1]);
      mma(sums[2 * j + 1], x, b[2], b[3]);
    }
  }
}

/// kN columns per block. Grid: (tokens / 64, column blocks of all problems, splits).
template <int kN, bool kAlongK>
__global__ void __launch_bounds__(kThinThreads, 3) lora_rows_kernel(const RowsArguments a) {
  using Left = OperandTile<kThinTile, true, kThinDepth>;
  using Right = OperandTile<kN, kAlongK, kThinDepth>;
  LATHE_DYNAMIC_SHARED(memory);
  auto* lefts = reinterpret_cast<uint16_t*>(memory);
  uint16_t* rights = lefts + kThinStages * Left::kElements;
  const RowsProblem p = problem_of(a.problems, a.count, static_cast<int>(blockIdx.y));
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kThinTile;
  const int column0 = (static_cast<int>(blockIdx.y) - p.first_block) * kN;
  const int64_t k_begin = static_cast<int64_t>(blockIdx.z) * p.split_depth;
  const int64_t k_end = k_begin + p.split_depth < p.depth ? k_begin + p.split_depth : p.depth;
  const int steps = k_end <= k_begin ? 0 : static_cast<int>((k_end - k_begin + kThinDepth - 1) / kThinDepth);
  const int64_t right_pitch = kAlongK ? p.depth : p.columns;

  const auto fetch = [&](int step) {
    if (step < steps) {
      const int stage = step % kThinStages;
      const int64_t k0 = k_begin + static_cast<int64_t>(step) * kThinDepth;
      Left::template fetch<kThinThreads>(lefts + stage * Left::kElements, p.left, row0, k0, a.tokens, k_end, p.depth,
                                         p.wide);
      Right::template fetch<kThinThreads>(rights + stage * Right::kElements, p.right, column0, k0, p.columns, k_end,
                                          right_pitch, !kAlongK || p.wide);
    }
    commit_copies();
  };

  float sums[kN / 8][4] = {};
  for (int step = 0; step < kThinStages - 1; step++) fetch(step);
  for (int step = 0; step < steps; step++) {
    wait_copies<kThinStages - 2>();
    __syncthreads();  // the step's tiles are there, and nobody reads the stage that is filled next
    fetch(step + kThinStages - 1);
    const uint16_t* left = lefts + step % kThinStages * Left::kElements;
    const uint16_t* right = rights + step % kThinStages * Right::kElements;
    if (p.copy && column0 == 0) {
      const int64_t k0 = k_begin + static_cast<int64_t>(step) * kThinDepth;
      for (int g = thread; g < kThinTile * kThinDepth / 8; g += kThinThreads) {
        const int r = g / (kThinDepth / 8), c = g % (kThinDepth / 8) * 8;
        if (row0 + r >= a.tokens || k0 + c >= k_end) continue;
        *reinterpret_cast<uint4*>(p.copy + (row0 + r) * p.copy_pitch + k0 + c) =
            *reinterpret_cast<const uint4*>(left + r * Left::kPitch + c);
      }
    }
    thin_step<kN, Left, Right>(sums, left, right, warp, lane);
  }
#pragma unroll
  for (int j = 0; j < kN / 8; j++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int64_t row = row0 + warp * 16 + lane / 4 + e / 2 * 8;
      const int column = column0 + j * 8 + lane % 4 * 2 + e % 2;
      if (row >= a.tokens || column >= p.columns) continue;
      a.partial[(static_cast<int64_t>(blockIdx.z) * a.tokens + row) * a.pitch + p.at + column] = sums[j][e];
    }
  }
}

/// Grid: (tiles of 64 of all widths, blocks of kN columns, splits of the tokens).
template <int kN>
__global__ void __launch_bounds__(kThinThreads, 3) lora_gradient_kernel(const GradientArguments a) {
  using Wide = OperandTile<kThinTile, false, kThinDepth>;
  using Thin = OperandTile<kN, false, kThinDepth>;
  LATHE_DYNAMIC_SHARED(memory);
  auto* wides = reinterpret_cast<uint16_t*>(memory);
  uint16_t* thins = wides + kThinStages * Wide::kElements;
  const GradientProblem p = problem_of(a.problems, a.count, static_cast<int>(blockIdx.x));
  const int column0 = static_cast<int>(blockIdx.y) * kN;
  if (column0 >= p.columns) return;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int64_t wide0 = static_cast<int64_t>(static_cast<int>(blockIdx.x) - p.first_block) * kThinTile;
  const int64_t begin = static_cast<int64_t>(blockIdx.z) * a.split_tokens;
  const int64_t end = begin + a.split_tokens < a.tokens ? begin + a.split_tokens : a.tokens;
  const int steps = static_cast<int>((end - begin + kThinDepth - 1) / kThinDepth);

  const auto fetch = [&](int step) {
    if (step < steps) {
      const int stage = step % kThinStages;
      const int64_t t0 = begin + static_cast<int64_t>(step) * kThinDepth;
      Wide::template fetch<kThinThreads>(wides + stage * Wide::kElements, p.wide, wide0, t0, p.width, end, p.width,
                                         p.aligned);
      Thin::template fetch<kThinThreads>(thins + stage * Thin::kElements, p.thin, column0, t0, p.columns, end,
                                         p.thin_pitch, true);
    }
    commit_copies();
  };

  float sums[kN / 8][4] = {};
  for (int step = 0; step < kThinStages - 1; step++) fetch(step);
  for (int step = 0; step < steps; step++) {
    wait_copies<kThinStages - 2>();
    __syncthreads();  // as above
    fetch(step + kThinStages - 1);
    const uint16_t* wide = wides + step % kThinStages * Wide::kElements;
    const uint16_t* thin = thins + step % kThinStages * Thin::kElements;
    thin_step<kN, Wide, Thin>(sums, wide, thin, warp, lane);
  }
  float* partial = p.partial + static_cast<int64_t>(blockIdx.z) * p.width * p.columns;
#pragma unroll
  for (int j = 0; j < kN / 8; j++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int64_t w = wide0 + warp * 16 + lane / 4 + e / 2 * 8;
      const int column = column0 + j * 8 + lane % 4 * 2 + e % 2;
      if (w >= p.width || column >= p.columns) continue;
      partial[p.thin_first ? column * p.width + w : w * p.columns + column] = sums[j][e];
    }
  }
}

/// Shared memory of both kernels.
constexpr int thin_shared_bytes(int columns, bool along_k) {
  const int right = along_k ? columns * (kThinDepth + kGemmPad) : kThinDepth * (columns + kGemmPad);
  return kThinStages * 2 * (kThinTile * (kThinDepth + kGemmPad) + right);
}

}  // namespace lathe::cuda
