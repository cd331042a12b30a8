// Launching the own matrix product: tile size and split of k by the sizes alone, so no device changes a sum.
#include <limits>

#include "gemm.h"
#include "gemm_tile.h"
#include "runtime.h"

namespace lathe::cuda {
namespace {

/// Blocks that a product should have before k is left whole.
constexpr int64_t kEnoughBlocks = 128;
constexpr int64_t kShortestSplit = 512;
constexpr int64_t kMostSplits = 64;

/// Parts of the sum over k, in tile depths: a function of the sizes alone.
int split_steps(int64_t blocks, int64_t steps, int64_t depth) {
  const int64_t wanted = ceil_div(kEnoughBlocks, blocks), possible = ceil_div(steps * depth, kShortestSplit);
  int64_t count = wanted < possible ? wanted : possible;
  if (count > kMostSplits) count = kMostSplits;
  return static_cast<int>(ceil_div(steps, count));
}

template <int kM, int kN, int kWarpsM, int kWarpsN, bool kTransA, bool kTransB>
void launch_tile(const GemmArguments& g, dim3 grid) {
  using Shape = GemmShape<kM, kN, kWarpsM, kWarpsN>;
  launch("gemmOwn", gemm_own_kernel<Shape, kM, kN, kWarpsM, kTransA, kTransB>, grid, dim3(Shape::kThreads),
         Shape::template shared_bytes<kTransA, kTransB>(), g);
}

template <int kM, int kN, int kWarpsM, int kWarpsN>
void launch_bf16(const GemmArguments& g, dim3 grid, bool trans_a, bool trans_b) {
  if (trans_a) {
    if (trans_b) return launch_tile<kM, kN, kWarpsM, kWarpsN, true, true>(g, grid);
    return launch_tile<kM, kN, kWarpsM, kWarpsN, true, false>(g, grid);
  }
  if (trans_b) return launch_tile<kM, kN, kWarpsM, kWarpsN, false, true>(g, grid);
  return launch_tile<kM, kN, kWarpsM, kWarpsN, false, false>(g, grid);
}

bool wide(const void* data, int64_t pitch) { return reinterpret_cast<uintptr_t>(data) % 16 == 0 && pitch % 8 == 0; }

GemmArguments arguments_of(Out c, const Term* terms, int count, OptionalIn bias, float alpha, float beta, int depth) {
  GemmArguments g = {};
  g.c = {c.data, c.dtype == DType::bf16};
  if (bias) g.bias = {bias->data, bias->dtype == DType::bf16};
  g.m = c.dims[0], g.n = c.dims[1], g.alpha = alpha, g.beta = beta;
  for (int i = 0; i < kMostTerms; i++) {
    g.first_step[i] = i < count ? g.steps : std::numeric_limits<int>::max();
    if (i >= count) continue;
    const Term& t = terms[i];
    g.terms[i] = {t.a, t.b, t.depth, t.pitch_a, t.pitch_b, wide(t.a, t.pitch_a), wide(t.b, t.pitch_b)};
    g.steps += static_cast<int>(ceil_div(t.depth, depth));
  }
  return g;
}

void launch_product(GemmArguments& g, bool half, bool trans_a, bool trans_b) {
  const bool large = half && g.m > 64 && g.n > 64;
  const int tile = large ? 128 : 64;
  const int64_t blocks = ceil_div(g.m, tile) * ceil_div(g.n, tile);
  g.split_steps = split_steps(blocks, g.steps, half ? kGemmDepth : kPlainDepth);
  const int splits = static_cast<int>(ceil_div(g.steps, g.split_steps));
  const Scratch partial(splits > 1 ? splits * g.m * g.n * 4 : 0);
  g.partial = splits > 1 ? partial.as<float>() : nullptr;
  const dim3 grid(static_cast<unsigned>(ceil_div(g.m, tile)), static_cast<unsigned>(ceil_div(g.n, tile)),
                  static_cast<unsigned>(splits));
  if (!half) {
    const int64_t pitch_a = g.terms[0].pitch_a, pitch_b = g.terms[0].pitch_b;
    const PlainStrides strides = {trans_a ? 1 : pitch_a, trans_a ? pitch_a : 1, trans_b ? pitch_b : 1,
                                  trans_b ? 1 : pitch_b};
    launch("gemmOwnF32", gemm_own_f32_kernel, grid, dim3(kPlainThreads), 0, g, strides);
  } else if (large) {
    launch_bf16<128, 128, 2, 4>(g, grid, trans_a, trans_b);
  } else {
    launch_bf16<64, 64, 2, 2>(g, grid, trans_a, trans_b);
  }
  if (splits > 1) launch("gemmOwnJoin", gemm_own_join, dim3(grid_for(g.m * g.n, 256)), dim3(256), 0, g, splits);
}

}  // namespace

void multiply_own(Out c, In a, In b, bool trans_a, bool trans_b, float alpha, float beta) {
  const bool half = a.dtype == DType::bf16;
  const Term term = {a.data, b.data, a.dims[trans_a ? 0 : 1], a.dims[1], b.dims[1]};
  GemmArguments g = arguments_of(c, &term, 1, nullptr, alpha, beta, half ? kGemmDepth : kPlainDepth);
  launch_product(g, half, trans_a, trans_b);
}

void multiply_terms_own(Out c, const Term* terms, int count, bool trans_b, OptionalIn bias, float beta) {
  GemmArguments g = arguments_of(c, terms, count, bias, 1.0f, beta, kGemmDepth);
  launch_product(g, true, false, trans_b);
}

}  // namespace lathe::cuda
