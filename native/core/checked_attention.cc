// Argument checks of the attention ops; each then runs the device's entry.
#include "check.h"
#include "checked.h"
#include "dispatch.h"

namespace lathe {
namespace {

constexpr int64_t kMaxHeadDim = 512;

/// q [T,Hq·D] and the widths of k and v; Hq a multiple of Hkv.
void expect_heads(In q, In k, const char* k_name, int64_t head_dim, int64_t window) {
  expect_that(head_dim >= 1 && head_dim <= kMaxHeadDim, "headDim", "must be in [1,512]");
  expect(q, "q", kFloat, {kAnySize, kAnySize});
  expect(k, k_name, kFloat, {kAnySize, kAnySize});
  expect_that(q.dims[1] > 0 && q.dims[1] % head_dim == 0, "q", "columns must be a multiple of headDim");
  expect_that(k.dims[1] > 0 && k.dims[1] % head_dim == 0, k_name, "columns must be a multiple of headDim");
  expect_that(q.dims[1] % k.dims[1] == 0, k_name, "query heads must be a multiple of key heads");
  expect_that(window >= 0, "window", "must not be negative");
}

void attentionForward(Out out, Out lse, In q, In k, In v, In cu_seqlens, int64_t head_dim, float scale,
                      int64_t window) {
  expect_heads(q, k, "k", head_dim, window);
  const int64_t tokens = q.dims[0];
  expect(k, "k", kFloat, {tokens, k.dims[1]});
  expect(v, "v", kFloat, {tokens, k.dims[1]});
  expect_offsets(cu_seqlens, "cuSeqlens", tokens);
  expect_out(out, "out", kFloat, {tokens, q.dims[1]});
  expect_out(lse, "lse", kF32, {q.dims[1] / head_dim, tokens});
  for (const Tensor* in : {&q, &k, &v}) expect_disjoint(out, "out", *in, "q, k or v");
  expect_disjoint(out, "out", lse, "lse");
  ops_for(out.device).attentionForward(out, lse, q, k, v, cu_seqlens, head_dim, scale, window);
}

void attentionBackward(Out dq, Out dk, Out dv, In dout, In out, In lse, In q, In k, In v, In cu_seqlens,
                       int64_t head_dim, float scale, int64_t window) {
  expect_heads(q, k, "k", head_dim, window);
  const int64_t tokens = q.dims[0], q_width = q.dims[1], k_width = k.dims[1];
  expect(k, "k", kFloat, {tokens, k_width});
  expect(v, "v", kFloat, {tokens, k_width});
  expect(dout, "dout", kFloat, {tokens, q_width});
  expect(out, "out", kFloat, {tokens, q_width});
  expect(lse, "lse", kF32, {q_width / head_dim, tokens});
  expect_offsets(cu_seqlens, "cuSeqlens", tokens);
  expect_out(dq, "dq", kFloat, {tokens, q_width});
  expect_out(dk, "dk", kFloat, {tokens, k_width});
  expect_out(dv, "dv", kFloat, {tokens, k_width});
  const struct {
    In tensor;
    const char* name;
  } outs[] = {{dq, "dq"}, {dk, "dk"}, {dv, "dv"}};
  for (const auto& o : outs) {
    for (const Tensor* in : {&dout, &out, &lse, &q, &k, &v}) expect_disjoint(o.tensor, o.name, *in, "an input");
  }
  expect_disjoint(dq, "dq", dk, "dk");
  expect_disjoint(dq, "dq", dv, "dv");
  expect_disjoint(dk, "dk", dv, "dv");
  ops_for(dq.device).attentionBackward(dq, dk, dv, dout, out, lse, q, k, v, cu_seqlens, head_dim, scale, window);
}

void kvWrite(Out k_cache, Out v_cache, In k, In v, In slots) {
  expect(k, "k", kFloat, {kAnySize, kAnySize});
  expect(v, "v", kFloat, {k.dims[0], k.dims[1]});
  expect_out(k_cache, "kCache", kFloat, {kAnySize, k.dims[1]});
  expect_out(v_cache, "vCache", kFloat, {k_cache.dims[0], k.dims[1]});
  expect(slots, "slots", kI32, {k.dims[0]});
  expect_distinct(slots, "slots", k_cache.dims[0]);
  expect_disjoint(k_cache, "kCache", v_cache, "vCache");
  for (const Tensor* in : {&k, &v}) {
    expect_disjoint(k_cache, "kCache", *in, "k or v");
    expect_disjoint(v_cache, "vCache", *in, "k or v");
  }
  ops_for(k_cache.device).kvWrite(k_cache, v_cache, k, v, slots);
}

void pagedAttentionForward(Out out, In q, In k_cache, In v_cache, In block_tables, In cu_seqlens_q,
                           In context_lens, int64_t block_size, int64_t head_dim, float scale, int64_t window) {
  expect_heads(q, k_cache, "kCache", head_dim, window);
  expect(v_cache, "vCache", kFloat, {k_cache.dims[0], k_cache.dims[1]});
  expect_offsets(cu_seqlens_q, "cuSeqlensQ", q.dims[0]);
  const int64_t sequences = cu_seqlens_q.dims[0] - 1;
  expect(context_lens, "contextLens", kI32, {sequences});
  expect(block_tables, "blockTables", kI32, {sequences, kAnySize});
  expect_that(block_size >= 1, "blockSize", "must be at least 1");
  const int64_t max_blocks = block_tables.dims[1], cache_blocks = k_cache.dims[0] / block_size;
  const IndexValues bounds(cu_seqlens_q), contexts(context_lens), tables(block_tables);
  const bool known = bounds.known() && contexts.known() && tables.known();
  for (int64_t s = 0; known && s < sequences; s++) {
    const int64_t context = contexts[s];
    const int64_t queries = bounds[s + 1] - bounds[s];
    const int64_t blocks = (context + block_size - 1) / block_size;
    expect_that(context >= queries, "contextLens", "must include the new tokens");
    expect_that(blocks <= max_blocks, "contextLens", "needs more blocks than blockTables has columns");
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t block = tables[s * max_blocks + b];
      expect_that(block >= 0 && block < cache_blocks, "blockTables", "names a block outside the cache");
    }
  }
  expect_out(out, "out", kFloat, {q.dims[0], q.dims[1]});
  for (const Tensor* in : {&q, &k_cache, &v_cache}) expect_disjoint(out, "out", *in, "q or the cache");
  ops_for(out.device).pagedAttentionForward(out, q, k_cache, v_cache, block_tables, cu_seqlens_q, context_lens,
                                            block_size, head_dim, scale, window);
}

}  // namespace

void add_checked_attention(Ops& t) {
  t.attentionForward = attentionForward;
  t.attentionBackward = attentionBackward;
  t.kvWrite = kvWrite;
  t.pagedAttentionForward = pagedAttentionForward;
}

}  // namespace lathe
