// Matrix product: blocks of C are tasks; both operands are packed first, either ahead (when several tasks share a
// panel) or inside the task. k is never split, so the order of summation is the same for every shape and path.
#include "gemm.h"

#include "gemm_kernel.h"
#include "ops_parts.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kGroupBytes = 512 << 10;  // panels of B that a task walks: half of a small L2
constexpr int64_t kSlabBytes = 32 << 20;    // most that is packed ahead of one operand

using Tile = void (*)(int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t, bool);

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

  Depth(bool a_half, bool b_half, int64_t depth) : k(depth) {
    step = !b_half ? Step::single : a_half && kHasDot ? Step::dot : Step::pairs;
    steps = b_half ? (k + 1) / 2 : k;
    a_units = step == Step::pairs ? 2 * steps : steps;
  }
  int64_t a_panel(int64_t rows) const { return rows * a_units; }
  int64_t b_panel() const { return kPanel * steps; }
  Tile tile(int rows) const {
    switch (step) {
      case Step::single: return tile_of<Step::single>(rows);
      case Step::pairs: return tile_of<Step::pairs>(rows);
      default: return kHasDot ? tile_of<Step::dot>(rows) : nullptr;
    }
  }
};

void pack_a(float* dst, const Operand& a, int64_t first, int64_t rows, const Depth& d) {
  pack_panel(reinterpret_cast<uint32_t*>(dst), a, first, rows, tile_rows(rows), d.k, d.a_units, d.step == Step::dot);
}

void pack_b(float* dst, const Operand& b, int64_t first, int64_t columns, const Depth& d) {
  pack_panel(reinterpret_cast<uint32_t*>(dst), b, first, columns, kPanel, d.k, d.steps, d.step != Step::single);
}

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

  void pack_rows(float* dst, int64_t begin, int64_t end) const {
    for (int64_t p = begin; p < end; p++) {
      pack_a(dst + (p - begin) * d.a_panel(kTileRows), a, i0 + p * kTileRows, rows_of(p), d);
    }
  }
  void pack_columns(float* dst, int64_t begin, int64_t end) const {
    for (int64_t p = begin; p < end; p++) {
      pack_b(dst + (p - begin) * d.b_panel(), b, j0 + p * kPanel, columns_of(p), d);
    }
  }
  void compute(const float* pa, int64_t row_begin, int64_t row_end, const float* pb, int64_t column_begin,
               int64_t column_end) const {
    alignas(64) float tile[kTileRows * kPanel];
    for (int64_t i = row_begin; i < row_end; i++) {
      const int rows = tile_rows(rows_of(i));
      const Tile kernel = d.tile(rows);
      for (int64_t j = column_begin; j < column_end; j++) {
        kernel(d.steps, pa + (i - row_begin) * d.a_panel(kTileRows), rows, pb + (j - column_begin) * d.b_panel(),
               kPanel, tile, kPanel, false);
        write_tile(c, tile, i0 + i * kTileRows, rows_of(i), j0 + j * kPanel, columns_of(j));
      }
    }
  }
  void run() const;
};

void Slab::run() const {
  const int64_t np = column_panels(), mp = row_panels(), threads = thread_count();
  int64_t group = max(1, min(np, kGroupBytes / max(1, d.b_panel() * 4)));
  if (mp == 1) group = max(1, min(group, np / (threads * 4)));
  const int64_t groups = (np + group - 1) / group;
  const int64_t chunk = max(1, min(16, mp * groups / (threads * 4)));
  const int64_t chunks = (mp + chunk - 1) / chunk;
  const bool a_ahead = groups > 1 && chunks > 0, b_ahead = !packed_b && chunks > 1;
  const int64_t a_bytes = d.a_panel(kTileRows) * 4, b_bytes = d.b_panel() * 4;
  const Scratch pa((a_ahead ? mp : chunk * threads) * a_bytes);
  const Scratch pb(packed_b ? 0 : (b_ahead ? np : group * threads) * b_bytes);
  const int64_t a_tasks = a_ahead ? mp : 0, b_tasks = b_ahead ? np : 0;
  parallel_tasks(a_tasks + b_tasks, [&](int64_t task, int) {
    if (task < a_tasks) {
      pack_rows(pa.floats() + task * d.a_panel(kTileRows), task, task + 1);
    } else {
      const int64_t p = task - a_tasks;
      pack_columns(pb.floats() + p * d.b_panel(), p, p + 1);
    }
  });
  parallel_tasks(groups * chunks, [&](int64_t task, int worker) {
    const int64_t g = task / chunks, r = task % chunks;
    const int64_t i = r * chunk, i_end = min(mp, i + chunk), j = g * group, j_end = min(np, j + group);
    float* mine_a = pa.floats() + (a_ahead ? i : worker * chunk) * d.a_panel(kTileRows);
    float* mine_b = pb.floats() + (b_ahead ? j : worker * group) * d.b_panel();
    if (!a_ahead) pack_rows(mine_a, i, i_end);
    if (!b_ahead && !packed_b) pack_columns(mine_b, j, j_end);
    compute(mine_a, i, i_end, packed_b ? packed_b + (j0 / kPanel + j) * d.b_panel() : mine_b, j, j_end);
  });
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

Operand operand(In t, bool transposed) {
  return transposed ? Operand{FloatRef(t), 1, t.dims[1]} : Operand{FloatRef(t), t.dims[1], 1};
}

void gemm(Out c, In a, In b, bool trans_a, bool trans_b, float alpha, float beta) {
  const int64_t k = a.dims[trans_a ? 0 : 1];
  // The right operand is indexed by column of C first: not transposed means k strides over rows.
  multiply({FloatRef(c), c.dims[1], 1, alpha, beta}, operand(a, trans_a), operand(b, !trans_b), c.dims[0], c.dims[1],
           k);
}

void packWeight(Out packed, In w) {
  const int64_t n = w.dims[0], panels = (n + kPanel - 1) / kPanel;
  auto* header = static_cast<PackedHeader*>(packed.data);
  *header = {kPackedMagic, n, w.dims[1], w.dtype};
  auto* out = reinterpret_cast<float*>(static_cast<char*>(packed.data) + kPackedHeaderBytes);
  const bool half = w.dtype == DType::bf16;
  const int64_t steps = half ? (w.dims[1] + 1) / 2 : w.dims[1];
  const Operand source = operand(w, false);
  parallel_tasks(panels, [&](int64_t p, int) {
    pack_panel(reinterpret_cast<uint32_t*>(out) + p * kPanel * steps, source, p * kPanel, min(kPanel, n - p * kPanel),
               kPanel, w.dims[1], steps, half);
  });
}

void gemmPacked(Out c, In a, In packed, float alpha, float beta) {
  const auto* header = static_cast<const PackedHeader*>(packed.data);
  const auto* panels = reinterpret_cast<const float*>(static_cast<const char*>(packed.data) + kPackedHeaderBytes);
  const Operand left = operand(a, false);
  const Depth d(left.data.half, header->dtype == DType::bf16, header->k);
  multiply_slabs({FloatRef(c), c.dims[1], 1, alpha, beta}, left, left, panels, a.dims[0], header->n, d);
}

}  // namespace

void multiply(const Product& c, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k) {
  // A thin right operand would fill its 32-wide panel with padding: let it be the left one. The chain of each
  // element is the same, and a product does not care which factor comes first.
  if (n <= 16 && m > n) {
    const Product transposed = {c.data, c.col, c.row, c.alpha, c.beta};
    multiply_slabs(transposed, b, a, nullptr, n, m, Depth(b.data.half, a.data.half, k));
  } else {
    multiply_slabs(c, a, b, nullptr, m, n, Depth(a.data.half, b.data.half, k));
  }
}

void add_gemm(Ops& t) {
  t.gemm = gemm;
  t.packWeight = packWeight;
  t.gemmPacked = gemmPacked;
}

}  // namespace lathe::LATHE_ISA
