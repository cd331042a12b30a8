// The low-rank branches in training where a tensor is not bf16 or a size is 0: the products one by one.
#include "device.h"
#include "gemm.h"
#include "lora_products.h"

namespace lathe::cuda {
namespace {

Tensor matrix(void* data, int64_t rows, int64_t columns) {
  return {data, {rows, columns}, 2, DType::f32, Device::cuda, true};
}

}  // namespace

void lora_forward_plain(const LoraGroup& g, const LoraOutputs& out, Out h) {
  const RankLayout& ranks = g.ranks;
  multiply(h, g.xa, g.a, false, true, 1.0f, 0.0f);
  for (int i = 0; i < ranks.count; i++) {
    multiply(*out.y[i], g.x, *g.w[i], false, true, 1.0f, 0.0f);
    if (out.bias[i]) table().addBias(*out.y[i], *out.bias[i]);
    if (ranks.rank[i] == 0) continue;
    const Scratch memory(g.tokens * ranks.rank[i] * 4);
    const Tensor part = matrix(memory.as<void>(), g.tokens, ranks.rank[i]);
    copy_columns(f32_data(part), ranks.rank[i], f32_data(h) + ranks.first[i], ranks.total, g.tokens, ranks.rank[i]);
    multiply(*out.y[i], part, *g.b[i], false, true, g.scale[i], 1.0f);
  }
}

void lora_backward_plain(const LoraGroup& g, const LoraGradients& d) {
  const RankLayout& ranks = g.ranks;
  const Scratch all(g.tokens * ranks.total * 4);
  const Tensor dh = matrix(all.as<void>(), g.tokens, ranks.total);
  for (int i = 0; i < ranks.count; i++) {
    if (d.dx) multiply(*d.dx, *d.dy[i], *g.w[i], false, false, 1.0f, i == 0 ? d.beta : 1.0f);
    if (ranks.rank[i] == 0) continue;
    const Scratch memory(g.tokens * ranks.rank[i] * 4);
    const Tensor part = matrix(memory.as<void>(), g.tokens, ranks.rank[i]);
    copy_columns(f32_data(part), ranks.rank[i], f32_data(*d.h) + ranks.first[i], ranks.total, g.tokens, ranks.rank[i]);
    if (d.db[i]) multiply(*d.db[i], *d.dy[i], part, true, false, g.scale[i], 1.0f);
    multiply(part, *d.dy[i], *g.b[i], false, false, g.scale[i], 0.0f);
    copy_columns(f32_data(dh) + ranks.first[i], ranks.total, f32_data(part), ranks.rank[i], g.tokens, ranks.rank[i]);
  }
  multiply(*d.da, dh, g.xa, true, false, 1.0f, 1.0f);
  if (d.ddropped) multiply(*d.ddropped, dh, g.a, false, false, 1.0f, 0.0f);
  if (d.dx && !d.masked) multiply(*d.dx, dh, g.a, false, false, 1.0f, 1.0f);
}

}  // namespace lathe::cuda
