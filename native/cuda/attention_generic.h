// Attention for every head size up to 512 and every mix of f32 and bf16: one warp per row and head, keys one after the
// other, all in f32. The correct path for what the tiled kernels do not take; not tuned. Also delta, which the tiled
// backward needs too.
#pragma once
#include "attention_tile.h"

namespace lathe::cuda {

constexpr int kGenericWarps = 4;  // per block

struct GenericArguments {
  FloatPointer q, k, v, out, dout, dq, dk, dv;
  float *lse, *delta;  // [query heads, rows]
  SequenceSet sequences;
  int rows, query_heads, key_heads, d;
  int window;
  float scale;
};

/// A head's elements spread over the warp: lane l holds l, l + 32, … Kernels have kSlices = 4 for head sizes up to 128
/// and 16 up to 512.
template <int kSlices>
struct HeadVector {
  float at[kSlices];

  __device__ __forceinline__ void load(const FloatPointer& p, int64_t first, int d, int lane) {
#pragma unroll
    for (int i = 0; i < kSlices; i++) at[i] = lane + i * 32 < d ? p.load(first + lane + i * 32) : 0.0f;
  }
  __device__ __forceinline__ void store(const FloatPointer& p, int64_t first, int d, int lane, float factor) const {
#pragma unroll
    for (int i = 0; i < kSlices; i++) {
      if (lane + i * 32 < d) p.store(first + lane + i * 32, at[i] * factor);
    }
  }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kSlices; i++) at[i] = 0;
  }
  __device__ __forceinline__ float dot(const HeadVector& other) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kSlices; i++) sum += at[i] * other.at[i];
    return warp_sum(sum);
  }
  __device__ __forceinline__ void add(float factor, const HeadVector& other) {
#pragma unroll
    for (int i = 0; i < kSlices; i++) at[i] += factor * other.at[i];
  }
};

/// Which (row, head) a warp works on; false beyond the last.
__device__ __forceinline__ bool warp_item(int rows, int heads, int64_t& row, int& head) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kGenericWarps + threadIdx.x / 32;
  row = item / heads;
  head = static_cast<int>(item % heads);
  return row < rows;
}

/// A query of one head, and the keys that it sees.
struct QueryItem {
  int64_t at, statistics;  // its first element in q, out, dout, dq; its place in lse and delta
  SequenceView sequence;
  int key_head, first_key, position;

  __device__ __forceinline__ int64_t key_at(const GenericArguments& a, int key) const {
    return (sequence.key_row(key) * a.key_heads + key_head) * a.d;
  }
};

/// The warp's query; false beyond the last.
__device__ __forceinline__ bool query_item(const GenericArguments& a, int lane, QueryItem& item) {
  int64_t row;
  int head;
  if (!warp_item(a.rows, a.query_heads, row, head)) return false;
  const int s = sequence_of_row(a.sequences.offsets, a.sequences.count, static_cast<int>(row), lane);
  item.at = (row * a.query_heads + head) * a.d;
  item.statistics = static_cast<int64_t>(head) * a.rows + row;
  item.sequence = a.sequences.view(s);
  item.key_head = head / (a.query_heads / a.key_heads);
  item.position = item.sequence.position(static_cast<int>(row) - item.sequence.first_row);
  item.first_key = a.window > 0 ? max(0, item.position - a.window + 1) : 0;
  return true;
}

/// Grid: rows · query heads / 4 blocks of four warps.
template <int kSlices>
__global__ void __launch_bounds__(128) attention_forward_generic(const GenericArguments a) {
  const int lane = threadIdx.x & 31;
  QueryItem item;
  if (!query_item(a, lane, item)) return;
  HeadVector<kSlices> q, out, x;
  q.load(a.q, item.at, a.d, lane);
  out.clear();
  float maximum = -INFINITY, sum = 0;
  for (int key = item.first_key; key <= item.position; key++) {
    const int64_t at = item.key_at(a, key);
    x.load(a.k, at, a.d, lane);
    const float score = q.dot(x) * a.scale, best = fmaxf(maximum, score);
    const float factor = expf(maximum - best), weight = expf(score - best);
    x.load(a.v, at, a.d, lane);
#pragma unroll
    for (int i = 0; i < kSlices; i++) out.at[i] = out.at[i] * factor + weight * x.at[i];
    sum = sum * factor + weight;
    maximum = best;
  }
  out.store(a.out, item.at, a.d, lane, 1.0f / sum);
  if (a.lse && lane == 0) a.lse[item.statistics] = maximum + logf(sum);
}

/// delta[h, i] = Σ_c dout·out. Grid as the forward's.
template <int kSlices>
__global__ void __launch_bounds__(128) attention_delta_generic(const GenericArguments a) {
  const int lane = threadIdx.x & 31;
  int64_t row;
  int head;
  if (!warp_item(a.rows, a.query_heads, row, head)) return;
  HeadVector<kSlices> x, y;
  x.load(a.dout, (row * a.query_heads + head) * a.d, a.d, lane);
  y.load(a.out, (row * a.query_heads + head) * a.d, a.d, lane);
  const float sum = x.dot(y);
  if (lane == 0) a.delta[static_cast<int64_t>(head) * a.rows + row] = sum;
}

/// Grid as the forward's.
template <int kSlices>
__global__ void __launch_bounds__(128) attention_dq_generic(const GenericArguments a) {
  const int lane = threadIdx.x & 31;
  QueryItem item;
  if (!query_item(a, lane, item)) return;
  const float lse = a.lse[item.statistics], delta = a.delta[item.statistics];
  HeadVector<kSlices> q, dout, dq, k, v;
  q.load(a.q, item.at, a.d, lane);
  dout.load(a.dout, item.at, a.d, lane);
  dq.clear();
  for (int key = item.first_key; key <= item.position; key++) {
    const int64_t at = item.key_at(a, key);
    k.load(a.k, at, a.d, lane);
    v.load(a.v, at, a.d, lane);
    const float weight = expf(q.dot(k) * a.scale - lse);
    dq.add(weight * (dout.dot(v) - delta), k);
  }
  dq.store(a.dq, item.at, a.d, lane, a.scale);
}

/// Grid: rows · key heads / 4 blocks of four warps. Query heads in their order, queries rising.
template <int kSlices>
__global__ void __launch_bounds__(128) attention_dkdv_generic(const GenericArguments a) {
  const int lane = threadIdx.x & 31;
  int64_t row;
  int key_head;
  if (!warp_item(a.rows, a.key_heads, row, key_head)) return;
  const int s = sequence_of_row(a.sequences.offsets, a.sequences.count, static_cast<int>(row), lane);
  const SequenceView sequence = a.sequences.view(s);
  const int key = static_cast<int>(row) - sequence.first_row, group = a.query_heads / a.key_heads;
  const int end = a.window > 0 ? min(sequence.queries, key + a.window) : sequence.queries;
  const int64_t at = (row * a.key_heads + key_head) * a.d;
  HeadVector<kSlices> k, v, dk, dv, q, dout;
  k.load(a.k, at, a.d, lane);
  v.load(a.v, at, a.d, lane);
  dk.clear();
  dv.clear();
  for (int head = key_head * group; head < (key_head + 1) * group; head++) {
    for (int i = key; i < end; i++) {
      const int64_t query = sequence.first_row + i, from = (query * a.query_heads + head) * a.d;
      const int64_t statistics = static_cast<int64_t>(head) * a.rows + query;
      q.load(a.q, from, a.d, lane);
      dout.load(a.dout, from, a.d, lane);
      const float weight = expf(q.dot(k) * a.scale - a.lse[statistics]);
      dv.add(weight, dout);
      dk.add(weight * (dout.dot(v) - a.delta[statistics]), q);
    }
  }
  dk.store(a.dk, at, a.d, lane, a.scale);
  dv.store(a.dv, at, a.d, lane, 1.0f);
}

/// delta for bf16 and head sizes 64 and 128: one 16-byte chunk a thread, so each tensor is read once at full width.
/// Grid: rows · query heads · (kD / 8) / 256 blocks of 256.
template <int kD>
__global__ void __launch_bounds__(256) attention_delta_kernel(float* delta, const uint16_t* out, const uint16_t* dout,
                                                              int rows, int heads) {
  constexpr int kChunks = kD / 8;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x, item = i / kChunks;
  float sum = 0;
  if (item < static_cast<int64_t>(rows) * heads) {
    const Chunk x = reinterpret_cast<const Chunk*>(out)[i], y = reinterpret_cast<const Chunk*>(dout)[i];
#pragma unroll
    for (int w = 0; w < 4; w++) {
      sum += bf16_low(x.words[w]) * bf16_low(y.words[w]) + bf16_high(x.words[w]) * bf16_high(y.words[w]);
    }
  }
#pragma unroll
  for (int step = kChunks / 2; step > 0; step >>= 1) sum += __shfl_xor_sync(kWholeWarp, sum, step);
  if (item < static_cast<int64_t>(rows) * heads && i % kChunks == 0) {
    delta[item % heads * rows + item / heads] = sum;
  }
}

}  // namespace lathe::cuda
