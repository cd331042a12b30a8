// The matrix product for other kernels of this folder: strided operands, any mix of f32 and bf16.
#pragma once
#include "gemm_pack.h"

namespace lathe::LATHE_ISA {

/// C[i, j] at data[i·row + j·col]; C = alpha·A·Bᵀ + beta·C, C not read when beta = 0.
struct Product {
  FloatRef data;
  int64_t row, col;
  float alpha, beta;
};

/// One addend of a sum of products: scale·A·Bᵀ over k of its own. one_part: where the product goes through bf16 tiles, an
/// f32 left operand is rounded to a single bf16 (2⁻⁹ of each element, twice the speed) instead of to two parts (2⁻¹⁷).
struct Term {
  Operand a, b;
  int64_t k;
  float scale = 1.0f;
  bool one_part = false;
};

/// C = alpha·Σ scaleₜ·Aₜ·Bₜᵀ + beta·C in one go, in the order of the terms: a low-rank branch, or a gradient that several
/// layers add to. How the terms are multiplied is decided by the type of the first one's b alone.
void multiply_sum(const Product& c, const Term* terms, int count, int64_t m, int64_t n);

/// One product. a: rows of C by k; b: columns of C by k.
static inline void multiply(const Product& c, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k) {
  const Term term = {a, b, k};
  multiply_sum(c, &term, 1, m, n);
}

/// multiply() with b as panels of packWeight (behind their header), on vector units: packed_weight.h knows of tiles.
void multiply_packed(const Product& c, const Operand& a, const char* panels, bool panels_half, int64_t m, int64_t n,
                     int64_t k);

}  // namespace lathe::LATHE_ISA
