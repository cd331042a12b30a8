// The f32 product of operands whose k lie side by side: y = x·Wᵀ as linear layers have it.
#pragma once
#include "gemm.h"

namespace lathe::LATHE_ISA {

/// Whether the operand can be read where it lies: f32, k side by side.
static inline bool in_rows(const Operand& o) { return !o.data.half && o.col == 1; }

/// C = alpha·A·Bᵀ + beta·C with the rows of a (in_rows) read in place and b packed once: the larger one should be a.
void multiply_rows(const Product& c, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k);

}  // namespace lathe::LATHE_ISA
