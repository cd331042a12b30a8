// Argument checks of the row, norm, RoPE and SwiGLU ops; each then runs the device's entry.
#include "check.h"
#include "checked.h"
#include "dispatch.h"

namespace lathe {
namespace {

constexpr int64_t kMaxHeadDim = 512;

void embeddingForward(Out out, In weight, In ids) {
  expect(weight, "weight", kFloat, {kAnySize, kAnySize});
  expect(ids, "ids", kI32, {kAnySize});
  expect_indices(ids, "ids", weight.dims[0]);
  expect_out(out, "out", kFloat, {ids.dims[0], weight.dims[1]});
  expect_disjoint(out, "out", weight, "weight");
  ops_for(out.device).embeddingForward(out, weight, ids);
}

void embeddingBackward(Out dw, In dout, In ids) {
  expect(dout, "dout", kFloat, {kAnySize, kAnySize});
  expect(ids, "ids", kI32, {dout.dims[0]});
  expect_out(dw, "dw", kF32, {kAnySize, dout.dims[1]});
  expect_indices(ids, "ids", dw.dims[0]);
  expect_disjoint(dw, "dw", dout, "dout");
  ops_for(dw.device).embeddingBackward(dw, dout, ids);
}

void gatherRows(Out out, In x, In rows) {
  expect(x, "x", kFloat, {kAnySize, kAnySize});
  expect(rows, "rows", kI32, {kAnySize});
  expect_indices(rows, "rows", x.dims[0]);
  expect_out(out, "out", kFloat, {rows.dims[0], x.dims[1]});
  expect_disjoint(out, "out", x, "x");
  ops_for(out.device).gatherRows(out, x, rows);
}

void scatterAddRows(Out dx, In dout, In rows) {
  expect(dout, "dout", kFloat, {kAnySize, kAnySize});
  expect(rows, "rows", kI32, {dout.dims[0]});
  expect_out(dx, "dx", kFloat, {kAnySize, dout.dims[1]});
  expect_distinct(rows, "rows", dx.dims[0]);
  expect_disjoint(dx, "dx", dout, "dout");
  ops_for(dx.device).scatterAddRows(dx, dout, rows);
}

void rmsNormForward(Out y, Out rstd, In x, In w, float eps) {
  expect(x, "x", kFloat, {kAnySize, kAnySize});
  expect_out(y, "y", kFloat, {x.dims[0], x.dims[1]});
  expect_out(rstd, "rstd", kF32, {x.dims[0]});
  expect(w, "w", kFloat, {x.dims[1]});
  expect_that(eps >= 0, "eps", "must not be negative");
  expect_same_or_disjoint(y, "y", x, "x");
  expect_disjoint(y, "y", rstd, "rstd");
  expect_disjoint(y, "y", w, "w");
  ops_for(y.device).rmsNormForward(y, rstd, x, w, eps);
}

void rmsNormBackward(Out dx, OptionalOut dw, In dy, In x, In w, In rstd, OptionalIn dres) {
  expect(x, "x", kFloat, {kAnySize, kAnySize});
  const int64_t rows = x.dims[0], channels = x.dims[1];
  expect(dy, "dy", kFloat, {rows, channels});
  expect(w, "w", kFloat, {channels});
  expect(rstd, "rstd", kF32, {rows});
  expect_out(dx, "dx", kFloat, {rows, channels});
  expect_same_or_disjoint(dx, "dx", dy, "dy");
  expect_disjoint(dx, "dx", x, "x");
  expect_disjoint(dx, "dx", w, "w");
  if (dres) {
    expect(*dres, "dres", kFloat, {rows, channels});
    expect_same_or_disjoint(dx, "dx", *dres, "dres");
  }
  if (dw) {
    expect_out(*dw, "dw", kF32, {channels});
    expect_disjoint(*dw, "dw", dx, "dx");
  }
  ops_for(dx.device).rmsNormBackward(dx, dw, dy, x, w, rstd, dres);
}

void addRmsNormForward(Out y, Out z, Out rstd, In x, In delta, In w, float eps) {
  expect(x, "x", kFloat, {kAnySize, kAnySize});
  const int64_t rows = x.dims[0], channels = x.dims[1];
  expect(delta, "delta", kFloat, {rows, channels});
  expect(w, "w", kFloat, {channels});
  expect_out(y, "y", kFloat, {rows, channels});
  expect_out(z, "z", kFloat, {rows, channels});
  expect_out(rstd, "rstd", kF32, {rows});
  expect_that(eps >= 0, "eps", "must not be negative");
  expect_same_or_disjoint(z, "z", x, "x");
  expect_same_or_disjoint(z, "z", delta, "delta");
  expect_disjoint(y, "y", z, "z");
  expect_same_or_disjoint(y, "y", x, "x");
  expect_same_or_disjoint(y, "y", delta, "delta");
  expect_disjoint(y, "y", w, "w");
  ops_for(y.device).addRmsNormForward(y, z, rstd, x, delta, w, eps);
}

/// The arguments that both directions share; returns the number of heads.
int64_t expect_rope(In x, const char* x_name, In cos, In sin, In positions, int64_t head_dim) {
  expect_that(head_dim >= 2 && head_dim <= kMaxHeadDim && head_dim % 2 == 0, "headDim",
              "must be even and at most 512");
  expect(x, x_name, kFloat, {kAnySize, kAnySize});
  expect_that(x.dims[1] % head_dim == 0, x_name, "columns must be a multiple of headDim");
  expect(cos, "cos", kF32, {kAnySize, head_dim / 2});
  expect(sin, "sin", kF32, {cos.dims[0], head_dim / 2});
  expect(positions, "positions", kI32, {x.dims[0]});
  expect_indices(positions, "positions", cos.dims[0]);
  return x.dims[1] / head_dim;
}

void qkNormRopeForward(Out y, OptionalOut rstd, In x, OptionalIn w, In cos, In sin, In positions,
                       int64_t head_dim, float eps) {
  const int64_t heads = expect_rope(x, "x", cos, sin, positions, head_dim);
  expect_out(y, "y", kFloat, {x.dims[0], x.dims[1]});
  expect_same_or_disjoint(y, "y", x, "x");
  if (w) expect(*w, "w", kFloat, {head_dim});
  if (rstd) {
    expect_out(*rstd, "rstd", kF32, {x.dims[0], heads});
    expect_that(w != nullptr, "rstd", "must be null when w is null");
  }
  expect_that(eps >= 0, "eps", "must not be negative");
  ops_for(y.device).qkNormRopeForward(y, rstd, x, w, cos, sin, positions, head_dim, eps);
}

void qkNormRopeBackward(Out dx, OptionalOut dw, In dy, OptionalIn x, OptionalIn w, OptionalIn rstd, In cos, In sin,
                        In positions, int64_t head_dim) {
  const int64_t heads = expect_rope(dy, "dy", cos, sin, positions, head_dim);
  expect_out(dx, "dx", kFloat, {dy.dims[0], dy.dims[1]});
  expect_same_or_disjoint(dx, "dx", dy, "dy");
  if (w) {
    expect(*w, "w", kFloat, {head_dim});
    expect_that(x != nullptr, "x", "is needed with w");
    expect_that(rstd != nullptr, "rstd", "is needed with w");
    expect(*x, "x", kFloat, {dy.dims[0], dy.dims[1]});
    expect(*rstd, "rstd", kF32, {dy.dims[0], heads});
    expect_disjoint(dx, "dx", *x, "x");
  }
  if (dw) {
    expect_that(w != nullptr, "dw", "must be null when w is null");
    expect_out(*dw, "dw", kF32, {head_dim});
  }
  ops_for(dx.device).qkNormRopeBackward(dx, dw, dy, x, w, rstd, cos, sin, positions, head_dim);
}

void expect_like(In t, const char* name, In model) {
  expect_dtype(t, name, kFloat);
  expect_count(t, name, element_count(model));
}

void swigluForward(Out y, In gate, In up) {
  expect_dtype(y, "y", kFloat);
  expect_writable(y, "y");
  expect_like(gate, "gate", y);
  expect_like(up, "up", y);
  expect_same_or_disjoint(y, "y", gate, "gate");
  expect_same_or_disjoint(y, "y", up, "up");
  ops_for(y.device).swigluForward(y, gate, up);
}

void swigluBackward(Out dgate, Out dup, In dy, In gate, In up) {
  expect_dtype(dy, "dy", kFloat);
  const struct {
    In tensor;
    const char* name;
  } outs[] = {{dgate, "dgate"}, {dup, "dup"}}, ins[] = {{dy, "dy"}, {gate, "gate"}, {up, "up"}};
  for (const auto& in : ins) expect_like(in.tensor, in.name, dy);
  for (const auto& out : outs) {
    expect_like(out.tensor, out.name, dy);
    expect_writable(out.tensor, out.name);
    for (const auto& in : ins) expect_same_or_disjoint(out.tensor, out.name, in.tensor, in.name);
  }
  expect_disjoint(dgate, "dgate", dup, "dup");
  ops_for(dy.device).swigluBackward(dgate, dup, dy, gate, up);
}

}  // namespace

void add_checked_model(Ops& t) {
  t.embeddingForward = embeddingForward;
  t.embeddingBackward = embeddingBackward;
  t.gatherRows = gatherRows;
  t.scatterAddRows = scatterAddRows;
  t.rmsNormForward = rmsNormForward;
  t.rmsNormBackward = rmsNormBackward;
  t.addRmsNormForward = addRmsNormForward;
  t.qkNormRopeForward = qkNormRopeForward;
  t.qkNormRopeBackward = qkNormRopeBackward;
  t.swigluForward = swigluForward;
  t.swigluBackward = swigluBackward;
}

}  // namespace lathe
