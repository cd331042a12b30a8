// Linear layers of a decode step with a low-rank adapter per row: the products in f32, then bias and adapters, then one
// rounding.
#include "gemm.h"
#include "ops_parts.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kMostRank = 256;

struct Adapters {
  FloatRef pool;
  const int32_t *table, *slots;  // slots null: none
  int64_t layers;
};

float dot(FloatRef a, FloatRef b, int64_t n) {
  VF sum = {};
  each_vector(n, [&](int64_t i, int count) { sum += load(a, i, count) * load(b, i, count); });
  return vsum(sum);
}

float element(FloatRef r, int64_t i) { return load(r, i, 1)[0]; }

/// One row: sums [N] f32 (+ bias) (+ its adapter's branch), rounded into y.
void finish_row(FloatRef y, float* sums, OptionalIn bias, const Adapters& adapters, FloatRef x, int64_t depth,
                int64_t width, int64_t layer, int64_t row) {
  if (bias) {
    const FloatRef b(*bias);
    each_vector(width, [&](int64_t i, int n) { vstore_n(sums + i, vload_n(sums + i, n) + load(b, i, n), n); });
  }
  const int32_t slot = adapters.slots ? adapters.slots[row] : -1;
  const int32_t* entry = slot < 0 ? nullptr : adapters.table + (slot * adapters.layers + layer) * 4;
  if (entry && entry[2] > 0) {
    const int64_t rank = entry[2];
    float scale, hidden[kMostRank];
    __builtin_memcpy(&scale, entry + 3, 4);
    const FloatRef a = adapters.pool.at(static_cast<int64_t>(entry[0]) * 8);
    const FloatRef b = adapters.pool.at(static_cast<int64_t>(entry[1]) * 8);
    for (int64_t r = 0; r < rank; r++) hidden[r] = dot(x, a.at(r * depth), depth) * scale;
    for (int64_t c = 0; c < width; c++) {
      float sum = 0;
      for (int64_t r = 0; r < rank; r++) sum += hidden[r] * element(b, c * rank + r);
      sums[c] += sum;
    }
  }
  each_vector(width, [&](int64_t i, int n) { store(y, i, vload_n(sums + i, n), n); });
}

void one_layer(Out y, In x, In w, OptionalIn bias, const Adapters& adapters, int64_t layer) {
  const int64_t rows = x.dims[0], depth = x.dims[1], width = w.dims[0];
  const Scratch sums(rows * width * 4);
  const FloatRef s(sums.bytes(), false), rx(x), ry(y);
  multiply({s, width, 1, 1.0f, 0.0f}, {rx, depth, 1}, {FloatRef(w), depth, 1}, rows, width, depth);
  parallel_tasks(rows, [&](int64_t row, int) {
    finish_row(ry.at(row * width), sums.floats() + row * width, bias, adapters, rx.at(row * depth), depth, width, layer,
               row);
  });
}

void linearGroup(Out y0, OptionalOut y1, OptionalOut y2, In x, In w0, OptionalIn w1, OptionalIn w2, OptionalIn bias0,
                 OptionalIn bias1, OptionalIn bias2, OptionalIn pool, OptionalIn table, OptionalIn slots) {
  const Adapters adapters = {pool ? FloatRef(*pool) : FloatRef(nullptr, false), table ? i32_data(*table) : nullptr,
                             slots ? i32_data(*slots) : nullptr, w2 ? 3 : w1 ? 2 : 1};
  one_layer(y0, x, w0, bias0, adapters, 0);
  if (w1) one_layer(*y1, x, *w1, bias1, adapters, 1);
  if (w2) one_layer(*y2, x, *w2, bias2, adapters, 2);
}

}  // namespace

void add_linear_group(Ops& t) { t.linearGroup = linearGroup; }

}  // namespace lathe::LATHE_ISA
