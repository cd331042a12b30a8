// Attention forward on AMX tiles, over keys and values of bf16. Scores stand as keys by lanes, so that softmax runs down the
// lanes of vectors; outputs as elements by lanes. Queries and weights of f32 enter as two bf16 numbers that add up to them
// (17 bits; keys and values of f32 would lose as much again and go through FMA). Every score, sum and output is a chain over
// d or over keys from the start of a block, whatever is computed beside it.
#pragma once
#include "attention_narrow.h"
#include "gemm_tiles_pack.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)

constexpr int64_t kKeySteps = kKeyBlock / kStepK;

/// Sizes of the packed operands of one key head and block, in bytes.
struct TileShape {
  int64_t d_steps, rows;  // steps of 32 elements, and elements rounded up to them
  int query_parts;

  TileShape(const AttentionShape& a, const Inputs& in)
      : d_steps((a.d + kStepK - 1) / kStepK), rows(d_steps * kStepK), query_parts(in.q.half ? 1 : 2) {}
  int64_t query_bytes() const { return d_steps * query_parts * kStepBytes; }
  int64_t key_bytes() const { return kKeySteps * d_steps * kStepBytes; }
  int64_t value_bytes() const { return kKeySteps * d_steps * kStepBytes; }
  int64_t weight_bytes() const { return kKeySteps * 2 * kStepBytes; }
  int64_t output_bytes() const { return rows * kPanel * 4; }
};

/// Tiles 0–3 (32 by 32 sums) += left·right, one step: upper part of the right operand, then its lower one. kHalf: the first
/// 16 columns alone.
template <bool kHalf>
static inline __attribute__((always_inline)) void tile_products(const char* left, const char* right, int right_parts) {
  _tile_loadd(4, left, 64);
  _tile_loadd(5, left + 1024, 64);
  for (int p = 0; p < right_parts; p++, right += kStepBytes) {
    _tile_loadd(6, right, 128);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    if (kHalf) continue;
    _tile_loadd(7, right + 64, 128);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

/// sums [32, 32] (+)= Σ over steps.
template <bool kHalf>
static inline void tile_sums(float* sums, bool add, const char* left, const char* right, int right_parts,
                             int64_t steps) {
  __asm__ volatile("" ::: "memory");  // the compiler does not see that tile loads read memory
  if (add) {
    _tile_loadd(0, sums, 128);
    _tile_loadd(2, sums + kSide * kPanel, 128);
    if (!kHalf) {
      _tile_loadd(1, sums + kSide, 128);
      _tile_loadd(3, sums + kSide * kPanel + kSide, 128);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t s = 0; s < steps; s++) {
    tile_products<kHalf>(left + s * kStepBytes, right + s * right_parts * kStepBytes, right_parts);
  }
  _tile_stored(0, sums, 128);
  _tile_stored(2, sums + kSide * kPanel, 128);
  if (!kHalf) {
    _tile_stored(1, sums + kSide, 128);
    _tile_stored(3, sums + kSide * kPanel + kSide, 128);
  }
  __asm__ volatile("" ::: "memory");
}

/// A row of k as row `key` of the left operand; dst: [32 keys][step].
static inline __attribute__((always_inline)) void pack_key(char* dst, FloatRef row, int64_t key, const TileShape& t,
                                                           int64_t d) {
  char* to = dst + key / kStepK * t.d_steps * kStepBytes + key % kStepK * 64;
  for (int64_t s = 0; s < t.d_steps; s++, to += kStepBytes) {
    units_along_k<Form::halves, 1>(reinterpret_cast<VU*>(to), row.at(s * kStepK), d - s * kStepK);
  }
}

/// Rows row_at[0 … count) of the values of one key head as left operand of the outputs: [32 elements][step of keys], zero
/// beyond count and d.
static inline void pack_values(char* dst, FloatRef values, const int64_t* row_at, int64_t count,
                               const AttentionShape& a, const TileShape& t) {
  const auto* from = reinterpret_cast<const uint16_t*>(values.data);
  const int64_t steps = (count + kStepK - 1) / kStepK;
  for (int64_t c = 0; c < t.rows; c += kSide) {
    const __mmask16 mask = static_cast<__mmask16>(a.d - c >= kSide ? 0xFFFF : a.d > c ? (1 << (a.d - c)) - 1 : 0);
    const auto row = [&](int64_t key) __attribute__((always_inline)) {
      const __mmask16 here = key < count ? mask : 0;
      return (VU)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here, from + row_at[min(key, count - 1)] + c));
    };
    char* to = dst + c / kRows * kKeySteps * kStepBytes + c % kRows / kSide * (kStepBytes / 2);
    for (int64_t s = 0; s < steps; s++, to += kStepBytes) {
      VU pairs[W];
#pragma GCC unroll 16
      for (int u = 0; u < W; u++) pairs[u] = row(s * kStepK + 2 * u) | row(s * kStepK + 2 * u + 1) << 16;
      transpose(pairs);
#pragma GCC unroll 16
      for (int q = 0; q < W; q++) *reinterpret_cast<VUm*>(to + q * 64) = pairs[q];
    }
  }
}

/// Scores [keys rounded up to 32, 32] become weights as right operand [step of keys][2 parts]; sums and outputs shrink to
/// the new maximum. kHalf: 16 lanes.
template <bool kHalf>
static inline void tile_softmax(const float* scores, char* weights, PanelState& state, float* output, int64_t rows,
                                int64_t first_key, int64_t keys, const Lanes& lanes) {
  const AttentionShape& a = lanes.shape;
  const bool partly = first_key + keys - 1 > lanes.position(0) || first_key < a.first_key(lanes.last_position());
  for (int v = 0; v < (kHalf ? 1 : 2); v++) {
    const VI position = *reinterpret_cast<const VI*>(state.position + v * W);
    const auto score_at = [&](int64_t j) __attribute__((always_inline)) {
      const VF s = vload(scores + j * kPanel + v * W) * a.scale;
      return partly ? vselect(visible(position, first_key + j, a.window), s, vset(-__builtin_inff())) : s;
    };
    const VF old = vload(state.maximum + v * W);
    VF best = old;
    for (int64_t j = 0; j < keys; j++) best = vmax(best, score_at(j));
    // A lane that has seen no visible key yet keeps −inf: subtract 0 there, its weights are e^−inf = 0.
    const VF shift = vselect(best == vset(-__builtin_inff()), VF{}, best);
    const VF factor = vexp(old - shift);
    VF sum = vload(state.sum + v * W) * factor;
    for (int64_t j = 0; j < keys; j += 2) {
      const VF even = vexp(score_at(j) - shift), odd = vexp(score_at(j + 1) - shift);
      sum = sum + even + odd;
      VU units[2];
      units_of<2>(even, odd, units);
      char* to = weights + j / kStepK * 2 * kStepBytes + j % kStepK / 2 * 128 + v * 64;
      *reinterpret_cast<VUm*>(to) = units[0];
      *reinterpret_cast<VUm*>(to + kStepBytes) = units[1];
    }
    vstore(state.maximum + v * W, best);
    vstore(state.sum + v * W, sum);
    const VI changed = factor != vset(1.0f);
    if (_mm512_test_epi32_mask((__m512i)changed, (__m512i)changed) == 0) continue;
    for (int64_t c = 0; c < rows; c++) vstore(output + c * kPanel + v * W, vload(output + c * kPanel + v * W) * factor);
  }
}

/// One panel against one block of packed keys and values. output: [rows, 32].
template <bool kHalf>
static inline void tile_panel(float* output, PanelState& state, float* scores, char* weights, const char* queries,
                              const char* keys, const char* values, int64_t first_key, int64_t count,
                              const Lanes& lanes, const TileShape& t) {
  const int64_t steps = (count + kStepK - 1) / kStepK;
  for (int64_t s = 0; s < steps; s++) {
    tile_sums<kHalf>(scores + s * kStepK * kPanel, false, keys + s * t.d_steps * kStepBytes, queries, t.query_parts,
                     t.d_steps);
  }
  tile_softmax<kHalf>(scores, weights, state, output, t.rows, first_key, steps * kStepK, lanes);
  for (int64_t c = 0; c < t.rows; c += kRows) {
    tile_sums<kHalf>(output + c * kPanel, true, values + c / kRows * kKeySteps * kStepBytes, weights, 2, steps);
  }
}

/// Queries of a panel as right operand, its state and its outputs at the start. rows: 32 rows of padded_d floats of room.
static inline void start_panel(float* output, PanelState& state, char* queries, float* rows, FloatRef q,
                               const Lanes& lanes, int64_t key_head, const TileShape& t) {
  const AttentionShape& a = lanes.shape;
  load_lanes(rows, q, lanes, key_head);
  pack_steps(queries, {FloatRef(reinterpret_cast<char*>(rows), false), a.padded_d, 1}, Form::floats, t.query_parts, true, 0,
             kPanel, 0, t.d_steps, a.d);
  lane_positions(state.position, lanes);
  for (int64_t i = 0; i < kPanel; i++) {
    state.maximum[i] = -__builtin_inff();
    state.sum[i] = 0;
  }
  __builtin_memset(output, 0, t.output_bytes());
}

/// A finished panel, turned to one row for each lane, into the tensors.
static inline void end_panel(const Inputs& in, const PanelState& state, const float* output, float* rows,
                             const Lanes& lanes, int64_t key_head, const TileShape& t) {
  const int64_t row = lanes.shape.padded_d;
  for (int64_t c = 0; c < t.rows; c += W) {
    for (int64_t i = 0; i < round_up(lanes.count, W); i += W) {
      VU block[W];
      for (int q = 0; q < W; q++) block[q] = (VU)vload(output + (c + q) * kPanel + i);
      transpose(block);
      for (int q = 0; q < W; q++) vstore(rows + (i + q) * row + c, (VF)block[q]);
    }
  }
  write_panel(in, state, rows, lanes, key_head);
}

#endif

}  // namespace lathe::LATHE_ISA
