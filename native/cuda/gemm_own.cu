// Launching the own matrix product: tile size and split of k by the sizes alone, so no device changes a sum.
#include "gemm.h"
#include "gemm_tile.h"
#include "runtime.h"

namespace lathe::cuda {
namespace {

/// Blocks that a product should have before k is left whole.
constexpr int64_t kEnoughBlocks = 128;
constexpr int64_t kShortestSplit = 512;
constexpr int64_t kMostSplits = 64;

struct Split {
  int64_t count, depth;
};

Split split_of(int64_t blocks, int64_t k, int64_t granule) {
  const int64_t wanted = ceil_div(kEnoughBlocks, blocks), possible = ceil_div(k, kShortestSplit);
  int64_t count = wanted < possible ? wanted : possible;
  if (count > kMostSplits) count = kMostSplits;
  const int64_t depth = ceil_div(ceil_div(k, count), granule) * granule;
  return {ceil_div(k, depth), depth};
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

bool wide(In t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.dims[1] % 8 == 0; }

}  // namespace

void multiply_own(Out c, In a, In b, bool trans_a, bool trans_b, float alpha, float beta) {
  const int64_t m = c.dims[0], n = c.dims[1], k = a.dims[trans_a ? 0 : 1];
  const bool half = a.dtype == DType::bf16;
  const bool large = half && m > 64 && n > 64;
  const int tile = large ? 128 : 64;
  const int64_t blocks = ceil_div(m, tile) * ceil_div(n, tile);
  const Split split = split_of(blocks, k, half ? kGemmDepth : kPlainDepth);
  const Scratch partial(split.count > 1 ? split.count * m * n * 4 : 0);
  GemmArguments g = {};
  g.a = a.data, g.b = b.data, g.c = {c.data, c.dtype == DType::bf16};
  g.partial = split.count > 1 ? partial.as<float>() : nullptr;
  g.m = m, g.n = n, g.k = k, g.split_depth = split.depth;
  g.alpha = alpha, g.beta = beta;
  g.wide_a = wide(a), g.wide_b = wide(b);
  const dim3 grid(static_cast<unsigned>(ceil_div(m, tile)), static_cast<unsigned>(ceil_div(n, tile)),
                  static_cast<unsigned>(split.count));
  if (!half) {
    const PlainStrides strides = {trans_a ? 1 : k, trans_a ? m : 1, trans_b ? k : 1, trans_b ? 1 : n};
    launch("gemmOwnF32", gemm_own_f32_kernel, grid, dim3(kPlainThreads), 0, g, strides);
  } else if (large) {
    launch_bf16<128, 128, 2, 4>(g, grid, trans_a, trans_b);
  } else {
    launch_bf16<64, 64, 2, 2>(g, grid, trans_a, trans_b);
  }
  if (split.count > 1) {
    launch("gemmOwnJoin", gemm_own_join, dim3(grid_for(m * n, 256)), dim3(256), 0, g, static_cast<int>(split.count));
  }
}

}  // namespace lathe::cuda
