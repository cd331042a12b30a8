// How the attention ops look at tensors before they launch: shapes, sequences, and which kernels may take them.
#pragma once
#include "attention_tile.h"
#include "runtime.h"

namespace lathe::cuda {

inline FloatPointer float_pointer(In t) { return {t.data, t.dtype == DType::bf16}; }
inline const uint16_t* halves(In t) { return static_cast<const uint16_t*>(t.data); }
inline uint16_t* writable_halves(Out t) { return static_cast<uint16_t*>(t.data); }

/// Windows beyond any context are cut so that sums with positions stay in 32 bits.
inline int window_of(int64_t window) { return static_cast<int>(window < (1 << 30) ? window : 1 << 30); }

/// The tiled kernels: bf16 throughout, head size 64 or 128, 16-byte aligned, and a scale under which the largest
/// score stays the largest.
template <class... T>
inline bool tiled(int64_t head_dim, float scale, const T&... tensors) {
  return (head_dim == 64 || head_dim == 128) && scale >= 0 &&
         ((tensors.dtype == DType::bf16 && reinterpret_cast<uintptr_t>(tensors.data) % 16 == 0) && ...);
}

inline SequenceSet packed_sequences(In cu_seqlens) {
  return {i32_data(cu_seqlens), static_cast<int>(cu_seqlens.dims[0] - 1), nullptr, nullptr, 0, 0};
}

/// Blocks of the generic kernels: four (row, head) pairs each.
inline unsigned generic_blocks(int64_t rows, int64_t heads) { return static_cast<unsigned>(ceil_div(rows * heads, 4)); }

}  // namespace lathe::cuda
