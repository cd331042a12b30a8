// Tiled attention forward in bf16 (FlashAttention-2, Dao, arXiv:2307.08691) over packed or paged sequences.
// One block of four warps: 128 queries of one head (32 per warp) against blocks of keys (32 at head size 128, where 64
// would spill, else 64); K and V take turns: V arrives behind the scores, the next K behind P·V. Budget: 255 registers,
// 48 KiB shared at head size 128 and 32 KiB at 64: two blocks an SM. Floor aimed at: 45 % of the device's bf16 rate at
// 2,048 tokens and more, which is what mma.sync gives there; short sequences are bound by launch and latency.
#pragma once
#include "attention_tile.h"

namespace lathe::cuda {

struct ForwardArguments {
  const uint16_t *q, *k, *v;
  uint16_t* out;
  float* lse;  // [query heads, rows] or null
  SequenceSet sequences;
  int rows, query_heads, key_heads;
  int window;         // 0: none; at most 2^30
  float scale_log2;   // scale·log2 e, not negative
  int least_queries;  // sequences with fewer new tokens are somebody else's
};

template <int kD>
struct ForwardTile {
  static constexpr int kQueries = 128, kKeys = kD == 128 ? 32 : 64, kWarpRows = 32;
  static constexpr int kTiles = kKeys / 8;  // n-tiles of a score block
  static constexpr int kSharedBytes = (kQueries + 2 * kKeys) * kD * 2;
};

/// Scores of a warp's 32 queries (two m-tiles) and a block of keys.
template <int kD>
using Scores = float[2][ForwardTile<kD>::kTiles][4];

/// Per warp: 32 queries as two m-tiles.
template <int kD>
struct ForwardState {
  float out[2][kD / 8][4];
  float maximum[2][2], sum[2][2];  // per m-tile and row half, in units of log2; sums of this lane's columns
};

/// scores = Q·Kᵀ for the warp's 32 queries and a block of keys.
template <int kD>
__device__ __forceinline__ void score_block(Scores<kD>& s, const unsigned char* q, const unsigned char* k, int warp_row,
                                            int lane) {
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int n = 0; n < ForwardTile<kD>::kTiles; n++) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0;
  }
#pragma unroll
  for (int kk = 0; kk < kD; kk += 16) {
    uint32_t a[2][4];
    load_a<kD>(a[0], q, warp_row, kk, lane);
    load_a<kD>(a[1], q, warp_row + 16, kk, lane);
#pragma unroll
    for (int n = 0; n < ForwardTile<kD>::kTiles; n += 2) {
      uint32_t b[4];
      load_b<kD>(b, k, n * 8, kk, lane);
#pragma unroll
      for (int m = 0; m < 2; m++) {
        mma(s[m][n], a[m], b[0], b[1]);
        mma(s[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// scores → weights 2^(score − maximum), the state rescaled to the new maximum. `position` is that of the warp's
/// row 0; with kMasked, keys after a query or outside its window weigh nothing.
template <int kD, bool kMasked>
__device__ __forceinline__ void online_softmax(Scores<kD>& s, ForwardState<kD>& state, float scale, int position,
                                               int first_key, int window, int lane) {
  const int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = position + m * 16 + half * 8 + g;
      float best = state.maximum[m][half];
#pragma unroll
      for (int n = 0; n < ForwardTile<kD>::kTiles; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& x = s[m][n][half * 2 + e];
          x *= scale;
          if (kMasked) {
            const int key = first_key + n * 8 + t * 2 + e;
            if (key > row || (window > 0 && row - key >= window)) x = -INFINITY;
          }
          best = fmaxf(best, x);
        }
      }
      best = quad_max(best);
      const float shift = best == -INFINITY ? 0.0f : best;  // nothing visible yet: weights 2^−inf = 0
      const float factor = exp2_fast(state.maximum[m][half] - shift);
      float sum = 0;
#pragma unroll
      for (int n = 0; n < ForwardTile<kD>::kTiles; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& x = s[m][n][half * 2 + e];
          x = exp2_fast(x - shift);
          sum += x;
        }
      }
      state.maximum[m][half] = best;
      state.sum[m][half] = state.sum[m][half] * factor + sum;
#pragma unroll
      for (int n = 0; n < kD / 8; n++) {
        state.out[m][n][half * 2] *= factor;
        state.out[m][n][half * 2 + 1] *= factor;
      }
    }
  }
}

/// out += P·V over a block of keys.
template <int kD>
__device__ __forceinline__ void accumulate_values(ForwardState<kD>& state, const Scores<kD>& p, const unsigned char* v,
                                                  int lane) {
#pragma unroll
  for (int kk = 0; kk < ForwardTile<kD>::kTiles / 2; kk++) {
    uint32_t a[2][4];
    pack_a(a[0], p[0][2 * kk], p[0][2 * kk + 1]);
    pack_a(a[1], p[1][2 * kk], p[1][2 * kk + 1]);
#pragma unroll
    for (int n = 0; n < kD / 8; n += 2) {
      uint32_t b[4];
      load_b_rows<kD>(b, v, kk * 16, n * 8, lane);
#pragma unroll
      for (int m = 0; m < 2; m++) {
        mma(state.out[m][n], a[m], b[0], b[1]);
        mma(state.out[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// Normalises the warp's rows and writes out and lse.
template <int kD>
__device__ __forceinline__ void finish_rows(const ForwardArguments& a, const ForwardState<kD>& state,
                                            unsigned char* tile, const SequenceView& sequence, int first_query,
                                            int warp_row, int head, int lane) {
  const int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int m = 0; m < 2; m++) {
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float sum = quad_sum(state.sum[m][half]);
      inverse[half] = 1.0f / sum;
      const int query = first_query + warp_row + m * 16 + half * 8 + g;
      if (a.lse && t == 0 && query < sequence.queries) {
        a.lse[static_cast<int64_t>(head) * a.rows + sequence.first_row + query] =
            (state.maximum[m][half] + log2f(sum)) * kLn2;
      }
    }
    stage_rows<kD>(tile, warp_row + m * 16, state.out[m], inverse[0], inverse[1], lane);
  }
  __syncwarp();
  const int first = first_query + warp_row;
  store_rows<kD>(a.out + static_cast<int64_t>(head) * kD, static_cast<int64_t>(a.query_heads) * kD,
                 static_cast<int64_t>(sequence.first_row) + first, tile, warp_row, 32, sequence.queries - first, lane);
}

/// Grid: slot_count(rows, sequences, 128) · query heads, longest tiles first.
template <int kD>
__global__ void __launch_bounds__(kAttentionThreads, 2) attention_forward_kernel(const ForwardArguments a) {
  using Tile = ForwardTile<kD>;
  LATHE_DYNAMIC_SHARED(shared);
  unsigned char *q_tile = shared, *k_tile = q_tile + Tile::kQueries * kD * 2, *v_tile = k_tile + Tile::kKeys * kD * 2;
  const int thread = threadIdx.x, lane = thread & 31, warp_row = (thread >> 5) * Tile::kWarpRows;
  const int head = blockIdx.x % a.query_heads, key_head = head / (a.query_heads / a.key_heads);
  const int slot = static_cast<int>(gridDim.x / a.query_heads) - 1 - static_cast<int>(blockIdx.x / a.query_heads);
  const int s = sequence_of_slot(a.sequences.offsets, a.sequences.count, Tile::kQueries, slot, lane);
  const SequenceView sequence = a.sequences.view(s);
  const int first_query = (slot - sequence.first_row / Tile::kQueries - s) * Tile::kQueries;
  if (first_query >= sequence.queries || sequence.queries < a.least_queries) return;

  const int queries = min(Tile::kQueries, sequence.queries - first_query);
  const int position = sequence.position(first_query), end = position + queries;  // keys seen by the tile: [.., end)
  const int begin = a.window > 0 ? max(0, position - a.window + 1) / Tile::kKeys * Tile::kKeys : 0;
  const int64_t q_stride = static_cast<int64_t>(a.query_heads) * kD, k_stride = static_cast<int64_t>(a.key_heads) * kD;
  const uint16_t *keys = a.k + static_cast<int64_t>(key_head) * kD, *values = a.v + static_cast<int64_t>(key_head) * kD;
  const auto load_keys = [&](unsigned char* tile, const uint16_t* from, int key) {
    load_tile<kD>(tile, from, k_stride, Tile::kKeys, end - key, thread,
                  [&](int i) { return sequence.key_row(key + i); });
    commit_copies();
  };

  load_tile<kD>(q_tile, a.q + static_cast<int64_t>(head) * kD, q_stride, Tile::kQueries, queries, thread,
                [&](int i) { return static_cast<int64_t>(sequence.first_row) + first_query + i; });
  load_keys(k_tile, keys, begin);
  ForwardState<kD> state = {};
#pragma unroll
  for (int i = 0; i < 4; i++) state.maximum[i >> 1][i & 1] = -INFINITY;
  for (int key = begin; key < end; key += Tile::kKeys) {
    wait_copies<0>();
    __syncthreads();  // K is here, and every warp is done with the last V
    load_keys(v_tile, values, key);
    Scores<kD> scores;
    score_block<kD>(scores, q_tile, k_tile, warp_row, lane);
    const int row = position + warp_row;
    if (key + Tile::kKeys > row + 1 || (a.window > 0 && key <= row + Tile::kWarpRows - 1 - a.window)) {
      online_softmax<kD, true>(scores, state, a.scale_log2, row, key, a.window, lane);
    } else {
      online_softmax<kD, false>(scores, state, a.scale_log2, row, key, a.window, lane);
    }
    wait_copies<0>();
    __syncthreads();  // V is here, and every warp is done with K
    if (key + Tile::kKeys < end) load_keys(k_tile, keys, key + Tile::kKeys);
    accumulate_values<kD>(state, scores, v_tile, lane);
  }
  finish_rows<kD>(a, state, q_tile, sequence, first_query, warp_row, head, lane);
}

}  // namespace lathe::cuda
