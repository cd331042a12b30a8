// The product on vector units for operands of any type and layout. Knows nothing of tiles and of sums of products.
#pragma once
#include "gemm.h"

namespace lathe::LATHE_ISA {

/// C = alpha·A·Bᵀ + beta·C. panels: b's data are panels of packWeight (behind their header) in its type.
void multiply_blocks(const Product& c, const Operand& a, const Operand& b, bool panels, int64_t m, int64_t n, int64_t k);

}  // namespace lathe::LATHE_ISA
