// What the splits of attention_decode.h hold and how they become one result: first the four warps of a block, then the
// blocks of a row, both in their order.
#pragma once
#include "attention_tile.h"

namespace lathe::cuda {

constexpr int kDecodeKeys = 16, kMostSplits = 32, kLeastSplitTiles = 4;

struct DecodeArguments {
  const uint16_t *q, *k, *v;
  uint16_t* out;
  SequenceSet sequences;
  int rows, query_heads, key_heads;
  int window;
  float scale_log2;
  bool by_sequence;  // grid.z counts sequences, and those without exactly one new token are somebody else's; else rows
  float* partial;    // [grid.z · query heads, splits, kD + 2]: out, maximum, sum; unused when gridDim.x is 1
};

/// Key tiles per split for a context of `tiles`.
__host__ __device__ constexpr int split_tiles(int tiles) {
  return div_up(tiles, kMostSplits) > kLeastSplitTiles ? div_up(tiles, kMostSplits) : kLeastSplitTiles;
}

/// Grid.x for contexts of at most `tiles`.
__host__ __device__ constexpr int most_splits(int tiles) {
  const int splits = div_up(tiles, kLeastSplitTiles);
  return splits < 1 ? 1 : splits < kMostSplits ? splits : kMostSplits;
}

template <int kD>
struct DecodeTile {
  static constexpr int kBytes = kDecodeKeys * kD * 2;
  static constexpr int kWarpBytes = 4 * kBytes;  // two stages of K and V; later out [16,kD] and statistics [16,2]
  static constexpr int kSharedBytes = 4 * kWarpBytes;
  static_assert(16 * kD * 4 + 16 * 8 <= kWarpBytes);
};

template <int kD>
struct DecodeState {
  float out[kD / 8][4];
  float maximum[2], sum[2];
};

/// The warp's state to its shared memory: out [16,kD], then (maximum, sum) of 16 rows.
template <int kD>
__device__ __forceinline__ void publish_warp(float* to, const DecodeState<kD>& state, int lane) {
  const int g = lane >> 2, t = lane & 3;
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float sum = quad_sum(state.sum[half]);
    const int row = g + half * 8;
#pragma unroll
    for (int n = 0; n < kD / 8; n++) {
      to[row * kD + n * 8 + t * 2] = state.out[n][half * 2];
      to[row * kD + n * 8 + t * 2 + 1] = state.out[n][half * 2 + 1];
    }
    if (t == 0) {
      to[16 * kD + row * 2] = state.maximum[half];
      to[16 * kD + row * 2 + 1] = sum;
    }
  }
}

/// (maximum, sum, value) of `count` parts into one, in their order. part(i, what): what = 0 maximum, 1 sum, 2 value.
template <class Part>
__device__ __forceinline__ void merge_parts(int count, float& maximum, float& sum, float& value, const Part& part) {
  maximum = -INFINITY;
  for (int i = 0; i < count; i++) maximum = fmaxf(maximum, part(i, 0));
  sum = value = 0;
  for (int i = 0; i < count; i++) {
    const float factor = exp2_fast(part(i, 0) - maximum);
    sum += part(i, 1) * factor;
    value += part(i, 2) * factor;
  }
}

/// The block's result out of its four warps' parts: to `out` (entries of the tensor) when it is the only split, else to
/// its partial.
template <int kD>
__device__ __forceinline__ void write_split(const DecodeArguments& a, const unsigned char* shared, int64_t first_entry,
                                            int64_t first_part, int heads, bool only, int thread) {
  const auto at = [&](int warp) { return reinterpret_cast<const float*>(shared + warp * DecodeTile<kD>::kWarpBytes); };
  for (int i = thread; i < heads * kD; i += kAttentionThreads) {
    const int row = i / kD, column = i % kD;
    float maximum, sum, value;
    merge_parts(4, maximum, sum, value, [&](int warp, int what) {
      return what == 2 ? at(warp)[row * kD + column] : at(warp)[16 * kD + row * 2 + what];
    });
    if (only) {
      a.out[(first_entry + row) * kD + column] = bf16_bits(value / sum);
      continue;
    }
    float* to = a.partial + ((first_part + row) * gridDim.x + blockIdx.x) * (kD + 2);
    to[column] = value;
    if (column == 0) {
      to[kD] = maximum;
      to[kD + 1] = sum;
    }
  }
}

}  // namespace lathe::cuda
