// Packing: see gemm_pack.h. Rows that are contiguous in k go through W×W transposes in registers.
#include "gemm_pack.h"

#include "transpose.h"

namespace lathe::LATHE_ISA {
namespace {

inline void store_units(uint32_t* p, VU v, int64_t n) {
  if (n >= W) {
    *reinterpret_cast<VUm*>(p) = v;
  } else {
    vstore_part(reinterpret_cast<float*>(p), (VF)v, static_cast<int>(n));
  }
}

constexpr int64_t kUnitsAhead = 8;  // prefetch distance over rows of the source that lie far apart

/// Where units come from. kHalf: bf16 source; kPairs: two k per unit.
template <bool kHalf, bool kPairs>
struct Source {
  const char* data;
  int64_t row, col, depth;

  int64_t whole_units() const { return kPairs ? depth / 2 : depth; }

  uint32_t bits(int64_t i, int64_t k) const {
    const int64_t at = i * row + k * col;
    if (!kHalf) return *reinterpret_cast<const U32m*>(data + at * 4);
    uint16_t h;
    __builtin_memcpy(&h, data + at * 2, 2);
    return kPairs ? h : static_cast<uint32_t>(h) << 16;
  }

  /// One unit, zero where k ≥ depth.
  uint32_t unit(int64_t i, int64_t u) const {
    if (!kPairs) return u < depth ? bits(i, u) : 0;
    const uint32_t low = 2 * u < depth ? bits(i, 2 * u) : 0;
    return low | (2 * u + 1 < depth ? bits(i, 2 * u + 1) << 16 : 0);
  }

  /// n units along k of row i, for col = 1.
  VU along_k(int64_t i, int64_t u, int n) const {
    const FloatRef from = FloatRef(const_cast<char*>(data), kHalf && !kPairs);
    if (kHalf && !kPairs) return (VU)load(from, i * row + u, n);
    return (VU)vload_n(reinterpret_cast<const float*>(data + (kPairs ? (i * row + 2 * u) * 2 : (i * row + u) * 4)), n);
  }

  /// n rows from i on, unit u, for row = 1.
  VU along_rows(int64_t i, int64_t u, int n) const {
    const FloatRef from = FloatRef(const_cast<char*>(data), kHalf);
    if (!kPairs) return (VU)load(from, u * col + i, n);
    const VU low = (VU)load(from, 2 * u * col + i, n) >> 16;
    return low | (VU)load(from, (2 * u + 1) * col + i, n);
  }

  void pack_scalar(uint32_t* dst, int64_t rows, int64_t width, int64_t first_unit, int64_t units) const {
    for (int64_t u = first_unit; u < units; u++) {
      for (int64_t i = 0; i < width; i++) dst[u * width + i] = i < rows ? unit(i, u) : 0;
    }
  }

  /// Blocks of W rows by W units. A block narrower than W spills zeros over the units after it, which are written
  /// later; only the very last unit must not.
  void pack_along_k(uint32_t* dst, int64_t rows, int64_t width, int64_t units) const {
    const int64_t whole = whole_units();
    for (int64_t i = 0; i < width; i += W) {
      const int64_t lanes = width - i;
      for (int64_t u = 0; u < whole; u += W) {
        const int n = static_cast<int>(min(W, whole - u));
        VU block[W];
#pragma GCC unroll 16
        for (int q = 0; q < W; q++) block[q] = i + q < rows ? along_k(i + q, u, n) : VU{};
        transpose(block);
        uint32_t* to = dst + u * width + i;
        const bool spill = lanes < W && width == lanes && u + n < whole;
        if (n == W && (lanes >= W || spill)) {
#pragma GCC unroll 16
          for (int q = 0; q < W; q++) *reinterpret_cast<VUm*>(to + q * width) = block[q];
        } else {
          for (int q = 0; q < n; q++) store_units(to + q * width, block[q], lanes);
        }
      }
    }
    pack_scalar(dst, rows, width, whole, units);
  }

  /// One unit of one panel whose rows start at `first`.
  void unit_along_rows(uint32_t* to, int64_t first, int64_t rows, int64_t width, int64_t u) const {
    for (int64_t i = 0; i < width; i += W) {
      const int64_t n = min(W, min(rows, width) - i), ahead = (kPairs ? 2 : 1) * (u + kUnitsAhead) * col;
      __builtin_prefetch(data + (ahead + first + i) * (kHalf ? 2 : 4));
      const VU v = n == W ? along_rows(first + i, u, W) : n > 0 ? along_rows(first + i, u, static_cast<int>(n)) : VU{};
      store_units(to + i, v, width - i);
    }
  }

  /// k is the outer loop over several panels: a row of the source is then read in one go, not one line at a time
  /// a page apart.
  void pack_along_rows(uint32_t* dst, int64_t rows, const PanelLayout& l) const {
    const int64_t whole = whole_units(), panels = (rows + l.width - 1) / l.width;
    for (int64_t u = 0; u < whole; u++) {
      for (int64_t p = 0; p < panels; p++) {
        unit_along_rows(dst + p * l.width * l.units + u * l.width, p * l.width, rows - p * l.width, l.width, u);
      }
    }
    for (int64_t p = 0; p < panels; p++) {
      const Source panel = {data + p * l.width * row * (kHalf ? 2 : 4), row, col, depth};
      panel.pack_scalar(dst + p * l.width * l.units, rows - p * l.width, l.width, whole, l.units);
    }
  }

  void pack(uint32_t* dst, int64_t rows, const PanelLayout& l) const {
    if (col == 1) {
      pack_along_k(dst, rows, l.width, l.units);
    } else if (row == 1) {
      pack_along_rows(dst, rows, l);
    } else {
      pack_scalar(dst, rows, l.width, 0, l.units);
    }
  }
};

void pack(uint32_t* dst, const Operand& source, int64_t first, int64_t rows, const PanelLayout& l) {
  const FloatRef from = source.data.at(first * source.row);
  if (!from.half) {
    Source<false, false>{from.data, source.row, source.col, l.depth}.pack(dst, rows, l);
  } else if (!l.pairs) {
    Source<true, false>{from.data, source.row, source.col, l.depth}.pack(dst, rows, l);
  } else {
    Source<true, true>{from.data, source.row, source.col, l.depth}.pack(dst, rows, l);
  }
}

}  // namespace

void pack_panel(uint32_t* dst, const Operand& source, int64_t first, int64_t rows, int64_t width,
                const PanelLayout& layout) {
  pack(dst, source, first, rows, {width, layout.depth, layout.units, layout.pairs});
}

void pack_panels(uint32_t* dst, const Operand& source, int64_t first, int64_t rows, const PanelLayout& layout) {
  if (source.row == 1 && source.col != 1) {
    pack(dst, source, first, rows, layout);
    return;
  }
  for (int64_t i = 0; i < rows; i += layout.width) {
    pack(dst + i * layout.units, source, first + i, min(layout.width, rows - i), layout);
  }
}

}  // namespace lathe::LATHE_ISA
