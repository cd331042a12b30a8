// What the attention kernels share: how queries and keys are laid out in blocks.
// Lanes are queries. The G query heads of one key head and their rows form one list of "lanes", index
// row·G + head, cut into panels of 32; keys come in blocks of kKeyBlock counted from the start of the sequence.
// So a score, a weight and an output are each one chain over d or over keys whose order does not depend on how
// many queries are computed together: prefill, decode and training give the same bits.
#pragma once
#include "gemm_kernel.h"
#include "gemm_pack.h"
#include "parallel.h"
#include "vector_math.h"

namespace lathe::LATHE_ISA {

constexpr int64_t kKeyBlock = 96;  // a multiple of every kTileRows
constexpr int64_t kRowsAhead = 6;    // prefetch distance
constexpr int kVectorsPerPanel = kPanel / W;

/// One sequence seen by one key head.
struct Sequence {
  int64_t query_first, queries;  // rows of q
  int64_t keys;                  // the queries are the last positions of these
  const int32_t* table;          // paged: cache block of each block_size keys; null: rows from query_first on
  int64_t block_size;

  int64_t key_row(int64_t j) const {
    return table ? table[j / block_size] * block_size + j % block_size : query_first + j;
  }
};

struct AttentionShape {
  int64_t d, padded_d;  // head size, and rounded up to a panel
  int64_t query_heads, key_heads, group;
  int64_t window;  // 0: none
  float scale;

  AttentionShape(In q, In k, int64_t head_dim, float score_scale, int64_t window_tokens)
      : d(head_dim), padded_d(round_up(head_dim, kPanel)), query_heads(q.dims[1] / head_dim),
        key_heads(k.dims[1] / head_dim), group(query_heads / key_heads), window(window_tokens), scale(score_scale) {}

  /// First key that position `position` may see.
  int64_t first_key(int64_t position) const { return window > 0 ? max(0, position - window + 1) : 0; }
};

/// A panel of up to 32 lanes of one sequence.
struct Lanes {
  const Sequence& s;
  const AttentionShape& shape;
  int64_t first, count;  // lane numbers in the sequence's list

  int64_t position(int64_t lane) const { return s.keys - s.queries + (first + lane) / shape.group; }
  int64_t row(int64_t lane) const { return s.query_first + (first + lane) / shape.group; }
  int64_t last_position() const { return position(count - 1); }
};

/// f(lane, element offset of the lane's head in a [rows, Hq·D] tensor, row, head) for every lane, in order.
template <class F>
static inline void each_lane(const Lanes& lanes, int64_t key_head, const F& f) {
  const AttentionShape& a = lanes.shape;
  int64_t row = lanes.row(0), member = lanes.first % a.group;  // stepped: a division per lane would show
  for (int64_t i = 0; i < lanes.count; i++) {
    const int64_t head = key_head * a.group + member;
    f(i, (row * a.query_heads + head) * a.d, row, head);
    if (++member == a.group) {
      member = 0;
      row++;
    }
  }
}

/// to[padded_d] f32 = d elements, then zeros. Rows are short pieces a row of all heads apart, which no hardware
/// prefetcher follows: the piece `ahead` elements further is asked for now.
static inline void load_row(float* to, FloatRef from, int64_t ahead, const AttentionShape& a) {
  const char* next = from.at(ahead).data;
  for (int64_t line = 0; line < a.d * (from.half ? 2 : 4); line += 64) __builtin_prefetch(next + line);
  each_vector(a.d, [&](int64_t c, int n) { vstore_n(to + c, load(from, c, n), n); });
  for (int64_t c = a.d; c < a.padded_d; c++) to[c] = 0;
}

/// dst[32, padded_d] f32: the lanes' rows of q (or out, dout), zero beyond count and d.
static inline void load_lanes(float* dst, FloatRef source, const Lanes& lanes, int64_t key_head) {
  const AttentionShape& a = lanes.shape;
  each_lane(lanes, key_head, [&](int64_t i, int64_t offset, int64_t, int64_t) {
    load_row(dst + i * a.padded_d, source.at(offset), kRowsAhead * a.query_heads * a.d, a);
  });
  __builtin_memset(dst + lanes.count * a.padded_d, 0, (kPanel - lanes.count) * a.padded_d * 4);
}

/// dst[count, padded_d] f32: rows of k or v for keys first…first+count, zero beyond d.
static inline void load_keys(float* dst, FloatRef source, const Sequence& s, const AttentionShape& a,
                             int64_t key_head, int64_t first, int64_t count) {
  for (int64_t j = 0; j < count; j++) {
    load_row(dst + j * a.padded_d, source.at((s.key_row(first + j) * a.key_heads + key_head) * a.d),
             kRowsAhead * a.key_heads * a.d, a);
  }
}

/// dst[d, width] = transpose of src[rows, padded_d], zero up to `width`.
static inline void transpose_rows(float* dst, const float* src, int64_t rows, int64_t width, const AttentionShape& a) {
  const FloatRef from(reinterpret_cast<char*>(const_cast<float*>(src)), false);
  pack_panel(reinterpret_cast<uint32_t*>(dst), {from, a.padded_d, 1}, 0, rows, width,
             {width, a.d, a.d, false});
}

/// scores[keys, 32] = rows of a transposed block [d, kKeyBlock] times lanes [d, 32]; whole row tiles are written.
static inline void score_tile(float* scores, const float* block, const float* lanes, int64_t keys, int64_t d) {
  for (int64_t j = 0; j < keys; j += kTileRows) {
    panel_tile<Step::single, kTileRows>(d, block + j, kKeyBlock, lanes, kPanel,
                                        plain_ends(nullptr, scores + j * kPanel, kPanel));
  }
}

/// All ones where key `key` is visible to the lane positions; `position` are the lanes' positions.
static inline VI visible(VI position, int64_t key, int64_t window) {
  const VI k = viset(static_cast<int32_t>(key));
  VI mask = k <= position;
  if (window > 0) mask &= (position - k) < viset(static_cast<int32_t>(min(window, 0x7FFFFFFF)));
  return mask;
}

/// Positions of 32 lanes; lanes beyond the count get those of the last one.
static inline void lane_positions(int32_t* positions, const Lanes& lanes) {
  for (int64_t i = 0; i < kPanel; i++) {
    positions[i] = static_cast<int32_t>(lanes.position(min(i, lanes.count - 1)));
  }
}

/// target[rows, padded_d] += weights·values, a chain over `steps` per element. kRowStride 1: weights[step·32 + row];
/// kRowStride 32: weights[row·32 + step].
template <int kRowStride>
static void accumulate_rows(float* target, const float* weights, const float* values, int64_t rows, int64_t steps,
                            int64_t padded_d) {
  constexpr int64_t step_stride = kRowStride == 1 ? kPanel : 1;
  for (int64_t r = 0; r < rows;) {
    const int size = tile_rows(rows - r);
    const float* w = weights + r * kRowStride;
    for (int64_t c = 0; c < padded_d; c += kPanel) {
      float* t = target + r * padded_d + c;
      const float* v = values + c;
      const TileEnds ends = plain_ends(t, t, padded_d);
      if (size == kTileRows) {
        panel_tile<Step::single, kTileRows, kRowStride>(steps, w, step_stride, v, padded_d, ends);
      } else if (size == 4) {
        panel_tile<Step::single, 4, kRowStride>(steps, w, step_stride, v, padded_d, ends);
      } else if (size == 2) {
        panel_tile<Step::single, 2, kRowStride>(steps, w, step_stride, v, padded_d, ends);
      } else if (size == 1) {
        panel_tile<Step::single, 1, kRowStride>(steps, w, step_stride, v, padded_d, ends);
      } else {
        panel_tile<Step::single, 8, kRowStride>(steps, w, step_stride, v, padded_d, ends);
      }
    }
    r += size;
  }
}

}  // namespace lathe::LATHE_ISA
