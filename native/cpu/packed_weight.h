// Weights that packWeight and packWeightInt8 laid out, as kernels read them, and products with them.
#pragma once
#include "../core/ops.h"
#include "gemm.h"

namespace lathe::LATHE_ISA {

/// W [n, k] as panels of kPanelWidth rows. f32 and bf16: see gemm_pack.h. int8 (dtype u8): for every four k (as many fours
/// as fill 64 k) and every row, its four numbers; a row's weights are its numbers times scales[row].
struct PackedWeight {
  int64_t n, k;
  DType dtype;
  const float* scales;  // int8 only; rows beyond n have scale 0
  const char* panels;

  explicit PackedWeight(In packed);

  bool int8() const { return dtype == DType::u8; }
  int64_t pairs() const { return (k + 1) / 2; }
  int64_t panel_count() const { return (n + kPanelWidth - 1) / kPanelWidth; }
  int64_t panel_bytes() const {
    return kPanelWidth * (int8() ? round_up(k, kInt8Fill) : dtype == DType::bf16 ? 4 * pairs() : 4 * k);
  }
};

/// Rows [row, row + rows) by columns [first, first + columns) of a product.
struct SumsBlock {
  int64_t row, rows, first, columns;
};

/// Takes finished sums of one weight while they are in L1: rows of kPanelWidth floats (int8 already scaled), which may be
/// overwritten. Called from several threads.
struct Finish {
  void (*call)(void* context, int weight, const SumsBlock& block, float* sums);
  void* context;
};

/// A·W_iᵀ for up to three weights of one depth, handed over block by block, where there is such a kernel: for int8 weights,
/// and for bf16 weights on AMX. False, and nothing done, where there is none. Rows of a: k side by side.
bool multiply_by_blocks(const Operand& a, const PackedWeight* weights, int count, int64_t m, const Finish& finish);

/// C = alpha·A·Wᵀ + beta·C for any number of rows; a row's result does not depend on how many there are.
void multiply_packed_weight(const Product& c, const Operand& a, const PackedWeight& w, int64_t m);

/// W [n, k] as int8 panels: per row, scale = largest magnitude / 127 and numbers rounded to the nearest (ties to even).
void pack_int8(Out packed, In w);

}  // namespace lathe::LATHE_ISA
