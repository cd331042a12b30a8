// What stands around the products of the low-rank branches in training: copies in bf16 (A, scaled B, h, and the extended
// operands of a K-extended product), the ordered sums of split products, and the branch added to rows.
// Bound by the bytes they move. Run under test/native/cuda/emulation.h as they stand.
#pragma once
#include "lora_layout.h"

namespace lathe::cuda {

__device__ __forceinline__ void copy_group(const CopyJob& job, int64_t r, int64_t c) {
  if (job.wide) {
    *reinterpret_cast<uint4*>(job.to + r * job.to_pitch + c) =
        *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(job.from.data) + r * job.from_pitch + c);
    return;
  }
  for (int j = 0; j < 8 && c + j < job.to_columns; j++) {
    const int64_t row = job.transposed ? c + j : r, column = job.transposed ? r : c + j;
    const bool inside = row < job.rows && column < job.columns;
    const float value = inside ? job.scale * job.from.load(row * job.from_pitch + column) : 0.0f;
    job.to[r * job.to_pitch + c + j] = bf16_bits(value);
  }
}

/// Eight elements of a row of `to` per thread, neighbours reading neighbouring memory. Grid: the blocks of all jobs.
static __global__ void __launch_bounds__(kCopyThreads) lora_copy_kernel(const CopyArguments a) {
  int index = 0;
  while (index + 1 < a.count && blockIdx.x >= a.jobs[index + 1].first_block) index++;
  const CopyJob& job = a.jobs[index];
  const int64_t groups = (job.to_columns + 7) / 8, count = groups * job.to_rows;
  for (int64_t i = static_cast<int64_t>(blockIdx.x - job.first_block) * kCopyThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(job.blocks) * kCopyThreads) {
    if (job.transposed) {
      copy_group(job, i % job.to_rows, i / job.to_rows * 8);
    } else {
      copy_group(job, i / groups, i % groups * 8);
    }
  }
}

/// The splits of lora_rows_kernel added in their order: bf16 in rows of to_pitch, f32 without the zeros between (h, or
/// null); `ones` (0 or 8) more columns 1, 0, 0, … for a bias that is a row of the other operand.
static __global__ void __launch_bounds__(kCopyThreads)
    lora_rows_join(uint16_t* to, int64_t to_pitch, float* h, const float* partial, const RankLayout layout,
                   int64_t tokens, int splits, int ones) {
  const int64_t columns = layout.pitch + ones, count = tokens * columns;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kCopyThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kCopyThreads) {
    const int64_t row = i / columns;
    const int column = static_cast<int>(i % columns);
    float sum = column == layout.pitch ? 1.0f : 0.0f;
    if (column < layout.pitch) {
      for (int s = 0; s < splits; s++) sum += partial[(s * tokens + row) * layout.pitch + column];
    }
    to[row * to_pitch + column] = bf16_bits(sum);
    const int index = layout.stacked(column);
    if (h && index >= 0) h[row * layout.total + index] = sum;
  }
}

static __global__ void __launch_bounds__(kCopyThreads)
    lora_gradient_join(const GradientTargets a, const RankLayout layout, int splits) {
  const GradientTarget& t = a.targets[blockIdx.y];
  const int64_t count = t.width * t.columns;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kCopyThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kCopyThreads) {
    const int64_t w = t.thin_first ? i % t.width : i / t.columns;
    const int column = static_cast<int>(t.thin_first ? i / t.width : i % t.columns);
    const int index = t.thin_first ? layout.stacked(column) : column < t.rank ? column : -1;
    if (index < 0) continue;
    float sum = 0;
    for (int s = 0; s < splits; s++) sum += t.partial[s * count + i];
    const int64_t at = t.thin_first ? index * t.width + w : w * t.rank + index;
    t.out.store(at, fmaf(t.scale, sum, t.out.load(at)));
  }
}

/// beta·out + bias + v at eight columns of a row.
__device__ __forceinline__ void write_branch(const BranchProblem& p, float beta, int64_t row, int64_t column,
                                             float (&v)[8]) {
#pragma unroll
  for (int j = 0; j < 8; j++) {
    if (p.bias.data && column + j < p.columns) v[j] += p.bias.load(column + j);
  }
  const int64_t at = row * p.columns + column;
  if (p.wide) {
    if (beta != 0) {
      float old[8];
      load8(p.out, at, old);
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] = fmaf(beta, old[j], v[j]);
    }
    store8(p.out, at, v);
    return;
  }
#pragma unroll
  for (int j = 0; j < 8; j++) {
    if (column + j < p.columns) store1(p.out, at + j, beta == 0 ? v[j] : fmaf(beta, load1(p.out, at + j), v[j]));
  }
}

__device__ __forceinline__ uint32_t pair_at(const uint16_t* row, int k, bool valid) {
  return valid ? *reinterpret_cast<const uint32_t*>(row + k) : 0u;
}

/// out = beta·out + bias + thin·rightᵀ: a warp makes 16 tokens by 32 columns at a time. The columns of a fragment are
/// dealt so that a lane ends with eight neighbours. Grid: (tokens / 64, 256 columns of all problems).
static __global__ void __launch_bounds__(kBranchThreads, 4) lora_branch_kernel(const BranchArguments a) {
  const BranchProblem p = problem_of(a.problems, a.count, static_cast<int>(blockIdx.y));
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32, g = lane / 4, t = lane % 4;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kBranchTokens + warp * 16 + g;
  const bool top = row < a.tokens, bottom = row + 8 < a.tokens;
  const uint16_t* thin = a.thin + row * a.thin_pitch + p.at;
  const uint16_t* thin_below = thin + 8 * a.thin_pitch;
  const int64_t first = static_cast<int64_t>(static_cast<int>(blockIdx.y) - p.first_block) * kBranchColumns;
  for (int64_t column0 = first; column0 < first + kBranchColumns && column0 < p.columns; column0 += 32) {
    float sums[4][4] = {};
    for (int k = 0; k < p.depth; k += 16) {
      const int k_low = k + 2 * t, k_high = k_low + 8;
      const uint32_t x[4] = {pair_at(thin, k_low, top), pair_at(thin_below, k_low, bottom), pair_at(thin, k_high, top),
                             pair_at(thin_below, k_high, bottom)};
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int64_t column = column0 + g / 2 * 8 + j * 2 + g % 2;
        const uint16_t* right = p.right + column * p.depth;
        mma(sums[j], x, pair_at(right, k_low, column < p.columns), pair_at(right, k_high, column < p.columns));
      }
    }
    const int64_t column = column0 + t * 8;
    if (column >= p.columns) continue;
    float above[8], below[8];
#pragma unroll
    for (int j = 0; j < 8; j++) above[j] = sums[j / 2][j % 2], below[j] = sums[j / 2][2 + j % 2];
    if (top) write_branch(p, a.beta, row, column, above);
    if (bottom) write_branch(p, a.beta, row + 8, column, below);
  }
}

/// Columns of f32 matrices: to[r, c] = from[r, c] in rows of their pitches.
static __global__ void __launch_bounds__(kCopyThreads)
    lora_columns_kernel(float* to, int64_t to_pitch, const float* from, int64_t from_pitch, int64_t rows, int columns) {
  const int64_t count = rows * columns;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kCopyThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kCopyThreads) {
    to[i / columns * to_pitch + i % columns] = from[i / columns * from_pitch + i % columns];
  }
}

}  // namespace lathe::cuda
