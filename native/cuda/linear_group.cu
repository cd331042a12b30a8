// linearGroup on CUDA: the skinny kernel for up to 32 rows of bf16; else the general product, rounded to y's type, and
// one more pass over y for bias and adapters.
#include "gemm.h"
#include "lora_tiles.h"
#include "parts.h"
#include "runtime.h"
#include "skinny_gemm.h"

namespace lathe::cuda {
namespace {

FloatPointer pointer(OptionalIn t) { return t ? FloatPointer{t->data, t->dtype == DType::bf16} : FloatPointer{}; }

struct Layers {
  const Tensor* y[kMostLayers];
  const Tensor* w[kMostLayers];
  const Tensor* bias[kMostLayers];
  int count;
};

bool aligned(In t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; }

bool fits_skinny(const Layers& layers, In x) {
  bool fits = x.dims[0] <= kSkinnyTokens && x.dtype == DType::bf16 && x.dims[1] % 8 == 0 && aligned(x);
  int64_t tiles = 0;
  for (int i = 0; i < layers.count; i++) {
    fits &= layers.w[i]->dtype == DType::bf16 && aligned(*layers.w[i]);
    tiles += ceil_div(layers.w[i]->dims[0], kSkinnyRows);
  }
  return fits && tiles > 0 && tiles <= kSkinnyTickets;
}

template <int kNT>
void launch_skinny(const SkinnyArguments& a, int splits) {
  launch("linearGroup", skinny_gemm_kernel<kNT>, dim3(a.tiles, splits), dim3(kSkinnyThreads),
         SkinnyTile<kNT>::kSharedBytes, a);
}

void run_skinny(const Layers& layers, In x, const SlotTable& adapters, const float* h) {
  SkinnyArguments a = {};
  a.layer_count = layers.count, a.x = static_cast<const uint16_t*>(x.data);
  a.tokens = static_cast<int>(x.dims[0]), a.depth = static_cast<int>(x.dims[1]);
  a.adapters = adapters, a.h = h;
  for (int i = 0; i < layers.count; i++) {
    const int n = static_cast<int>(layers.w[i]->dims[0]);
    a.layers[i] = {static_cast<const uint16_t*>(layers.w[i]->data), pointer(layers.bias[i]), pointer(layers.y[i]), n,
                   a.tiles};
    a.tiles += div_up(n, kSkinnyRows);
  }
  const SkinnySplit split = skinny_split(a.tiles, a.depth);
  const int64_t elements = static_cast<int64_t>(a.tiles) * kSkinnyRows * a.tokens;
  const Scratch partial(split.count > 1 ? elements * split.count * 4 : 4);
  a.split_depth = split.depth, a.partial = partial.as<float>();
  if (a.tokens <= 8) launch_skinny<1>(a, split.count);
  else if (a.tokens <= 16) launch_skinny<2>(a, split.count);
  else launch_skinny<4>(a, split.count);
}

void run_general(const Layers& layers, In x, const SlotTable& adapters, const float* h) {
  const int tokens = static_cast<int>(x.dims[0]);
  for (int i = 0; i < layers.count; i++) {
    multiply(*layers.y[i], x, *layers.w[i], false, true, 1.0f, 0.0f);
    if (!layers.bias[i] && !adapters.slots) continue;
    const int columns = static_cast<int>(layers.w[i]->dims[0]);
    launch("linearGroup adapters", lora_expand_tiled,
           dim3(div_up(tokens, kTileTokens), div_up(columns, kShrinkThreads)), dim3(kShrinkThreads), 0,
           pointer(layers.y[i]), pointer(layers.bias[i]), h, adapters, i, tokens, columns);
  }
}

/// h of every row: a block per row while the rows are few, tiles that share an adapter when they are many.
void shrink(float* h, In x, In pool, const SlotTable& adapters) {
  const int tokens = static_cast<int>(x.dims[0]), depth = static_cast<int>(x.dims[1]);
  const bool wide = depth % 8 == 0 && aligned(x) && aligned(pool);
  if (tokens > kSkinnyTokens && wide && x.dtype == DType::bf16 && pool.dtype == DType::bf16) {
    launch("linearGroup shrink", lora_shrink_tiled, dim3(div_up(tokens, kTileTokens), adapters.layers),
           dim3(kShrinkThreads), 0, h, static_cast<const uint16_t*>(x.data), adapters, tokens, depth);
    return;
  }
  launch("linearGroup shrink", wide ? lora_shrink_kernel<true> : lora_shrink_kernel<false>,
         dim3(tokens, adapters.layers), dim3(kShrinkThreads), 0, h, pointer(&x), adapters, depth);
}

void linearGroup(Out y0, OptionalOut y1, OptionalOut y2, In x, In w0, OptionalIn w1, OptionalIn w2, OptionalIn bias0,
                 OptionalIn bias1, OptionalIn bias2, OptionalIn pool, OptionalIn table, OptionalIn slots) {
  const Layers layers = {{&y0, y1, y2}, {&w0, w1, w2}, {bias0, bias1, bias2}, w2 ? 3 : w1 ? 2 : 1};
  const int64_t tokens = x.dims[0];
  if (tokens == 0) return;
  SlotTable adapters = {};
  const Scratch h(slots ? layers.count * tokens * kMostRank * 4 : 4);
  if (slots) {
    adapters = {i32_data(*slots), i32_data(*table), pointer(pool), layers.count};
    shrink(h.as<float>(), x, *pool, adapters);
  }
  if (fits_skinny(layers, x)) run_skinny(layers, x, adapters, h.as<float>());
  else run_general(layers, x, adapters, h.as<float>());
}

}  // namespace

void add_linear_group(Ops& t) { t.linearGroup = linearGroup; }

}  // namespace lathe::cuda
