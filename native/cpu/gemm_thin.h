// Products of a few rows with packed weights: every weight is read once, as fast as memory gives it.
#pragma once
#include "packed_weight.h"

namespace lathe::LATHE_ISA {

constexpr int64_t kThinRows = 16;

/// Takes the finished sums of rows 0…m of columns [first, first + columns) of one weight, rows of kPanelWidth floats
/// (int8 already scaled); they may be overwritten. Called from several threads.
struct ThinFinish {
  void (*call)(void* context, int weight, int64_t first, int64_t columns, float* sums);
  void* context;
};

/// Whether thin_products takes such rows and weights: AMX, ≤ 16 rows with k side by side, weights of bf16 or of int8.
bool is_thin(const Operand& a, const PackedWeight* weights, int count, int64_t m);

/// sums = A·W_iᵀ for up to three weights of one depth; bit for bit what multiply_tiles gives for each.
void thin_products(const Operand& a, const PackedWeight* weights, int count, int64_t m, const ThinFinish& finish);

/// C = alpha·A·Wᵀ + beta·C.
void thin_product(const Product& c, const Operand& a, const PackedWeight& w, int64_t m);

}  // namespace lathe::LATHE_ISA
