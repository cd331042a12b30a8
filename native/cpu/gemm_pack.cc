// Packing: see gemm_pack.h. Transposes run on 4×4 blocks of 32-bit units, the same code for every vector width.
#include "gemm_pack.h"

namespace lathe::LATHE_ISA {
namespace {

typedef uint32_t V4 __attribute__((vector_size(16)));
typedef uint32_t V4m __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint32_t V4h __attribute__((vector_size(16), aligned(2), may_alias));
typedef uint16_t H4h __attribute__((vector_size(8), aligned(2), may_alias));

/// Where units come from: how wide they are and how to make one.
struct Source {
  const char* data;
  int64_t row, col, depth;
  bool half, pairs;

  uint32_t bits(int64_t i, int64_t k) const {
    const int64_t at = i * row + k * col;
    if (!half) return *reinterpret_cast<const U32m*>(data + at * 4);
    uint16_t h;
    __builtin_memcpy(&h, data + at * 2, 2);
    return pairs ? h : static_cast<uint32_t>(h) << 16;
  }

  uint32_t unit(int64_t i, int64_t u) const {
    if (!pairs) return u < depth ? bits(i, u) : 0;
    const uint32_t low = 2 * u < depth ? bits(i, 2 * u) : 0;
    return low | (2 * u + 1 < depth ? bits(i, 2 * u + 1) << 16 : 0);
  }

  /// Four units along k, for col = 1.
  V4 four(int64_t i, int64_t u) const {
    if (pairs) return *reinterpret_cast<const V4h*>(data + (i * row + 2 * u) * 2);
    if (!half) return *reinterpret_cast<const V4m*>(data + (i * row + u) * 4);
    return __builtin_convertvector(*reinterpret_cast<const H4h*>(data + (i * row + u) * 2), V4) << 16;
  }
};

inline void transpose4(V4 r[4]) {
  const V4 a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
  const V4 c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  r[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  r[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  r[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  r[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

void pack_scalar(uint32_t* dst, const Source& s, int64_t rows, int64_t width, int64_t i0, int64_t i1, int64_t u0,
                 int64_t u1) {
  for (int64_t u = u0; u < u1; u++) {
    for (int64_t i = i0; i < i1; i++) dst[u * width + i] = i < rows ? s.unit(i, u) : 0;
  }
}

/// Contiguous in k: 4×4 transposes.
void pack_along_k(uint32_t* dst, const Source& s, int64_t rows, int64_t width, int64_t units) {
  const int64_t whole_units = (s.pairs ? s.depth / 2 : s.depth) / 4 * 4, whole_rows = rows / 4 * 4;
  for (int64_t i = 0; i < whole_rows; i += 4) {
    for (int64_t u = 0; u < whole_units; u += 4) {
      V4 block[4] = {s.four(i, u), s.four(i + 1, u), s.four(i + 2, u), s.four(i + 3, u)};
      transpose4(block);
      for (int q = 0; q < 4; q++) *reinterpret_cast<V4m*>(dst + (u + q) * width + i) = block[q];
    }
  }
  pack_scalar(dst, s, rows, width, whole_rows, width, 0, whole_units);
  pack_scalar(dst, s, rows, width, 0, width, whole_units, units);
}

/// Contiguous in i: row copies, or two rows interleaved.
void pack_along_rows(uint32_t* dst, const Source& s, int64_t rows, int64_t width, int64_t units) {
  const int64_t whole_units = s.pairs ? s.depth / 2 : s.depth, whole_rows = rows / W * W;
  for (int64_t u = 0; u < whole_units; u++) {
    uint32_t* to = dst + u * width;
    for (int64_t i = 0; i < whole_rows; i += W) {
      VU v;
      if (!s.half) {
        v = *reinterpret_cast<const VUm*>(s.data + (u * s.col + i) * 4);
      } else if (!s.pairs) {
        v = (VU)bf16_to_float(*reinterpret_cast<const VHm*>(s.data + (u * s.col + i) * 2));
      } else {
        const char* even = s.data + (2 * u * s.col + i) * 2;
        const VU low = __builtin_convertvector(*reinterpret_cast<const VHm*>(even), VU);
        const VU high = __builtin_convertvector(*reinterpret_cast<const VHm*>(even + s.col * 2), VU);
        v = low | (high << 16);
      }
      *reinterpret_cast<VUm*>(to + i) = v;
    }
    for (int64_t i = whole_rows; i < width; i++) to[i] = i < rows ? s.unit(i, u) : 0;
  }
  pack_scalar(dst, s, rows, width, 0, width, whole_units, units);
}

}  // namespace

void pack_panel(uint32_t* dst, const Operand& source, int64_t first, int64_t rows, int64_t width, int64_t depth,
                int64_t units, bool pairs) {
  const FloatRef from = source.data.at(first * source.row);
  const Source s = {from.data, source.row, source.col, depth, from.half, pairs};
  if (s.col == 1) {
    pack_along_k(dst, s, rows, width, units);
  } else if (s.row == 1) {
    pack_along_rows(dst, s, rows, width, units);
  } else {
    pack_scalar(dst, s, rows, width, 0, width, 0, units);
  }
}

}  // namespace lathe::LATHE_ISA
