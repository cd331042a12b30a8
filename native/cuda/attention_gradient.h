// Tiled attention backward in bf16, deterministic and without atomics: one kernel over query blocks makes dq, one over
// key blocks makes dk and dv with the query heads of a group summed inside the block in their order. P is recomputed
// in both (seven products instead of five).
// One block of four warps. dq: 64 queries against blocks of 64 keys, two stages; 96 KiB shared at head size 128.
// dk, dv: 64 keys against blocks of 64 (head size 64) or 32 queries, two stages; 64.5 KiB. Both at most 255
// registers: two blocks an SM. Floor aimed at: 30 % of the device's bf16 rate counted on the five products of the
// formula, at 2,048 tokens and more.
#pragma once
#include "attention_tile.h"

namespace lathe::cuda {

struct BackwardArguments {
  const uint16_t *q, *k, *v, *dout;
  const float *lse, *delta;  // [query heads, rows]
  uint16_t *dq, *dk, *dv;
  SequenceSet sequences;
  int rows, query_heads, key_heads;
  int window;  // 0: none; at most 2^30
  float scale;
};

template <int kD>
struct QueryGradientTile {
  static constexpr int kQueries = 64, kKeys = 64;
  static constexpr int kTileBytes = 64 * kD * 2;
  static constexpr int kSharedBytes = 6 * kTileBytes;  // q, dout, two stages of k and v
};

template <int kD>
struct KeyGradientTile {
  static constexpr int kKeys = 64, kQueries = kD == 128 ? 32 : 64;
  static constexpr int kKeyBytes = kKeys * kD * 2, kQueryBytes = kQueries * kD * 2;
  static constexpr int kStageBytes = 2 * kQueryBytes + 2 * kQueries * 4;  // q, dout, lse, delta
  static constexpr int kSharedBytes = 2 * kKeyBytes + 2 * kStageBytes;
};

/// Whether query position `row` sees `key`.
__device__ __forceinline__ bool sees(int row, int key, int window) {
  return key <= row && (window == 0 || row - key < window);
}

/// x += X·Yᵀ and z += Z·Wᵀ over the depth kD, for 16 rows of X and Z at `row` and kN columns (rows of Y and W).
template <int kD, int kN>
__device__ __forceinline__ void two_products(float (&x)[kN / 8][4], float (&z)[kN / 8][4], const unsigned char* x_tile,
                                             const unsigned char* y_tile, const unsigned char* z_tile,
                                             const unsigned char* w_tile, int row, int lane) {
#pragma unroll
  for (int n = 0; n < kN / 8; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) x[n][e] = z[n][e] = 0;
  }
#pragma unroll 2  // whole, the swizzled addresses of all steps would stay in registers
  for (int kk = 0; kk < kD; kk += 16) {
    uint32_t a[4], c[4];
    load_a<kD>(a, x_tile, row, kk, lane);
    load_a<kD>(c, z_tile, row, kk, lane);
#pragma unroll
    for (int n = 0; n < kN / 8; n += 2) {
      uint32_t b[4];
      load_b<kD>(b, y_tile, n * 8, kk, lane);
      mma(x[n], a, b[0], b[1]);
      mma(x[n + 1], a, b[2], b[3]);
      load_b<kD>(b, w_tile, n * 8, kk, lane);
      mma(z[n], c, b[0], b[1]);
      mma(z[n + 1], c, b[2], b[3]);
    }
  }
}

/// acc += P·Y, P the accumulators of kN columns (rounded to bf16) and Y the kN rows of a tile.
template <int kD, int kN>
__device__ __forceinline__ void accumulate_rows(float (&acc)[kD / 8][4], const float (&p)[kN / 8][4],
                                                const unsigned char* y_tile, int lane) {
#pragma unroll
  for (int kk = 0; kk < kN / 16; kk++) {
    uint32_t a[4];
    pack_a(a, p[2 * kk], p[2 * kk + 1]);
#pragma unroll
    for (int n = 0; n < kD / 8; n += 2) {
      uint32_t b[4];
      load_b_rows<kD>(b, y_tile, kk * 16, n * 8, lane);
      mma(acc[n], a, b[0], b[1]);
      mma(acc[n + 1], a, b[2], b[3]);
    }
  }
}

/// Grid: slot_count(rows, sequences, 64) · query heads.
template <int kD>
__global__ void __launch_bounds__(kAttentionThreads, 2) attention_dq_kernel(const BackwardArguments a) {
  using Tile = QueryGradientTile<kD>;
  LATHE_DYNAMIC_SHARED(shared);
  unsigned char *q_tile = shared, *d_tile = q_tile + Tile::kTileBytes, *stages = d_tile + Tile::kTileBytes;
  const int thread = threadIdx.x, lane = thread & 31, warp_row = (thread >> 5) * 16, g = lane >> 2, t = lane & 3;
  const int head = blockIdx.x % a.query_heads, key_head = head / (a.query_heads / a.key_heads);
  const int slot = static_cast<int>(gridDim.x / a.query_heads) - 1 - static_cast<int>(blockIdx.x / a.query_heads);
  const int s = sequence_of_slot(a.sequences.offsets, a.sequences.count, Tile::kQueries, slot, lane);
  const SequenceView sequence = a.sequences.view(s);
  const int first = (slot - sequence.first_row / Tile::kQueries - s) * Tile::kQueries;
  if (first >= sequence.queries) return;

  const int queries = min(Tile::kQueries, sequence.queries - first), end = first + queries;
  const int begin = a.window > 0 ? max(0, first - a.window + 1) / Tile::kKeys * Tile::kKeys : 0;
  const int64_t q_stride = static_cast<int64_t>(a.query_heads) * kD, k_stride = static_cast<int64_t>(a.key_heads) * kD;
  const int64_t row0 = sequence.first_row;
  const auto load_stage = [&](int key) {
    unsigned char* stage = stages + ((key - begin) / Tile::kKeys & 1) * 2 * Tile::kTileBytes;
    const auto row_of = [&](int i) { return row0 + key + i; };
    const int64_t at = static_cast<int64_t>(key_head) * kD;
    load_tile<kD>(stage, a.k + at, k_stride, Tile::kKeys, end - key, thread, row_of);
    load_tile<kD>(stage + Tile::kTileBytes, a.v + at, k_stride, Tile::kKeys, end - key, thread, row_of);
  };
  const auto query_row = [&](int i) { return row0 + first + i; };
  const int64_t head_at = static_cast<int64_t>(head) * kD;
  load_tile<kD>(q_tile, a.q + head_at, q_stride, Tile::kQueries, queries, thread, query_row);
  load_tile<kD>(d_tile, a.dout + head_at, q_stride, Tile::kQueries, queries, thread, query_row);
  load_stage(begin);
  commit_copies();

  float lse[2] = {0, 0}, delta[2] = {0, 0};  // of this lane's two rows
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int i = warp_row + g + half * 8;
    if (i >= queries) continue;
    const int64_t at = static_cast<int64_t>(head) * a.rows + row0 + first + i;
    lse[half] = a.lse[at] * kLog2E;
    delta[half] = a.delta[at];
  }
  float dq[kD / 8][4] = {};
  for (int key = begin; key < end; key += Tile::kKeys) {
    if (key + Tile::kKeys < end) load_stage(key + Tile::kKeys);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const unsigned char* stage = stages + ((key - begin) / Tile::kKeys & 1) * 2 * Tile::kTileBytes;
    float p[8][4], dp[8][4];
    two_products<kD, 64>(p, dp, q_tile, stage, d_tile, stage + Tile::kTileBytes, warp_row, lane);
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int half = e >> 1, row = first + warp_row + g + half * 8;
        const float weight = exp2_fast(p[n][e] * (a.scale * kLog2E) - lse[half]);
        p[n][e] = sees(row, key + n * 8 + t * 2 + (e & 1), a.window) ? weight * (dp[n][e] - delta[half]) : 0.0f;
      }
    }
    accumulate_rows<kD, 64>(dq, p, stage, lane);
    __syncthreads();  // this stage may be filled again
  }
  stage_rows<kD>(q_tile, warp_row, dq, a.scale, a.scale, lane);
  __syncwarp();
  store_rows<kD>(a.dq + head_at, q_stride, row0 + first + warp_row, q_tile, warp_row, 16, queries - warp_row, lane);
}

/// pᵀ and dpᵀ (rows: keys, columns: queries) → weights and weights·(dp − delta); 0 where not seen.
template <int kN>
__device__ __forceinline__ void weights_and_slopes(float (&p)[kN / 8][4], float (&dp)[kN / 8][4], const float* lse,
                                                   const float* delta, float scale_log2, int first_query, int queries,
                                                   int first_key, int window, int lane) {
  const int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int n = 0; n < kN / 8; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int i = n * 8 + t * 2 + (e & 1), row = first_query + i, key = first_key + g + (e >> 1) * 8;
      const float weight = exp2_fast(p[n][e] * scale_log2 - lse[i] * kLog2E);
      p[n][e] = row < queries && sees(row, key, window) ? weight : 0.0f;
      dp[n][e] = p[n][e] * (dp[n][e] - delta[i]);
    }
  }
}

/// Grid: slot_count(rows, sequences, 64) · key heads, the first (longest) tiles of a sequence first.
template <int kD>
__global__ void __launch_bounds__(kAttentionThreads, 2) attention_dkdv_kernel(const BackwardArguments a) {
  using Tile = KeyGradientTile<kD>;
  constexpr int kN = Tile::kQueries;
  LATHE_DYNAMIC_SHARED(shared);
  unsigned char *k_tile = shared, *v_tile = k_tile + Tile::kKeyBytes, *stages = v_tile + Tile::kKeyBytes;
  const int thread = threadIdx.x, lane = thread & 31, warp_row = (thread >> 5) * 16;
  const int key_head = blockIdx.x % a.key_heads, slot = blockIdx.x / a.key_heads, group = a.query_heads / a.key_heads;
  const int s = sequence_of_slot(a.sequences.offsets, a.sequences.count, Tile::kKeys, slot, lane);
  const SequenceView sequence = a.sequences.view(s);
  const int length = sequence.queries, first = (slot - sequence.first_row / Tile::kKeys - s) * Tile::kKeys;
  if (first >= length) return;

  const int keys = min(Tile::kKeys, length - first), begin = first / kN * kN;
  const int end = a.window > 0 ? min(length, first + keys - 1 + a.window) : length;
  const int blocks = div_up(end - begin, kN), steps = group * blocks;
  const int64_t q_stride = static_cast<int64_t>(a.query_heads) * kD, k_stride = static_cast<int64_t>(a.key_heads) * kD;
  const int64_t row0 = sequence.first_row, key_at = static_cast<int64_t>(key_head) * kD;
  const auto load_stage = [&](int step) {
    unsigned char* stage = stages + (step & 1) * Tile::kStageBytes;
    const int head = key_head * group + step / blocks, query = begin + step % blocks * kN;
    const auto row_of = [&](int i) { return row0 + query + i; };
    const int64_t at = static_cast<int64_t>(head) * kD;
    load_tile<kD>(stage, a.q + at, q_stride, kN, length - query, thread, row_of);
    load_tile<kD>(stage + Tile::kQueryBytes, a.dout + at, q_stride, kN, length - query, thread, row_of);
    if (thread < 2 * kN) {
      const int i = thread % kN;
      const float* from = (thread < kN ? a.lse : a.delta) + static_cast<int64_t>(head) * a.rows + row0;
      copy_async4(stage + 2 * Tile::kQueryBytes + thread * 4, from + (query + i < length ? query + i : 0),
                  query + i < length);
    }
  };
  const auto key_row = [&](int i) { return row0 + first + i; };
  load_tile<kD>(k_tile, a.k + key_at, k_stride, Tile::kKeys, keys, thread, key_row);
  load_tile<kD>(v_tile, a.v + key_at, k_stride, Tile::kKeys, keys, thread, key_row);
  load_stage(0);
  commit_copies();

  float dk[kD / 8][4] = {}, dv[kD / 8][4] = {};
  for (int step = 0; step < steps; step++) {
    if (step + 1 < steps) load_stage(step + 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const unsigned char* stage = stages + (step & 1) * Tile::kStageBytes;
    const float* lse = reinterpret_cast<const float*>(stage + 2 * Tile::kQueryBytes);
    float p[kN / 8][4], dp[kN / 8][4];
    two_products<kD, kN>(p, dp, k_tile, stage, v_tile, stage + Tile::kQueryBytes, warp_row, lane);
    weights_and_slopes<kN>(p, dp, lse, lse + kN, a.scale * kLog2E, begin + step % blocks * kN, length,
                           first + warp_row, a.window, lane);
    accumulate_rows<kD, kN>(dv, p, stage + Tile::kQueryBytes, lane);
    accumulate_rows<kD, kN>(dk, dp, stage, lane);
    __syncthreads();
  }
  stage_rows<kD>(k_tile, warp_row, dk, a.scale, a.scale, lane);
  stage_rows<kD>(v_tile, warp_row, dv, 1.0f, 1.0f, lane);
  __syncwarp();
  const int64_t to = row0 + first + warp_row;
  store_rows<kD>(a.dk + key_at, k_stride, to, k_tile, warp_row, 16, keys - warp_row, lane);
  store_rows<kD>(a.dv + key_at, k_stride, to, v_tile, warp_row, 16, keys - warp_row, lane);
}

}  // namespace lathe::cuda
