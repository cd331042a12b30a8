// Operands of a product on AMX tiles, packed step by step: 32 rows of C (or columns) by 32 k in bf16. As left operand a
// step is two tiles of 16 rows by 64 bytes, as right operand 16 pairs of k by 32 columns. f32 is split into bf16 numbers
// that add up to it.
#pragma once
#include "gemm_pack.h"
#include "gemm_tile_kernel.h"
#include "transpose.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)

/// What a 32-bit unit of the packed form holds. `halves`, `floats`: two k. `doubled`: one k twice, beside `split`: one
/// number as its upper and lower bf16, so that the pair's product is x·(upper + lower).
enum class Form { halves, floats, doubled, split };

constexpr bool is_paired(Form f) { return f != Form::halves && f != Form::floats; }
constexpr int64_t step_depth(Form f) { return is_paired(f) ? kSide : kStepK; }

/// bf16 (to nearest even) of the lanes, in their upper and lower 16 bits.
static inline VU half_low(VF x) { return (VU)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)x)); }
static inline VF half_value(VU low) { return (VF)(low << 16); }

/// Units of one vector of f32 in parts that add up to it; the pair is (k, k + 1) = (even, odd).
template <int kParts>
static inline void units_of(VF even, VF odd, VU out[kParts]) {
#pragma GCC unroll 2
  for (int p = 0; p < kParts; p++) {
    const VU e = half_low(even), o = half_low(odd);
    out[p] = e | o << 16;
    if (p + 1 < kParts) {
      even -= half_value(e);
      odd -= half_value(o);
    }
  }
}

template <Form kForm, int kParts>
static inline void units_of_one(VF x, VU out[kParts], float scale) {
  if constexpr (kForm == Form::split) {
    x *= scale;
    const VU upper = half_low(x);
    out[0] = upper | half_low(x - half_value(upper)) << 16;
  } else {
    units_of<kParts>(x, x, out);
  }
}

static inline VF floats_at(FloatRef from, int64_t i, int64_t n) {
  return n > 0 ? load(from, i, static_cast<int>(min(W, n))) : VF{};
}

/// 16 units of a row whose k are contiguous; `left` k of the matrix lie there.
template <Form kForm, int kParts>
static inline void units_along_k(VU out[kParts], FloatRef row, int64_t left, float scale = 1.0f) {
  if constexpr (kForm == Form::halves) {
    const __mmask32 mask = left >= 32 ? ~0u : (1u << left) - 1;
    out[0] = (VU)_mm512_maskz_loadu_epi16(mask, row.data);
  } else if constexpr (kForm == Form::floats) {
    VF low = floats_at(row, 0, left), high = floats_at(row, W, left - W);
#pragma GCC unroll 2
    for (int p = 0; p < kParts; p++) {
      out[p] = (VU)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
      if (p + 1 < kParts) {
        low -= half_value((VU)_mm512_cvtepu16_epi32(_mm512_castsi512_si256((__m512i)out[p])));
        high -= half_value((VU)_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64((__m512i)out[p], 1)));
      }
    }
  } else {
    units_of_one<kForm, kParts>(floats_at(row, 0, left), out, scale);
  }
}

/// One unit of n rows from i on; `left` k of the matrix are left at k.
template <Form kForm, int kParts>
static inline void units_along_rows(VU out[kParts], const Operand& o, int64_t i, int n, int64_t k, int64_t left,
                                    float scale) {
  const auto lanes = [&](int64_t at) {
    if (o.row == 1) return load(o.data, i + at * o.col, n);
    VF v = {};
    for (int j = 0; j < n; j++) v[j] = load(o.data, (i + j) * o.row + at * o.col, 1)[0];
    return v;
  };
  if constexpr (is_paired(kForm)) {
    units_of_one<kForm, kParts>(left > 0 ? lanes(k) : VF{}, out, scale);
  } else {
    units_of<kParts>(left > 0 ? lanes(k) : VF{}, left > 1 ? lanes(k + 1) : VF{}, out);
  }
}

/// One tile of every part: n rows from i on, k from `k` on of which `left` exist. Parts lie kStepBytes apart.
template <Form kForm, int kParts, bool kRight>
static inline void pack_tile(char* dst, const Operand& o, int64_t i, int n, int64_t k, int64_t left, float scale) {
  constexpr int kUnitDepth = is_paired(kForm) ? 1 : 2;
  const bool along_k = o.col == 1;
  VU tile[kParts][W];
#pragma GCC unroll 16
  for (int q = 0; q < W; q++) {
    VU units[kParts] = {};
    if (along_k) {
      if (q < n) units_along_k<kForm, kParts>(units, o.data.at((i + q) * o.row + k), left, scale);
    } else if (n > 0) {
      units_along_rows<kForm, kParts>(units, o, i, n, k + q * kUnitDepth, left - q * kUnitDepth, scale);
    }
#pragma GCC unroll 2
    for (int p = 0; p < kParts; p++) tile[p][q] = units[p];
  }
#pragma GCC unroll 2
  for (int p = 0; p < kParts; p++) {
    if (along_k == kRight) transpose(tile[p]);
#pragma GCC unroll 16
    for (int q = 0; q < W; q++) *reinterpret_cast<VUm*>(dst + p * kStepBytes + q * (kRight ? 128 : 64)) = tile[p][q];
  }
}

/// The same for two tiles of bf16 whose columns are contiguous: two rows of the source are woven together.
static inline void weave_step(char* dst, const Operand& o, int64_t i, int64_t k, int64_t left) {
  alignas(64) uint16_t order[64];
  for (int j = 0; j < 64; j++) order[j] = static_cast<uint16_t>(j / 2 + j % 2 * 32);
  const __m512i first = _mm512_load_si512(order), second = _mm512_load_si512(order + 32);
  for (int u = 0; u < W; u++) {
    const char* even = o.data.at(i + (k + 2 * u) * o.col).data;
    const __m512i a = 2 * u < left ? _mm512_loadu_si512(even) : _mm512_setzero_si512();
    const __m512i b = 2 * u + 1 < left ? _mm512_loadu_si512(even + 2 * o.col) : _mm512_setzero_si512();
    _mm512_storeu_si512(dst + u * 128, _mm512_permutex2var_epi16(a, first, b));
    _mm512_storeu_si512(dst + u * 128 + 64, _mm512_permutex2var_epi16(a, second, b));
  }
}

template <Form kForm, int kParts, bool kRight>
static void pack_run(char* dst, const Operand& o, int64_t i, int64_t rows, int64_t k, int64_t depth, int64_t steps,
                     float scale) {
  constexpr int64_t kDepth = step_depth(kForm);
  for (int64_t s = 0; s < steps; s++, dst += kParts * kStepBytes, k += kDepth) {
    if (kForm == Form::halves && kRight && o.row == 1 && rows >= kRows) {
      weave_step(dst, o, i, k, depth - k);
      continue;
    }
    for (int t = 0; t < 2; t++) {
      const int n = static_cast<int>(max(0, min(kSide, rows - t * kSide)));
      pack_tile<kForm, kParts, kRight>(dst + t * (kRight ? 64 : 1024), o, i + t * kSide, n, k, depth - k, scale);
    }
  }
}

/// Rows [i, i+rows), rows ≤ 32, of `steps` steps from `first` on, as a left or right operand; parts: 2 for floats that
/// are split in two. Rows and k beyond the matrix (k ≥ depth) are zero. scale: factor of the values of form `split`.
static inline void pack_steps(char* dst, const Operand& o, Form form, int parts, bool right, int64_t i, int64_t rows,
                              int64_t first, int64_t steps, int64_t depth, float scale = 1.0f) {
  const auto pack = [&](auto run_left, auto run_right) {
    (right ? run_right : run_left)(dst, o, i, rows, first * step_depth(form), depth, steps, scale);
  };
  switch (form) {
    case Form::halves: return pack(pack_run<Form::halves, 1, false>, pack_run<Form::halves, 1, true>);
    case Form::split: return pack(pack_run<Form::split, 1, false>, pack_run<Form::split, 1, true>);
    case Form::floats:
      return parts == 1 ? pack(pack_run<Form::floats, 1, false>, pack_run<Form::floats, 1, true>)
                        : pack(pack_run<Form::floats, 2, false>, pack_run<Form::floats, 2, true>);
    case Form::doubled:
      return parts == 1 ? pack(pack_run<Form::doubled, 1, false>, pack_run<Form::doubled, 1, true>)
                        : pack(pack_run<Form::doubled, 2, false>, pack_run<Form::doubled, 2, true>);
  }
}

#endif

}  // namespace lathe::LATHE_ISA
