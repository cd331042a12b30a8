// Operands of the matrix product and their packing into panels.
#pragma once
#include "simd.h"

namespace lathe::LATHE_ISA {

/// Element (i, k) lies at data[i·row + k·col]; i is the row of C for the left operand, its column for the right.
struct Operand {
  FloatRef data;
  int64_t row, col;
};

/// How a panel is laid out, in 32-bit units: unit u of row i at [u·width + i]. As f32 a unit is one k; as pairs
/// (bf16 sources only) it is k even in the low half and k odd in the high.
struct PanelLayout {
  int64_t width;  // rows of a whole panel
  int64_t depth;  // k of the matrix
  int64_t units;
  bool pairs;
};

/// Packs rows [first, first+rows) of `source` as one panel of `width` ≤ layout.width rows; rows beyond the matrix
/// and units beyond its depth are zero.
void pack_panel(uint32_t* dst, const Operand& source, int64_t first, int64_t rows, int64_t width,
                const PanelLayout& layout);

/// Packs rows [first, first+rows) as consecutive whole panels (the last one zero-padded).
void pack_panels(uint32_t* dst, const Operand& source, int64_t first, int64_t rows, const PanelLayout& layout);

}  // namespace lathe::LATHE_ISA
