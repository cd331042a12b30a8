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

/// a: rows of C by k; b: columns of C by k.
void multiply(const Product& c, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k);

/// The same with b as panels of packWeight (behind their header).
void multiply_packed(const Product& c, const Operand& a, const char* panels, bool panels_half, int64_t m, int64_t n,
                     int64_t k);

}  // namespace lathe::LATHE_ISA
