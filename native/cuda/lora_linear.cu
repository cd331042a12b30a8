// loraLinearForward in bf16; other types: lora_plain.cu. The branch is part of the product, K extended by the ranks. The
// own kernel reads K from two places and needs nothing else. cuBLASLt wants one matrix each side; what moves fewer bytes
// (T tokens, N outputs of the group, operands of 2 bytes) is taken:
// copies        [x|h]·[W|sB|bias]ᵀ: 2TK (x is copied while h is made of it) + 4NK (W read and written), exact in f32;
// accumulation  y = bias + s·h·Bᵀ first, then y += x·Wᵀ: 4TN, half of it in the epilogue of the large product. The
//               branch is rounded to bf16 before it is added in f32, an error of 2⁻⁹ of the branch.
// Qwen3-4B, T = 8,192, MB, copies against accumulation: q,k,v 105, 201; gate,up 241, 638; o 109, 84; down 259, 84.
#include "gemm.h"
#include "lora_products.h"
#include "parts.h"

namespace lathe::cuda {
namespace {

constexpr int kBiasColumns = 8;  // of the extended operands: 1, 0, … against the bias, 0, …

/// h of all linears: bf16 at `to`, f32 in h; x copied on the way where `copy` is not null.
void make_h(const LoraGroup& g, const uint16_t* a, Out h, uint16_t* to, int64_t to_pitch, uint16_t* copy, int ones) {
  RowsArguments rows = {};
  rows.count = 1, rows.tokens = g.tokens;
  rows.problems[0] = {halves(g.xa), a, copy, to_pitch, g.depth, 0, g.ranks.pitch, 0, 0, wide_rows(g.xa)};
  rows_product(rows, g.ranks, true, to, to_pitch, f32_data(h), ones);
}

/// y_i = [x|h|1]·[w_i|sB|bias]ᵀ on copies.
void forward_extended(const LoraGroup& g, const LoraOutputs& out, Out h) {
  const RankLayout& ranks = g.ranks;
  const int ones = out.bias[0] || out.bias[1] || out.bias[2] ? kBiasColumns : 0;
  const int64_t pitch = g.depth + ranks.pitch + ones;
  const Scratch a_memory(ranks.pitch * g.depth * 2), x_memory(g.tokens * pitch * 2);
  const Scratch w_memory(g.outputs() * pitch * 2);
  uint16_t* const x = x_memory.as<uint16_t>();
  Copies copies;
  copies.add_a(g, a_memory.as<uint16_t>(), false);
  uint16_t* w[kMostBranches] = {};
  uint16_t* next = w_memory.as<uint16_t>();
  for (int i = 0; i < ranks.count; i++) {
    const int64_t n = g.outputs(i);
    w[i] = next, next += n * pitch;
    uint16_t* const tail = w[i] + g.depth;
    copies.add(pointer(g.w[i]), n, g.depth, g.depth, w[i], n, g.depth, pitch);
    // Zeros against the other linears' ranks.
    if (ranks.at[i] > 0) copies.add({}, 0, 0, 0, tail, n, ranks.at[i], pitch);
    const int64_t behind = ranks.at[i] + ranks.width(i);
    if (behind < ranks.pitch) copies.add({}, 0, 0, 0, tail + behind, n, ranks.pitch - behind, pitch);
    if (ranks.rank[i] > 0) {
      const int rank = ranks.rank[i];
      copies.add(pointer(g.b[i]), n, rank, rank, tail + ranks.at[i], n, ranks.width(i), pitch, g.scale[i]);
    }
    if (ones) copies.add(pointer(out.bias[i]), out.bias[i] ? n : 0, 1, 1, tail + ranks.pitch, n, ones, pitch);
  }
  copies.run();
  make_h(g, a_memory.as<uint16_t>(), h, x + g.depth, pitch, x, ones);
  for (int i = 0; i < ranks.count; i++) {
    const Term term = {x, w[i], pitch, pitch, pitch};
    multiply_terms(*out.y[i], &term, 1, true, nullptr, 0.0f);
  }
}

/// y_i = bias + h·sB_iᵀ, then y_i += x·w_iᵀ; the own kernel sums both at once.
void forward_accumulated(const LoraGroup& g, const LoraOutputs& out, Out h) {
  const RankLayout& ranks = g.ranks;
  const Scratch a_memory(ranks.pitch * g.depth * 2), h_memory(g.tokens * ranks.pitch * 2);
  uint16_t* const half = h_memory.as<uint16_t>();
  Copies copies;
  copies.add_a(g, a_memory.as<uint16_t>(), false);
  const ScaledB b(copies, g);
  copies.run();
  if (ranks.pitch > 0) make_h(g, a_memory.as<uint16_t>(), h, half, ranks.pitch, nullptr, 0);
  const bool one_by_one = uses_cublaslt();
  BranchArguments branch = {};
  branch.thin = half, branch.tokens = g.tokens, branch.thin_pitch = ranks.pitch;
  for (int i = 0; one_by_one && i < ranks.count; i++) {
    if (!out.bias[i] && ranks.rank[i] == 0) continue;
    branch.problems[branch.count++] = {Ref(*out.y[i]), pointer(out.bias[i]), b.at[i], g.outputs(i), ranks.width(i),
                                       ranks.at[i],    0,                    wide_rows(*out.y[i])};
  }
  if (branch.count > 0) branch_product(branch);
  for (int i = 0; i < ranks.count; i++) {
    const Term terms[2] = {{halves(g.x), g.w[i]->data, g.depth, g.depth, g.depth},
                           {half + ranks.at[i], b.at[i], ranks.width(i), ranks.pitch, ranks.width(i)}};
    if (one_by_one) {
      multiply_terms(*out.y[i], terms, 1, true, nullptr, out.bias[i] || ranks.rank[i] > 0 ? 1.0f : 0.0f);
    } else {
      multiply_terms(*out.y[i], terms, ranks.rank[i] > 0 ? 2 : 1, true, out.bias[i], 0.0f);
    }
  }
}

void loraLinearForward(Out y0, OptionalOut y1, OptionalOut y2, Out h, In x, OptionalIn dropped, In w0, OptionalIn w1,
                       OptionalIn w2, OptionalIn bias0, OptionalIn bias1, OptionalIn bias2, In a, OptionalIn b0,
                       OptionalIn b1, OptionalIn b2, float scale0, float scale1, float scale2) {
  const LoraGroup g = lora_group(x, dropped, w0, w1, w2, a, b0, b1, b2, scale0, scale1, scale2);
  const LoraOutputs out = {{&y0, y1, y2}, {bias0, bias1, bias2}};
  if (!in_halves(g)) return lora_forward_plain(g, out, h);
  const int64_t outputs = g.outputs();
  const bool fewer = 2 * g.tokens * g.depth + 4 * outputs * g.depth < 4 * g.tokens * outputs;
  bool in_bf16 = !dropped && g.ranks.pitch > 0 && wide_rows(x);
  for (int i = 0; i < g.ranks.count; i++) in_bf16 &= is_half(out.bias[i]);
  if (uses_cublaslt() && in_bf16 && fewer) forward_extended(g, out, h);
  else forward_accumulated(g, out, h);
}

}  // namespace

void add_lora_linear(Ops& t) { t.loraLinearForward = loraLinearForward; }

}  // namespace lathe::cuda
