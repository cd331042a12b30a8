// Thin products with bf16 weights on AMX tiles. Up to 16 rows fill the rows of the C tiles, the left operand lies in L2 as
// tiles made once, and every thread streams runs of panels, two at a time (memory answers two streams sooner than one),
// with prefetches ahead of them. Chain of each element as in gemm_tiles.cc: ascending k in steps of 32, the parts of the
// left operand one after the other.
#include "gemm_thin.h"

#include "gemm_tiles_pack.h"
#include "thin_tiles.h"
#include "weight_stream.h"

namespace lathe::LATHE_ISA {

#if !defined(__AMX_BF16__)

bool is_thin(const Operand&, int64_t) { return false; }
void thin_products(const Operand&, const PackedWeight*, int, int64_t, const Finish&) {}

#else

namespace {

constexpr int64_t kStepsAhead = 4;        // prefetch distance within each stream
constexpr int64_t kPanel = kPanelWidth, kStepUnits = kStepK / 2;
constexpr int64_t kPairedTile = 2048;     // a step of a panel: 16 pairs of k by 32 columns
constexpr int64_t kSerialWork = 1 << 18;  // weights below which waking a thread costs more

/// The left operand: [step][part][m rows of 64 bytes].
struct Left {
  const char* tiles;
  int64_t part_bytes;
};

/// The C tiles of one or two panels += left · one step of each in bf16 pairs. Tile numbers have to be literals.
template <int kPanels, int kPartCount>
inline __attribute__((always_inline)) void multiply_steps(const Left& left, int64_t s, const char* p0, const char* p1) {
  const char* tiles = left.tiles + s * kPartCount * left.part_bytes;
  _tile_loadd(4, tiles, 64);
  if (kPartCount == 2) _tile_loadd(5, tiles + left.part_bytes, 64);
  _tile_loadd(6, p0, kPanel * 4);
  _tile_dpbf16ps(0, 4, 6);
  if (kPartCount == 2) _tile_dpbf16ps(0, 5, 6);
  _tile_loadd(7, p0 + 64, kPanel * 4);
  _tile_dpbf16ps(1, 4, 7);
  if (kPartCount == 2) _tile_dpbf16ps(1, 5, 7);
  if (kPanels == 1) return;
  _tile_loadd(6, p1, kPanel * 4);
  _tile_dpbf16ps(2, 4, 6);
  if (kPartCount == 2) _tile_dpbf16ps(2, 5, 6);
  _tile_loadd(7, p1 + 64, kPanel * 4);
  _tile_dpbf16ps(3, 4, 7);
  if (kPartCount == 2) _tile_dpbf16ps(3, 5, 7);
}

/// One or two panels from k = 0 to the end into sums[panel][m][32]. next: the panels that come after them, or null.
template <int kPanels, int kPartCount>
void run_panels(float* sums, int64_t m, const Left& left, const char* const panel[2], const char* const next[2],
                int64_t pairs) {
  const int64_t whole = pairs / kStepUnits, rest = pairs % kStepUnits;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t s = 0; s < whole; s++) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; p++) {
      const int64_t at = (s + kStepsAhead) * kPairedTile;
      if (s + kStepsAhead < whole) {
        fetch(panel[p] + at, kPairedTile);
      } else if (next[p]) {
        fetch(next[p] + at - whole * kPairedTile, kPairedTile);
      }
    }
    multiply_steps<kPanels, kPartCount>(left, s, panel[0] + s * kPairedTile, panel[1] + s * kPairedTile);
  }
  if (rest > 0) {
    alignas(64) char last[2][kPairedTile] = {};
    for (int p = 0; p < kPanels; p++) {
      __builtin_memcpy(last[p], panel[p] + whole * kPairedTile, rest * kPanel * 4);
    }
    __asm__ volatile("" ::"r"(last) : "memory");
    multiply_steps<kPanels, kPartCount>(left, whole, last[0], last[1]);
  }
  _tile_stored(0, sums, kPanel * 4);
  _tile_stored(1, sums + kSide, kPanel * 4);
  if (kPanels == 2) {
    _tile_stored(2, sums + m * kPanel, kPanel * 4);
    _tile_stored(3, sums + m * kPanel + kSide, kPanel * 4);
  }
  __asm__ volatile("" ::"r"(sums) : "memory");
}

/// Rows as [step][part][m rows of 64 bytes]; zero beyond the depth.
template <Form kForm, int kPartCount>
void pack_rows(char* dst, const Operand& a, int64_t m, int64_t k) {
  const int64_t part = m * 64;
  for (int64_t r = 0; r < m; r++) {
    char* to = dst + r * 64;
    for (int64_t x = 0; x < k; x += kStepK) {
      VU units[kPartCount];
      units_along_k<kForm, kPartCount>(units, a.data.at(r * a.row + x), k - x);
#pragma GCC unroll 2
      for (int p = 0; p < kPartCount; p++, to += part) *reinterpret_cast<VUm*>(to) = units[p];
    }
  }
}

struct Job {
  const PackedWeight* weights;
  int64_t m;
  Left left;
  bool two_parts;
  const Finish& finish;

  /// Stride `stride` of weight `i`; `more`: the one after it follows.
  void compute(int i, int64_t stride, bool more) const {
    const PackedWeight& w = weights[i];
    alignas(64) float sums[2 * kThinRows * kPanel];
    const int64_t first = 2 * stride, panels = min(2, w.panel_count() - first), bytes = w.panel_bytes();
    const char* at = w.panels + first * bytes;
    const char* const panel[2] = {at, at + bytes};
    const char* const next[2] = {more ? at + 2 * bytes : nullptr,
                                 more && first + 3 < w.panel_count() ? at + 3 * bytes : nullptr};
    const auto run = panels == 2 ? (two_parts ? run_panels<2, 2> : run_panels<2, 1>)
                                 : (two_parts ? run_panels<1, 2> : run_panels<1, 1>);
    run(sums, m, left, panel, next, w.pairs());
    for (int64_t p = 0; p < panels; p++) {
      const int64_t column = (first + p) * kPanel;
      finish.call(finish.context, i, {0, m, column, min(kPanel, w.n - column)}, sums + p * m * kPanel);
    }
  }
};

}  // namespace

bool is_thin(const Operand& a, int64_t m) { return m <= kThinRows && a.col == 1; }

void thin_products(const Operand& a, const PackedWeight* weights, int count, int64_t m, const Finish& finish) {
  if (m == 0) return;
  const int64_t k = weights[0].k, steps = (k + kStepK - 1) / kStepK;
  const bool two_parts = !a.data.half;
  const Scratch room(steps * (two_parts ? 2 : 1) * m * 64);
  two_parts ? pack_rows<Form::floats, 2>(room.bytes(), a, m, k) : pack_rows<Form::halves, 1>(room.bytes(), a, m, k);
  const Job job = {weights, m, {room.bytes(), m * 64}, two_parts, finish};
  int64_t columns = 0;
  for (int i = 0; i < count; i++) columns += weights[i].panel_count() * kPanel;
  const int64_t threads = columns * k < kSerialWork ? 1 : thread_count();
  const WeightStream stream(weights, count, 2, threads);
  run_stream(stream, threads, [&](int64_t t, int) {
    const ThinTiles tiles(m);
    stream.each(t, [&](int i, int64_t stride, bool more) { job.compute(i, stride, more); });
  });
}

#endif

}  // namespace lathe::LATHE_ISA
