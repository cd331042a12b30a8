// Thin products on AMX tiles. Up to 16 rows fill the rows of the C tiles, the left operand lies in L2 as tiles made once,
// and every thread streams runs of panels, two at a time (memory answers two streams sooner than one), with prefetches
// ahead of them. Chain of each element as in gemm_tiles.cc: ascending k in steps of 32, the parts of the left operand one
// after the other.
#include "gemm_thin.h"

#include "gemm_finish.h"
#include "gemm_tiles.h"
#include "gemm_tiles_pack.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {

#if !defined(__AMX_BF16__)

bool is_thin(const Operand&, const PackedWeight*, int, int64_t) { return false; }
void thin_products(const Operand&, const PackedWeight*, int, int64_t, const ThinFinish&) {}
void thin_product(const Product&, const Operand&, const PackedWeight&, int64_t) {}

#else

namespace {

constexpr int64_t kStepsAhead = 4;         // prefetch distance within each stream; int8 at 2: 25 GB/s, at 4 and 8: 31
constexpr int64_t kTasksPerThread = 4;     // few long runs: a stream that breaks off has to start again
constexpr int64_t kPanel = kPanelWidth, kStepUnits = kStepK / 2;
constexpr int64_t kPairedTile = 2048;      // a step of a panel: 16 pairs of k by 32 columns
constexpr int64_t kSerialWork = 1 << 18;   // weights below which waking a thread costs more

struct alignas(64) ThinConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t columns_bytes[16] = {};
  uint8_t rows[16] = {};

  /// Tiles 0–3 are C, 4 and 5 the left operand: m rows; 6 and 7 the halves of a panel's step.
  explicit ThinConfig(int64_t m) {
    for (int t = 0; t < 8; t++) {
      columns_bytes[t] = 64;
      rows[t] = static_cast<uint8_t>(t < 6 ? m : kSide);
    }
  }
};

/// The left operand: [step][part][m rows of 64 bytes].
struct Left {
  const char* tiles;
  int64_t part_bytes;
};

inline __attribute__((always_inline)) void fetch(const char* line, int64_t bytes) {
#pragma GCC unroll 32
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(line + i, _MM_HINT_T1);
}

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

/// int8 of one step as bf16 pairs.
inline __attribute__((always_inline)) void widen(char* to, const char* from, int64_t pairs) {
  const auto* numbers = reinterpret_cast<const int8_t*>(from);
#pragma GCC unroll 16
  for (int64_t u = 0; u < pairs; u++) {
    *reinterpret_cast<VU*>(to + u * 128) = bf16_pairs(numbers + u * 64);
    *reinterpret_cast<VU*>(to + u * 128 + 64) = bf16_pairs(numbers + u * 64 + 32);
  }
}

/// One or two panels from k = 0 to the end into sums[panel][m][32]. next: the panels that come after them, or null.
template <int kPanels, int kPartCount, bool kInt8>
void run_panels(float* sums, int64_t m, const Left& left, const char* const panel[2], const char* const next[2],
                int64_t pairs) {
  constexpr int64_t step_bytes = kInt8 ? kPairedTile / 2 : kPairedTile;
  const int64_t whole = pairs / kStepUnits, rest = pairs % kStepUnits;
  alignas(64) char wide[2][2][kPairedTile];  // int8: the step at hand and the one after it
  const auto widened = [&](int64_t s) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; p++) {
      char* to = wide[s & 1][p];
      const char* from = panel[p] + s * step_bytes;
      if (s < whole) {
        widen(to, from, kStepUnits);
      } else {
        __builtin_memset(to, 0, kPairedTile);
        widen(to, from, rest);
      }
    }
  };
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (kInt8) widened(0);
  for (int64_t s = 0; s < whole; s++) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; p++) {
      const int64_t at = (s + kStepsAhead) * step_bytes;
      if (s + kStepsAhead < whole) {
        fetch(panel[p] + at, step_bytes);
      } else if (next[p]) {
        fetch(next[p] + at - whole * step_bytes, step_bytes);
      }
    }
    if (kInt8 && (s + 1 < whole || rest > 0)) widened(s + 1);
    __asm__ volatile("" ::"r"(wide) : "memory");
    multiply_steps<kPanels, kPartCount>(left, s, kInt8 ? wide[s & 1][0] : panel[0] + s * step_bytes,
                                        kInt8 ? wide[s & 1][1] : panel[1] + s * step_bytes);
  }
  if (rest > 0) {
    if (!kInt8) {
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; p++) {
        __builtin_memset(wide[whole & 1][p], 0, kPairedTile);
        __builtin_memcpy(wide[whole & 1][p], panel[p] + whole * step_bytes, rest * kPanel * 4);
      }
    }
    __asm__ volatile("" ::"r"(wide) : "memory");
    multiply_steps<kPanels, kPartCount>(left, whole, wide[whole & 1][0], wide[whole & 1][1]);
  }
  _tile_stored(0, sums, kPanel * 4);
  _tile_stored(1, sums + kSide, kPanel * 4);
  if (kPanels == 2) {
    _tile_stored(2, sums + m * kPanel, kPanel * 4);
    _tile_stored(3, sums + m * kPanel + kSide, kPanel * 4);
  }
  __asm__ volatile("" ::"r"(sums) : "memory");
}

using RunPanels = void (*)(float*, int64_t, const Left&, const char* const[2], const char* const[2], int64_t);

template <int kPanels>
RunPanels run_for(bool two_parts, bool int8) {
  if (int8) return two_parts ? run_panels<kPanels, 2, true> : run_panels<kPanels, 1, true>;
  return two_parts ? run_panels<kPanels, 2, false> : run_panels<kPanels, 1, false>;
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

/// Runs of two-panel strides over all weights, numbered through.
struct Strides {
  const PackedWeight* weights;
  int count;

  static int64_t of(const PackedWeight& w) { return (w.panel_count() + 1) / 2; }
  int64_t total() const {
    int64_t sum = 0;
    for (int i = 0; i < count; i++) sum += of(weights[i]);
    return sum;
  }
};

struct Job {
  const PackedWeight* weights;
  int64_t m;
  Left left;
  bool two_parts;
  const ThinFinish& finish;

  /// Stride `stride` of weight `i`; `more`: the one after it follows.
  void compute(int i, int64_t stride, bool more) const {
    const PackedWeight& w = weights[i];
    alignas(64) float sums[2 * kThinRows * kPanel];
    const int64_t first = 2 * stride, panels = min(2, w.panel_count() - first), bytes = w.panel_bytes();
    const char* at = w.panels + first * bytes;
    const char* const panel[2] = {at, at + bytes};
    const char* const next[2] = {more ? at + 2 * bytes : nullptr,
                                 more && first + 3 < w.panel_count() ? at + 3 * bytes : nullptr};
    (panels == 2 ? run_for<2>(two_parts, w.int8()) : run_for<1>(two_parts, w.int8()))(sums, m, left, panel, next,
                                                                                     w.pairs());
    for (int64_t p = 0; p < panels; p++) {
      const int64_t column = (first + p) * kPanel;
      float* of_panel = sums + p * m * kPanel;
      if (w.int8()) {
        for (int64_t r = 0; r < m; r++) {
          for (int64_t j = 0; j < kPanel; j += W) {
            float* x = of_panel + r * kPanel + j;
            vstore(x, vload(x) * vload(w.scales + column + j));
          }
        }
      }
      finish.call(finish.context, i, column, min(kPanel, w.n - column), of_panel);
    }
  }

  /// Strides [begin, end) of all weights in a row.
  void run(int64_t begin, int64_t end) const {
    int i = 0;
    for (int64_t s = begin, passed = 0; s < end; s++) {
      while (s - passed >= Strides::of(weights[i])) passed += Strides::of(weights[i++]);
      compute(i, s - passed, s + 1 < end && s + 1 - passed < Strides::of(weights[i]));
    }
  }
};

}  // namespace

bool is_thin(const Operand& a, const PackedWeight* weights, int count, int64_t m) {
  bool tiles = m <= kThinRows && a.col == 1;
  for (int i = 0; i < count; i++) tiles = tiles && weights[i].dtype != DType::f32;
  return tiles;
}

void thin_products(const Operand& a, const PackedWeight* weights, int count, int64_t m, const ThinFinish& finish) {
  if (m == 0) return;
  const int64_t k = weights[0].k, steps = (k + kStepK - 1) / kStepK;
  const bool two_parts = !a.data.half;
  const Scratch room(steps * (two_parts ? 2 : 1) * m * 64);
  two_parts ? pack_rows<Form::floats, 2>(room.bytes(), a, m, k) : pack_rows<Form::halves, 1>(room.bytes(), a, m, k);
  const Job job = {weights, m, {room.bytes(), m * 64}, two_parts, finish};
  const int64_t strides = Strides{weights, count}.total();
  const int64_t threads = strides * 2 * kPanel * k < kSerialWork ? 1 : thread_count();
  const int64_t tasks = min(strides, threads * kTasksPerThread);
  const auto task = [&](int64_t t, int) {
    const ThinConfig config(m);
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
    job.run(strides * t / tasks, strides * (t + 1) / tasks);  // as even as they get: nobody waits at the end
    _tile_release();
  };
  if (threads == 1) {
    for (int64_t t = 0; t < tasks; t++) task(t, 0);
  } else {
    parallel_tasks(tasks, task);
  }
}

void thin_product(const Product& c, const Operand& a, const PackedWeight& w, int64_t m) {
  struct Context {
    const Product& c;
    int64_t m;
  } context = {c, m};
  const auto finish = [](void* to, int, int64_t first, int64_t columns, float* sums) {
    const auto* product = static_cast<const Context*>(to);
    write_tile(product->c, sums, 0, product->m, first, columns);
  };
  thin_products(a, &w, 1, m, {finish, &context});
}

#endif

}  // namespace lathe::LATHE_ISA
