// The work of a matrix product: blocks of C are tasks; both operands are packed first, either ahead (when several
// tasks share a panel) or inside the task. k is never split between tasks, so the order of summation is the same
// for every shape and path.
#include "gemm.h"

#include "gemm_kernel.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kChunkBytes = 768 << 10;  // packed rows of a task: most of an L2
constexpr int64_t kSlabBytes = 32 << 20;    // most that is packed ahead of one operand
constexpr int64_t kBlockSteps = 256;        // steps of a B panel that stay in L1 (32 KB) over a chunk of rows
constexpr int64_t kChunkPanels = 8;         // row panels of a task, at most
constexpr int64_t kTasksPerThread = 6;      // enough for an even end
constexpr int64_t kPackPanels = 4;          // panels that a task packs ahead in one pass over k
constexpr int64_t kSerialWork = 1 << 20;    // multiply-adds below which waking a thread costs more

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

/// Everything about k: how it is stepped and how large panels are (in 32-bit units).
struct Depth {
  Step step;
  int64_t k, steps, a_units;

  /// b_packed: B is panels of packWeight, whose bf16 pairs cannot be laid out otherwise. Else a product without
  /// vdpbf16ps widens bf16 while packing, which is faster than at every step; the chain is the same.
  Depth(bool a_half, bool b_half, bool b_packed, int64_t depth) : k(depth) {
    step = a_half && b_half && kHasDot ? Step::dot : b_half && b_packed ? Step::pairs : Step::single;
    steps = step == Step::single ? k : (k + 1) / 2;
    a_units = step == Step::pairs ? 2 * steps : steps;
  }
  int64_t a_panel(int64_t rows) const { return rows * a_units; }
  int64_t b_panel() const { return kPanel * steps; }
  PanelLayout a_layout() const { return {kTileRows, k, a_units, step == Step::dot}; }
  PanelLayout b_layout() const { return {kPanel, k, steps, step != Step::single}; }
  Tile tile(int rows, bool half_rows) const {
    if (half_rows) return tile_of<Step::half_rows>(rows);
    switch (step) {
      case Step::single: return tile_of<Step::single>(rows);
      case Step::dot: return kHasDot ? tile_of<Step::dot>(rows) : nullptr;
      default: return tile_of<Step::pairs>(rows);
    }
  }
};

/// C[i0…, j0…] = alpha·tile + beta·C.
void write_tile(const Product& c, const float* tile, int64_t i0, int64_t rows, int64_t j0, int64_t columns) {
  const VF alpha = vset(c.alpha), beta = vset(c.beta);
  for (int64_t r = 0; r < rows; r++) {
    const FloatRef to = c.data.at((i0 + r) * c.row + j0 * c.col);
    if (c.col == 1) {
      each_vector(columns, [&](int64_t j, int n) {
        const VF v = alpha * vload(tile + r * kPanel + j);
        store(to, j, c.beta == 0 ? v : fma(beta, load(to, j, n), v), n);
      });
    } else {
      for (int64_t j = 0; j < columns; j++) {
        const VF v = alpha * tile[r * kPanel + j];
        store(to, j * c.col, c.beta == 0 ? v : fma(beta, load(to, j * c.col, 1), v), 1);
      }
    }
  }
}

/// The panels of B that a task reads: packed ones (units of 32 bits), or rows of B as they lie.
struct Columns {
  FloatRef data;
  int64_t step;   // elements from one step to the next
  int64_t panel;  // elements from one panel to the next
};

/// One slab of the product: rows [i0, i0+m), columns [j0, j0+n), cut into tasks.
struct Slab {
  const Product& c;
  const Operand &a, &b;
  const float* packed_b;  // null: pack it here
  const Depth& d;
  int64_t i0, m, j0, n;

  int64_t row_panels() const { return (m + kTileRows - 1) / kTileRows; }
  int64_t column_panels() const { return (n + kPanel - 1) / kPanel; }
  int64_t rows_of(int64_t panel) const { return min(kTileRows, m - panel * kTileRows); }
  int64_t columns_of(int64_t panel) const { return min(kPanel, n - panel * kPanel); }

  /// Whole panels, then the remainder as a panel as narrow as its kernel.
  void pack_rows(float* dst, int64_t begin, int64_t end) const {
    auto* to = reinterpret_cast<uint32_t*>(dst);
    const int64_t first = begin * kTileRows, rows = min(m, end * kTileRows) - first, rest = rows % kTileRows;
    const int64_t whole = tile_rows(rest) == kTileRows ? rows : rows - rest;
    pack_panels(to, a, i0 + first, whole, d.a_layout());
    if (whole < rows) {
      pack_panel(to + whole * d.a_units, a, i0 + first + whole, rest, tile_rows(rest), d.a_layout());
    }
  }
  void pack_columns(float* dst, int64_t begin, int64_t end) const {
    const int64_t first = begin * kPanel;
    pack_panels(reinterpret_cast<uint32_t*>(dst), b, j0 + first, min(n, end * kPanel) - first, d.b_layout());
  }
  void compute(const float* pa, int64_t row_begin, int64_t row_end, const Columns& columns, int64_t column_begin,
               int64_t column_end) const;
  void run() const;
};

/// Tiles of a chunk of rows by a group of columns. k goes in blocks so that a block of a B panel stays in L1 while
/// the rows pass; between blocks the partial sums wait in f32, so the chain of an element is not broken.
void Slab::compute(const float* pa, int64_t row_begin, int64_t row_end, const Columns& columns,
                   int64_t column_begin, int64_t column_end) const {
  alignas(64) float sums[kChunkPanels][kTileRows * kPanel];
  const Finish finish = {c.alpha, c.beta, c.data.half};
  const int64_t a_width = d.a_units / max(1, d.steps);  // 2 where a step takes two
  for (int64_t j = column_begin; j < column_end; j++) {
    const FloatRef b_panel = columns.data.at((j - column_begin) * columns.panel);
    for (int64_t s = 0; s < max(1, d.steps); s += kBlockSteps) {
      const int64_t steps = min(kBlockSteps, d.steps - s);
      const bool last = s + kBlockSteps >= d.steps;
      for (int64_t i = row_begin; i < row_end; i++) {
        const int rows = tile_rows(rows_of(i));
        const bool direct = last && c.col == 1 && rows == rows_of(i) && columns_of(j) == kPanel;
        const int64_t i_c = i0 + i * kTileRows, j_c = j0 + j * kPanel;
        float* sum = sums[i - row_begin];
        TileEnds ends = plain_ends(s > 0 ? sum : nullptr, sum, kPanel);
        if (direct) {
          ends.out = c.data.at(i_c * c.row + j_c).data;
          ends.out_row = c.row;
          ends.finish = &finish;
        }
        const char* b_block = b_panel.at(s * columns.step).data;
        d.tile(rows, b_panel.half)(steps, pa + (i - row_begin) * d.a_panel(kTileRows) + s * a_width * rows, rows,
                                   reinterpret_cast<const float*>(b_block), columns.step, ends);
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
  const int64_t chunk_most = max(1, min(kChunkPanels, kChunkBytes / max(1, d.a_panel(kTileRows) * 4)));
  const int64_t tasks = threads * kTasksPerThread;
  // Chunks of rows by all columns, so that A is packed where it is used; with few rows the columns are split too.
  const bool tall = mp >= tasks * 4;
  const int64_t chunk = mp <= 2 ? mp : min(chunk_most, tall ? mp / tasks : 4);
  const int64_t chunks = (mp + chunk - 1) / chunk;
  const int64_t group = tall ? np : max(1, min(np, np * chunks / tasks)), groups = (np + group - 1) / group;
  const bool a_ahead = groups > 1, b_ahead = !b_given && chunks > 1;
  const int64_t a_bytes = d.a_panel(kTileRows) * 4, b_bytes = d.b_panel() * 4;
  const Scratch pa((a_ahead ? mp : chunk * threads) * a_bytes);
  const Scratch pb(b_given ? 0 : (b_ahead ? np : group * threads) * b_bytes);
  const int64_t a_tasks = a_ahead ? (mp + kPackPanels - 1) / kPackPanels : 0;
  const int64_t b_tasks = b_ahead ? (np + kPackPanels - 1) / kPackPanels : 0;
  const auto pack = [&](int64_t task, int) {
    const bool of_a = task < a_tasks;
    const int64_t p = (of_a ? task : task - a_tasks) * kPackPanels, end = min(of_a ? mp : np, p + kPackPanels);
    if (of_a) {
      pack_rows(pa.floats() + p * d.a_panel(kTileRows), p, end);
    } else {
      pack_columns(pb.floats() + p * d.b_panel(), p, end);
    }
  };
  const auto block = [&](int64_t task, int worker) {
    const int64_t g = task / chunks, r = task % chunks;
    const int64_t i = r * chunk, i_end = min(mp, i + chunk), j = g * group, j_end = min(np, j + group);
    float* mine_a = pa.floats() + (a_ahead ? i : worker * chunk) * d.a_panel(kTileRows);
    float* mine_b = pb.floats() + (b_ahead ? j : worker * group) * d.b_panel();
    if (!a_ahead) pack_rows(mine_a, i, i_end);
    if (!b_ahead && !b_given) pack_columns(mine_b, j, j_end);
    if (b_direct) {
      compute(mine_a, i, i_end, {b.data.at(j0 + j * kPanel), b.col, kPanel}, j, j_end);
    } else {
      const float* panels = packed_b ? packed_b + (j0 / kPanel + j) * d.b_panel() : mine_b;
      const FloatRef data(reinterpret_cast<char*>(const_cast<float*>(panels)), false);
      compute(mine_a, i, i_end, {data, kPanel, d.b_panel()}, j, j_end);
    }
  };
  if (threads == 1) {
    for (int64_t task = 0; task < a_tasks + b_tasks; task++) pack(task, 0);
    for (int64_t task = 0; task < groups * chunks; task++) block(task, 0);
  } else {
    parallel_tasks(a_tasks + b_tasks, pack);
    parallel_tasks(groups * chunks, block);
  }
}

void multiply_slabs(const Product& c, const Operand& a, const Operand& b, const float* packed_b, int64_t m,
                    int64_t n, const Depth& d) {
  const int64_t row_slab = max(1, kSlabBytes / max(1, d.a_panel(kTileRows) * 4)) * kTileRows;
  const int64_t column_slab = packed_b ? max(1, n) : max(1, kSlabBytes / max(1, d.b_panel() * 4)) * kPanel;
  for (int64_t j = 0; j < n; j += column_slab) {
    for (int64_t i = 0; i < m; i += row_slab) {
      Slab{c, a, b, packed_b, d, i, min(row_slab, m - i), j, min(column_slab, n - j)}.run();
    }
  }
}

}  // namespace

void multiply(const Product& c, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k) {
  // A thin right operand would fill its 32-wide panel with padding: let it be the left one. The chain of each
  // element is the same, and a product does not care which factor comes first.
  if (n <= 16 && m > n) {
    const Product transposed = {c.data, c.col, c.row, c.alpha, c.beta};
    multiply_slabs(transposed, b, a, nullptr, n, m, Depth(b.data.half, a.data.half, false, k));
  } else {
    multiply_slabs(c, a, b, nullptr, m, n, Depth(a.data.half, b.data.half, false, k));
  }
}

void multiply_packed(const Product& c, const Operand& a, const char* panels, bool panels_half, int64_t m, int64_t n,
                     int64_t k) {
  multiply_slabs(c, a, a, reinterpret_cast<const float*>(panels), m, n, Depth(a.data.half, panels_half, true, k));
}

}  // namespace lathe::LATHE_ISA
