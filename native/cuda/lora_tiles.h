// The low-rank branch for many rows (prefill), where one block per row would read its adapter from L2 again for every
// row: tiles of 16 rows share it. Rows of one adapter lie next to each other, so a tile nearly always has one; a tile
// with several does them one after the other.
// Shrink: the rows are the mma's rows, the adapter's ranks its columns, k in the order of skinny_gemm.h, so that every
// lane loads 16 bytes of x and of A straight into fragments; eight warps split k and are added in their order.
// Bound by the bytes of x and y; floor aimed at: 70 % of the copy bandwidth. No dynamic shared memory, no spills.
#pragma once
#include "lora_slots.h"

namespace lathe::cuda {

constexpr int kTileTokens = 16, kRankStep = 16, kLoraWarps = kShrinkThreads / 32;

/// Eight bf16 as fragment words, zeros when not valid.
__device__ __forceinline__ EightHalves load_fragment(const uint16_t* from, bool valid) {
  if (!valid) return {{0, 0, 0, 0}};
  return *reinterpret_cast<const EightHalves*>(from);
}

/// This warp's share of k of x[16 rows]·A[16 ranks]ᵀ.
__device__ __forceinline__ void shrink_sums(float (&acc)[2][4], const uint16_t* x, const uint16_t* a, int depth,
                                            int rows, int ranks, int thread) {
  const int lane = thread & 31, warp = thread >> 5, g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int n = 0; n < 2; n++) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0;
#pragma unroll 2
  for (int first = warp * 32; first < depth; first += kLoraWarps * 32) {
    const int k = first + t * 8;
    const bool inside = k < depth;
    const EightHalves top = load_fragment(x + static_cast<int64_t>(g) * depth + k, inside && g < rows);
    const EightHalves bottom = load_fragment(x + static_cast<int64_t>(g + 8) * depth + k, inside && g + 8 < rows);
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const int r = n * 8 + g;
      const EightHalves b = load_fragment(a + static_cast<int64_t>(r) * depth + k, inside && r < ranks);
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        const uint32_t fragment[4] = {top.pairs[j], bottom.pairs[j], top.pairs[j + 1], bottom.pairs[j + 1]};
        mma(acc[n], fragment, b.pairs[j], b.pairs[j + 1]);
      }
    }
  }
}

/// h as lora_shrink_kernel makes it; x and pool bf16, depth a multiple of 8, both aligned to 16 bytes.
/// Grid: (tokens / 16, layers).
static __global__ void __launch_bounds__(kShrinkThreads, 3)
    lora_shrink_tiled(float* h, const uint16_t* x, const SlotTable t, int tokens, int depth) {
  __shared__ float sums[kLoraWarps][kTileTokens][kRankStep + 1];
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, layer = blockIdx.y;
  const int first = blockIdx.x * kTileTokens, rows = min(kTileTokens, tokens - first);
  const uint16_t* pool = static_cast<const uint16_t*>(t.pool.data);
  for (int i = 0; i < rows; i++) {
    const int slot = t.slots[first + i];
    bool done = slot < 0;
    for (int j = 0; j < i; j++) done |= t.slots[first + j] == slot;
    if (done) continue;
    const Adapter adapter = adapter_of(t, layer, first + i);
    for (int rank = 0; rank < adapter.rank; rank += kRankStep) {
      float acc[2][4];
      shrink_sums(acc, x + static_cast<int64_t>(first) * depth, pool + adapter.a + static_cast<int64_t>(rank) * depth,
                  depth, rows, adapter.rank - rank, thread);
#pragma unroll
      for (int n = 0; n < 2; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          sums[warp][(lane >> 2) + (e >> 1) * 8][n * 8 + (lane & 3) * 2 + (e & 1)] = acc[n][e];
        }
      }
      __syncthreads();
      const int row = thread / kRankStep, r = thread % kRankStep;  // 256 threads: every pair once
      float sum = 0;
      for (int w = 0; w < kLoraWarps; w++) sum += sums[w][row][r];
      if (row < rows && t.slots[first + row] == slot && rank + r < adapter.rank) {
        h[(static_cast<int64_t>(layer) * tokens + first + row) * kMostRank + rank + r] = sum * adapter.scale;
      }
      __syncthreads();
    }
  }
}

/// y += bias + h·Bᵀ for 16 rows and 256 columns: a thread owns a column and keeps eight ranks of its B row while the
/// rows that share it pass. Grid: (tokens / 16, columns / 256).
static __global__ void __launch_bounds__(kShrinkThreads)
    lora_expand_tiled(const FloatPointer y, const FloatPointer bias, const float* h, const SlotTable t, int layer,
                      int tokens, int columns) {
  __shared__ float part[kTileTokens][8];  // eight ranks of h
  __shared__ int64_t b_at[kTileTokens];
  __shared__ int ranks[kTileTokens];
  const int thread = threadIdx.x, column = blockIdx.y * kShrinkThreads + thread;
  const int first = blockIdx.x * kTileTokens, rows = min(kTileTokens, tokens - first);
  if (thread < kTileTokens) {
    const Adapter adapter = t.slots && thread < rows ? adapter_of(t, layer, first + thread) : Adapter{0, 0, 0, 0.0f};
    b_at[thread] = adapter.b;
    ranks[thread] = adapter.rank;
  }
  __syncthreads();
  int most = 0;
  for (int i = 0; i < kTileTokens; i++) most = max(most, ranks[i]);
  float acc[kTileTokens] = {};
  for (int rank = 0; rank < most; rank += 8) {
    if (thread < kTileTokens * 8) {
      const int row = thread / 8;
      part[row][thread % 8] =
          rank < ranks[row]
              ? h[(static_cast<int64_t>(layer) * tokens + first + row) * kMostRank + rank + thread % 8]
              : 0.0f;
    }
    __syncthreads();
    float b[8] = {};
    int64_t held = -1;  // whose B row b is of, and of which rank
    int held_rank = 0;
#pragma unroll
    for (int i = 0; i < kTileTokens; i++) {
      if (rank >= ranks[i] || column >= columns) continue;
      if (b_at[i] != held || ranks[i] != held_rank) {
        held = b_at[i];
        held_rank = ranks[i];
        load_eight(b, t.pool, held + static_cast<int64_t>(column) * held_rank + rank);
      }
#pragma unroll
      for (int j = 0; j < 8; j++) acc[i] += part[i][j] * b[j];
    }
    __syncthreads();
  }
  if (column >= columns) return;
  const float offset = bias.data ? bias.load(column) : 0.0f;
#pragma unroll
  for (int i = 0; i < kTileTokens; i++) {
    if (i >= rows) continue;
    const int64_t at = static_cast<int64_t>(first + i) * columns + column;
    y.store(at, y.load(at) + offset + acc[i]);
  }
}

}  // namespace lathe::cuda
