// Products of a few rows with large bf16 weights, as decoding needs them: the weights are the rows ("M") of the mma, so
// they are read once, whatever the number of tokens up to 32; up to three layers that share x in one launch; bias and
// each row's own low-rank adapter in the epilogue, with nothing to launch for them.
// The order of k inside a product is ours to choose: every lane takes eight neighbouring k of its weight rows and of
// its tokens, which is two mma deep. So a lane copies to shared memory (cp.async, kStages deep) exactly the 16-byte
// pieces that it will itself feed to the mma: no ldmatrix, no barrier in the loop, no bank conflict.
// A block of eight warps makes 64 weight rows: two groups of 32 rows, four warps each, which split k and are added in
// order at the end. Where the layers have few rows, k is also split over blocks; the last block done adds the parts in
// their order. Splits depend on the weights' shape alone, so a row's bits do not depend on the batch.
// Budget: 80 registers; 80 KiB shared up to 8 tokens, 96 KiB beyond: two blocks an SM with 64 to 96 KiB of weights in
// flight. x comes through L1, where the other row group finds it: at 32 tokens it adds half the weights' bytes to the
// traffic from L2. Floor aimed at: 85 % of the copy bandwidth on the weights' bytes.
#pragma once
#include "lora_slots.h"

namespace lathe::cuda {

constexpr int kSkinnyThreads = 256, kSkinnyRows = 64, kSkinnyTokens = 32, kMostLayers = 3;
constexpr int kSkinnyDepth = 32;                          // k of one step of one warp
constexpr int kSplitGroups = 4;                           // warps that share a row group, splitting k
constexpr int kSkinnyStride = kSkinnyRows + 4;            // padded row of the reduction buffer, in floats
constexpr int kSkinnyTickets = 1 << 16;

/// Blocks done per row tile; every launch leaves zeros.
static __device__ unsigned skinny_tickets[kSkinnyTickets];

struct SkinnyLayer {
  const uint16_t* w;   // [n, depth]
  FloatPointer bias;   // data null: none
  FloatPointer y;      // [tokens, n]
  int n, first_tile;   // its row tiles follow those of the layers before
};

struct SkinnyArguments {
  SkinnyLayer layers[kMostLayers];
  int layer_count, tiles;  // row tiles of all layers
  const uint16_t* x;       // [tokens, depth]
  int tokens, depth;
  int split_depth;         // k of one split, a multiple of 128
  float* partial;          // [splits, tiles · 64, tokens]; null when gridDim.y is 1
  SlotTable adapters;      // slots null: no adapters
  const float* h;          // [layers, tokens, kMostRank]: scale · x·Aᵀ
};

/// How k is split for `tiles` row tiles: about 264 blocks, at least 512 k each.
struct SkinnySplit {
  int depth, count;
};
__host__ __device__ constexpr SkinnySplit skinny_split(int tiles, int depth) {
  int count = div_up(264, tiles);
  if (count > depth / 512) count = depth / 512;
  if (count < 1) count = 1;
  const int part = div_up(div_up(depth, count), 128) * 128;
  return {part, div_up(depth, part)};
}

template <int kNT>
struct SkinnyTile {
  static constexpr int kPieces = 4 + kNT;  // 16-byte pieces of a lane and step: two m-tiles × two rows, then tokens
  static constexpr int kStages = kNT == 4 ? 3 : 4;
  static constexpr int kWarpBytes = kStages * kPieces * 32 * 16;
  static constexpr int kLoopBytes = 8 * kWarpBytes;
  static constexpr int kSumBytes = kSplitGroups * kNT * 8 * kSkinnyStride * 4;
  static constexpr int kSharedBytes = kLoopBytes > kSumBytes ? kLoopBytes : kSumBytes;
};

struct alignas(16) Piece {
  uint32_t words[4];
};

/// The two products of one step: 32 weight rows, kNT · 8 tokens, 32 k.
template <int kNT>
__device__ __forceinline__ void skinny_step(float (&acc)[2][kNT][4], const Piece* stage, int lane) {
  Piece w[4];
#pragma unroll
  for (int i = 0; i < 4; i++) w[i] = stage[i * 32 + lane];
#pragma unroll
  for (int n = 0; n < kNT; n++) {
    const Piece x = stage[(4 + n) * 32 + lane];
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        const uint32_t a[4] = {w[2 * m].words[j], w[2 * m + 1].words[j], w[2 * m].words[j + 1],
                               w[2 * m + 1].words[j + 1]};
        mma(acc[m][n], a, x.words[j], x.words[j + 1]);
      }
    }
  }
}

/// Sums of this warp's share of k into `acc`.
template <int kNT>
__device__ __forceinline__ void skinny_sums(float (&acc)[2][kNT][4], unsigned char* shared, const SkinnyArguments& a,
                                            const SkinnyLayer& layer, int first_row, int begin, int end, int thread) {
  using Tile = SkinnyTile<kNT>;
  const int lane = thread & 31, warp = thread >> 5, g = lane >> 2, t = lane & 3, group = warp >> 1;
  Piece* stages = reinterpret_cast<Piece*>(shared + warp * Tile::kWarpBytes);
  const int row = first_row + (warp & 1) * 32 + g, first_k = begin + group * kSkinnyDepth + t * 8;
  const int steps = max(0, div_up(end - begin - group * kSkinnyDepth, kSplitGroups * kSkinnyDepth));
  const auto load = [&](int step) {
    if (step < steps) {
      Piece* to = stages + step % Tile::kStages * Tile::kPieces * 32 + lane;
      const int k = first_k + step * kSplitGroups * kSkinnyDepth;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const bool valid = k < end && row + i * 8 < layer.n;
        copy_async16(to + i * 32, layer.w + (valid ? static_cast<int64_t>(row + i * 8) * a.depth + k : 0), valid);
      }
#pragma unroll
      for (int n = 0; n < kNT; n++) {
        const bool valid = k < end && n * 8 + g < a.tokens;
        copy_async16_cached(to + (4 + n) * 32, a.x + (valid ? static_cast<int64_t>(n * 8 + g) * a.depth + k : 0), valid);
      }
    }
    commit_copies();
  };
#pragma unroll
  for (int step = 0; step < Tile::kStages - 1; step++) load(step);
  for (int step = 0; step < steps; step++) {
    load(step + Tile::kStages - 1);
    wait_copies<Tile::kStages - 1>();  // this lane's own pieces are here, and it reads no others
    skinny_step<kNT>(acc, stages + step % Tile::kStages * Tile::kPieces * 32, lane);
  }
  wait_copies<0>();
}

/// One element of y from its sum.
__device__ __forceinline__ void skinny_finish(const SkinnyArguments& a, const SkinnyLayer& layer, int index, int row,
                                              int token, float sum) {
  if (layer.bias.data) sum += layer.bias.load(row);
  if (a.adapters.slots) {
    const float* h = a.h + (static_cast<int64_t>(index) * a.tokens + token) * kMostRank;
    sum += low_rank_element(a.adapters, index, token, row, h);
  }
  layer.y.store(static_cast<int64_t>(token) * layer.n + row, sum);
}

/// Grid: (row tiles, splits).
template <int kNT>
__global__ void __launch_bounds__(kSkinnyThreads) skinny_gemm_kernel(const SkinnyArguments a) {
  LATHE_DYNAMIC_SHARED(shared);
  __shared__ unsigned done;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, tile = blockIdx.x;
  int index = 0;
  while (index + 1 < a.layer_count && tile >= a.layers[index + 1].first_tile) index++;
  const SkinnyLayer& layer = a.layers[index];
  const int first_row = (tile - layer.first_tile) * kSkinnyRows;
  const int begin = blockIdx.y * a.split_depth, end = min(a.depth, begin + a.split_depth);
  float acc[2][kNT][4] = {};
  skinny_sums<kNT>(acc, shared, a, layer, first_row, begin, end, thread);

  // The four warps of a row group, added in their order.
  float* sums = reinterpret_cast<float*>(shared);
  __syncthreads();
  const int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int n = 0; n < kNT; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = (warp & 1) * 32 + m * 16 + g + (e >> 1) * 8, token = n * 8 + t * 2 + (e & 1);
        sums[((warp >> 1) * kNT * 8 + token) * kSkinnyStride + row] = acc[m][n][e];
      }
    }
  }
  __syncthreads();
  const int elements = kSkinnyRows * a.tokens, splits = gridDim.y;
  const auto partial_at = [&](int split, int i) {
    return a.partial + (static_cast<int64_t>(split) * a.tiles + tile) * elements + i;
  };
  for (int i = thread; i < elements; i += kSkinnyThreads) {
    const int row = i % kSkinnyRows, token = i / kSkinnyRows;
    float sum = 0;
#pragma unroll
    for (int part = 0; part < kSplitGroups; part++) sum += sums[(part * kNT * 8 + token) * kSkinnyStride + row];
    if (splits > 1) *partial_at(blockIdx.y, i) = sum;
    else if (first_row + row < layer.n) skinny_finish(a, layer, index, first_row + row, token, sum);
  }
  if (splits == 1) return;

  __threadfence();
  __syncthreads();
  if (thread == 0) done = atomicAdd(skinny_tickets + tile, 1u) + 1;
  __syncthreads();
  if (done != static_cast<unsigned>(splits)) return;
  if (thread == 0) skinny_tickets[tile] = 0;
  __threadfence();
  for (int i = thread; i < elements; i += kSkinnyThreads) {
    const int row = first_row + i % kSkinnyRows;
    if (row >= layer.n) continue;
    float sum = 0;
    for (int split = 0; split < splits; split++) sum += load_global(partial_at(split, i));
    skinny_finish(a, layer, index, row, i / kSkinnyRows, sum);
  }
}

}  // namespace lathe::cuda
