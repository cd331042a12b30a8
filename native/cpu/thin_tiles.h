// The AMX configuration of thin products, in bf16 and in int8: sums and left operand have as many rows as the product.
#pragma once
#include "simd.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)

constexpr int kTileRows = 16;

/// Tiles 0–3 are sums and 4 and 5 left operands, of `rows` rows; 6 and 7 right operands. For as long as this lives.
class ThinTiles {
 public:
  explicit ThinTiles(int64_t rows) {
    alignas(64) uint8_t config[64] = {};
    config[0] = 1;  // palette
    for (int t = 0; t < 8; t++) {
      config[16 + 2 * t] = 64;
      config[48 + t] = static_cast<uint8_t>(t < 6 ? rows : kTileRows);
    }
    __asm__ volatile("" ::"r"(config) : "memory");
    _tile_loadconfig(config);
  }
  ~ThinTiles() { _tile_release(); }
  ThinTiles(const ThinTiles&) = delete;
  ThinTiles& operator=(const ThinTiles&) = delete;
};

#endif

/// Asks for `bytes` (a multiple of 64, known to the compiler) into L2.
static inline __attribute__((always_inline)) void fetch(const char* line, int64_t bytes) {
#pragma GCC unroll 32
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(line + i, 0, 2);
}

}  // namespace lathe::LATHE_ISA
