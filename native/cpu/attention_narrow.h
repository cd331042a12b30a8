// Attention of a few queries, as decoding has them: keys in the lanes of vectors instead of queries, read where they lie.
// Every score, sum and output is the same chain as in attention.cc, so both give the same bits.
#pragma once
#include "attention_block.h"
#include "transpose.h"

namespace lathe::LATHE_ISA {

constexpr int64_t kNarrowLanes = 8;  // most lanes (query heads of one key head, times rows) that go this way

/// Lane state and buffers of one narrow task.
struct Narrow {
  alignas(64) float scores[kNarrowLanes * kKeyBlock];  // then weights
  float maximum[kNarrowLanes], sum[kNarrowLanes];
  int64_t key_at[kKeyBlock + 2 * W];  // element offset of each key's row in the caches, and of some that follow
};

/// W elements at byte address p, of the type that a whole tensor has: decided once, not at every load.
template <bool kHalf>
static inline __attribute__((always_inline)) VF load_typed(const char* p) {
  return kHalf ? bf16_to_float(*reinterpret_cast<const VHm*>(p)) : vload(reinterpret_cast<const float*>(p));
}

/// scores[i·kKeyBlock + j] of W keys from j on, for L lanes; queries: rows of padded_d floats.
template <int L, bool kHalf>
static inline void narrow_scores(Narrow& n, int64_t j, const float* queries, FloatRef keys, FloatRef values,
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
      const int64_t at = (n.key_at[j + q] + c) * bytes;
      block[q] = (VU)load_typed<kHalf>(keys.data + at);
      // Rows of one head are short pieces far apart, which no hardware prefetcher follows.
      __builtin_prefetch(keys.data + (n.key_at[j + W + q] + c) * bytes);
      __builtin_prefetch(values.data + at);
    }
    transpose(block);
#pragma GCC unroll 16
    for (int q = 0; q < W; q++) step(q);
  }
  if (c < a.d) {
    for (int q = 0; q < W; q++) block[q] = (VU)load(keys.at(n.key_at[j + q]), c, static_cast<int>(a.d - c));
    transpose(block);
    for (int q = 0; q < a.d - c; q++) step(q);
  }
  for (int i = 0; i < L; i++) vstore(n.scores + i * kKeyBlock + j, sum[i]);
}

/// Turns the scores of lane i into weights over `keys` keys from `first` on; returns what the sums so far shrink by.
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

/// V vectors of output rows of L lanes from lane i on, from element c on: factor·output + weights·values, the sum over
/// the block's keys made first. The values' last vector holds `count` elements.
template <int L, int V, bool kHalf>
static inline __attribute__((always_inline)) void narrow_vectors(Narrow& n, int64_t i, int64_t c, int count,
                                                                 const float* factors, float* output, FloatRef values,
                                                                 int64_t keys, const AttentionShape& a) {
  VF sum[L][V] = {};
  for (int64_t j = 0; j < keys; j++) {
    const char* row = values.data + (n.key_at[j] + c) * (kHalf ? 2 : 4);
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
      float* to = output + (i + l) * a.padded_d + c + v * W;
      vstore(to, vload(to) * factors[i + l] + sum[l][v]);
    }
  }
}

template <int L, bool kHalf>
static inline void narrow_outputs(Narrow& n, int64_t i, const float* factors, float* output, FloatRef values,
                                  int64_t keys, const AttentionShape& a) {
  int64_t c = 0;
  for (; c + 4 * W <= a.d; c += 4 * W) {
    narrow_vectors<L, 4, kHalf>(n, i, c, W, factors, output, values, keys, a);
  }
  for (; c < a.d; c += W) {
    narrow_vectors<L, 1, kHalf>(n, i, c, static_cast<int>(min(W, a.d - c)), factors, output, values, keys, a);
  }
}

/// One block of keys: scores, weights, outputs.
template <bool kHalf>
static inline void narrow_block(Narrow& n, const float* queries, float* output, FloatRef key_cache,
                                FloatRef value_cache, const Lanes& lanes, int64_t first, int64_t keys) {
  const AttentionShape& a = lanes.shape;
  for (int64_t j = 0; j < keys; j += W) {
    if (lanes.count == 1) {
      narrow_scores<1, kHalf>(n, j, queries, key_cache, value_cache, a);
    } else if (lanes.count == 2) {
      narrow_scores<2, kHalf>(n, j, queries, key_cache, value_cache, a);
    } else if (lanes.count <= 4) {
      narrow_scores<4, kHalf>(n, j, queries, key_cache, value_cache, a);
    } else {
      narrow_scores<8, kHalf>(n, j, queries, key_cache, value_cache, a);
    }
  }
  float factors[kNarrowLanes];
  for (int64_t i = 0; i < lanes.count; i++) factors[i] = narrow_softmax(n, i, first, keys, lanes.position(i), a);
  int64_t i = 0;
  for (; i + 2 <= lanes.count; i += 2) narrow_outputs<2, kHalf>(n, i, factors, output, value_cache, keys, a);
  if (i < lanes.count) narrow_outputs<1, kHalf>(n, i, factors, output, value_cache, keys, a);
}

/// Attention of `lanes` (at most kNarrowLanes) into output rows of padded_d floats (zeroed by the caller) and the
/// lanes' maximum and sum. queries: kNarrowLanes rows of padded_d floats, zero beyond the lanes.
static inline void attend_narrow(Narrow& n, const float* queries, float* output, FloatRef key_cache,
                                 FloatRef value_cache, const Lanes& lanes, int64_t key_head) {
  const AttentionShape& a = lanes.shape;
  for (int64_t i = 0; i < kNarrowLanes; i++) {
    n.maximum[i] = -__builtin_inff();
    n.sum[i] = 0;
  }
  const int64_t end = lanes.last_position() + 1;
  for (int64_t b = a.first_key(lanes.position(0)) / kKeyBlock * kKeyBlock; b < end; b += kKeyBlock) {
    const int64_t keys = min(kKeyBlock, end - b);
    for (int64_t j = 0; j < round_up(keys, W) + W; j++) {
      n.key_at[j] = (lanes.s.key_row(min(b + j, end - 1)) * a.key_heads + key_head) * a.d;
    }
    if (key_cache.half) {
      narrow_block<true>(n, queries, output, key_cache, value_cache, lanes, b, keys);
    } else {
      narrow_block<false>(n, queries, output, key_cache, value_cache, lanes, b, keys);
    }
  }
}

}  // namespace lathe::LATHE_ISA
