// The matrix product on AMX tiles, for a right operand of bf16.
#pragma once
#include "gemm.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif

/// Panels of bf16 pairs (gemm_pack.h), `units` of them from one panel to the next.
struct PairPanels {
  const uint32_t* data;
  int64_t units;
};

/// C = alpha·A·Bᵀ + beta·C with B as panels. An f32 left operand goes in as a sum of bf16 parts (see gemm_tiles.cc).
void multiply_tiles(const Product& c, const Operand& a, const PairPanels& b, int64_t m, int64_t n, int64_t k,
                    bool one_part = false);

/// The same with B as it lies: packed here, a slab of columns at a time.
void multiply_on_tiles(const Product& c, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k,
                       bool one_part);

}  // namespace lathe::LATHE_ISA
