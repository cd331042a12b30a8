// The matrix product on AMX tiles (Intel 64 Architectures Software Developer's Manual, vol. 1, chapter 18):
// TDPBF16PS adds a 16×32 by 32×16 product of bf16 to 16×16 sums in f32, at 13 times the rate of FMA.
// The right operand is bf16 and packed in panels of 32 columns. A left operand in f32 is split into kParts numbers of
// bf16 that add up to it, one product each: no bit of the weights and 2⁻¹⁷ of the activations at most is lost, and
// the rate is still four times that of FMA. Each element of C is one chain in ascending k, whatever M is.
#include "gemm_tiles.h"

#include "../core/ops.h"
#include "parallel.h"
#include "transpose.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)
namespace {

constexpr int kSide = 16;             // rows of a tile, and its columns of f32
constexpr int64_t kStepK = 32;        // k of one tile instruction
constexpr int64_t kStepUnits = 16;    // the same in pairs
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kRows = 2 * kSide;  // rows of C that go through the tiles together
constexpr int64_t kPanel = kPanelWidth;
constexpr int kParts = 2;
/// Bytes of the left operand that stay in L1 while a group of panels passes.
constexpr int64_t kLeftBytes = 24 << 10;
constexpr int64_t kChunkRows = 64;      // rows of a task
constexpr int64_t kGroupPanels = 48;    // most panels of a task: its sums and its part of B share an L2
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

/// The upper 16 bits of the lanes: bf16 by truncation.
inline __m256i upper(VU v) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)v, 16)); }

/// Rounds to nearest even on the way to the upper 16 bits; NaN stays one.
inline VU to_nearest(VF x) {
  const VU bits = (VU)x, rounded = bits + vuset(0x7FFF) + (bits >> 16 & vuset(1));
  return (VU)_mm512_mask_mov_epi32((__m512i)rounded, _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q),
                                   (__m512i)bits);
}

/// Splits x into parts whose upper halves count: each takes what the ones before it left over, which is exact.
template <int kPartCount>
inline void split(VF x, VU parts[kPartCount]) {
#pragma GCC unroll 4
  for (int p = 0; p < kPartCount; p++) {
    parts[p] = to_nearest(x);
    if (p + 1 < kPartCount) x -= (VF)(parts[p] & vuset(0xFFFF0000u));
  }
}

/// Where the tile row of row r, part p of a step lies.
template <int kPartCount>
inline char* tile_row(char* dst, int64_t s, int p, int64_t r) {
  return dst + ((s * kPartCount + p) * 2 + r / kSide) * kTileBytes + r % kSide * 64;
}

/// Rows of f32 that are contiguous in k.
template <int kPartCount>
void pack_floats_along_k(char* dst, const float* source, int64_t row, int64_t rows, int64_t depth) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t s = 0; s * kStepK < depth; s++) {
      VU low[kPartCount], high[kPartCount];
      const float* from = source + r * row + s * kStepK;
      const int64_t left = depth - s * kStepK;
      split<kPartCount>(left >= W ? vload(from) : vload_part(from, static_cast<int>(left)), low);
      const int64_t more = left - W;
      split<kPartCount>(more >= W ? vload(from + W) : more > 0 ? vload_part(from + W, static_cast<int>(more)) : VF{}, high);
#pragma GCC unroll 4
      for (int p = 0; p < kPartCount; p++) {
        char* to = tile_row<kPartCount>(dst, s, p, r);
        _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to), upper(low[p]));
        _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to + 32), upper(high[p]));
      }
    }
  }
}

/// Any operand: 16 rows at a time, pairs of k in 16 registers, transposed into tile rows.
template <int kPartCount>
void pack_pairs(char* dst, const Operand& a, int64_t rows, int64_t depth) {
  const auto lanes = [&](int64_t i, int64_t k, int n) {
    if (k >= depth || n <= 0) return VF{};
    if (a.row == 1) return load(a.data, i + k * a.col, n);
    VF v = {};
    for (int j = 0; j < n; j++) v[j] = load(a.data, (i + j) * a.row + k * a.col, 1)[0];
    return v;
  };
  for (int64_t i = 0; i < kRows; i += kSide) {
    const int n = static_cast<int>(min(kSide, rows - i));
    for (int64_t s = 0; s * kStepK < depth; s++) {
      VU parts[kPartCount][W];
      for (int u = 0; u < W; u++) {
        VU even[kPartCount], odd[kPartCount];
        split<kPartCount>(lanes(i, s * kStepK + 2 * u, n), even);
        split<kPartCount>(lanes(i, s * kStepK + 2 * u + 1, n), odd);
#pragma GCC unroll 4
        for (int p = 0; p < kPartCount; p++) parts[p][u] = even[p] >> 16 | (odd[p] & vuset(0xFFFF0000u));
      }
#pragma GCC unroll 4
      for (int p = 0; p < kPartCount; p++) {
        transpose(parts[p]);
        for (int r = 0; r < kSide; r++) {
          *reinterpret_cast<VUm*>(tile_row<kPartCount>(dst, s, p, i + r)) = parts[p][r];
        }
      }
    }
  }
}

void zero_rows(char* dst, int64_t first, int64_t steps, int parts) {
  for (int64_t t = 0; t < steps * parts * 2; t++) {
    const int64_t from = max(0, first - t % 2 * kSide);
    if (from < kSide) __builtin_memset(dst + t * kTileBytes + from * 64, 0, (kSide - from) * 64);
  }
}

/// Rows [0, rows) of `a`, k in [0, depth), as the tiles of kRows rows.
void pack_left(char* dst, const Operand& a, int64_t rows, int64_t depth) {
  const int64_t steps = (depth + kStepK - 1) / kStepK;
  if (!a.data.half && a.col == 1) {
    pack_floats_along_k<kParts>(dst, reinterpret_cast<const float*>(a.data.data), a.row, rows, depth);
    zero_rows(dst, rows, steps, kParts);
  } else if (!a.data.half) {
    pack_pairs<kParts>(dst, a, rows, depth);
  } else if (a.col == 1 && depth % kStepK == 0) {
    for (int64_t r = 0; r < rows; r++) {
      const char* from = a.data.at(r * a.row).data;
      for (int64_t s = 0; s < steps; s++) *reinterpret_cast<VUm*>(tile_row<1>(dst, s, 0, r)) = *reinterpret_cast<const VUm*>(from + s * 64);
    }
    zero_rows(dst, rows, steps, 1);
  } else {
    pack_pairs<1>(dst, a, rows, depth);
  }
}

/// C[i0…, j0…] = alpha·sums + beta·C.
void finish(const Product& c, const float* sums, int64_t i0, int64_t rows, int64_t j0, int64_t columns) {
  const VF alpha = vset(c.alpha), beta = vset(c.beta);
  for (int64_t r = 0; r < rows; r++) {
    const FloatRef to = c.data.at((i0 + r) * c.row + j0 * c.col);
    if (c.col == 1) {
      each_vector(columns, [&](int64_t j, int n) {
        const VF v = alpha * vload(sums + r * kPanel + j);
        store(to, j, c.beta == 0 ? v : fma(beta, load(to, j, n), v), n);
      });
    } else {
      for (int64_t j = 0; j < columns; j++) {
        const VF v = alpha * sums[r * kPanel + j];
        store(to, j * c.col, c.beta == 0 ? v : fma(beta, load(to, j * c.col, 1), v), 1);
      }
    }
  }
}

struct Job {
  const Product& c;
  const Operand& a;
  const PairPanels& b;
  int64_t m, n, k;

  int parts() const { return a.data.half ? 1 : kParts; }
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
        pack_left(tiles, {a.data.at(i * a.row + k0 * a.col), a.row, a.col}, rows, here);
        for (int64_t j = j0; j < j1; j++) {
          float* sum = sums + ((i - i0) / kRows * (j1 - j0) + j - j0) * kRows * kPanel;
          const uint32_t* right = b.data + (j * b.units + k0 / 2) * kPanel;
          run(sum, k0 > 0, tiles, right, units, rows);
          if (last) finish(c, sum, i, rows, j * kPanel, min(kPanel, n - j * kPanel));
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

void multiply_tiles(const Product& c, const Operand& a, const PairPanels& b, int64_t m, int64_t n, int64_t k) {
  if (m == 0 || n == 0) return;
  const Job job = {c, a, b, m, n, k};
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

#endif

}  // namespace lathe::LATHE_ISA
