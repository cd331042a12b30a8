// Products with int8 weights: rows of A in chunks of up to 16, panels of all weights shared out among the threads; a panel
// meets the chunks while it is in L2. How the two are multiplied is int8_kernel.h's.
#include "gemm_int8.h"

#include "int8_dot.h"
#include "int8_tiles.h"
#include "int8_words.h"
#include "weight_stream.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kAhead = 8 * kInt8StepBytes;  // prefetch distance where a panel is read once
constexpr int64_t kRowBytes = 1 << 20;       // of A that meets a panel before the next one comes: half of an L2
constexpr int64_t kSerialWork = 1 << 18;     // products below which waking a thread costs more

const Int8Kernel& kernel() {
#if defined(__AMX_INT8__)
  static const Int8Kernel tiles = {place_on_tiles, multiply_on_int8_tiles};
  return tiles;
#else
  static const Int8Kernel words = {place_words, multiply_words};
#if defined(__AVX512F__)
  static const Int8Kernel dots = {place_for_dots, multiply_with_dots};
  static const bool has_dots = __builtin_cpu_supports("avx512vnni");
  if (has_dots) return dots;
#endif
  return words;
#endif
}

/// Rows [row, row + rows) of A as chunks of `each` rows; the last one is filled up with rows of zeros.
struct Chunks {
  int64_t row, rows, each, depth;
  char* room;
  float* scales;  // of each row, also of those that fill up

  int64_t count() const { return (rows + each - 1) / each; }
  int64_t bytes() const { return kChunkHead + each * 2 * depth; }
  char* at(int64_t chunk) const { return room + chunk * bytes(); }

  /// words: room for depth numbers.
  void fill(int64_t chunk, const Operand& a, int64_t k, int16_t* words) const {
    for (int64_t r = 0; r < each; r++) {
      const int64_t i = chunk * each + r;
      scales[i] = round_row(words, a.data.at((row + i) * a.row), i < rows ? k : 0, depth, kLargestActivation);
      kernel().place(at(chunk), each, r, words, depth);
    }
  }
};

/// One panel of one weight with all chunks.
void multiply_panel(const Chunks& chunks, const PackedWeight* weights, int i, int64_t panel, const Finish& finish) {
  const PackedWeight& w = weights[i];
  alignas(64) float sums[kInt8Rows * kPanelWidth];
  const int64_t first = panel * kPanelWidth, bytes = w.panel_bytes(), last = chunks.count() - 1;
  for (int64_t c = 0; c <= last; c++) {
    // One chunk streams the panel; of several the last one asks for the next panel.
    const int64_t ahead = last == 0 ? kAhead : c == last ? bytes : 0;
    kernel().multiply(sums, chunks.at(c), chunks.each, w.panels + panel * bytes, chunks.depth, ahead);
    const int64_t rows = min(chunks.each, chunks.rows - c * chunks.each);
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t j = 0; j < kPanelWidth; j += W) {
        float* x = sums + r * kPanelWidth + j;
        vstore(x, vload(x) * vload(w.scales + first + j) * vset(chunks.scales[c * chunks.each + r]));
      }
    }
    finish.call(finish.context, i, {chunks.row + c * chunks.each, rows, first, min(kPanelWidth, w.n - first)}, sums);
  }
}

}  // namespace

void int8_products(const Operand& a, const PackedWeight* weights, int count, int64_t m, const Finish& finish) {
  if (m == 0) return;
  int64_t panels = 0;
  for (int i = 0; i < count; i++) panels += weights[i].panel_count();
  const int64_t depth = round_up(weights[0].k, kInt8Fill);
  const int64_t all = (m + kInt8Rows - 1) / kInt8Rows, each = (m + all - 1) / all;  // chunks of nearly one size
  const int64_t threads = m * panels * kPanelWidth * depth < kSerialWork ? 1 : thread_count();
  const int64_t at_once = min(all, max(1, kRowBytes / max(1, each * 2 * depth))) * each;
  const int64_t row_bytes = at_once / each * (kChunkHead + each * 2 * depth), word_bytes = depth * 2;
  const Scratch room(row_bytes + threads * word_bytes + round_up(at_once * 4, 64));
  char* words = room.bytes() + row_bytes;
  auto* scales = reinterpret_cast<float*>(words + threads * word_bytes);
  const WeightStream stream(weights, count, 1, threads);
  for (int64_t row = 0; row < m; row += at_once) {
    const Chunks chunks = {row, min(at_once, m - row), each, depth, room.bytes(), scales};
    const auto fill = [&](int64_t c, int worker) {
      chunks.fill(c, a, weights[0].k, reinterpret_cast<int16_t*>(words + worker * word_bytes));
    };
    if (threads > 1) {
      parallel_tasks(chunks.count(), fill);
    } else {
      for (int64_t c = 0; c < chunks.count(); c++) fill(c, 0);
    }
    run_stream(stream, threads, [&](int64_t t, int) {
#if defined(__AMX_INT8__)
      const ThinTiles tiles(each);
#endif
      stream.each(t, [&](int i, int64_t panel, bool) { multiply_panel(chunks, weights, i, panel, finish); });
    });
  }
}

}  // namespace lathe::LATHE_ISA
