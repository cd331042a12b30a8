// Rows of 16 bits by int8 weights on AMX tiles (Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 1,
// chapter 18: TDPBSSD): high and low bytes of up to 16 rows are two left operands beside the same weights. int32 holds
// their sums up to 2¹⁷ k: 2¹⁷·128·127 < 2³¹.
#pragma once
#include "int8_kernel.h"
#include "thin_tiles.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_INT8__)

/// A chunk is [step of 64 k][high, low][rows of 64 bytes].
static void place_on_tiles(char* chunk, int64_t rows, int64_t r, const int16_t* numbers, int64_t depth) {
  char* to = chunk + kChunkHead + r * 64;
  for (int64_t k = 0; k < depth; k += 32) {
    __m256i high, low;
    split_bytes(&high, &low, numbers + k);
    char* half = to + k / 64 * 2 * rows * 64 + k % 64;
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(half), high);
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(half + rows * 64), low);
  }
}

/// One step of one panel on tiles 0–3: high and low sums of its left 16 columns are in 0 and 2, of the others in 1 and 3.
template <bool kFetch>
static inline __attribute__((always_inline)) void run_steps(const char* left, int64_t part, const char* panel,
                                                            int64_t steps, int64_t ahead) {
  for (int64_t s = 0; s < steps; s++, left += 2 * part, panel += kInt8StepBytes) {
    if (kFetch) fetch(panel + ahead, kInt8StepBytes);
    _tile_loadd(4, left, 64);
    _tile_loadd(5, left + part, 64);
    _tile_loadd(6, panel, kPanelWidth * 4);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(2, 5, 6);
    _tile_loadd(7, panel + 64, kPanelWidth * 4);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(3, 5, 7);
  }
}

static void multiply_on_int8_tiles(float* sums, const char* chunk, int64_t rows, const char* panel, int64_t depth,
                                   int64_t ahead) {
  alignas(64) int32_t high[kInt8Rows * kPanelWidth], low[kInt8Rows * kPanelWidth];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const auto run = ahead > 0 ? run_steps<true> : run_steps<false>;
  run(chunk + kChunkHead, rows * 64, panel, depth / kInt8Fill, ahead);
  _tile_stored(0, high, kPanelWidth * 4);
  _tile_stored(1, high + 16, kPanelWidth * 4);
  _tile_stored(2, low, kPanelWidth * 4);
  _tile_stored(3, low + 16, kPanelWidth * 4);
  __asm__ volatile("" ::"r"(high), "r"(low) : "memory");
  for (int64_t i = 0; i < rows * kPanelWidth; i += W) {
    vstore(sums + i, joined(*reinterpret_cast<const VI*>(high + i), *reinterpret_cast<const VI*>(low + i)));
  }
}

#endif

}  // namespace lathe::LATHE_ISA
