// Linear layers that read the same rows, each row with a low-rank adapter of its own: first what the adapters make of x,
// for all layers in one go, then the products; bias and adapters are added and the result rounded where a sum is finished.
#include "gemm_finish.h"
#include "gemm_thin.h"
#include "low_rank.h"
#include "ops_parts.h"
#include "packed_weight.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int kLayers = 3;
constexpr int64_t kRowsTogether = 16;  // rows of one adapter that read A together

struct Entry {
  int32_t a, b, rank, scale_bits;

  float scale() const {
    float value;
    __builtin_memcpy(&value, &scale_bits, 4);
    return value;
  }
};

struct Group {
  const Tensor *y[kLayers], *w[kLayers], *bias[kLayers];
  int layers;
  FloatRef x;
  int64_t rows, depth;
  FloatRef pool;
  const Entry* table;     // [slots, layers]
  const int32_t* slots;   // null: no row has an adapter
  int64_t most_rank = 0;
  float* hidden = nullptr;  // [layers, rows, most_rank]

  const Entry* entry(int layer, int64_t row) const {
    if (!slots || slots[row] < 0) return nullptr;
    const Entry* found = table + slots[row] * layers + layer;
    return found->rank > 0 ? found : nullptr;
  }
  float* hidden_of(int layer, int64_t row) const { return hidden + (layer * rows + row) * most_rank; }
  int64_t width(int layer) const { return y[layer]->dims[1]; }

  void find_ranks();
  void shrink_rows(int layer, int64_t begin, int64_t end) const;
  void fetch_branch(int layer, int64_t row, int64_t first, int64_t columns) const;
  void finish(int layer, int64_t row, int64_t first, int64_t columns, float* sums) const;
};

void Group::find_ranks() {
  for (int64_t t = 0; slots && t < rows; t++) {
    for (int i = 0; i < layers; i++) {
      const Entry* found = entry(i, t);
      if (found) most_rank = max(most_rank, found->rank);
    }
  }
}

/// hidden of rows [begin, end): neighbours with one adapter together, so that A is read once for them.
void Group::shrink_rows(int layer, int64_t begin, int64_t end) const {
  for (int64_t t = begin; t < end;) {
    int64_t next = t + 1;
    while (next < end && slots[next] == slots[t]) next++;
    const Entry* found = entry(layer, t);
    if (found) {
      shrink(hidden_of(layer, t), most_rank, x.at(t * depth), next - t, pool.at(static_cast<int64_t>(found->a) * 8),
             depth, found->rank, found->scale());
    }
    t = next;
  }
}

/// Asks for the B that finish() reads: at the start of a run of columns nobody has yet, and rows wait together, not in turn.
void Group::fetch_branch(int layer, int64_t row, int64_t first, int64_t columns) const {
  const Entry* found = entry(layer, row);
  if (!found) return;
  const char* b = pool.at(static_cast<int64_t>(found->b) * 8 + first * found->rank).data;
  for (int64_t line = 0; line < columns * found->rank * (pool.half ? 2 : 4); line += 64) __builtin_prefetch(b + line);
}

/// Columns [first, first + columns) of one row of one layer: sums (+ bias) (+ its adapter's branch), rounded into y.
void Group::finish(int layer, int64_t row, int64_t first, int64_t columns, float* sums) const {
  if (bias[layer]) {
    const FloatRef b = FloatRef(*bias[layer]).at(first);
    each_vector(columns, [&](int64_t j, int n) { vstore_n(sums + j, vload_n(sums + j, n) + load(b, j, n), n); });
  }
  if (const Entry* found = entry(layer, row)) {
    expand(sums, pool.at(static_cast<int64_t>(found->b) * 8 + first * found->rank), hidden_of(layer, row), found->rank,
           columns);
  }
  const FloatRef to = FloatRef(*y[layer]).at(row * width(layer) + first);
  if (to.data == reinterpret_cast<char*>(sums)) return;
  each_vector(columns, [&](int64_t j, int n) { store(to, j, vload_n(sums + j, n), n); });
}

/// Packed weights all: finished while the sums are in L1. False where no kernel does so.
bool run_by_blocks(const Group& g, const PackedWeight* weights) {
  const auto finish = [](void* context, int layer, const SumsBlock& block, float* sums) {
    const auto* group = static_cast<const Group*>(context);
    const FloatRef y(*group->y[layer]);
    if (!y.half && !group->bias[layer] && !group->hidden) {
      write_tile({y, group->width(layer), 1, 1.0f, 0.0f}, sums, block.row, block.rows, block.first, block.columns);
      return;
    }
    for (int64_t t = 0; t < block.rows; t++) group->fetch_branch(layer, block.row + t, block.first, block.columns);
    for (int64_t t = 0; t < block.rows; t++) {
      group->finish(layer, block.row + t, block.first, block.columns, sums + t * kPanelWidth);
    }
  };
  return multiply_by_blocks({g.x, g.depth, 1}, weights, g.layers, g.rows, {finish, const_cast<Group*>(&g)});
}

void multiply_layer(const Group& g, int layer, const PackedWeight* packed, FloatRef sums) {
  const int64_t width = g.width(layer);
  const Product product = {sums, width, 1, 1.0f, 0.0f};
  const Operand x = {g.x, g.depth, 1};
  if (packed) {
    multiply_packed_weight(product, x, *packed, g.rows);
  } else {
    multiply(product, x, {FloatRef(*g.w[layer]), g.depth, 1}, g.rows, width, g.depth);
  }
}

/// Many rows: the whole product, then a pass over it where there is something to add or to round.
void run_layer(const Group& g, int layer, const PackedWeight* packed) {
  const int64_t width = g.width(layer);
  const FloatRef y(*g.y[layer]);
  const Scratch room(y.half ? g.rows * width * 4 : 0);
  float* sums = y.half ? room.floats() : reinterpret_cast<float*>(y.data);
  multiply_layer(g, layer, packed, FloatRef(reinterpret_cast<char*>(sums), false));
  if (!y.half && !g.bias[layer] && !g.hidden) return;
  parallel_ranges(g.rows, rows_per_task(width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) g.finish(layer, t, 0, width, sums + t * width);
  });
}

void linearGroup(Out y0, OptionalOut y1, OptionalOut y2, In x, In w0, OptionalIn w1, OptionalIn w2, OptionalIn bias0,
                 OptionalIn bias1, OptionalIn bias2, OptionalIn pool, OptionalIn table, OptionalIn slots) {
  Group g = {{&y0, y1, y2}, {&w0, w1, w2}, {bias0, bias1, bias2}, w2 ? 3 : w1 ? 2 : 1, x, x.dims[0], x.dims[1],
             pool ? FloatRef(*pool) : FloatRef(nullptr, false),
             table ? reinterpret_cast<const Entry*>(i32_data(*table)) : nullptr, slots ? i32_data(*slots) : nullptr};
  g.find_ranks();
  const Scratch hidden(g.layers * g.rows * g.most_rank * 4);
  if (g.most_rank > 0) {
    g.hidden = hidden.floats();
    const int64_t chunks = (g.rows + kRowsTogether - 1) / kRowsTogether, each = g.rows <= kThinRows ? 1 : kRowsTogether;
    const int64_t tasks = each == 1 ? g.rows : chunks;
    parallel_tasks(tasks * g.layers, [&](int64_t task, int) {
      const int64_t begin = task / g.layers * each;
      g.shrink_rows(static_cast<int>(task % g.layers), begin, min(g.rows, begin + each));
    });
  }
  const bool all_packed = w0.dtype == DType::u8 && (!w1 || w1->dtype == DType::u8) && (!w2 || w2->dtype == DType::u8);
  if (all_packed) {
    const PackedWeight first(w0), weights[kLayers] = {first, w1 ? PackedWeight(*w1) : first, w2 ? PackedWeight(*w2) : first};
    // Branches of many rows beside bf16 weights are added in a pass over whole rows: by blocks of 32 columns gate and up of
    // 256 rows took 12 % longer.
    const bool by_rows = g.hidden && g.rows > kThinRows && !first.int8();
    if (!by_rows && run_by_blocks(g, weights)) return;
  }
  for (int i = 0; i < g.layers; i++) {
    if (g.w[i]->dtype == DType::u8) {
      const PackedWeight packed(*g.w[i]);
      run_layer(g, i, &packed);
    } else {
      run_layer(g, i, nullptr);
    }
  }
}

}  // namespace

void add_linear_group(Ops& t) { t.linearGroup = linearGroup; }

}  // namespace lathe::LATHE_ISA
