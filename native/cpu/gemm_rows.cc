// See gemm_rows.h. The right operand is packed into panels of 64 columns that stay in L2, the left one passes in strips of
// rows, read from where it lies and asked for a strip ahead: with few columns packing it would cost as much as multiplying.
// k goes in blocks of kBlockK; between them sums wait in f32.
#include "gemm_rows.h"

#include "gemm_finish.h"
#include "gemm_rows_kernel.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kSlabBytes = 32 << 20;     // most of the right operand that is packed at a time
constexpr int64_t kChunkPanels = 2;          // panels of a task: 128 KB of a block of k
constexpr int64_t kResidentBytes = 1 << 20;  // of an L2: panels that need not be read again for every strip
constexpr int64_t kGroupStrips = 16;         // strips whose sums wait where the panels do not fit: 384 KB
constexpr int64_t kTasksPerThread = 16;
constexpr int64_t kSerialWork = 1 << 20;     // multiply-adds below which waking a thread costs more
constexpr int64_t kHugePage = 2 << 20;

struct Rows {
  const Product& c;
  const Operand &a, &b;
  int64_t m, n, k;
  float* packed;  // panel p from p·kWideColumns·k on

  int64_t panels() const { return (n + kWideColumns - 1) / kWideColumns; }
  int64_t strips() const { return (m + kStripRows - 1) / kStripRows; }
  int64_t blocks() const { return max(1, (k + kBlockK - 1) / kBlockK); }
  int64_t columns_of(int64_t panel) const { return min(kWideColumns, n - panel * kWideColumns); }
  int64_t width_of(int64_t panel) const { return round_up(columns_of(panel), 16); }
  float* packed_block(int64_t panel, int64_t k0) const { return packed + panel * kWideColumns * k + k0 * width_of(panel); }
  const float* row(int64_t i, int64_t k0) const { return reinterpret_cast<const float*>(a.data.data) + i * a.row + k0; }

  void pack(int64_t panel, int64_t block) const;
  void multiply_strip(int64_t strip, int64_t block, int64_t panel0, int64_t panel1, float* sums, const float* next,
                      int64_t next_rows) const;
  void compute(int64_t strip0, int64_t strip1, int64_t panel0, int64_t panel1, int64_t group, float* sums) const;
};

void Rows::pack(int64_t panel, int64_t block) const {
  const int64_t k0 = block * kBlockK, steps = min(kBlockK, k - k0), width = width_of(panel);
  pack_panel(reinterpret_cast<uint32_t*>(packed_block(panel, k0)), {b.data.at(k0 * b.col), b.row, b.col},
             panel * kWideColumns, columns_of(panel), width, {width, steps, steps, false});
}

/// One block of k of one strip; sums: two blocks of kSumsBlock for every panel. The `next_rows` rows of the block at `next`
/// are asked for on the way.
void Rows::multiply_strip(int64_t strip, int64_t block, int64_t panel0, int64_t panel1, float* sums, const float* next,
                          int64_t next_rows) const {
  const int64_t first = strip * kStripRows, rows = min(kStripRows, m - first), k0 = block * kBlockK;
  const int64_t steps = min(kBlockK, k - k0), tile = row_kernel(width_of(panel0), rows).rows;
  const int64_t passes = (panel1 - panel0) * ((rows + tile - 1) / tile);
  int64_t pass = 0;
  for (int64_t p = panel0; p < panel1; p++, sums += 2 * kSumsBlock) {
    for (int64_t i = 0; i < rows; pass++) {
      const int64_t asked = min(next_rows, pass * next_rows / passes), until = min(next_rows, (pass + 1) * next_rows / passes);
      const Upcoming upcoming = {reinterpret_cast<const char*>(next + asked * a.row), a.row * 4, until - asked};
      const RowKernel kernel = row_kernel(width_of(p), rows - i);
      kernel.run(steps, row(first + i, k0), a.row, packed_block(p, k0), sums + i * kPanelWidth, block > 0, upcoming);
      i += kernel.rows;
    }
    for (int64_t j = 0; block + 1 == blocks() && j < columns_of(p); j += kPanelWidth) {
      write_tile(c, sums + j * kStripRows, first, rows, p * kWideColumns + j, min(kPanelWidth, columns_of(p) - j));
    }
  }
}

/// Strips [strip0, strip1) by panels [panel0, panel1): `group` strips at a time go through all of k.
void Rows::compute(int64_t strip0, int64_t strip1, int64_t panel0, int64_t panel1, int64_t group, float* sums) const {
  const int64_t strip_floats = (panel1 - panel0) * 2 * kSumsBlock;
  for (int64_t r = 0; r < min(kStripRows, m - strip0 * kStripRows); r++) {
    for (int64_t s = 0; s < min(kBlockK, k); s += kLineSteps) __builtin_prefetch(row(strip0 * kStripRows + r, s), 0, 2);
  }
  for (int64_t g = strip0; g < strip1; g += group) {
    const int64_t end = min(strip1, g + group);
    for (int64_t block = 0; block < blocks(); block++) {
      for (int64_t s = g; s < end; s++) {
        const bool same = s + 1 < end, deeper = !same && block + 1 < blocks();
        const int64_t strip = same ? s + 1 : deeper ? g : end, from = same ? block : deeper ? block + 1 : 0;
        const int64_t next_rows = strip < strip1 ? min(kStripRows, m - strip * kStripRows) : 0;
        multiply_strip(s, block, panel0, panel1, sums + (s - g) * strip_floats,
                       next_rows > 0 ? row(strip * kStripRows, from * kBlockK) : nullptr, next_rows);
      }
    }
  }
}

/// Columns that are packed together: packing and multiplying are one pass each over all threads.
void multiply_slab(const Product& c, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k) {
  Rows work = {c, a, b, m, n, k, nullptr};
  const int64_t threads = m * n * k < kSerialWork ? 1 : thread_count(), panels = work.panels(), strips = work.strips();
  const int64_t chunks = (panels + kChunkPanels - 1) / kChunkPanels, chunk = (panels + chunks - 1) / chunks;
  const int64_t tasks_of_chunk = max(1, (threads == 1 ? 1 : threads * kTasksPerThread) / chunks);
  const int64_t each = (strips + tasks_of_chunk - 1) / tasks_of_chunk, groups = (strips + each - 1) / each;
  const int64_t group = chunk * kWideColumns * k * 4 <= kResidentBytes ? 1 : min(each, kGroupStrips);
  const int64_t packed_bytes = panels * kWideColumns * k * 4, sums_bytes = group * chunk * 2 * kSumsBlock * 4;
  const Scratch room(max(packed_bytes + threads * sums_bytes, kHugePage));  // large enough for huge pages
  work.packed = room.floats();
  const auto pack = [&](int64_t task, int) { work.pack(task / work.blocks(), task % work.blocks()); };
  const auto multiply = [&](int64_t task, int worker) {
    const int64_t panel = task / groups * chunk, strip = task % groups * each;
    work.compute(strip, min(strips, strip + each), panel, min(panels, panel + chunk), group,
                 reinterpret_cast<float*>(room.bytes() + packed_bytes + worker * sums_bytes));
  };
  if (threads == 1) {
    for (int64_t t = 0; t < panels * work.blocks(); t++) pack(t, 0);
    for (int64_t t = 0; t < chunks * groups; t++) multiply(t, 0);
  } else {
    parallel_tasks(panels * work.blocks(), pack);
    parallel_tasks(chunks * groups, multiply);
  }
}

}  // namespace

void multiply_rows(const Product& c, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k) {
  if (m == 0) return;
  const int64_t slab = max(1, kSlabBytes / max(1, kWideColumns * k * 4)) * kWideColumns;
  for (int64_t j = 0; j < n; j += slab) {
    const Product part = {c.data.at(j * c.col), c.row, c.col, c.alpha, c.beta};
    multiply_slab(part, a, {b.data.at(j * b.row), b.row, b.col}, m, min(slab, n - j), k);
  }
}

}  // namespace lathe::LATHE_ISA
