// Rows rounded to integers with one scale: weights to 8 bits, activations to 16. The same numbers on every instruction set.
#pragma once
#include "../core/ops.h"
#include "simd.h"

namespace lathe::LATHE_ISA {

constexpr float kLargestWeight = 127;
constexpr float kLargestActivation = 127 * 256 + 127;  // 256·high + low, both of them int8
constexpr float kLeastPeak = 1e-30f;  // of a row: below it the inverse of a step would not be finite

typedef int16_t VWords __attribute__((vector_size(W * 2), aligned(2), may_alias));

/// numbers[i] = x[i]·largest/peak rounded to the nearest (ties to even), zero from k to depth; returns the value of one
/// step, peak/largest: 0 for a row of zeros, NaN where a value is not finite, so that every result of the row is NaN.
static inline float round_row(int16_t* numbers, FloatRef x, int64_t k, int64_t depth, float largest) {
  VI most = {};
  each_vector(k, [&](int64_t i, int n) {
    const VI magnitude = (VI)load(x, i, n) & 0x7FFFFFFF;  // as integers they are ordered, and NaN comes last
    most = magnitude > most ? magnitude : most;
  });
  int32_t bits = 0;
  for (int i = 0; i < W; i++) bits = most[i] > bits ? most[i] : bits;
  float peak;
  __builtin_memcpy(&peak, &bits, 4);
  if (bits == 0 || bits >= 0x7F800000) {
    __builtin_memset(numbers, 0, depth * 2);
    return bits == 0 ? 0 : __builtin_nanf("");
  }
  peak = peak > kLeastPeak ? peak : kLeastPeak;
  const VF inverse = vset(largest / peak), shift = vset(12582912.0f);  // 1.5·2²³ leaves no room for a fraction
  for (int64_t i = 0; i < depth; i += W) {
    const int64_t n = min(W, k - i);
    const VF value = n > 0 ? load(x, i, static_cast<int>(n)) : VF{};
    const VI number = (VI)(value * inverse + shift) - (VI)shift;
    *reinterpret_cast<VWords*>(numbers + i) = __builtin_convertvector(number, VWords);
  }
  return peak / largest;
}

}  // namespace lathe::LATHE_ISA
