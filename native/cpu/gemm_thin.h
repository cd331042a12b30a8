// Products of a few rows with packed bf16 weights: every weight is read once, as fast as memory gives it.
#pragma once
#include "packed_weight.h"

namespace lathe::LATHE_ISA {

constexpr int64_t kThinRows = 16;

/// Whether thin_products takes such rows: AMX, ≤ 16 rows with k side by side.
bool is_thin(const Operand& a, int64_t m);

/// sums = A·W_iᵀ for bf16 weights of one depth; bit for bit what multiply_tiles gives for each.
void thin_products(const Operand& a, const PackedWeight* weights, int count, int64_t m, const Finish& finish);

}  // namespace lathe::LATHE_ISA
