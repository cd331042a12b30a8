// Linear layers with low-rank branches, forward and backward: see core/ops.h.
#include "gemm.h"
#include "ops_parts.h"
#include "parallel.h"

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

FloatRef columns(float* h, int64_t first) { return FloatRef(reinterpret_cast<char*>(h + first), false); }

void loraLinearForward(Out y0, OptionalOut y1, OptionalOut y2, Out h, In x, OptionalIn dropped, In w0, OptionalIn w1,
                       OptionalIn w2, OptionalIn bias0, OptionalIn bias1, OptionalIn bias2, In a, OptionalIn b0,
                       OptionalIn b1, OptionalIn b2, float scale0, float scale1, float scale2) {
  const Group g(w0, w1, w2, b0, b1, b2, scale0, scale1, scale2);
  const Tensor *ys[kLayers] = {&y0, y1, y2}, *biases[kLayers] = {bias0, bias1, bias2};
  const int64_t rows = x.dims[0], depth = x.dims[1];
  multiply({FloatRef(h), g.rank, 1, 1, 0}, {FloatRef(dropped ? *dropped : x), depth, 1}, {FloatRef(a), depth, 1}, rows,
           g.rank, depth);
  for (int i = 0; i < g.layers; i++) {
    const Layer& l = g.of[i];
    const FloatRef y(*ys[i]);
    multiply({y, l.width(), 1, 1, 0}, {FloatRef(x), depth, 1}, {FloatRef(*l.w), depth, 1}, rows, l.width(), depth);
    if (l.b) {
      multiply({y, l.width(), 1, l.scale, 1}, {columns(f32_data(h), l.first), g.rank, 1}, {FloatRef(*l.b), l.rank(), 1},
               rows, l.width(), l.rank());
    }
    if (!biases[i]) continue;
    const FloatRef bias(*biases[i]);
    parallel_ranges(rows, rows_per_task(l.width()), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++) {
        const FloatRef row = y.at(t * l.width());
        each_vector(l.width(), [&](int64_t c, int n) { store(row, c, load(row, c, n) + load(bias, c, n), n); });
      }
    });
  }
}

void loraLinearBackward(OptionalOut dx, OptionalOut ddropped, Out da, OptionalOut db0, OptionalOut db1,
                        OptionalOut db2, In dy0, OptionalIn dy1, OptionalIn dy2, In x, OptionalIn dropped, In h, In w0,
                        OptionalIn w1, OptionalIn w2, In a, OptionalIn b0, OptionalIn b1, OptionalIn b2, float scale0,
                        float scale1, float scale2, float beta) {
  const Group g(w0, w1, w2, b0, b1, b2, scale0, scale1, scale2);
  const Tensor *dys[kLayers] = {&dy0, dy1, dy2}, *dbs[kLayers] = {db0, db1, db2};
  const int64_t rows = x.dims[0], depth = x.dims[1];
  const Scratch room(rows * g.rank * 4);
  float* dh = room.floats();
  for (int i = 0; i < g.layers; i++) {
    const Layer& l = g.of[i];
    const FloatRef dy(*dys[i]);
    if (l.b) {
      // y += s·h·bᵀ, so dh = s·dy·b and db += s·dyᵀ·h.
      multiply({columns(dh, l.first), g.rank, 1, l.scale, 0}, {dy, l.width(), 1}, {FloatRef(*l.b), 1, l.rank()}, rows,
               l.rank(), l.width());
      multiply({FloatRef(*dbs[i]), l.rank(), 1, l.scale, 1}, {dy, 1, l.width()},
               {columns(f32_data(h), l.first), 1, g.rank}, l.width(), l.rank(), rows);
    }
    if (!dx) continue;
    // y = x·wᵀ, so dx = dy·w.
    multiply({FloatRef(*dx), depth, 1, 1, i == 0 ? beta : 1}, {dy, l.width(), 1}, {FloatRef(*l.w), 1, depth}, rows,
             depth, l.width());
  }
  // h = xa·aᵀ, so da += dhᵀ·xa and dxa = dh·a.
  const FloatRef dh_ref = columns(dh, 0);
  multiply({FloatRef(da), depth, 1, 1, 1}, {dh_ref, 1, g.rank}, {FloatRef(dropped ? *dropped : x), 1, depth}, g.rank,
           depth, rows);
  const OptionalOut to = dropped ? ddropped : dx;
  if (to) {
    multiply({FloatRef(*to), depth, 1, 1, dropped ? 0.0f : 1.0f}, {dh_ref, g.rank, 1}, {FloatRef(a), 1, depth}, rows,
             depth, g.rank);
  }
}

}  // namespace

void add_lora(Ops& t) {
  t.loraLinearForward = loraLinearForward;
  t.loraLinearBackward = loraLinearBackward;
}

}  // namespace lathe::LATHE_ISA
