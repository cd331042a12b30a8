// Argument checks of linear layers with low-rank branches; each then runs the device's entry.
#include "check.h"
#include "checked.h"
#include "dispatch.h"

namespace lathe {
namespace {

constexpr int kLayers = 3;

/// An argument per layer.
struct Each {
  OptionalIn of[kLayers];
  const char* names[kLayers];
};

int64_t layers_of(const Each& w) {
  expect_that(w.of[1] || !w.of[2], "w1", "layer 2 needs layer 1");
  return w.of[2] ? 3 : w.of[1] ? 2 : 1;
}

/// Weights and what lies beside them: b_i [N_i,r_i] with Σ r_i rows of a. Returns the number of layers.
int64_t expect_layers(const Each& w, const Each& b, In a, int64_t depth) {
  const int64_t layers = layers_of(w);
  expect(a, "a", kFloat, {kAnySize, depth});
  int64_t rank = 0;
  for (int i = 0; i < kLayers; i++) {
    if (i >= layers) {
      expect_that(!b.of[i], b.names[i], "has no weight");
      continue;
    }
    expect(*w.of[i], w.names[i], kFloat, {kAnySize, depth});
    if (!b.of[i]) continue;
    expect(*b.of[i], b.names[i], kFloat, {w.of[i]->dims[0], kAnySize});
    expect_that(b.of[i]->dims[1] > 0, b.names[i], "has rank 0");
    rank += b.of[i]->dims[1];
  }
  expect_that(rank > 0, "b0", "no layer has a branch");
  expect_that(rank == a.dims[0], "a", "has another number of rows than the ranks of b0, b1 and b2 add up to");
  return layers;
}

/// [rows, N_i] for every layer and for no other.
void expect_rows(const Each& t, const Each& w, int64_t layers, int64_t rows) {
  for (int i = 0; i < kLayers; i++) {
    if (i >= layers) {
      expect_that(!t.of[i], t.names[i], "has no weight");
    } else {
      expect_that(t.of[i] != nullptr, t.names[i], "is missing");
      expect(*t.of[i], t.names[i], kFloat, {rows, w.of[i]->dims[0]});
    }
  }
}

/// No output shares memory with an input or another output.
void expect_apart(std::initializer_list<OptionalOut> outs, std::initializer_list<OptionalIn> ins, const char* name) {
  for (const Tensor* const* out = outs.begin(); out != outs.end(); out++) {
    if (!*out) continue;
    for (const Tensor* in : ins) {
      if (in) expect_disjoint(**out, name, *in, "an input");
    }
    for (const Tensor* const* other = outs.begin(); other != out; other++) {
      if (*other) expect_disjoint(**out, name, **other, "another output");
    }
  }
}

void loraLinearForward(Out y0, OptionalOut y1, OptionalOut y2, Out h, In x, OptionalIn dropped, In w0, OptionalIn w1,
                       OptionalIn w2, OptionalIn bias0, OptionalIn bias1, OptionalIn bias2, In a, OptionalIn b0,
                       OptionalIn b1, OptionalIn b2, float scale0, float scale1, float scale2) {
  expect(x, "x", kFloat, {kAnySize, kAnySize});
  const int64_t rows = x.dims[0], depth = x.dims[1];
  const Each w = {{&w0, w1, w2}, {"w0", "w1", "w2"}}, y = {{&y0, y1, y2}, {"y0", "y1", "y2"}};
  const Each bias = {{bias0, bias1, bias2}, {"bias0", "bias1", "bias2"}};
  const int64_t layers = expect_layers(w, {{b0, b1, b2}, {"b0", "b1", "b2"}}, a, depth);
  expect_rows(y, w, layers, rows);
  for (int i = 0; i < kLayers; i++) {
    if (y.of[i]) expect_writable(*y.of[i], y.names[i]);
    if (!bias.of[i]) continue;
    expect_that(i < layers, bias.names[i], "has no weight");
    expect(*bias.of[i], bias.names[i], kFloat, {w.of[i]->dims[0]});
  }
  if (dropped) expect(*dropped, "dropped", kFloat, {rows, depth});
  expect_out(h, "h", kF32, {rows, a.dims[0]});
  expect_apart({&y0, y1, y2, &h}, {&x, dropped, &w0, w1, w2, bias0, bias1, bias2, &a, b0, b1, b2}, "y0, y1, y2, h");
  ops_for(x.device).loraLinearForward(y0, y1, y2, h, x, dropped, w0, w1, w2, bias0, bias1, bias2, a, b0, b1, b2, scale0,
                                      scale1, scale2);
}

void loraLinearBackward(OptionalOut dx, OptionalOut ddropped, Out da, OptionalOut db0, OptionalOut db1,
                        OptionalOut db2, In dy0, OptionalIn dy1, OptionalIn dy2, In x, OptionalIn dropped, In h, In w0,
                        OptionalIn w1, OptionalIn w2, In a, OptionalIn b0, OptionalIn b1, OptionalIn b2, float scale0,
                        float scale1, float scale2, float beta) {
  expect(x, "x", kFloat, {kAnySize, kAnySize});
  const int64_t rows = x.dims[0], depth = x.dims[1];
  const Each w = {{&w0, w1, w2}, {"w0", "w1", "w2"}}, b = {{b0, b1, b2}, {"b0", "b1", "b2"}};
  const Each db = {{db0, db1, db2}, {"db0", "db1", "db2"}};
  const int64_t layers = expect_layers(w, b, a, depth);
  expect_rows({{&dy0, dy1, dy2}, {"dy0", "dy1", "dy2"}}, w, layers, rows);
  for (int i = 0; i < kLayers; i++) {
    expect_that(!db.of[i] == !b.of[i], db.names[i], "comes with its b and only with it");
    if (db.of[i]) expect_out(*db.of[i], db.names[i], kF32, {b.of[i]->dims[0], b.of[i]->dims[1]});
  }
  if (dropped) expect(*dropped, "dropped", kFloat, {rows, depth});
  if (dx) expect_out(*dx, "dx", kFloat, {rows, depth});
  expect_that(dropped || !ddropped, "ddropped", "has no dropped");
  if (ddropped) expect_out(*ddropped, "ddropped", kFloat, {rows, depth});
  expect(h, "h", kF32, {rows, a.dims[0]});
  expect_out(da, "da", kF32, {a.dims[0], depth});
  expect_that(beta == 0 || beta == 1, "beta", "must be 0 or 1");
  expect_apart({dx, ddropped, &da, db0, db1, db2},
               {&dy0, dy1, dy2, &x, dropped, &h, &w0, w1, w2, &a, b0, b1, b2}, "dx, ddropped, da, db0, db1, db2");
  ops_for(x.device).loraLinearBackward(dx, ddropped, da, db0, db1, db2, dy0, dy1, dy2, x, dropped, h, w0, w1, w2, a, b0,
                                       b1, b2, scale0, scale1, scale2, beta);
}

}  // namespace

void add_checked_lora(Ops& t) {
  t.loraLinearForward = loraLinearForward;
  t.loraLinearBackward = loraLinearBackward;
}

}  // namespace lathe
