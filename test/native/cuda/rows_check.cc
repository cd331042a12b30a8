// The memory-bound CUDA ops as written, launches included, on the CPU: against the ops of the CPU's own backend, for both
// types and mixed ones, sizes that fill no vector, unaligned bases, in place, and threads in both orders.
#define LATHE_EMULATION
#include <functional>

#include "../../../native/core/dispatch.h"
#include "../../../native/cpu/ops_parts.h"
#include "../../../native/cuda/parts.h"
#include "emulated_device.h"

namespace lathe {
const Ops& ops_for(Device) {
  static const Ops ops = [] {
    namespace cpu = LATHE_ISA;
    Ops t = {};
    cpu::add_elementwise(t), cpu::add_reduce(t), cpu::add_random(t), cpu::add_embedding(t), cpu::add_rms_norm(t);
    cpu::add_rope(t), cpu::add_swiglu(t), cpu::add_adamw(t);
    return t;
  }();
  return ops;
}
}  // namespace lathe

using namespace lathe;
using namespace reference;

namespace {

Ops device_ops() {
  Ops t = {};
  cuda::add_elementwise(t), cuda::add_reduce(t), cuda::add_random(t), cuda::add_embedding(t), cuda::add_rms_norm(t);
  cuda::add_rope(t), cuda::add_swiglu(t), cuda::add_adamw(t);
  return t;
}

Held integers(std::initializer_list<int64_t> dims, int limit) {
  Held h(DType::i32, dims);
  for (int64_t i = 0; i < element_count(h.t); i++) h.set(i, integer(0, limit - 1));
  return h;
}

using Call = std::function<void(const Ops&, std::vector<Held>&)>;

/// Runs the call with both tables on copies of the same tensors and compares all of them.
void same(const std::string& name, const std::vector<Held>& tensors, const Call& call) {
  std::vector<Held> expected = tensors, actual = tensors;
  call(ops_for(Device::cpu), expected);
  call(device_ops(), actual);
  for (size_t i = 0; i < tensors.size(); i++) {
    const bool half = tensors[i].t.dtype == DType::bf16;
    expect_close(name + ", tensor " + std::to_string(i), actual[i].values(), expected[i].values(), half ? 4e-3 : 4e-6);
  }
}

constexpr DType F = DType::f32, H = DType::bf16;

void elementwise(DType x, DType y, int64_t n, int shift) {
  const std::string at = " of " + std::to_string(n) + ", shift " + std::to_string(shift);
  const std::vector<Held> three = {numbers(y, {n}, shift), numbers(x, {n}), numbers(y, {n})};
  same("add" + at, three, [](const Ops& o, auto& t) { o.add(t[0].t, t[1].t, t[2].t); });
  same("axpy" + at, three, [](const Ops& o, auto& t) { o.axpy(t[0].t, 0.3f, t[1].t); });
  same("scale, fill, cast" + at, three, [](const Ops& o, auto& t) {
    o.scale(t[0].t, 1.7f), o.fill(t[1].t, 0.5), o.cast(t[2].t, t[0].t);
  });
  same("swiglu" + at, three, [](const Ops& o, auto& t) { o.swigluForward(t[0].t, t[1].t, t[2].t); });
  const std::vector<Held> five = {numbers(y, {n}), numbers(y, {n}), numbers(x, {n}, shift), numbers(y, {n}), numbers(x, {n})};
  same("swiglu backward" + at, five, [](const Ops& o, auto& t) {
    o.swigluBackward(t[0].t, t[1].t, t[2].t, t[3].t, t[4].t);
  });
  same("dropout" + at, three, [](const Ops& o, auto& t) {
    o.dropoutForward(t[0].t, t[1].t, 0.3f, 77, 1ull << 40), o.dropoutBackward(t[2].t, t[2].t, 0.5f, ~0ull, 3);
  });
  same("random" + at, three, [](const Ops& o, auto& t) {
    o.randomUniform(t[0].t, -2, 3, 5, 6), o.randomNormal(t[1].t, 1, 2, 7, 1ull << 35);
  });
  double sums[2] = {ops_for(Device::cpu).sumSquares(three[0].t), device_ops().sumSquares(three[0].t)};
  expect_close("sumSquares" + at, {sums[1]}, {sums[0]}, 1e-12);
}

void rows(DType x, DType y, int64_t n, int64_t c) {
  const std::string at = " of " + std::to_string(n) + "x" + std::to_string(c);
  const std::vector<Held> t = {numbers(y, {n, c}),     numbers(x, {n, c}), numbers(F, {n}, 0, true), numbers(x, {n, c}),
                               numbers(y, {n, c}),     numbers(x, {c}),    numbers(F, {c}),          integers({n}, 5),
                               numbers(F, {5, c}),     numbers(x, {5, c})};
  same("bias" + at, t, [](const Ops& o, auto& v) { o.addBias(v[0].t, v[5].t), o.biasBackward(v[6].t, v[1].t); });
  same("rmsNorm" + at, t, [](const Ops& o, auto& v) { o.rmsNormForward(v[0].t, v[2].t, v[1].t, v[5].t, 1e-6f); });
  same("rmsNorm in place" + at, t, [](const Ops& o, auto& v) { o.rmsNormForward(v[1].t, v[2].t, v[1].t, v[5].t, 1e-6f); });
  same("addRmsNorm" + at, t, [](const Ops& o, auto& v) {
    o.addRmsNormForward(v[4].t, v[0].t, v[2].t, v[1].t, v[3].t, v[5].t, 1e-6f);
  });
  same("rmsNorm backward" + at, t, [](const Ops& o, auto& v) {
    o.rmsNormBackward(v[4].t, &v[6].t, v[0].t, v[1].t, v[5].t, v[2].t, &v[3].t);
  });
  same("rmsNorm backward over dy" + at, t, [](const Ops& o, auto& v) {
    o.rmsNormBackward(v[0].t, &v[6].t, v[0].t, v[1].t, v[5].t, v[2].t, nullptr);
  });
  same("embedding" + at, t, [](const Ops& o, auto& v) {
    o.embeddingForward(v[0].t, v[9].t, v[7].t), o.embeddingBackward(v[8].t, v[1].t, v[7].t);
  });
  std::vector<Held> m = {numbers(F, {n, c}), numbers(x, {n, c}), Held(DType::i32, {n}), numbers(y, {n + 3, c}), numbers(x, {n + 3, c})};
  for (int64_t i = 0; i < n; i++) m[2].set(i, static_cast<double>(n + 2 - i));
  same("rows moved" + at, m, [](const Ops& o, auto& v) {
    o.scatterAddRows(v[3].t, v[1].t, v[2].t), o.gatherRows(v[0].t, v[3].t, v[2].t);
    o.kvWrite(v[3].t, v[4].t, v[0].t, v[1].t, v[2].t);
  });
}

void rope(DType x, DType y, int64_t n, int64_t heads, int64_t d) {
  const std::string at = " of " + std::to_string(n) + "x" + std::to_string(heads) + "x" + std::to_string(d);
  const int64_t c = heads * d;
  const std::vector<Held> t = {numbers(y, {n, c}), numbers(F, {n, heads}, 0, true), numbers(x, {n, c}), numbers(y, {d}),
                               numbers(F, {9, d / 2}), numbers(F, {9, d / 2}), integers({n}, 9), numbers(F, {d}),
                               numbers(x, {n, c})};
  same("rope with norm" + at, t, [d](const Ops& o, auto& v) {
    o.qkNormRopeForward(v[0].t, &v[1].t, v[2].t, &v[3].t, v[4].t, v[5].t, v[6].t, d, 1e-6f);
  });
  same("rope in place" + at, t, [d](const Ops& o, auto& v) {
    o.qkNormRopeForward(v[2].t, nullptr, v[2].t, nullptr, v[4].t, v[5].t, v[6].t, d, 0);
  });
  same("rope backward with norm" + at, t, [d](const Ops& o, auto& v) {
    o.qkNormRopeBackward(v[0].t, &v[7].t, v[8].t, &v[2].t, &v[3].t, &v[1].t, v[4].t, v[5].t, v[6].t, d);
  });
  same("rope backward in place" + at, t, [d](const Ops& o, auto& v) {
    o.qkNormRopeBackward(v[0].t, nullptr, v[0].t, nullptr, nullptr, nullptr, v[4].t, v[5].t, v[6].t, d);
  });
}

void optimizer() {
  const std::vector<int64_t> sizes = {1, 9, 8192, 9001};
  std::vector<Held> p, m, v, g, out;
  for (int64_t n : sizes) {
    p.push_back(numbers(F, {n})), m.push_back(numbers(F, {n})), v.push_back(numbers(F, {n}, 0, true));
    g.push_back(numbers(F, {n})), out.push_back(numbers(H, {n}));
  }
  ListOps lists = {};
  cuda::add_reduce_list(lists), cuda::add_adamw_list(lists);
  Held state(DType::u8, {24});
  auto& s = *static_cast<OptimizerState*>(state.t.data);
  const auto views = [](std::vector<Held>& held) {
    std::vector<Tensor> list;
    for (Held& h : held) list.push_back(h.t);
    return list;
  };
  std::vector<Held> ep = p, em = m, ev = v;
  const auto vp = views(p), vm = views(m), vv = views(v), vg = views(g), vout = views(out);
  const auto list = [](const std::vector<Tensor>& t) { return TensorList{t.data(), static_cast<int64_t>(t.size())}; };
  for (int step = 1; step <= 2; step++) {
    lists.sumSquaresInto(state.t, list(vg));
    lists.adamwList(state.t, list(vp), list(vm), list(vv), list(vg), list(vout), 1e-2, 0.9, 0.999, 1e-8, 0.1, 2, 1.0);
    double sum = 0;
    for (Held& h : g) sum += ops_for(Device::cpu).sumSquares(h.t);
    const double norm = std::sqrt(sum);
    expect_close("norm", {s.norm}, {norm}, 1e-12);
    expect("steps", s.steps == step);
    for (size_t i = 0; i < sizes.size(); i++) {
      ops_for(Device::cpu).adamwStep(ep[i].t, em[i].t, ev[i].t, g[i].t, 1e-2, 0.9, 0.999, 1e-8, i < 2 ? 0.1 : 0, step,
                                     static_cast<float>(std::fmin(1, 1 / (norm + 1e-6))));
      expect_close("adamwList p", p[i].values(), ep[i].values(), 1e-6);
      expect_close("adamwList m", m[i].values(), em[i].values(), 1e-6);
      expect_close("adamwList v", v[i].values(), ev[i].values(), 1e-6);
      expect_close("adamwList rounded", out[i].values(), p[i].values(), 4e-3);
    }
  }
  g[1].set(3, NAN);
  const Doubles before = p[3].values();
  lists.sumSquaresInto(state.t, list(vg));
  lists.adamwList(state.t, list(vp), list(vm), list(vv), list(vg), list(vout), 1e-2, 0.9, 0.999, 1e-8, 0.1, 2, 1.0);
  expect("a step that is not finite writes nothing", std::isnan(s.norm) && s.steps == 2 && p[3].values() == before);
}

}  // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  random_state = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  for (bool falling : {false, true}) {
    emulation::falling_order = falling;
    elementwise(F, F, 1001, 0), elementwise(H, H, 4099, 0), elementwise(F, H, 517, 1), elementwise(H, F, 1, 0);
    rows(F, F, 67, 40), rows(H, H, 5, 4104), rows(H, F, 70, 37), rows(F, H, 3, 8200), rows(H, H, 2, 16640);
    rope(F, F, 5, 3, 10), rope(H, H, 9, 3, 64), rope(H, F, 20, 2, 128), rope(H, H, 3, 2, 256), rope(F, H, 3, 1, 300);
    optimizer();
  }
  return failures != 0;
}
