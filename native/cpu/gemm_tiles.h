// The matrix product on AMX tiles: sums of terms whose first right operand is bf16.
#pragma once
#include "packed_weight.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif

/// multiply_sum on tiles. An f32 left operand enters as bf16 parts that add up to it, an f32 b of a later term as two (see
/// gemm_tiles.cc).
void multiply_on_tiles(const Product& c, const Term* terms, int count, int64_t m, int64_t n);

/// sums = A·W_iᵀ for up to three bf16 weights of one depth, which are read as they are stored; a is packed once for all.
void tile_products(const Operand& a, const PackedWeight* weights, int count, int64_t m, const Finish& finish);

}  // namespace lathe::LATHE_ISA
