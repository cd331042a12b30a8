// Low-rank adapters through a slot table: which adapter a row uses and where its A and B lie is data on the device, so
// a new adapter needs neither a new launch nor a new graph. The table's layout is core/ops.h's (linearGroup).
#pragma once
#include "mma.h"

namespace lathe::cuda {

constexpr int kMostRank = 256;
constexpr int kShrinkThreads = 256;

/// slots[token] names a row of the table, −1 none; entry (slot, layer) = {A, B, rank, bits of the scale}, A and B in
/// units of eight elements of the pool.
struct SlotTable {
  const int* slots;  // null: no adapters
  const int* table;  // [slots, layers, 4]
  FloatPointer pool;
  int layers;
};

struct Adapter {
  int64_t a, b;  // elements
  int rank;
  float scale;
};

/// The adapter of a token for a layer; rank 0 when it has none.
__device__ __forceinline__ Adapter adapter_of(const SlotTable& t, int layer, int token) {
  const int slot = t.slots[token];
  if (slot < 0) return {0, 0, 0, 0.0f};
  const int* entry = t.table + (static_cast<int64_t>(slot) * t.layers + layer) * 4;
  return {static_cast<int64_t>(entry[0]) * 8, static_cast<int64_t>(entry[1]) * 8, entry[2],
          as_float(static_cast<uint32_t>(entry[3]))};
}

struct alignas(16) EightHalves {
  uint32_t pairs[4];
};

/// Eight neighbouring elements from an index that is a multiple of 8.
__device__ __forceinline__ void load_eight(float (&v)[8], const FloatPointer& p, int64_t i) {
  if (p.half) {
    const EightHalves h = *reinterpret_cast<const EightHalves*>(static_cast<const uint16_t*>(p.data) + i);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      v[2 * j] = bf16_low(h.pairs[j]);
      v[2 * j + 1] = bf16_high(h.pairs[j]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = static_cast<const float*>(p.data)[i + j];
  }
}

/// Σ_r h[r]·B[row, r] of the token's adapter; h already carries the scale.
__device__ __forceinline__ float low_rank_element(const SlotTable& t, int layer, int token, int row, const float* h) {
  const Adapter adapter = adapter_of(t, layer, token);
  float sum = 0;
  for (int r = 0; r < adapter.rank; r += 8) {
    float b[8];
    load_eight(b, t.pool, adapter.b + static_cast<int64_t>(row) * adapter.rank + r);
#pragma unroll
    for (int j = 0; j < 8; j++) sum += h[r + j] * b[j];
  }
  return sum;
}

/// h[layer, token, r] = scale · x[token]·A[r] of the token's adapter. One warp per r, eight elements a lane.
/// Grid: (tokens, layers). kWide: depth is a multiple of 8 and x is aligned to eight elements.
template <bool kWide>
__global__ void __launch_bounds__(kShrinkThreads) lora_shrink_kernel(float* h, const FloatPointer x, const SlotTable t,
                                                                     int depth) {
  const int token = blockIdx.x, layer = blockIdx.y, lane = threadIdx.x & 31;
  const Adapter adapter = adapter_of(t, layer, token);
  float* to = h + (static_cast<int64_t>(layer) * gridDim.x + token) * kMostRank;
  const int64_t x_at = static_cast<int64_t>(token) * depth;
  for (int r = threadIdx.x / 32; r < adapter.rank; r += kShrinkThreads / 32) {
    const int64_t a_at = adapter.a + static_cast<int64_t>(r) * depth;
    float sum = 0;
    if (kWide) {
      for (int k = lane * 8; k < depth; k += 256) {
        float u[8], v[8];
        load_eight(u, x, x_at + k);
        load_eight(v, t.pool, a_at + k);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += u[j] * v[j];
      }
    } else {
      for (int k = lane; k < depth; k += 32) sum += x.load(x_at + k) * t.pool.load(a_at + k);
    }
    sum = warp_sum(sum);
    if (lane == 0) to[r] = sum * adapter.scale;
  }
}

}  // namespace lathe::cuda
