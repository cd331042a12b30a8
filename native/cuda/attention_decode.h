// Attention of single queries over a paged cache in bf16: split over the context, all query heads of a key head
// together (as the rows of one mma, so K and V are read once), splits merged in their order by the last block done.
// How a context is split depends on its own length alone: a row's result does not depend on the batch.
// One block of four warps per (row, key head, split); each warp streams its own tiles of 16 keys through two stages of
// private shared memory, 64 KiB a block at head size 128: three blocks and up to 192 KiB in flight an SM.
// Floor aimed at: 85 % of the copy bandwidth on the K and V bytes from about 16 k keys in the batch on.
#pragma once
#include "attention_merge.h"

namespace lathe::cuda {

constexpr int kTickets = 1 << 16;  // (grid.z, key head) pairs of one launch, at most

/// Blocks done per (grid.z, key head); every launch leaves zeros. All launches are on one stream.
static __device__ unsigned decode_tickets[kTickets];

/// Fragments of the group's queries: row g is query head first_head + g, zero beyond `heads`.
template <int kD>
__device__ __forceinline__ void load_group(uint32_t (&q)[kD / 16][4], const uint16_t* from, int heads, int lane) {
  const int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int kk = 0; kk < kD / 16; kk++) {
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int row = g + (r & 1) * 8, column = kk * 16 + (r >> 1) * 8 + t * 2;
      q[kk][r] = row < heads ? *reinterpret_cast<const uint32_t*>(from + row * kD + column) : 0u;
    }
  }
}

/// Starts the copy of one tile of K and V into this warp's stage; keys outside [begin, end) become zeros.
template <int kD>
__device__ __forceinline__ void load_decode_tile(unsigned char* stage, const DecodeArguments& a,
                                                 const SequenceView& sequence, int key_head, int tile, int begin,
                                                 int end, int lane) {
  constexpr int kChunks = kD / 8;
  const int first = tile * kDecodeKeys, chunk = lane % kChunks;
  const bool one_page = sequence.block_size % kDecodeKeys == 0;
  const int64_t page = one_page ? sequence.key_row(first) : 0, stride = static_cast<int64_t>(a.key_heads) * kD;
#pragma unroll
  for (int row = lane / kChunks; row < kDecodeKeys; row += 32 / kChunks) {
    const int key = first + row;
    const bool valid = key >= begin && key < end;
    const int64_t at = valid ? (one_page ? page + row : sequence.key_row(key)) * stride + key_head * kD + chunk * 8 : 0;
    copy_async16(stage + TileLayout<kD>::offset(row, chunk), a.k + at, valid);
    copy_async16(stage + DecodeTile<kD>::kBytes + TileLayout<kD>::offset(row, chunk), a.v + at, valid);
  }
}

/// One tile of 16 keys into the warp's state.
template <int kD>
__device__ __forceinline__ void decode_tile(DecodeState<kD>& state, const uint32_t (&q)[kD / 16][4],
                                            const unsigned char* stage, float scale, int first, int begin, int end,
                                            int lane) {
  const int t = lane & 3;
  float s[2][4] = {};
#pragma unroll
  for (int kk = 0; kk < kD / 16; kk++) {
    uint32_t b[4];
    load_b<kD>(b, stage, 0, kk * 16, lane);
    mma(s[0], q[kk], b[0], b[1]);
    mma(s[1], q[kk], b[2], b[3]);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float best = state.maximum[half];
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float& x = s[e >> 1][half * 2 + (e & 1)];
      const int key = first + (e >> 1) * 8 + t * 2 + (e & 1);
      x = key >= begin && key < end ? x * scale : -INFINITY;
      best = fmaxf(best, x);
    }
    best = quad_max(best);
    const float shift = best == -INFINITY ? 0.0f : best, factor = exp2_fast(state.maximum[half] - shift);
    state.sum[half] *= factor;
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float& x = s[e >> 1][half * 2 + (e & 1)];
      x = exp2_fast(x - shift);
      state.sum[half] += x;
    }
    state.maximum[half] = best;
#pragma unroll
    for (int n = 0; n < kD / 8; n++) {
      state.out[n][half * 2] *= factor;
      state.out[n][half * 2 + 1] *= factor;
    }
  }
  uint32_t p[4];
  pack_a(p, s[0], s[1]);
#pragma unroll
  for (int n = 0; n < kD / 8; n += 2) {
    uint32_t b[4];
    load_b_rows<kD>(b, stage + DecodeTile<kD>::kBytes, 0, n * 8, lane);
    mma(state.out[n], p, b[0], b[1]);
    mma(state.out[n + 1], p, b[2], b[3]);
  }
}

/// Grid: (most_splits, key heads · ceil(group/16), rows or sequences).
template <int kD>
__global__ void __launch_bounds__(kAttentionThreads, 3) attention_decode_kernel(const DecodeArguments a) {
  LATHE_DYNAMIC_SHARED(shared);
  __shared__ unsigned done;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, group = a.query_heads / a.key_heads;
  const int key_head = blockIdx.y % a.key_heads, head_in_group = static_cast<int>(blockIdx.y) / a.key_heads * 16;
  const int z = blockIdx.z;
  const int s = a.by_sequence ? z : sequence_of_row(a.sequences.offsets, a.sequences.count, z, lane);
  const SequenceView sequence = a.sequences.view(s);
  if (a.by_sequence && sequence.queries != 1) return;
  const int row = a.by_sequence ? sequence.first_row : z;
  const int end = sequence.position(row - sequence.first_row) + 1, begin = a.window > 0 ? max(0, end - a.window) : 0;
  const int first_tile = begin / kDecodeKeys, tiles = div_up(end, kDecodeKeys) - first_tile;
  const int per_split = split_tiles(tiles), splits = div_up(tiles, per_split);
  if (static_cast<int>(blockIdx.x) >= splits) return;

  const int heads = min(16, group - head_in_group);
  const int64_t first_entry = static_cast<int64_t>(row) * a.query_heads + key_head * group + head_in_group;
  unsigned char* stages = shared + warp * DecodeTile<kD>::kWarpBytes;
  const int from = first_tile + blockIdx.x * per_split, to = min(from + per_split, first_tile + tiles);
  const auto load = [&](int tile) {
    if (tile < to) {
      load_decode_tile<kD>(stages + ((tile - from) / 4 & 1) * 2 * DecodeTile<kD>::kBytes, a, sequence, key_head, tile,
                           begin, end, lane);
    }
    commit_copies();
  };
  load(from + warp);
  uint32_t q[kD / 16][4];
  load_group<kD>(q, a.q + first_entry * kD, heads, lane);
  DecodeState<kD> state = {};
  state.maximum[0] = state.maximum[1] = -INFINITY;
  for (int tile = from + warp; tile < to; tile += 4) {
    load(tile + 4);
    wait_copies<1>();
    __syncwarp();
    decode_tile<kD>(state, q, stages + ((tile - from) / 4 & 1) * 2 * DecodeTile<kD>::kBytes, a.scale_log2,
                    tile * kDecodeKeys, begin, end, lane);
    __syncwarp();
  }
  wait_copies<0>();
  publish_warp<kD>(reinterpret_cast<float*>(stages), state, lane);
  __syncthreads();
  const int64_t first_part = first_entry + static_cast<int64_t>(z - row) * a.query_heads;
  write_split<kD>(a, shared, first_entry, first_part, heads, splits == 1, thread);
  if (splits == 1) return;

  // The last block of this row and key head merges the splits, in their order.
  __threadfence();
  __syncthreads();
  unsigned* ticket = decode_tickets + blockIdx.z * gridDim.y + blockIdx.y;
  if (thread == 0) done = atomicAdd(ticket, 1u) + 1;
  __syncthreads();
  if (done != static_cast<unsigned>(splits)) return;
  if (thread == 0) *ticket = 0;
  __threadfence();
  for (int i = thread; i < heads * kD; i += kAttentionThreads) {
    const int head = i / kD, column = i % kD;
    const float* parts = a.partial + (first_part + head) * gridDim.x * (kD + 2);
    float maximum, sum, value;
    merge_parts(splits, maximum, sum, value, [&](int split, int what) {
      return load_global(parts + split * (kD + 2) + (what == 2 ? column : kD + what));
    });
    a.out[(first_entry + head) * kD + column] = bf16_bits(value / sum);
  }
}

}  // namespace lathe::cuda
