// Attention of a few queries, as decoding has them: keys in the lanes of vectors instead of queries, read where they lie.
// Every score, sum and output is the same chain as in attention.cc, so both give the same bits.
#pragma once
#include "attention_panel.h"
#include "transpose.h"

namespace lathe::LATHE_ISA {

constexpr int64_t kNarrowLanes = 8;       // most lanes (query heads of one key head, times rows) that go this way
constexpr int64_t kNarrowBytes = 4096;    // of a key's row that a task reads in one piece: memory is fast in long pieces
constexpr int64_t kNarrowHeads = 16;      // most key heads of a task

/// State and buffers of one narrow task, per key head and lane (head·kNarrowLanes + lane).
struct Narrow {
  float *queries, *outputs;  // rows of padded_d
  float* scores;             // rows of kKeyBlock; then weights
  float maximum[kNarrowHeads * kNarrowLanes], sum[kNarrowHeads * kNarrowLanes];
  int64_t row_at[kKeyBlock + 2 * W];  // element offset of each key's row in the caches, and of some that follow

  static int64_t floats(const AttentionShape& a, int64_t heads) {
    return heads * kNarrowLanes * (2 * a.padded_d + kKeyBlock);
  }
  Narrow(float* room, const AttentionShape& a, int64_t heads)
      : queries(room), outputs(queries + heads * kNarrowLanes * a.padded_d),
        scores(outputs + heads * kNarrowLanes * a.padded_d) {
    __builtin_memset(room, 0, 2 * heads * kNarrowLanes * a.padded_d * 4);
    for (int64_t i = 0; i < heads * kNarrowLanes; i++) {
      maximum[i] = -__builtin_inff();
      sum[i] = 0;
    }
  }
};

/// Key heads of a task: whole pieces, but work for every thread.
static inline int64_t narrow_heads(const AttentionShape& a, bool half, int64_t sequences) {
  const int64_t piece = max(1, min(kNarrowHeads, kNarrowBytes / (a.d * (half ? 2 : 4))));
  const int64_t share = (sequences * a.key_heads + thread_count() - 1) / thread_count();
  return min(piece, min(a.key_heads, max(1, share)));
}

/// W elements at byte address p, of the type that a whole tensor has: decided once, not at every load.
template <bool kHalf>
static inline __attribute__((always_inline)) VF load_typed(const char* p) {
  return kHalf ? bf16_to_float(*reinterpret_cast<const VHm*>(p)) : vload(reinterpret_cast<const float*>(p));
}

/// One key head's part of the rows: elements row_at[j] + c of keys and values. next, next_at: the keys whose turn it is
/// after this group of W.
struct Pieces {
  FloatRef keys, values;
  const char* next;
  const int64_t* next_at;
};

/// scores[i·kKeyBlock] of W keys, whose rows are at row_at, for L lanes; queries: rows of padded_d floats.
template <int L, bool kHalf>
static inline void narrow_scores(float* scores, const int64_t* row_at, const float* queries, const Pieces& p,
                                 const AttentionShape& a) {
  constexpr int64_t bytes = kHalf ? 2 : 4;
  VF sum[L] = {};
  VU block[W];
  int64_t c = 0;
  const auto step = [&](int q) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int i = 0; i < L; i++) sum[i] = fma((VF)block[q], vset(queries[i * a.padded_d + c + q]), sum[i]);
  };
  for (; c + W <= a.d; c += W) {
#pragma GCC unroll 16
    for (int q = 0; q < W; q++) {
      const int64_t at = (row_at[q] + c) * bytes;
      block[q] = (VU)load_typed<kHalf>(p.keys.data + at);
      // Into L2: what lies in one page comes by itself, but late.
      if (kHalf && c % (2 * W) != 0) continue;
      __builtin_prefetch(p.next + (p.next_at[q] + c) * bytes, 0, 2);
      __builtin_prefetch(p.values.data + at, 0, 2);
    }
    transpose(block);
#pragma GCC unroll 16
    for (int q = 0; q < W; q++) step(q);
  }
  if (c < a.d) {
    for (int q = 0; q < W; q++) block[q] = (VU)load(p.keys.at(row_at[q]), c, static_cast<int>(a.d - c));
    transpose(block);
    for (int q = 0; q < a.d - c; q++) step(q);
  }
  for (int i = 0; i < L; i++) vstore(scores + i * kKeyBlock, sum[i]);
}

/// Turns the scores of state i into weights over `keys` keys from `first` on; returns what the sums so far shrink by.
static inline float narrow_softmax(Narrow& n, int64_t i, int64_t first, int64_t keys, int64_t position,
                                   const AttentionShape& a) {
  float* scores = n.scores + i * kKeyBlock;
  alignas(64) int32_t lane[W];
  for (int q = 0; q < W; q++) lane[q] = q;
  const VI iota = *reinterpret_cast<const VI*>(lane), at = viset(static_cast<int32_t>(position));
  VF best = vset(n.maximum[i]);
  for (int64_t j = 0; j < keys; j += W) {
    const VI key = iota + viset(static_cast<int32_t>(first + j));
    VI seen = (key <= at) & (iota < viset(static_cast<int32_t>(keys - j)));
    if (a.window > 0) seen &= (at - key) < viset(static_cast<int32_t>(min(a.window, 0x7FFFFFFF)));
    const VF s = vselect(seen, vload(scores + j) * a.scale, vset(-__builtin_inff()));
    vstore(scores + j, s);
    best = vmax(best, s);
  }
  const float maximum = vmax_lane(best), shift = maximum == -__builtin_inff() ? 0.0f : maximum;
  const float factor = vexp(vset(n.maximum[i] - shift))[0];
  float sum = n.sum[i] * factor;
  for (int64_t j = 0; j < keys; j += W) vstore(scores + j, vexp(vload(scores + j) - vset(shift)));
  for (int64_t j = 0; j < keys; j++) sum += scores[j];
  n.maximum[i] = maximum;
  n.sum[i] = sum;
  return factor;
}

/// V vectors of output rows of L lanes (states i, i+1, …) from element c on: factor·output + weights·values, the sum over
/// the block's keys made first. The values' last vector holds `count` elements.
template <int L, int V, bool kHalf>
static inline __attribute__((always_inline)) void narrow_vectors(const Narrow& n, int64_t i, int64_t c, int count,
                                                                 const float* factors, FloatRef values, int64_t keys,
                                                                 const AttentionShape& a) {
  VF sum[L][V] = {};
  for (int64_t j = 0; j < keys; j++) {
    const char* row = values.data + (n.row_at[j] + c) * (kHalf ? 2 : 4);
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const VF value = V == 1 && count < W ? load(FloatRef(const_cast<char*>(row), kHalf), 0, count)
                                           : load_typed<kHalf>(row + v * W * (kHalf ? 2 : 4));
#pragma GCC unroll 2
      for (int l = 0; l < L; l++) sum[l][v] = fma(vset(n.scores[(i + l) * kKeyBlock + j]), value, sum[l][v]);
    }
  }
#pragma GCC unroll 2
  for (int l = 0; l < L; l++) {
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      float* to = n.outputs + (i + l) * a.padded_d + c + v * W;
      vstore(to, vload(to) * factors[l] + sum[l][v]);
    }
  }
}

template <int L, bool kHalf>
static inline void narrow_outputs(const Narrow& n, int64_t i, const float* factors, FloatRef values, int64_t keys,
                                  const AttentionShape& a) {
  int64_t c = 0;
  for (; c + 4 * W <= a.d; c += 4 * W) narrow_vectors<L, 4, kHalf>(n, i, c, W, factors, values, keys, a);
  for (; c < a.d; c += W) {
    narrow_vectors<L, 1, kHalf>(n, i, c, static_cast<int>(min(W, a.d - c)), factors, values, keys, a);
  }
}

/// One block of keys for `heads` key heads: scores of a few keys for all heads in turn, as their rows lie in memory; then
/// weights and outputs, whose values have come meanwhile. keys, values: the caches from the first of these heads on.
template <bool kHalf>
static inline void narrow_block(Narrow& n, FloatRef keys, FloatRef values, const Lanes& lanes, int64_t heads,
                                int64_t first, int64_t count) {
  const AttentionShape& a = lanes.shape;
  for (int64_t j = 0; j < count; j += W) {
    for (int64_t h = 0; h < heads; h++) {
      const bool last = h + 1 == heads;
      const Pieces p = {keys.at(h * a.d), values.at(h * a.d), keys.at(last ? 0 : (h + 1) * a.d).data,
                        n.row_at + j + (last ? W : 0)};
      float* scores = n.scores + h * kNarrowLanes * kKeyBlock + j;
      const float* queries = n.queries + h * kNarrowLanes * a.padded_d;
      if (lanes.count == 1) {
        narrow_scores<1, kHalf>(scores, n.row_at + j, queries, p, a);
      } else if (lanes.count == 2) {
        narrow_scores<2, kHalf>(scores, n.row_at + j, queries, p, a);
      } else if (lanes.count <= 4) {
        narrow_scores<4, kHalf>(scores, n.row_at + j, queries, p, a);
      } else {
        narrow_scores<8, kHalf>(scores, n.row_at + j, queries, p, a);
      }
    }
  }
  for (int64_t h = 0; h < heads; h++) {
    const FloatRef of_head = values.at(h * a.d);
    const int64_t state = h * kNarrowLanes;
    float factors[kNarrowLanes];
    for (int64_t i = 0; i < lanes.count; i++) {
      factors[i] = narrow_softmax(n, state + i, first, count, lanes.position(i), a);
    }
    int64_t i = 0;
    for (; i + 2 <= lanes.count; i += 2) narrow_outputs<2, kHalf>(n, state + i, factors + i, of_head, count, a);
    if (i < lanes.count) narrow_outputs<1, kHalf>(n, state + i, factors + i, of_head, count, a);
  }
}

/// Attention of `lanes` (at most kNarrowLanes of each key head) for `heads` key heads, whose queries lie in n, zero beyond
/// the lanes: their outputs, maxima and sums. keys, values: the caches from the first of these heads on.
static inline void attend_narrow(Narrow& n, FloatRef keys, FloatRef values, const Lanes& lanes, int64_t heads) {
  const AttentionShape& a = lanes.shape;
  const int64_t end = lanes.last_position() + 1;
  for (int64_t b = a.first_key(lanes.position(0)) / kKeyBlock * kKeyBlock; b < end; b += kKeyBlock) {
    const int64_t count = min(kKeyBlock, end - b);
    for (int64_t j = 0; j < round_up(count, W) + W; j++) {
      n.row_at[j] = lanes.s.key_row(min(b + j, end - 1)) * a.key_heads * a.d;
    }
    (keys.half ? narrow_block<true> : narrow_block<false>)(n, keys, values, lanes, heads, b, count);
  }
}

}  // namespace lathe::LATHE_ISA
