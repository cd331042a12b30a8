// A tile of a bf16 matrix in shared memory, copied there without waiting and read as fragments of mma.sync: any
// transposition, any alignment. What the matrix products of this folder are made of.
#pragma once
#include "mma.h"

namespace lathe::cuda {

constexpr int kGemmDepth = 32;
/// Elements behind each shared row: the 8 rows of a matrix then lie in 8 different groups of banks.
constexpr int kGemmPad = 8;

/// One operand's tile in shared memory: `kOuter` rows or columns of C by kDepth. kAlongK: memory has k innermost.
template <int kOuter, bool kAlongK, int kDepth = kGemmDepth>
struct OperandTile {
  static constexpr int kRows = kAlongK ? kOuter : kDepth;
  static constexpr int kWidth = kAlongK ? kDepth : kOuter;
  static constexpr int kPitch = kWidth + kGemmPad;
  static constexpr int kElements = kRows * kPitch;

  /// Copies the tile at (outer0, k0) of a matrix with `outer` rows or columns, `pitch` elements from row to row of
  /// memory; zeros beyond it and beyond k_end.
  template <int kThreads>
  __device__ __forceinline__ static void fetch(uint16_t* tile, const uint16_t* from, int64_t outer0, int64_t k0,
                                               int64_t outer, int64_t k_end, int64_t pitch, bool wide) {
    const int64_t row0 = kAlongK ? outer0 : k0, column0 = kAlongK ? k0 : outer0;
    const int64_t rows = kAlongK ? outer : k_end, columns = kAlongK ? k_end : outer;
    constexpr int kGroups = kWidth / 8;
    for (int g = static_cast<int>(threadIdx.x); g < kRows * kGroups; g += kThreads) {
      const int r = g / kGroups, c = g % kGroups * 8;
      const int64_t row = row0 + r, column = column0 + c;
      uint16_t* to = tile + r * kPitch + c;
      if (wide && (column + 8 <= columns || column >= columns || row >= rows)) {
        const bool valid = row < rows && column < columns;
        copy_async16(to, valid ? from + row * pitch + column : from, valid);
      } else {
        for (int j = 0; j < 8; j++) {
          to[j] = row < rows && column + j < columns ? from[row * pitch + column + j] : uint16_t{0};
        }
      }
    }
  }

  /// The 16×16 piece at (outer, k): for A the registers of a fragment, for B those of two neighbouring columns of 8.
  template <bool kIsA>
  __device__ __forceinline__ static void piece(uint32_t (&r)[4], const uint16_t* tile, int outer, int k, int lane) {
    const int matrix = lane / 8, row = lane % 8;
    const int outer_step = kIsA ? (matrix & 1) * 8 : (matrix >> 1) * 8;
    const int k_step = kIsA ? (matrix >> 1) * 8 : (matrix & 1) * 8;
    if (kAlongK) {
      load_matrix(r, tile + (outer + outer_step + row) * kPitch + k + k_step);
    } else {
      load_matrix_transposed(r, tile + (k + k_step + row) * kPitch + outer + outer_step);
    }
  }
};

}  // namespace lathe::cuda
