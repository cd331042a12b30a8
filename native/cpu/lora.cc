// Linear layers with low-rank branches, forward and backward: see core/ops.h.
#include "gemm.h"
#include "ops_parts.h"
#include "parallel.h"
#include "thin.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int kLayers = 3;

/// One layer of a group; b null: no branch.
struct Layer {
  const Tensor *w, *b;
  float scale;
  int64_t first;  // its first column of h

  int64_t rank() const { return b ? b->dims[1] : 0; }
  int64_t width() const { return w->dims[0]; }
};

struct Group {
  Layer of[kLayers];
  int layers = 0;
  int64_t rank = 0;

  Group(In w0, OptionalIn w1, OptionalIn w2, OptionalIn b0, OptionalIn b1, OptionalIn b2, float s0, float s1,
        float s2) {
    const Layer given[kLayers] = {{&w0, b0, s0, 0}, {w1, b1, s1, 0}, {w2, b2, s2, 0}};
    for (const Layer& layer : given) {
      if (!layer.w) break;
      of[layers] = layer;
      of[layers++].first = rank;
      rank += layer.rank();
    }
  }
};

constexpr int64_t kChunkRows = 32;  // rows of a task of the forward

FloatRef columns(float* h, int64_t first) { return FloatRef(reinterpret_cast<char*>(h + first), false); }

int64_t column_blocks(int64_t width) { return (width + kThinColumns - 1) / kThinColumns; }

/// h = x·Aᵀ; a task takes some rows over all columns.
void low_rank_rows(Out h, In x, In a) {
  const int64_t rows = x.dims[0], depth = x.dims[1], rank = a.dims[0], width = padded_rank(rank);
  const int64_t blocks = column_blocks(depth), block_floats = width * kThinColumns;
  const int64_t room_floats = kThinRows * (kThinColumns + width);
  const Scratch factors(max(1, blocks) * block_floats * 4), rooms(room_floats * 4 * thread_count());
  parallel_tasks(blocks, [&](int64_t b, int) {
    const int64_t first = b * kThinColumns;
    load_factors(factors.floats() + b * block_floats, {FloatRef(a), depth, 1}, rank, first,
                 min(kThinColumns, depth - first));
  });
  parallel_tasks((rows + kChunkRows - 1) / kChunkRows, [&](int64_t task, int worker) {
    float* room = rooms.floats() + worker * room_floats;
    float* sums = room + kThinRows * kThinColumns;
    const int64_t end = min(rows, (task + 1) * kChunkRows);
    for (int64_t t = task * kChunkRows; t < end; t += kThinRows) {
      const int64_t count = min(kThinRows, end - t);
      __builtin_memset(sums, 0, kThinRows * width * 4);
      for (int64_t b = 0; b < blocks; b++) {
        const int64_t first = b * kThinColumns, here = min(kThinColumns, depth - first);
        const ThinRows source(FloatRef(x), depth, t, count, first, here, room);
        dot_rows(sums, source, count, factors.floats() + b * block_floats, rank, here);
      }
      for (int64_t i = 0; i < count; i++) {
        for (int64_t r = 0; r < rank; r++) f32_data(h)[(t + i) * rank + r] = sums[i * width + r];
      }
    }
  });
}

void add_bias(Out y, In bias) {
  const int64_t width = y.dims[1];
  const FloatRef b(bias), to(y);
  parallel_ranges(y.dims[0], rows_per_task(width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const FloatRef row = to.at(t * width);
      each_vector(width, [&](int64_t c, int n) { store(row, c, load(row, c, n) + load(b, c, n), n); });
    }
  });
}

void loraLinearForward(Out y0, OptionalOut y1, OptionalOut y2, Out h, In x, OptionalIn dropped, In w0, OptionalIn w1,
                       OptionalIn w2, OptionalIn bias0, OptionalIn bias1, OptionalIn bias2, In a, OptionalIn b0,
                       OptionalIn b1, OptionalIn b2, float scale0, float scale1, float scale2) {
  const Group g(w0, w1, w2, b0, b1, b2, scale0, scale1, scale2);
  const Tensor *ys[kLayers] = {&y0, y1, y2}, *biases[kLayers] = {bias0, bias1, bias2};
  const int64_t rows = x.dims[0], depth = x.dims[1];
  low_rank_rows(h, dropped ? *dropped : x, a);
  for (int i = 0; i < g.layers; i++) {
    const Layer& l = g.of[i];
    // The branch is more of k: y = [x, s·h]·[w, b]ᵀ.
    Term terms[2] = {{{FloatRef(x), depth, 1}, {FloatRef(*l.w), depth, 1}, depth},
                     {{columns(f32_data(h), l.first), g.rank, 1}, {FloatRef(*l.w), 0, 0}, 0, l.scale}};
    if (l.b) {
      terms[1].b = {FloatRef(*l.b), l.rank(), 1};
      terms[1].k = l.rank();
    }
    multiply_sum({FloatRef(*ys[i]), l.width(), 1, 1, 0}, terms, l.b ? 2 : 1, rows, l.width());
    if (biases[i]) add_bias(*ys[i], *biases[i]);
  }
}

/// A block of columns of one layer's dy.
struct BackwardBlock {
  const Layer& layer;
  In dy, h;
  int64_t h_row, first, columns;
};

/// Over all rows: sums[t][r] = Σ_c dy[t][c]·b[c][r] of these columns, and db[c][r] += s·Σ_t dy[t][c]·h[t][r].
void backward_block(const BackwardBlock& k, float* sums, float* db, float* room) {
  const int64_t rows = k.dy.dims[0], rank = k.layer.rank(), width = padded_rank(rank), stride = k.dy.dims[1];
  float* factors = room;
  float* outer = factors + width * kThinColumns;
  float* wide = outer + width * kThinColumns;
  float* weights = wide + kThinRows * kThinColumns;
  load_factors(factors, {FloatRef(*k.layer.b), 1, rank}, rank, k.first, k.columns);
  __builtin_memset(outer, 0, width * kThinColumns * 4);
  __builtin_memset(sums, 0, rows * width * 4);
  for (int64_t t = 0; t < rows; t += kThinRows) {
    const int64_t count = min(kThinRows, rows - t);
    const ThinRows source(FloatRef(k.dy), stride, t, count, k.first, k.columns, wide);
    dot_rows(sums + t * width, source, count, factors, rank, k.columns);
    for (int64_t i = 0; i < kThinRows; i++) {
      const float* h = f32_data(k.h) + min(t + i, rows - 1) * k.h_row + k.layer.first;
      for (int64_t r = 0; r < rank; r++) weights[i * width + r] = i < count ? h[r] * k.layer.scale : 0;
    }
    outer_rows(outer, weights, width, source, count, rank, k.columns);
  }
  add_transposed(db + k.first * rank, outer, rank, k.columns);
}

/// dh and db of every layer with a branch; a task takes a block of columns of one dy over all rows, so that dy is read
/// once and every sum has one order. The parts of dh that the blocks give are added up in their order.
void branch_gradients(const Group& g, const Tensor* const* dys, const Tensor* const* dbs, In h, float* dh) {
  const int64_t rows = h.dims[0];
  int64_t starts[kLayers + 1] = {}, floats = 0, widest = kThinRanks;
  int64_t offsets[kLayers] = {};
  for (int i = 0; i < g.layers; i++) {
    const int64_t blocks = g.of[i].b ? column_blocks(g.of[i].width()) : 0, width = padded_rank(g.of[i].rank());
    starts[i + 1] = starts[i] + blocks;
    offsets[i] = floats;
    floats += blocks * rows * width;
    widest = max(widest, width);
  }
  const int64_t tasks = starts[g.layers];
  const int64_t room_floats = (2 * widest + kThinRows) * kThinColumns + kThinRows * widest;
  const Scratch parts(floats * 4), rooms(room_floats * 4 * thread_count());
  parallel_tasks(tasks, [&](int64_t task, int worker) {
    int i = 0;
    while (task >= starts[i + 1]) i++;
    const Layer& l = g.of[i];
    const int64_t block = task - starts[i], first = block * kThinColumns;
    float* sums = parts.floats() + offsets[i] + block * rows * padded_rank(l.rank());
    backward_block({l, *dys[i], h, g.rank, first, min(kThinColumns, l.width() - first)}, sums, f32_data(*dbs[i]),
                   rooms.floats() + worker * room_floats);
  });
  for (int i = 0; i < g.layers; i++) {
    const Layer& l = g.of[i];
    const int64_t width = padded_rank(l.rank()), blocks = starts[i + 1] - starts[i];
    parallel_ranges(rows, kChunkRows, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++) {
        for (int64_t r = 0; r < l.rank(); r++) {
          const float* part = parts.floats() + offsets[i] + t * width + r;
          float sum = 0;
          for (int64_t b = 0; b < blocks; b++) sum += part[b * rows * width];
          dh[t * g.rank + l.first + r] = sum * l.scale;
        }
      }
    });
  }
}

/// da += dhᵀ·x; a task takes a block of columns over all rows.
void factor_gradient(Out da, const float* dh, In x) {
  const int64_t rows = x.dims[0], depth = x.dims[1], rank = da.dims[0];
  const int64_t room_floats = (rank + kThinRows) * kThinColumns;
  const Scratch rooms(room_floats * 4 * thread_count());
  parallel_tasks(column_blocks(depth), [&](int64_t block, int worker) {
    const int64_t first = block * kThinColumns, here = min(kThinColumns, depth - first);
    float* sums = rooms.floats() + worker * room_floats;
    float* wide = sums + rank * kThinColumns;
    const FloatRef to(da);
    __builtin_memset(sums, 0, rank * kThinColumns * 4);
    for (int64_t t = 0; t < rows; t += kThinRows) {
      const int64_t count = min(kThinRows, rows - t);
      const ThinRows source(FloatRef(x), depth, t, count, first, here, wide);
      outer_rows(sums, dh + t * rank, rank, source, count, rank, here);
    }
    for (int64_t r = 0; r < rank; r++) {
      each_vector(here, [&](int64_t c, int n) {
        const int64_t at = r * depth + first + c;
        store(to, at, load(to, at, n) + vload_n(sums + r * kThinColumns + c, n), n);
      });
    }
  });
}

void loraLinearBackward(OptionalOut dx, OptionalOut ddropped, Out da, OptionalOut db0, OptionalOut db1,
                        OptionalOut db2, In dy0, OptionalIn dy1, OptionalIn dy2, In x, OptionalIn dropped, In h, In w0,
                        OptionalIn w1, OptionalIn w2, In a, OptionalIn b0, OptionalIn b1, OptionalIn b2, float scale0,
                        float scale1, float scale2, float beta) {
  const Group g(w0, w1, w2, b0, b1, b2, scale0, scale1, scale2);
  const Tensor *dys[kLayers] = {&dy0, dy1, dy2}, *dbs[kLayers] = {db0, db1, db2};
  const int64_t rows = x.dims[0], depth = x.dims[1];
  const Scratch room((rows + kThinRows) * g.rank * 4);
  float* dh = room.floats();
  branch_gradients(g, dys, dbs, h, dh);
  // The rows after the last one weigh nothing in its group of kThinRows.
  __builtin_memset(dh + rows * g.rank, 0, kThinRows * g.rank * 4);
  // h = xa·aᵀ, so da += dhᵀ·xa and dxa = dh·a.
  factor_gradient(da, dh, dropped ? *dropped : x);
  const Term low = {{columns(dh, 0), g.rank, 1}, {FloatRef(a), 1, depth}, g.rank};
  if (dropped && ddropped) multiply_sum({FloatRef(*ddropped), depth, 1, 1, 0}, &low, 1, rows, depth);
  if (!dx) return;
  // y_i = x·w_iᵀ, so dx = Σ dy_i·w_i. On tiles an f32 dy counts with the bits of one bf16: the error of an element is
  // random and small beside what a bf16 training has anyway, and no forward value depends on it.
  Term terms[kLayers + 1] = {low, low, low, low};
  for (int i = 0; i < g.layers; i++) {
    const Layer& l = g.of[i];
    terms[i] = {{FloatRef(*dys[i]), l.width(), 1}, {FloatRef(*l.w), 1, depth}, l.width(), 1.0f, true};
  }
  multiply_sum({FloatRef(*dx), depth, 1, 1, beta}, terms, g.layers + (dropped ? 0 : 1), rows, depth);
}

}  // namespace

void add_lora(Ops& t) {
  t.loraLinearForward = loraLinearForward;
  t.loraLinearBackward = loraLinearBackward;
}

}  // namespace lathe::LATHE_ISA
