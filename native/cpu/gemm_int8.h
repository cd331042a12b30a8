// Products with int8 weights, for any number of rows.
#pragma once
#include "packed_weight.h"

namespace lathe::LATHE_ISA {

/// sums = A·W_iᵀ for weights of int8 and of one depth. Each row of A is rounded to 16 bits (int8_rows.h); its products
/// with the weights' numbers are summed exactly, rounded once to f32 and multiplied with the scales of column and row.
/// Rows of A have their k side by side.
void int8_products(const Operand& a, const PackedWeight* weights, int count, int64_t m, const Finish& finish);

}  // namespace lathe::LATHE_ISA
