// Checks of the list ops, and the CPU's way through them: see list_ops.h.
#include "list_ops.h"

#include <cmath>
#include <cstring>

#include "backend.h"
#include "check.h"
#include "dispatch.h"

namespace lathe {
namespace {

/// Keeps clipping finite when the norm is 0.
constexpr double kClipEps = 1e-6;

void cpu_sum_squares(Out sum, Ins xs) {
  double total = 0;
  for (int64_t i = 0; i < xs.count; i++) total += ops_for(Device::cpu).sumSquares(xs.items[i]);
  std::memcpy(sum.data, &total, sizeof total);
}

void cpu_adamw(Out state, Outs p, Outs m, Outs v, Ins g, Outs rounded, double lr, double beta1, double beta2,
               double eps, double weight_decay, int64_t decayed, double max_norm) {
  OptimizerState s;
  std::memcpy(&s, state.data, sizeof s);
  s.norm = std::sqrt(s.sum_squares);
  if (std::isfinite(s.norm)) {
    s.steps++;
    const double clip = max_norm > 0 ? std::fmin(1, max_norm / (s.norm + kClipEps)) : 1;
    const Ops& ops = ops_for(Device::cpu);
    for (int64_t i = 0; i < p.count; i++) {
      ops.adamwStep(p.items[i], m.items[i], v.items[i], g.items[i], lr, beta1, beta2, eps,
                    i < decayed ? weight_decay : 0, s.steps, static_cast<float>(clip));
      if (rounded.items[i].data != p.items[i].data) ops.cast(rounded.items[i], p.items[i]);
    }
  }
  std::memcpy(state.data, &s, sizeof s);
}

void sumSquaresInto(Out sum, Ins xs) {
  expect(sum, "sum", kU8, {kAnySize});
  expect_writable(sum, "sum");
  expect_that(sum.dims[0] >= 8, "sum", "needs 8 bytes");
  for (int64_t i = 0; i < xs.count; i++) {
    expect_dtype(xs.items[i], "xs", kFloat);
    expect_disjoint(sum, "sum", xs.items[i], "xs");
  }
  if (sum.device == Device::cpu) return cpu_sum_squares(sum, xs);
  backend_for(sum.device).list_ops().sumSquaresInto(sum, xs);
}

/// As many tensors as p, each with as many elements as its p.
void expect_alike(Outs list, const char* name, Outs p, unsigned dtypes, bool written) {
  expect_that(list.count == p.count, name, "must have as many tensors as p");
  for (int64_t i = 0; i < list.count; i++) {
    expect_dtype(list.items[i], name, dtypes);
    expect_count(list.items[i], name, element_count(p.items[i]));
    if (written) expect_writable(list.items[i], name);
  }
}

void adamwList(Out state, Outs p, Outs m, Outs v, Ins g, Outs rounded, double lr, double beta1, double beta2,
               double eps, double weightDecay, int64_t decayed, double maxNorm) {
  expect_out(state, "state", kU8, {static_cast<int64_t>(sizeof(OptimizerState))});
  expect_alike(p, "p", p, kF32, true);
  expect_alike(m, "m", p, kF32, true);
  expect_alike(v, "v", p, kF32, true);
  expect_alike(g, "g", p, kF32, false);
  expect_alike(rounded, "rounded", p, kFloat, true);
  for (int64_t i = 0; i < p.count; i++) {
    expect_disjoint(p.items[i], "p", m.items[i], "m");
    expect_disjoint(p.items[i], "p", v.items[i], "v");
    expect_disjoint(p.items[i], "p", g.items[i], "g");
    expect_disjoint(m.items[i], "m", v.items[i], "v");
    expect_disjoint(m.items[i], "m", g.items[i], "g");
    expect_disjoint(v.items[i], "v", g.items[i], "g");
    expect_same_or_disjoint(p.items[i], "p", rounded.items[i], "rounded");
  }
  expect_that(beta1 >= 0 && beta1 < 1, "beta1", "must be in [0,1)");
  expect_that(beta2 >= 0 && beta2 < 1, "beta2", "must be in [0,1)");
  expect_that(eps >= 0, "eps", "must not be negative");
  expect_that(decayed >= 0 && decayed <= p.count, "decayed", "must be in [0, number of tensors]");
  const auto run = state.device == Device::cpu ? cpu_adamw : backend_for(state.device).list_ops().adamwList;
  run(state, p, m, v, g, rounded, lr, beta1, beta2, eps, weightDecay, decayed, maxNorm);
}

}  // namespace

const ListOps& checked_list_ops() {
  static const ListOps table = {sumSquaresInto, adamwList};
  return table;
}

}  // namespace lathe
