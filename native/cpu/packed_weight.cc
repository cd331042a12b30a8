// Products with packed weights: which kernel takes which; and int8 weights, which become bf16 or f32 on the way into the
// product (both hold such numbers exactly), so that only their rounding to int8 is lost.
#include "packed_weight.h"

#include "gemm_thin.h"
#include "gemm_tiles.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kSlabBytes = 8 << 20;  // most of an int8 weight that lies widened at a time
constexpr float kLargest = 127;

/// Largest magnitude of a row.
float peak_of(FloatRef row, int64_t k) {
  VF most = {};
  each_vector(k, [&](int64_t i, int n) {
    const VF v = load(row, i, n);
    most = vmax(most, vmax(v, -v));
  });
  return vmax_lane(most);
}

/// Nearest integer, ties to even, for |x| ≤ 127: adding 1.5·2²³ leaves no room for a fraction.
int8_t nearest(float x) {
  const float shifted = x + 12582912.0f;
  return static_cast<int8_t>(shifted - 12582912.0f);
}

void pack_panel_int8(int8_t* to, float* scales, In w, int64_t first) {
  const int64_t n = w.dims[0], k = w.dims[1], pairs = (k + 1) / 2;
  __builtin_memset(to, 0, kPanelWidth * 2 * pairs);
  for (int64_t i = 0; i < kPanelWidth; i++) {
    scales[i] = 0;
    if (first + i >= n) continue;
    const FloatRef row = FloatRef(w).at((first + i) * k);
    const float peak = peak_of(row, k), inverse = peak > 0 ? kLargest / peak : 0;
    scales[i] = peak / kLargest;
    int8_t* lane = to + i / 16 * 32 + i % 16;
    for (int64_t x = 0; x < k; x++) {
      const float q = load(row, x, 1)[0] * inverse;
      lane[x / 2 * 2 * kPanelWidth + x % 2 * 16] = nearest(q > kLargest ? kLargest : q < -kLargest ? -kLargest : q);
    }
  }
}

/// A panel's pairs as units of bf16 pairs.
void widen_to_pairs(uint32_t* to, const int8_t* from, int64_t pairs) {
  for (int64_t u = 0; u < pairs; u++, from += 2 * kPanelWidth, to += kPanelWidth) {
    for (int64_t half = 0; half < 2; half++) {
      for (int64_t i = 0; i < 16; i += W) {
        *reinterpret_cast<VUm*>(to + half * 16 + i) = bf16_pairs(from + half * 32 + i);
      }
    }
  }
}

/// A panel's numbers as f32, one k a unit.
void widen_to_floats(float* to, const int8_t* from, int64_t k) {
  for (int64_t x = 0; x < k; x++, to += kPanelWidth) {
    const int8_t* row = from + x / 2 * 2 * kPanelWidth + x % 2 * 16;
    for (int64_t i = 0; i < kPanelWidth; i += W) vstore(to + i, int8_to_float(row + i / 16 * 32 + i % 16));
  }
}

/// C = alpha·scale_j·sums + beta·C over finished f32 sums, rows `sums_row` apart; they may lie in C.
void finish_scaled(const Product& c, const float* sums, int64_t sums_row, const float* scales, int64_t m, int64_t n) {
  parallel_ranges(m, rows_per_task(n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const FloatRef to = c.data.at(i * c.row);
      each_vector(n, [&](int64_t j, int count) {
        const VF v = vset(c.alpha) * (vload_n(sums + i * sums_row + j, count) * vload_n(scales + j, count));
        store(to, j, c.beta == 0 ? v : fma(vset(c.beta), load(to, j, count), v), count);
      });
    }
  });
}

/// Slab by slab: widened for whatever multiplies here, multiplied, scaled.
void multiply_int8(const Product& c, const Operand& a, const PackedWeight& w, int64_t m) {
  constexpr int64_t unit = kPanelWidth * 4;
  const int64_t units = kHasTiles ? w.pairs() : w.k, panel = units * unit;
  const int64_t slab = max(1, min(w.panel_count(), kSlabBytes / max(1, panel)));
  const bool in_place = !c.data.half && c.beta == 0;
  const Scratch wide(slab * panel), room(in_place ? 0 : m * slab * kPanelWidth * 4);
  const auto* numbers = reinterpret_cast<const int8_t*>(w.panels);
  for (int64_t p = 0; p < w.panel_count(); p += slab) {
    const int64_t panels = min(slab, w.panel_count() - p), columns = min(panels * kPanelWidth, w.n - p * kPanelWidth);
    parallel_tasks(panels, [&](int64_t i, int) {
      const int8_t* from = numbers + (p + i) * w.panel_bytes();
      if (kHasTiles) {
        widen_to_pairs(reinterpret_cast<uint32_t*>(wide.bytes() + i * panel), from, units);
      } else {
        widen_to_floats(reinterpret_cast<float*>(wide.bytes() + i * panel), from, units);
      }
    });
    const int64_t first = p * kPanelWidth, row = in_place ? c.row : columns;
    const FloatRef sums = in_place ? c.data.at(first) : FloatRef(room.bytes(), false);
    multiply_packed({sums, row, 1, 1.0f, 0.0f}, a, wide.bytes(), kHasTiles, m, columns, w.k);
    finish_scaled({c.data.at(first), c.row, 1, c.alpha, c.beta}, reinterpret_cast<const float*>(sums.data), row,
                  w.scales + first, m, columns);
  }
}

}  // namespace

PackedWeight::PackedWeight(In packed) {
  const auto* header = static_cast<const PackedHeader*>(packed.data);
  n = header->n;
  k = header->k;
  dtype = header->dtype;
  const char* body = static_cast<const char*>(packed.data) + kPackedHeaderBytes;
  scales = int8() ? reinterpret_cast<const float*>(body) : nullptr;
  panels = int8() ? body + panel_count() * kPanelWidth * 4 : body;
}

void pack_int8(Out packed, In w) {
  __builtin_memset(packed.data, 0, kPackedHeaderBytes);
  *static_cast<PackedHeader*>(packed.data) = {kPackedMagic, w.dims[0], w.dims[1], DType::u8};
  const PackedWeight view(packed);
  auto* to = reinterpret_cast<int8_t*>(const_cast<char*>(view.panels));
  parallel_tasks(view.panel_count(), [&](int64_t p, int) {
    pack_panel_int8(to + p * view.panel_bytes(), const_cast<float*>(view.scales) + p * kPanelWidth, w,
                    p * kPanelWidth);
  });
}

void multiply_packed_weight(const Product& c, const Operand& a, const PackedWeight& w, int64_t m) {
  if (is_thin(a, &w, 1, m)) {
    thin_product(c, a, w, m);
  } else if (w.int8()) {
    multiply_int8(c, a, w, m);
  } else {
    multiply_packed(c, a, w.panels, w.dtype == DType::bf16, m, w.n, w.k);
  }
}

}  // namespace lathe::LATHE_ISA
