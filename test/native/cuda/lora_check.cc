// The low-rank linear ops of native/cuda as written, launches and copies included, on the CPU against float64: by
// the own kernels, and with a stand-in for cuBLASLt that counts its products, so that each way is seen to be taken.
#define LATHE_EMULATION
#include "../../../native/cuda/cublaslt.h"
#include "../../../native/cuda/parts.h"
#include "emulated_device.h"

namespace {
bool with_lt = false;
int products = 0;
}  // namespace

namespace lathe::cuda {
const Ops& table() {
  static const Ops ops = [] {
    Ops t = {};
    add_elementwise(t), add_gemm(t), add_lora_linear(t), add_lora_linear_backward(t);
    return t;
  }();
  return ops;
}

const LtLibrary& lt_library() {
  static LtLibrary found = {"emulated", "0", ""}, missing = {"", "", "not asked for"};
  return with_lt ? found : missing;
}

bool lt_multiply(const LtProduct& p) {
  products++;
  const auto read = [](const void* m, DType type, int64_t i) {
    return type == DType::bf16 ? reference::widen(static_cast<const uint16_t*>(m)[i]) : static_cast<const float*>(m)[i];
  };
  for (int64_t i = 0; i < p.m; i++) {
    for (int64_t j = 0; j < p.n; j++) {
      double sum = 0;
      for (int64_t k = 0; k < p.k; k++) {
        sum += read(p.a, p.in, p.trans_a ? k * p.pitch_a + i : i * p.pitch_a + k) *
               read(p.b, p.in, p.trans_b ? j * p.pitch_b + k : k * p.pitch_b + j);
      }
      sum = p.alpha * sum + (p.beta == 0 ? 0 : p.beta * read(p.c, p.out, i * p.n + j));
      if (p.out == DType::bf16) static_cast<uint16_t*>(p.c)[i * p.n + j] = reference::narrow(sum);
      else static_cast<float*>(p.c)[i * p.n + j] = static_cast<float>(sum);
    }
  }
  return true;
}
}  // namespace lathe::cuda

using namespace lathe;
using namespace reference;

namespace {

constexpr DType F = DType::f32, H = DType::bf16;

struct Case {
  const char* name;
  int64_t tokens, depth;
  std::vector<int64_t> outputs, ranks;
  bool bias, dropped;
  DType type;
  int shift;                // elements that x and the first weight lie behind an aligned address
  int forward, backward;    // products that cuBLASLt is asked for, −1: not looked at
};

/// A tensor's f64 values as a matrix, zeros for a missing one.
struct Group {
  Held x, dropped, a, h;
  std::vector<Held> w, b, bias, y, dy, db;
  std::vector<float> scale;

  explicit Group(const Case& c)
      : x(numbers(c.type, {c.tokens, c.depth}, c.shift)), dropped(numbers(c.type, {c.tokens, c.depth})),
        a(F, {total(c), c.depth}), h(F, {c.tokens, total(c)}) {
    for (int64_t i = 0; i < element_count(a.t); i++) a.set(i, normal() / std::sqrt(static_cast<double>(c.depth)));
    poison(h);
    for (size_t i = 0; i < c.outputs.size(); i++) {
      const int64_t n = c.outputs[i], r = c.ranks[i];
      w.push_back(numbers(c.type, {n, c.depth}, i == 0 ? c.shift : 0));
      b.push_back(numbers(F, {n, r}));
      bias.push_back(numbers(c.type, {n}));
      y.push_back(Held(c.type, {c.tokens, n}));
      poison(y.back());
      dy.push_back(numbers(c.type, {c.tokens, n}));
      db.push_back(numbers(F, {n, r}));
      scale.push_back(0.4f + 0.7f * static_cast<float>(i));
    }
  }
  static int64_t total(const Case& c) {
    int64_t sum = 0;
    for (int64_t r : c.ranks) sum += r;
    return sum;
  }
  static void poison(Held& t) {
    for (int64_t i = 0; i < element_count(t.t); i++) t.set(i, NAN);
  }
};

/// out [m, n] += factor·a·b, b [k, n], or [n, k] when transposed.
void add_product(Doubles& out, const Doubles& a, const Doubles& b, int64_t m, int64_t n, int64_t k, bool trans_a,
                 bool trans_b, double factor) {
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t l = 0; l < k; l++) sum += a[trans_a ? l * m + i : i * k + l] * b[trans_b ? j * k + l : l * n + j];
      out[i * n + j] += factor * sum;
    }
  }
}

Doubles rows_of(const Doubles& m, int64_t first, int64_t rows, int64_t columns) {
  return Doubles(m.begin() + first * columns, m.begin() + (first + rows) * columns);
}

const Tensor* at(std::vector<Held>& list, size_t i, bool wanted = true) {
  return wanted && i < list.size() ? &list[i].t : nullptr;
}

/// bf16 results: their own rounding and that of A, s·B and h, 2⁻⁹ each and at most four of them in one result (norm-wise
/// a third of that); f32: sums in another order.
double limit(const Case& c) { return c.type == H ? 6e-3 : 2e-6; }

std::string title(const Case& c, const char* what) {
  return std::string(with_lt ? "cuBLASLt, " : "own, ") + c.name + (c.dropped ? ", dropout: " : ": ") + what;
}

void forward(const Case& c, Group& g) {
  const size_t n = c.outputs.size();
  const auto b = [&](size_t i) { return at(g.b, i, i < n && c.ranks[i] > 0); };
  const auto scale = [&](size_t i) { return i < n ? g.scale[i] : 0.0f; };
  products = 0;
  const auto bias = [&](size_t i) { return at(g.bias, i, c.bias); };
  cuda::table().loraLinearForward(g.y[0].t, at(g.y, 1), at(g.y, 2), g.h.t, g.x.t, c.dropped ? &g.dropped.t : nullptr,
                                  g.w[0].t, at(g.w, 1), at(g.w, 2), bias(0), bias(1), bias(2), g.a.t, b(0), b(1), b(2),
                                  scale(0), scale(1), scale(2));
  if (with_lt && c.forward >= 0) expect(title(c, "products forward"), products == c.forward);
  const Doubles x = g.x.values(), xa = c.dropped ? g.dropped.values() : x, a = g.a.values();
  Doubles h(static_cast<size_t>(c.tokens * Group::total(c)));
  int64_t first = 0;
  for (size_t i = 0; i < n; i++) {
    const int64_t r = c.ranks[i], outputs = c.outputs[i];
    Doubles hi(static_cast<size_t>(c.tokens * r)), y(static_cast<size_t>(c.tokens * outputs));
    add_product(hi, xa, rows_of(a, first, r, c.depth), c.tokens, r, c.depth, false, true, 1);
    add_product(y, x, g.w[i].values(), c.tokens, outputs, c.depth, false, true, 1);
    add_product(y, hi, g.b[i].values(), c.tokens, outputs, r, false, true, g.scale[i]);
    const Doubles offset = g.bias[i].values();
    for (int64_t t = 0; t < c.tokens; t++) {
      for (int64_t j = 0; c.bias && j < outputs; j++) y[t * outputs + j] += offset[j];
      for (int64_t j = 0; j < r; j++) h[t * Group::total(c) + first + j] = hi[t * r + j];
    }
    expect_close(title(c, "y"), g.y[i].values(), y, limit(c));
    first += r;
  }
  expect_close(title(c, "h"), g.h.values(), h, limit(c));
}

void backward(const Case& c, Group& g, float beta, bool wants_dx) {
  const size_t n = c.outputs.size();
  const auto b = [&](size_t i) { return at(g.b, i, i < n && c.ranks[i] > 0); };
  const auto scale = [&](size_t i) { return i < n ? g.scale[i] : 0.0f; };
  const auto db = [&](size_t i) { return at(g.db, i, i < n && c.ranks[i] > 0); };
  Held dx = numbers(c.type, {c.tokens, c.depth}), ddropped(c.type, {c.tokens, c.depth});
  Held da = numbers(F, {Group::total(c), c.depth});
  if (beta == 0) Group::poison(dx);
  Group::poison(ddropped);
  Doubles want_dx = dx.values(), want_ddropped(want_dx.size()), want_da = da.values();
  if (beta == 0) std::fill(want_dx.begin(), want_dx.end(), 0);
  std::vector<Doubles> want_db;
  const Doubles xa = (c.dropped ? g.dropped : g.x).values(), a = g.a.values(), h = g.h.values();
  int64_t first = 0;
  for (size_t i = 0; i < n; i++) {
    const int64_t r = c.ranks[i], outputs = c.outputs[i];
    const Doubles dy = g.dy[i].values(), ai = rows_of(a, first, r, c.depth);
    Doubles dh(static_cast<size_t>(c.tokens * r)), hi(dh.size()), dai(ai.size());
    for (int64_t t = 0; t < c.tokens; t++) {
      for (int64_t j = 0; j < r; j++) hi[t * r + j] = h[t * Group::total(c) + first + j];
    }
    want_db.push_back(g.db[i].values());
    add_product(want_db.back(), dy, hi, outputs, r, c.tokens, true, false, g.scale[i]);
    add_product(dh, dy, g.b[i].values(), c.tokens, r, outputs, false, false, g.scale[i]);
    add_product(dai, dh, xa, r, c.depth, c.tokens, true, false, 1);
    for (size_t j = 0; j < dai.size(); j++) want_da[first * c.depth + j] += dai[j];
    add_product(want_dx, dy, g.w[i].values(), c.tokens, c.depth, outputs, false, false, 1);
    add_product(c.dropped ? want_ddropped : want_dx, dh, ai, c.tokens, c.depth, r, false, false, 1);
    first += r;
  }
  products = 0;
  cuda::table().loraLinearBackward(wants_dx ? &dx.t : nullptr, wants_dx && c.dropped ? &ddropped.t : nullptr, da.t, db(0),
                                   db(1), db(2), g.dy[0].t, at(g.dy, 1), at(g.dy, 2), g.x.t,
                                   c.dropped ? &g.dropped.t : nullptr, g.h.t, g.w[0].t, at(g.w, 1), at(g.w, 2), g.a.t,
                                   b(0), b(1), b(2), scale(0), scale(1), scale(2), beta);
  if (with_lt && wants_dx && c.backward >= 0) expect(title(c, "products backward"), products == c.backward);
  expect_close(title(c, "dA"), da.values(), want_da, limit(c));
  for (size_t i = 0; i < n; i++) {
    if (c.ranks[i] > 0) expect_close(title(c, "dB"), g.db[i].values(), want_db[i], limit(c));
  }
  if (!wants_dx) return;
  expect_close(title(c, "dx"), dx.values(), want_dx, limit(c));
  if (c.dropped) expect_close(title(c, "dropped dx"), ddropped.values(), want_ddropped, limit(c));
}

}  // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  random_state = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  const std::vector<Case> cases = {
      {"three linears", 90, 40, {48, 24, 24}, {8, 4, 16}, true, false, H, 0, 3, 1},
      {"two of one rank, no bias", 90, 40, {96, 96}, {16, 16}, false, false, H, 0, 2, 2},
      {"odd sizes", 33, 50, {30, 7}, {3, 5}, true, false, H, 0, 2, 2},
      {"unaligned", 20, 48, {40}, {6}, false, false, H, 3, 1, 1},
      {"a linear without a branch", 130, 24, {40, 32, 16}, {8, 0, 2}, true, false, H, 0, 3, 3},
      {"large ranks", 20, 64, {72}, {200}, true, false, H, 0, 1, 1},
      {"one linear", 75, 32, {304}, {12}, true, true, H, 0, 1, 1},
      {"split sums", 1100, 16, {16}, {5}, false, false, H, 0, -1, -1},
      {"a deep sum", 10, 1000, {24}, {9}, true, false, H, 0, -1, -1},
      {"f32", 21, 19, {13, 6}, {3, 4}, true, false, F, 0, -1, -1},
      {"f32", 9, 40, {16}, {8}, false, true, F, 0, -1, -1},
  };
  for (bool lt : {false, true}) {
    with_lt = lt;
    for (bool falling : {false, true}) {
      emulation::falling_order = falling;
      for (const Case& c : cases) {
        Group g(c);
        forward(c, g);
        backward(c, g, falling ? 1.0f : 0.0f, true);
        if (c.tokens < 50) backward(c, g, 0, false);
      }
    }
  }
  return failures != 0;
}
