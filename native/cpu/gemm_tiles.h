// The matrix product on AMX tiles: sums of terms whose first right operand is bf16.
#pragma once
#include "gemm.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif

/// multiply_sum on tiles. panels: the first term's b as panels of packWeight in bf16 (its Operand is then not read), or
/// null. An f32 left operand enters as bf16 parts that add up to it, an f32 b of a later term as two (see gemm_tiles.cc).
void multiply_on_tiles(const Product& c, const Term* terms, int count, const char* panels, int64_t m, int64_t n);

}  // namespace lathe::LATHE_ISA
