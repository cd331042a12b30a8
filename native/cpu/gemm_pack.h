// Operands of the matrix product and their packing into panels.
#pragma once
#include "simd.h"

namespace lathe::LATHE_ISA {

/// Element (i, k) lies at data[i·row + k·col]; i is the row of C for the left operand, its column for the right.
struct Operand {
  FloatRef data;
  int64_t row, col;
};

/// Packs rows [first, first+rows) of `source` into 32-bit units: dst[unit·width + i]. As f32 a unit is one k; as
/// pairs (bf16 sources only) it is k even in the low half and k odd in the high. Rows up to `width` and units up
/// to `units` beyond the matrix are zero.
void pack_panel(uint32_t* dst, const Operand& source, int64_t first, int64_t rows, int64_t width, int64_t depth,
                int64_t units, bool pairs);

}  // namespace lathe::LATHE_ISA
