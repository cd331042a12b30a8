// The work of a matrix product: blocks of C are tasks. B is packed ahead when several tasks read a panel, A where it
// is used. k is never split between tasks, so the order of summation is the same for every shape and path.
#include "gemm_blocks.h"

#include "gemm_finish.h"
#include "gemm_kernel.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kSlabBytes = 32 << 20;  // most of B that is packed ahead
constexpr int64_t kSumTiles = 340;        // tiles of a task that wait between blocks: 512 KB of an L2
constexpr int64_t kChunkPanels = 24;      // most panels of A that a task keeps in L2: 288 KB of a block
constexpr int64_t kPackPanels = 4;        // panels that a task packs ahead in one pass over k
constexpr int64_t kSerialWork = 1 << 20;  // multiply-adds below which waking a thread costs more

using Tile = void (*)(int64_t, const float*, int64_t, const float*, int64_t, const TileEnds&);

template <Step kStep>
Tile tile_of(int rows) {
  if constexpr (kTileRows > 8) {
    if (rows == kTileRows) return panel_tile<kStep, kTileRows>;
    if (rows == 8) return panel_tile<kStep, 8>;
  } else if constexpr (kTileRows > 4) {
    if (rows == kTileRows) return panel_tile<kStep, kTileRows>;
  }
  return rows == 4 ? panel_tile<kStep, 4> : rows == 2 ? panel_tile<kStep, 2> : panel_tile<kStep, 1>;
}

/// Everything about k: how it is stepped and how wide a step is.
struct Depth {
  Step step;
  int64_t k, steps;
  int64_t k_per_step;  // 1, or 2 for pairs
  int64_t a_width;     // 32-bit units of A per row and step

  /// b_packed: B is panels of packWeight, whose bf16 pairs cannot be laid out otherwise. Else a product without
  /// vdpbf16ps widens bf16 while packing, which is faster than at every step; the chain is the same.
  Depth(bool a_half, bool b_half, bool b_packed, int64_t depth) : k(depth) {
    step = a_half && b_half && kHasDot ? Step::dot : b_half && b_packed ? Step::pairs : Step::single;
    k_per_step = step == Step::single ? 1 : 2;
    a_width = step == Step::pairs ? 2 : 1;
    steps = (k + k_per_step - 1) / k_per_step;
  }
  /// The same k whatever a step is: blocks are summed one by one.
  int64_t block_steps() const { return kBlockK / k_per_step; }
  int64_t blocks() const { return max(1, (steps + block_steps() - 1) / block_steps()); }
  int64_t b_panel() const { return kPanel * steps; }
  Tile tile(int rows, bool half_rows) const {
    if (half_rows) return tile_of<Step::half_rows>(rows);
    switch (step) {
      case Step::single: return tile_of<Step::single>(rows);
      case Step::dot: return kHasDot ? tile_of<Step::dot>(rows) : nullptr;
      default: return tile_of<Step::pairs>(rows);
    }
  }
};

/// The panels of B that a task reads: packed ones (units of 32 bits), rows of B as they lie, or room for one block
/// of one panel that the task packs itself.
struct Columns {
  FloatRef data;
  int64_t step;   // elements from one step to the next
  int64_t panel;  // elements from one panel to the next; 0: packed on the way
};

/// A task's part of C, in panels.
struct Part {
  int64_t row_begin, row_end, column_begin, column_end;
};

/// One slab of the product: rows [0, m), columns [j0, j0+n), cut into tasks.
struct Slab {
  const Product& c;
  const Operand &a, &b;
  const float* packed_b;  // null: pack it here
  const Depth& d;
  int64_t m, j0, n;

  int64_t row_panels() const { return (m + kTileRows - 1) / kTileRows; }
  int64_t column_panels() const { return (n + kPanel - 1) / kPanel; }
  int64_t rows_of(int64_t panel) const { return min(kTileRows, m - panel * kTileRows); }
  int64_t columns_of(int64_t panel) const { return min(kPanel, n - panel * kPanel); }

  void pack_rows(float* dst, const Part& part, int64_t first_step, int64_t steps) const;
  void pack_column(float* dst, int64_t panel, int64_t first_step, int64_t steps) const;
  void compute(const Part& part, const Columns& columns, float* packed_a, float* sums) const;
  void run() const;
};

/// Steps [first_step, first_step + steps) of a block of A's rows: whole panels, then the remainder as a panel as
/// narrow as its kernel.
void Slab::pack_rows(float* dst, const Part& part, int64_t first_step, int64_t steps) const {
  const int64_t first_k = first_step * d.k_per_step, depth = min(steps * d.k_per_step, d.k - first_k);
  const PanelLayout layout = {kTileRows, depth, steps * d.a_width, d.step == Step::dot};
  const Operand from = {a.data.at(first_k * a.col), a.row, a.col};
  const int64_t first = part.row_begin * kTileRows, rows = min(m, part.row_end * kTileRows) - first;
  const int64_t rest = rows % kTileRows, whole = tile_rows(rest) == kTileRows ? rows : rows - rest;
  auto* to = reinterpret_cast<uint32_t*>(dst);
  pack_panels(to, from, first, whole, layout);
  if (whole < rows) pack_panel(to + whole * layout.units, from, first + whole, rest, tile_rows(rest), layout);
}

/// The same steps of one panel of B.
void Slab::pack_column(float* dst, int64_t panel, int64_t first_step, int64_t steps) const {
  const int64_t first_k = first_step * d.k_per_step, depth = min(steps * d.k_per_step, d.k - first_k);
  const Operand from = {b.data.at(first_k * b.col), b.row, b.col};
  pack_panel(reinterpret_cast<uint32_t*>(dst), from, j0 + panel * kPanel, columns_of(panel), kPanel,
             {kPanel, depth, steps, d.step != Step::single});
}

/// k goes in blocks: a block of a B panel stays in L1 and the same block of the task's rows in L2 while they meet;
/// between blocks the sums wait in f32.
void Slab::compute(const Part& part, const Columns& columns, float* packed_a, float* sums) const {
  const Finish finish = {c.alpha, c.beta, c.data.half};
  for (int64_t s = 0; s < max(1, d.steps); s += d.block_steps()) {
    const int64_t steps = min(d.block_steps(), d.steps - s);
    const bool last = s + d.block_steps() >= d.steps;
    pack_rows(packed_a, part, s, steps);
    for (int64_t j = part.column_begin; j < part.column_end; j++) {
      FloatRef b_block = columns.data;
      if (columns.panel) {
        b_block = b_block.at((j - part.column_begin) * columns.panel + s * columns.step);
      } else {
        pack_column(reinterpret_cast<float*>(b_block.data), j, s, steps);
      }
      for (int64_t i = part.row_begin; i < part.row_end; i++) {
        const int rows = tile_rows(rows_of(i));
        const int64_t i_c = i * kTileRows, j_c = j0 + j * kPanel, row = i - part.row_begin;
        float* sum = sums;  // one block: only tiles at the edge pass through here
        if (d.blocks() > 1) {
          sum += ((j - part.column_begin) * (part.row_end - part.row_begin) + row) * kTileRows * kPanel;
        }
        const bool direct = last && c.col == 1 && rows == rows_of(i) && columns_of(j) == kPanel;
        TileEnds ends = plain_ends(s > 0 ? sum : nullptr, sum, kPanel);
        if (direct) {
          ends.out = c.data.at(i_c * c.row + j_c).data;
          ends.out_row = c.row;
          ends.finish = &finish;
        }
        const float* a_panel = packed_a + row * kTileRows * steps * d.a_width;
        const auto* b_rows = reinterpret_cast<const float*>(b_block.data);
        d.tile(rows, b_block.half)(steps, a_panel, rows, b_rows, columns.step, ends);
        if (last && !direct) write_tile(c, sum, i_c, rows_of(i), j_c, columns_of(j));
      }
    }
  }
}

void Slab::run() const {
  const int64_t np = column_panels(), mp = row_panels(), threads = m * n * d.k < kSerialWork ? 1 : thread_count();
  // B as it lies serves when every step is 32 elements in a row and each panel is read by one task only.
  const bool b_direct = !packed_b && mp <= 2 && d.step == Step::single && b.row == 1 && n % kPanel == 0;
  const bool b_given = packed_b || b_direct;
  // Rows are shared out evenly. Few of them are one chunk: then nobody else reads a panel, which need not be packed ahead.
  const int64_t chunk_most = d.blocks() > 1 ? kChunkPanels : 8;
  const int64_t even = round_up((mp + chunk_most - 1) / chunk_most, threads);
  const bool one_chunk = mp <= chunk_most && np >= 4 * threads;
  const int64_t chunk = one_chunk ? mp : max((mp + even - 1) / even, min(mp, 4)), chunks = (mp + chunk - 1) / chunk;
  const int64_t group_most = d.blocks() > 1 ? max(1, kSumTiles / chunk) : np;
  // A is packed again for every group: with long rows as few groups as keep the threads busy.
  const int64_t tasks = threads == 1 || (d.blocks() > 1 && !packed_b) ? threads : 3 * threads;
  const int64_t wanted = (tasks + chunks - 1) / chunks;
  const int64_t group = max(1, min(group_most, (np + wanted - 1) / wanted)), groups = (np + group - 1) / group;
  const bool b_ahead = !b_given && chunks > 1;
  const int64_t a_floats = chunk * kTileRows * min(d.steps, d.block_steps()) * d.a_width;
  const int64_t sum_floats = (d.blocks() > 1 ? chunk * group : 1) * kTileRows * kPanel;
  const Scratch pa(threads * a_floats * 4), sums(threads * sum_floats * 4);
  const int64_t block_floats = kPanel * min(d.steps, d.block_steps());
  const Scratch pb((b_given ? 0 : b_ahead ? np * d.b_panel() : threads * block_floats) * 4);
  const auto pack = [&](int64_t task, int) {
    const int64_t p = task * kPackPanels, columns = min(n - p * kPanel, kPackPanels * kPanel);
    auto* to = reinterpret_cast<uint32_t*>(pb.floats() + p * d.b_panel());
    pack_panels(to, b, j0 + p * kPanel, columns, {kPanel, d.k, d.steps, d.step != Step::single});
  };
  const auto packed_columns = [&](const float* panels, int64_t panel) {
    return Columns{FloatRef(reinterpret_cast<char*>(const_cast<float*>(panels)), false), kPanel, panel};
  };
  const auto block = [&](int64_t task, int worker) {
    const int64_t i = task % chunks * chunk, j = task / chunks * group;
    const Part part = {i, min(mp, i + chunk), j, min(np, j + group)};
    const Columns columns = packed_b   ? packed_columns(packed_b + (j0 / kPanel + j) * d.b_panel(), d.b_panel())
                            : b_direct ? Columns{b.data.at(j0 + j * kPanel), b.col, kPanel}
                            : b_ahead  ? packed_columns(pb.floats() + j * d.b_panel(), d.b_panel())
                                       : packed_columns(pb.floats() + worker * block_floats, 0);
    compute(part, columns, pa.floats() + worker * a_floats, sums.floats() + worker * sum_floats);
  };
  const int64_t pack_tasks = b_ahead ? (np + kPackPanels - 1) / kPackPanels : 0;
  if (threads == 1) {
    for (int64_t task = 0; task < pack_tasks; task++) pack(task, 0);
    for (int64_t task = 0; task < groups * chunks; task++) block(task, 0);
  } else {
    parallel_tasks(pack_tasks, pack);
    parallel_tasks(groups * chunks, block);
  }
}

}  // namespace

void multiply_blocks(const Product& c, const Operand& a, const Operand& b, bool panels, int64_t m, int64_t n, int64_t k) {
  if (m == 0) return;
  const Depth d(a.data.half, b.data.half, panels, k);
  const float* packed_b = panels ? reinterpret_cast<const float*>(b.data.data) : nullptr;
  const int64_t slab = panels ? max(1, n) : max(1, kSlabBytes / max(1, d.b_panel() * 4)) * kPanel;
  for (int64_t j = 0; j < n; j += slab) Slab{c, a, b, packed_b, d, m, j, min(slab, n - j)}.run();
}

}  // namespace lathe::LATHE_ISA
