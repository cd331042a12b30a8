// The innermost part of a product on AMX tiles: 32×32 sums in four tiles over a run of steps of 32 k (Intel 64 and IA-32
// Architectures Software Developer's Manual, vol. 1, chapter 18: TDPBF16PS). Knows the packed forms, not the matrices.
#pragma once
#include "simd.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)

constexpr int kSide = 16;             // rows of a tile, and its columns of f32
constexpr int64_t kStepK = 32;        // k of one tile instruction
constexpr int64_t kStepBytes = 2048;  // 32 rows of a step: two tiles
constexpr int64_t kRows = 2 * kSide;  // rows (and columns) of sums that go through the tiles together

/// Eight tiles of 16 rows by 64 bytes, for as long as this lives.
class TileScope {
 public:
  TileScope() {
    alignas(64) uint8_t config[64] = {};
    config[0] = 1;  // palette
    for (int t = 0; t < 8; t++) {
      config[16 + 2 * t] = 64;
      config[48 + t] = kSide;
    }
    __asm__ volatile("" ::"r"(config) : "memory");
    _tile_loadconfig(config);
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

/// Memory that will be read after the running block: asked into L2 a little with every step.
struct Ahead {
  const char* row = nullptr;
  int64_t rows = 0, row_bytes = 0, stride = 0;
  int64_t column = 0, lines_per_step = 0;

  __attribute__((always_inline)) void step() {
    for (int64_t i = 0; i < lines_per_step && rows > 0; i++) {
      __builtin_prefetch(row + column, 0, 2);
      column += 64;
      if (column >= row_bytes) {
        column = 0;
        row += stride;
        rows--;
      }
    }
  }
};

/// A run of steps. `resident` has parts × 2 KB a step, `streamed` 2 KB.
struct Run {
  const char *resident, *streamed;
  int64_t steps;
  int parts;
};

/// Tiles 0–3 are the sums (two by two), 4 and 5 left operands (16 rows of 64 bytes each), 6 and 7 right ones (pairs of k
/// by 16 columns, a row of 32 columns apart). kSwapped: the streamed operand is the left one. kHalf: 16 rows of the
/// resident one are all there is.
template <bool kSwapped, int kParts, bool kHalf>
inline __attribute__((always_inline)) void tile_steps(const Run& run, Ahead& ahead) {
  const char *s = run.resident, *w = run.streamed;
  for (int64_t i = 0; i < run.steps; i++, w += kStepBytes) {
    ahead.step();
    if (kSwapped) {
      _tile_loadd(4, w, 64);
      _tile_loadd(5, w + 1024, 64);
    } else {
      _tile_loadd(6, w, 128);
      _tile_loadd(7, w + 64, 128);
    }
#pragma GCC unroll 4
    for (int p = 0; p < kParts; p++, s += kStepBytes) {
      if (kSwapped) {
        _tile_stream_loadd(6, s, 128);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        if (kHalf) continue;
        _tile_stream_loadd(7, s + 64, 128);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      } else {
        _tile_stream_loadd(4, s, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (kHalf) continue;
        _tile_stream_loadd(5, s + 1024, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
}

/// sums (+)= the runs; sums: 32 rows (of the left operand) of 32 floats.
template <bool kSwapped, bool kHalf>
void tile_block(float* sums, bool add, const Run* runs, int count, Ahead& ahead) {
  __asm__ volatile("" ::: "memory");  // the compiler does not see that tile loads read memory
  if (add) {
    _tile_loadd(0, sums, 128);
    _tile_loadd(1, sums + kSide, 128);
    _tile_loadd(2, sums + kSide * kRows, 128);
    _tile_loadd(3, sums + kSide * kRows + kSide, 128);
  } else {
    for (int i = 0; i < 64; i++) __builtin_prefetch(sums + i * 16, 1);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int r = 0; r < count; r++) {
    runs[r].parts == 1 ? tile_steps<kSwapped, 1, kHalf>(runs[r], ahead) : tile_steps<kSwapped, 2, kHalf>(runs[r], ahead);
  }
  _tile_stored(0, sums, 128);
  _tile_stored(1, sums + kSide, 128);
  _tile_stored(2, sums + kSide * kRows, 128);
  _tile_stored(3, sums + kSide * kRows + kSide, 128);
  __asm__ volatile("" ::: "memory");
}

#endif

}  // namespace lathe::LATHE_ISA
