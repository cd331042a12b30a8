// The matrix product on AMX tiles (Intel 64 Architectures Software Developer's Manual, vol. 1, chapter 18):
// TDPBF16PS adds a 16×32 by 32×16 product of bf16 to 16×16 sums in f32, at 13 times the rate of FMA.
// The right operand is bf16 and packed in panels of 32 columns. A left operand in f32 is split into kParts numbers of
// bf16 that add up to it, one product each: no bit of the weights and 2⁻¹⁷ of the activations at most is lost, and
// the rate is still four times that of FMA. Each element of C is one chain in ascending k, whatever M is.
#include "gemm_tiles.h"

#include "../core/ops.h"
#include "gemm_finish.h"
#include "gemm_tiles_pack.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)
namespace {

/// Bytes of the left operand that stay in L1 while a group of panels passes.
constexpr int64_t kLeftBytes = 24 << 10;
constexpr int64_t kChunkRows = 64;      // rows of a task
constexpr int64_t kGroupPanels = 48;    // most panels of a task: its sums and its part of B share an L2
constexpr int64_t kSlabBytes = 32 << 20;  // most of B that is packed ahead
constexpr int64_t kPackPanels = 4;        // panels that a task packs in one pass over k
constexpr int64_t kSerialWork = 1 << 21;  // multiply-adds below which waking a thread costs more

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t columns_bytes[16] = {};
  uint8_t rows[16] = {};

  TileConfig() {
    for (int t = 0; t < 8; t++) {
      columns_bytes[t] = 64;
      rows[t] = kSide;
    }
  }
};

/// The compiler does not see that tile loads read memory and tile stores write it.
inline void settle_memory() { __asm__ volatile("" ::: "memory"); }

/// Tiles 0–3 are C (two by two), 4 and 5 the left operand's rows, 6 and 7 the panel's halves.
template <int kRowTiles>
inline void load_sums(const float* sums) {
  _tile_loadd(0, sums, kPanel * 4);
  _tile_loadd(1, sums + kSide, kPanel * 4);
  if (kRowTiles == 2) {
    _tile_loadd(2, sums + kSide * kPanel, kPanel * 4);
    _tile_loadd(3, sums + kSide * kPanel + kSide, kPanel * 4);
  }
}

template <int kRowTiles>
inline void store_sums(float* sums) {
  _tile_stored(0, sums, kPanel * 4);
  _tile_stored(1, sums + kSide, kPanel * 4);
  if (kRowTiles == 2) {
    _tile_stored(2, sums + kSide * kPanel, kPanel * 4);
    _tile_stored(3, sums + kSide * kPanel + kSide, kPanel * 4);
  }
}

/// One step: left is [part][2 tiles], right 16 units of a panel.
template <int kRowTiles, int kPartCount>
inline __attribute__((always_inline)) void step(const char* left, const uint32_t* right) {
  _tile_loadd(6, right, kPanel * 4);
  _tile_loadd(7, right + kSide, kPanel * 4);
#pragma GCC unroll 4
  for (int p = 0; p < kPartCount; p++, left += 2 * kTileBytes) {
    _tile_loadd(4, left, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (kRowTiles == 2) {
      _tile_loadd(5, left + kTileBytes, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
}

/// sums (+)= left·right over `units` units (16 a step); a last step of fewer units goes through a padded copy.
template <int kRowTiles, int kPartCount>
void block(float* sums, bool add, const char* left, const uint32_t* right, int64_t units) {
  settle_memory();
  if (add) {
    load_sums<kRowTiles>(sums);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (; units >= kStepUnits; units -= kStepUnits) {
    step<kRowTiles, kPartCount>(left, right);
    left += 2 * kTileBytes * kPartCount;
    right += kStepUnits * kPanel;
  }
  if (units > 0) {
    alignas(64) uint32_t padded[kStepUnits * kPanel] = {};
    __builtin_memcpy(padded, right, units * kPanel * 4);
    __asm__ volatile("" ::"r"(padded) : "memory");
    step<kRowTiles, kPartCount>(left, padded);
  }
  store_sums<kRowTiles>(sums);
  settle_memory();
}

struct Job {
  const Product& c;
  const Operand& a;
  const PairPanels& b;
  int64_t m, n, k;
  bool one_part;

  int parts() const { return a.data.half || one_part ? 1 : kParts; }
  int64_t block_k() const { return kLeftBytes / (kRows * 2 * parts()) / kStepK * kStepK; }

  /// Rows [i0, i1) by panels [j0, j1). left: room for kChunkRows rows of a block; sums: for the whole part.
  void compute(int64_t i0, int64_t i1, int64_t j0, int64_t j1, char* left, float* sums) const {
    const int64_t depth = block_k(), left_bytes = kRows * depth * 2 * parts();
    for (int64_t k0 = 0; k0 == 0 || k0 < k; k0 += depth) {
      const int64_t here = min(depth, k - k0), units = (here + 1) / 2;
      const bool last = k0 + depth >= k;
      for (int64_t i = i0; i < i1; i += kRows) {
        const int64_t rows = min(kRows, i1 - i);
        char* tiles = left + (i - i0) / kRows * left_bytes;
        pack_left(tiles, {a.data.at(i * a.row + k0 * a.col), a.row, a.col}, rows, here, parts());
        for (int64_t j = j0; j < j1; j++) {
          float* sum = sums + ((i - i0) / kRows * (j1 - j0) + j - j0) * kRows * kPanel;
          const uint32_t* right = b.data + (j * b.units + k0 / 2) * kPanel;
          run(sum, k0 > 0, tiles, right, units, rows);
          if (last) write_tile(c, sum, i, rows, j * kPanel, min(kPanel, n - j * kPanel));
        }
      }
    }
  }

  void run(float* sum, bool add, const char* tiles, const uint32_t* right, int64_t units, int64_t rows) const {
    const bool one = rows <= kSide;
    if (parts() == 1) {
      one ? block<1, 1>(sum, add, tiles, right, units) : block<2, 1>(sum, add, tiles, right, units);
    } else {
      one ? block<1, kParts>(sum, add, tiles, right, units) : block<2, kParts>(sum, add, tiles, right, units);
    }
  }
};

}  // namespace

void multiply_tiles(const Product& c, const Operand& a, const PairPanels& b, int64_t m, int64_t n, int64_t k,
                    bool one_part) {
  if (m == 0 || n == 0) return;
  const Job job = {c, a, b, m, n, k, one_part};
  const int64_t panels = (n + kPanel - 1) / kPanel, threads = m * n * k < kSerialWork ? 1 : thread_count();
  const int64_t chunks = (m + kChunkRows - 1) / kChunkRows;
  // Tasks of one size; columns are split as far as the threads need it, A is packed again for every group.
  const int64_t wanted = (3 * threads + chunks - 1) / chunks;
  const int64_t group = max(1, min(kGroupPanels, (panels + wanted - 1) / wanted));
  const int64_t groups = (panels + group - 1) / group;
  const int64_t left_bytes = kChunkRows * job.block_k() * 2 * job.parts();
  const int64_t sum_floats = kChunkRows * group * kPanel;
  const Scratch left(threads * left_bytes), sums(threads * sum_floats * 4);
  const auto task = [&](int64_t t, int worker) {
    const int64_t i = t % chunks * kChunkRows, j = t / chunks * group;
    const TileConfig config;
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
    job.compute(i, min(m, i + kChunkRows), j, min(panels, j + group), left.bytes() + worker * left_bytes,
                sums.floats() + worker * sum_floats);
    _tile_release();
  };
  if (threads == 1) {
    for (int64_t t = 0; t < groups * chunks; t++) task(t, 0);
  } else {
    parallel_tasks(groups * chunks, task);
  }
}

void multiply_on_tiles(const Product& c, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k,
                       bool one_part) {
  const int64_t units = (k + 1) / 2, slab = max(1, kSlabBytes / max(1, kPanel * units * 4)) * kPanel;
  const Scratch room(round_up(min(slab, n), kPanel) * units * 4);
  auto* panels = reinterpret_cast<uint32_t*>(room.bytes());
  for (int64_t j = 0; j < n; j += slab) {
    const int64_t columns = min(slab, n - j), tasks = (columns + kPackPanels * kPanel - 1) / (kPackPanels * kPanel);
    const auto pack = [&](int64_t task, int) {
      const int64_t first = task * kPackPanels * kPanel;
      pack_panels(panels + first * units, b, j + first, min(columns - first, kPackPanels * kPanel),
                  {kPanel, k, units, true});
    };
    if (m * columns * k < kSerialWork) {
      for (int64_t task = 0; task < tasks; task++) pack(task, 0);
    } else {
      parallel_tasks(tasks, pack);
    }
    const Product part = {c.data.at(j * c.col), c.row, c.col, c.alpha, c.beta};
    multiply_tiles(part, a, {panels, units}, m, columns, k, one_part);
  }
}

#endif

}  // namespace lathe::LATHE_ISA
