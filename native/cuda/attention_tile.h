// What the tiled attention kernels share: swizzled tiles in shared memory, the fragments read from them, and which
// sequence and rows a block works on. Knows neither softmax nor gradients.
//
// A tile holds rows of kD bf16. Its 16-byte chunks are permuted within each row so that the eight rows of an
// ldmatrix, and the four writers of a fragment's row, lie in different banks.
#pragma once
#include "mma.h"

namespace lathe::cuda {

constexpr int kAttentionThreads = 128;  // four warps
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

template <int kD>
struct TileLayout {
  static constexpr int kChunks = kD / 8;
  static_assert(kChunks % 8 == 0, "rows of at least 128 bytes");
  static constexpr int kRowBytes = kD * 2;

  /// Byte offset of a 16-byte chunk.
  __host__ __device__ static constexpr int offset(int row, int chunk) {
    return row * kRowBytes + (chunk ^ (row & 7)) * 16;
  }
};

/// A operand, rows [row, row+16) and columns [k, k+16) of a tile.
template <int kD>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const unsigned char* tile, int row, int k, int lane) {
  load_matrix(a, tile + TileLayout<kD>::offset(row + (lane & 15), k / 8 + (lane >> 4)));
}

/// B operand whose columns are tile rows [n, n+16) and whose depth is tile columns [k, k+16): two n-tiles, b[0..1]
/// and b[2..3].
template <int kD>
__device__ __forceinline__ void load_b(uint32_t (&b)[4], const unsigned char* tile, int n, int k, int lane) {
  load_matrix(b, tile + TileLayout<kD>::offset(n + (lane & 7) + (lane >> 4) * 8, k / 8 + ((lane >> 3) & 1)));
}

/// B operand whose depth is tile rows [k, k+16) and whose columns are tile columns [n, n+16).
template <int kD>
__device__ __forceinline__ void load_b_rows(uint32_t (&b)[4], const unsigned char* tile, int k, int n, int lane) {
  load_matrix_transposed(b, tile + TileLayout<kD>::offset(k + (lane & 15), n / 8 + (lane >> 4)));
}

/// The A operand made of two neighbouring n-tiles of accumulators: they become depth.
__device__ __forceinline__ void pack_a(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack_bf16(left[0], left[1]);
  a[1] = pack_bf16(left[2], left[3]);
  a[2] = pack_bf16(right[0], right[1]);
  a[3] = pack_bf16(right[2], right[3]);
}

/// One sequence as a block sees it. Keys are counted from the sequence's start; its queries are the last of them.
struct SequenceView {
  int first_row;     // of q
  int queries, keys;
  const int* table;  // paged: cache block of every block_size keys; null: keys are rows from first_row on
  int block_size;

  __device__ __forceinline__ int64_t key_row(int key) const {
    return table ? static_cast<int64_t>(table[key / block_size]) * block_size + key % block_size
                 : static_cast<int64_t>(first_row) + key;
  }
  /// Position of query `i`, in keys.
  __device__ __forceinline__ int position(int i) const { return keys - queries + i; }
};

/// Where sequences lie: packed, or over a paged cache (tables not null).
struct SequenceSet {
  const int* offsets;  // [count+1]
  int count;
  const int* tables;   // [count, max_blocks]
  const int* contexts; // [count]
  int max_blocks, block_size;

  __device__ __forceinline__ SequenceView view(int s) const {
    const int first = offsets[s], queries = offsets[s + 1] - first;
    return {first, queries, tables ? contexts[s] : queries,
            tables ? tables + static_cast<int64_t>(s) * max_blocks : nullptr, block_size};
  }
};

/// Tile slots: sequence s owns slots from offsets[s]/rows + s on, always at least ceil(length/rows) of them. So the
/// grid needs nothing but the totals, and no list is built: slot_count() slots, some of them empty.
__host__ __device__ __forceinline__ int slot_count(int total_rows, int sequences, int tile_rows) {
  return total_rows / tile_rows + sequences;
}

/// The last i in [0, count) with reached(i); reached(0) holds and the property is monotone. A 32-way search.
template <class Reached>
__device__ __forceinline__ int last_reached(int count, int lane, const Reached& reached) {
  int low = 0, width = count;
  while (width > 1) {
    const int step = div_up(width, 32);
    const bool yes = lane * step < width && reached(low + lane * step);
    const int last = __popc(__ballot_sync(kWholeWarp, yes)) - 1;
    const int left = width - last * step;
    low += last * step;
    width = left < step ? left : step;
  }
  return low;
}

/// The sequence that owns a tile slot.
__device__ __forceinline__ int sequence_of_slot(const int* offsets, int count, int tile_rows, int slot, int lane) {
  return last_reached(count, lane, [&](int s) { return offsets[s] / tile_rows + s <= slot; });
}

/// The sequence that holds a row.
__device__ __forceinline__ int sequence_of_row(const int* offsets, int count, int row, int lane) {
  return last_reached(count, lane, [&](int s) { return offsets[s] <= row; });
}

/// Copies `count` rows (of `valid` that exist, zeros after) of one head into a tile. row_of(i): the source row.
template <int kD, int kThreads = kAttentionThreads, class RowOf>
__device__ __forceinline__ void load_tile(unsigned char* tile, const uint16_t* source, int64_t row_stride, int count,
                                          int valid, int thread, const RowOf& row_of) {
  constexpr int kChunks = TileLayout<kD>::kChunks, kRowsAtOnce = kThreads / kChunks;
  const int chunk = thread % kChunks;
  for (int row = thread / kChunks; row < count; row += kRowsAtOnce) {
    const bool exists = row < valid;
    const uint16_t* from = exists ? source + row_of(row) * row_stride + chunk * 8 : source;
    copy_async16(tile + TileLayout<kD>::offset(row, chunk), from, exists);
  }
}

/// Writes 16 rows of accumulators, times a factor per row half, as bf16 into 16 tile rows that only this warp uses.
template <int kD>
__device__ __forceinline__ void stage_rows(unsigned char* tile, int row, const float (&acc)[kD / 8][4], float factor0,
                                           float factor1, int lane) {
  const int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int n = 0; n < kD / 8; n++) {
    unsigned char* top = tile + TileLayout<kD>::offset(row + g, n) + t * 4;
    unsigned char* bottom = tile + TileLayout<kD>::offset(row + g + 8, n) + t * 4;
    *reinterpret_cast<uint32_t*>(top) = pack_bf16(acc[n][0] * factor0, acc[n][1] * factor0);
    *reinterpret_cast<uint32_t*>(bottom) = pack_bf16(acc[n][2] * factor1, acc[n][3] * factor1);
  }
}

struct alignas(16) Chunk {
  uint32_t words[4];
};

/// Stores `rows` tile rows of this warp, those below `valid`, to a head of a [.., stride] tensor at first_row on.
template <int kD>
__device__ __forceinline__ void store_rows(uint16_t* to, int64_t stride, int64_t first_row, const unsigned char* tile,
                                           int row, int rows, int valid, int lane) {
  constexpr int kChunks = TileLayout<kD>::kChunks;
  for (int i = lane; i < rows * kChunks; i += 32) {
    const int r = i / kChunks, chunk = i % kChunks;
    if (r >= valid) continue;
    const Chunk c = *reinterpret_cast<const Chunk*>(tile + TileLayout<kD>::offset(row + r, chunk));
    *reinterpret_cast<Chunk*>(to + (first_row + r) * stride + chunk * 8) = c;
  }
}

}  // namespace lathe::cuda
