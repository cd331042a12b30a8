// The own matrix product as written, on the CPU, against float64: every transposition, sizes that fill no tile, split k.
#define LATHE_EMULATION
#include "../../../native/cuda/gemm_tile.h"
#include "reference.h"

using namespace lathe::cuda;
using namespace reference;

namespace {

struct Case {
  int m, n, k;
  bool trans_a, trans_b;
  float alpha, beta;
};

Doubles expected(const Case& c, const Doubles& a, const Doubles& b, const Doubles& old) {
  Doubles out(static_cast<size_t>(c.m) * c.n);
  for (int i = 0; i < c.m; i++) {
    for (int j = 0; j < c.n; j++) {
      double sum = 0;
      for (int k = 0; k < c.k; k++) sum += a[c.trans_a ? k * c.m + i : i * c.k + k] * b[c.trans_b ? j * c.k + k : k * c.n + j];
      out[i * c.n + j] = c.alpha * sum + (c.beta == 0 ? 0 : c.beta * old[i * c.n + j]);
    }
  }
  return out;
}

template <int kM, int kN, int kWarpsM, int kWarpsN, bool kTransA, bool kTransB>
void tile(const GemmArguments& g, emulation::Dim3 grid) {
  using Shape = GemmShape<kM, kN, kWarpsM, kWarpsN>;
  emulation::launch(grid, Shape::kThreads, Shape::template shared_bytes<kTransA, kTransB>(),
                    [&] { gemm_own_kernel<Shape, kM, kN, kWarpsM, kTransA, kTransB>(g); });
}

template <int kM, int kN, int kWarpsM, int kWarpsN>
void tile(const GemmArguments& g, const Case& c, emulation::Dim3 grid) {
  if (c.trans_a && c.trans_b) return tile<kM, kN, kWarpsM, kWarpsN, true, true>(g, grid);
  if (c.trans_a) return tile<kM, kN, kWarpsM, kWarpsN, true, false>(g, grid);
  if (c.trans_b) return tile<kM, kN, kWarpsM, kWarpsN, false, true>(g, grid);
  return tile<kM, kN, kWarpsM, kWarpsN, false, false>(g, grid);
}

/// Operands start 16-byte aligned plus `shift` elements: an odd shift takes the element-wise way.
void check(const Case& c, bool half, bool large, int split_depth, int shift) {
  const size_t a_count = static_cast<size_t>(c.m) * c.k, b_count = static_cast<size_t>(c.n) * c.k;
  const Halves a = normals(a_count + 8), b = normals(b_count + 8), old = normals(static_cast<size_t>(c.m) * c.n);
  const Halves a_view(a.begin() + shift, a.begin() + shift + a_count), b_view(b.begin() + shift, b.begin() + shift + b_count);
  const Doubles wide_a = widen(a_view), wide_b = widen(b_view), wide_old = widen(old);
  const std::vector<float> a32(wide_a.begin(), wide_a.end()), b32(wide_b.begin(), wide_b.end());
  std::vector<float> out(wide_old.begin(), wide_old.end());
  if (c.beta == 0) std::fill(out.begin(), out.end(), NAN);
  GemmArguments g = {};
  const int pitch_a = c.trans_a ? c.m : c.k, pitch_b = c.trans_b ? c.k : c.n, depth = half ? kGemmDepth : kPlainDepth;
  const void* first_a = half ? static_cast<const void*>(a.data() + shift) : a32.data();
  const void* first_b = half ? static_cast<const void*>(b.data() + shift) : b32.data();
  g.terms[0] = {first_a, first_b, c.k, pitch_a, pitch_b, shift == 0 && pitch_a % 8 == 0, shift == 0 && pitch_b % 8 == 0};
  for (int i = 1; i < kMostTerms; i++) g.first_step[i] = 1 << 30;
  g.c = {out.data(), false};
  g.m = c.m, g.n = c.n, g.steps = div_up(c.k, depth), g.split_steps = split_depth / depth;
  g.alpha = c.alpha, g.beta = c.beta;
  const int splits = div_up(g.steps, g.split_steps), edge = large ? 128 : 64;
  std::vector<float> partial(static_cast<size_t>(splits) * c.m * c.n, NAN);
  if (splits > 1) g.partial = partial.data();
  const emulation::Dim3 grid = {static_cast<unsigned>(div_up(c.m, edge)), static_cast<unsigned>(div_up(c.n, edge)),
                                static_cast<unsigned>(splits)};
  if (!half) {
    const PlainStrides at = {c.trans_a ? 1 : c.k, c.trans_a ? c.m : 1, c.trans_b ? c.k : 1, c.trans_b ? 1 : c.n};
    emulation::launch(grid, kPlainThreads, 0, [&] { gemm_own_f32_kernel(g, at); });
  } else if (large) {
    tile<128, 128, 2, 4>(g, c, grid);
  } else {
    tile<64, 64, 2, 2>(g, c, grid);
  }
  if (splits > 1) emulation::launch({2, 1, 1}, 64, 0, [&] { gemm_own_join(g, splits); });
  const std::string name = std::string(half ? "bf16" : "f32") + (large ? " 128" : " 64") + " product " +
                           std::to_string(c.m) + "x" + std::to_string(c.n) + "x" + std::to_string(c.k) +
                           (c.trans_a ? " At" : "") + (c.trans_b ? " Bt" : "") + ", " + std::to_string(splits) +
                           " splits, shift " + std::to_string(shift);
  expect_close(name, widen(out), expected(c, wide_a, wide_b, wide_old), 2e-6);
}

}  // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  random_state = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  for (bool falling : {false, true}) {
    emulation::falling_order = falling;
    for (int t = 0; t < 4; t++) {
      const bool trans_a = t & 1, trans_b = t & 2;
      check({70, 72, 136, trans_a, trans_b, 1, 0}, true, false, 64, 0);
      check({8, 16, 40, trans_a, trans_b, 0.5f, 1}, true, false, 64, 0);
      check({33, 65, 50, trans_a, trans_b, 2, 0.5f}, true, false, 64, 3);
      check({136, 130, 72, trans_a, trans_b, 1, 1}, true, true, 96, 0);
      check({67, 41, 37, trans_a, trans_b, 1, 0.25f}, false, false, 16, 0);
    }
  }
  return failures != 0;
}
