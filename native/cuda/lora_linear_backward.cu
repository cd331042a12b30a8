// loraLinearBackward in bf16; other types: lora_plain.cu. dx = beta·dx + Σ dy_i·w_i + dh·A, as in lora_linear.cu: the
// own kernel sums all terms at once; with cuBLASLt (n linears) what moves fewer bytes:
// copies        [dy…|dh]·[W…; A]: 2TN (dy is copied while dh is made of it) + 4NK, one product, one rounding;
// accumulation  dx (+)= dh·A first, then dx += dy_i·W_i: 4nTK, dx rounded to its type after each.
// Qwen3-4B, T = 8,192, MB, copies against accumulation: q,k,v 164, 252; gate,up 518, 168; o 84, 134; down 142, 319.
#include "gemm.h"
#include "lora_products.h"
#include "parts.h"

namespace lathe::cuda {
namespace {

/// Where rows [dy_0|…|dh] lie when they are copied, else dh alone in rows of the ranks' pitch.
struct Slopes {
  uint16_t* rows;
  uint16_t* dh;
  int64_t pitch;
};

/// dh of all linears; dy copied on the way where there is room for it.
void make_dh(const LoraGroup& g, const LoraGradients& d, const ScaledB& b, const Slopes& to) {
  RowsArguments rows = {};
  rows.tokens = g.tokens;
  int64_t column = 0;
  for (int i = 0; i < g.ranks.count; i++) {
    const int64_t n = g.outputs(i);
    if (g.ranks.rank[i] > 0) {
      rows.problems[rows.count++] = {halves(*d.dy[i]), b.at[i], to.rows ? to.rows + column : nullptr, to.pitch, n, 0,
                                     g.ranks.width(i), g.ranks.at[i], 0, wide_rows(*d.dy[i])};
    }
    column += n;
  }
  rows_product(rows, g.ranks, false, to.dh, to.pitch, nullptr, 0);
}

void parameter_gradients(const LoraGroup& g, const LoraGradients& d, const uint16_t* h, const Slopes& slopes) {
  GradientArguments sums = {};
  GradientTargets targets = {};
  sums.tokens = g.tokens;
  for (int i = 0; i < g.ranks.count; i++) {
    if (g.ranks.rank[i] == 0 || !d.db[i]) continue;
    targets.targets[sums.count] = {pointer(d.db[i]), nullptr, 0, 0, g.ranks.rank[i], g.scale[i], false};
    sums.problems[sums.count++] = {halves(*d.dy[i]), h + g.ranks.at[i], nullptr, g.outputs(i), g.ranks.pitch,
                                   g.ranks.width(i), 0, wide_rows(*d.dy[i]), false};
  }
  if (sums.count > 0) gradient_sums(sums, targets, g.ranks);
  sums.count = 1;
  targets.targets[0] = {pointer(d.da), nullptr, 0, 0, g.ranks.total, 1.0f, true};
  sums.problems[0] = {halves(g.xa), slopes.dh, nullptr, g.depth, slopes.pitch, g.ranks.pitch, 0, wide_rows(g.xa), true};
  gradient_sums(sums, targets, g.ranks);
}

/// thin·A, thin = dh: out = beta·out + dh·A.
void through_a(const LoraGroup& g, const Slopes& slopes, const uint16_t* a_transposed, Out out, float beta) {
  BranchArguments branch = {};
  branch.count = 1, branch.tokens = g.tokens, branch.beta = beta;
  branch.thin = slopes.dh, branch.thin_pitch = slopes.pitch;
  branch.problems[0] = {Ref(out), {}, a_transposed, g.depth, g.ranks.pitch, 0, 0, wide_rows(out)};
  branch_product(branch);
}

/// dx by terms; `a` [pitch, K] is the last one where the own kernel takes them together.
void through_weights(const LoraGroup& g, const LoraGradients& d, const Slopes& slopes, const uint16_t* a, float beta) {
  Term terms[kMostBranches + 1];
  int count = 0;
  for (int i = 0; i < g.ranks.count; i++) {
    terms[count++] = {d.dy[i]->data, g.w[i]->data, g.outputs(i), g.outputs(i), g.depth};
  }
  if (a) terms[count++] = {slopes.dh, a, g.ranks.pitch, slopes.pitch, g.depth};
  multiply_terms(*d.dx, terms, count, false, nullptr, beta);
}

/// dx = beta·dx + [dy_0|…|dh]·[w_0; …; A] on copies.
void backward_extended(const LoraGroup& g, const LoraGradients& d) {
  const RankLayout& ranks = g.ranks;
  const int64_t outputs = g.outputs(), pitch = outputs + ranks.pitch;
  const Scratch w_memory(pitch * g.depth * 2), dy_memory(g.tokens * pitch * 2);
  const Scratch h_memory(g.tokens * ranks.pitch * 2);
  uint16_t* const w = w_memory.as<uint16_t>();
  const Slopes slopes = {dy_memory.as<uint16_t>(), dy_memory.as<uint16_t>() + outputs, pitch};
  Copies copies;
  const ScaledB b(copies, g);
  copies.add_a(g, w + outputs * g.depth, false);
  int64_t row = 0;
  for (int i = 0; i < ranks.count; i++) {
    copies.add({f32_data(*d.h) + ranks.first[i], false}, g.tokens, ranks.rank[i], ranks.total,
               h_memory.as<uint16_t>() + ranks.at[i], g.tokens, ranks.width(i), ranks.pitch);
    copies.add(pointer(g.w[i]), g.outputs(i), g.depth, g.depth, w + row * g.depth, g.outputs(i), g.depth, g.depth);
    row += g.outputs(i);
  }
  copies.run();
  make_dh(g, d, b, slopes);
  parameter_gradients(g, d, h_memory.as<uint16_t>(), slopes);
  const Term term = {slopes.rows, w, pitch, pitch, g.depth};
  multiply_terms(*d.dx, &term, 1, false, nullptr, d.beta);
}

void backward_accumulated(const LoraGroup& g, const LoraGradients& d) {
  const RankLayout& ranks = g.ranks;
  const Scratch a_memory(ranks.pitch * g.depth * 2), dh_memory(g.tokens * ranks.pitch * 2);
  const Scratch h_memory(g.tokens * ranks.pitch * 2);
  uint16_t* const a = a_memory.as<uint16_t>();
  const Slopes slopes = {nullptr, dh_memory.as<uint16_t>(), ranks.pitch};
  // Rows for the own kernel's last term, columns for the pass of their own.
  const bool into_dx = d.dx && !d.masked, as_term = into_dx && !uses_cublaslt();
  const bool alone = (into_dx && !as_term) || d.ddropped;
  Copies copies;
  const ScaledB b(copies, g);
  if (as_term || alone) copies.add_a(g, a, alone);
  for (int i = 0; i < ranks.count; i++) {
    copies.add({f32_data(*d.h) + ranks.first[i], false}, g.tokens, ranks.rank[i], ranks.total,
               h_memory.as<uint16_t>() + ranks.at[i], g.tokens, ranks.width(i), ranks.pitch);
  }
  copies.run();
  make_dh(g, d, b, slopes);
  parameter_gradients(g, d, h_memory.as<uint16_t>(), slopes);
  if (d.ddropped) through_a(g, slopes, a, *d.ddropped, 0.0f);
  else if (alone) through_a(g, slopes, a, *d.dx, d.beta);
  if (d.dx) through_weights(g, d, slopes, as_term ? a : nullptr, into_dx && alone ? 1.0f : d.beta);
}

void loraLinearBackward(OptionalOut dx, OptionalOut ddropped, Out da, OptionalOut db0, OptionalOut db1, OptionalOut db2,
                        In dy0, OptionalIn dy1, OptionalIn dy2, In x, OptionalIn dropped, In h, In w0, OptionalIn w1,
                        OptionalIn w2, In a, OptionalIn b0, OptionalIn b1, OptionalIn b2, float scale0, float scale1,
                        float scale2, float beta) {
  const LoraGroup g = lora_group(x, dropped, w0, w1, w2, a, b0, b1, b2, scale0, scale1, scale2);
  const LoraGradients d = {dx, ddropped, dropped != nullptr, &da, {db0, db1, db2}, {&dy0, dy1, dy2}, &h, beta};
  bool in_bf16 = in_halves(g), whole = wide_rows(x);
  bool every = true;  // linear has a branch: only then does making dh pass over all of dy
  for (int i = 0; i < g.ranks.count; i++) {
    in_bf16 &= is_half(d.dy[i]);
    whole &= wide_rows(*d.dy[i]);
    every &= g.ranks.rank[i] > 0;
  }
  if (!in_bf16) return lora_backward_plain(g, d);
  const int64_t outputs = g.outputs(), linears = g.ranks.count;
  const bool fewer = 2 * g.tokens * outputs + 4 * outputs * g.depth < 4 * linears * g.tokens * g.depth;
  if (uses_cublaslt() && dx && !dropped && whole && every && fewer) backward_extended(g, d);
  else backward_accumulated(g, d);
}

}  // namespace

void add_lora_linear_backward(Ops& t) { t.loraLinearBackward = loraLinearBackward; }

}  // namespace lathe::cuda
