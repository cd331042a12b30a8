// attentionBackward on CUDA: delta, then dq, then dk and dv.
#include "attention_generic.h"
#include "attention_gradient.h"
#include "attention_launch.h"
#include "parts.h"

namespace lathe::cuda {
namespace {

template <int kD>
void launch_tiled(const BackwardArguments& a, float* delta, In out, In dout) {
  const int64_t chunks = static_cast<int64_t>(a.rows) * a.query_heads * (kD / 8);
  launch("attentionBackward delta", attention_delta_kernel<kD>, dim3(static_cast<unsigned>(ceil_div(chunks, 256))),
         dim3(256), 0, delta, halves(out), halves(dout), a.rows, a.query_heads);
  const auto grid = [&](int tile_rows, int heads) {
    return dim3(static_cast<unsigned>(slot_count(a.rows, a.sequences.count, tile_rows)) * heads);
  };
  launch("attentionBackward dq", attention_dq_kernel<kD>, grid(QueryGradientTile<kD>::kQueries, a.query_heads),
         dim3(kAttentionThreads), QueryGradientTile<kD>::kSharedBytes, a);
  launch("attentionBackward dk, dv", attention_dkdv_kernel<kD>, grid(KeyGradientTile<kD>::kKeys, a.key_heads),
         dim3(kAttentionThreads), KeyGradientTile<kD>::kSharedBytes, a);
}

void attentionBackward(Out dq, Out dk, Out dv, In dout, In out, In lse, In q, In k, In v, In cu_seqlens,
                       int64_t head_dim, float scale, int64_t window) {
  const int rows = static_cast<int>(q.dims[0]);
  if (rows == 0) return;
  const int query_heads = static_cast<int>(q.dims[1] / head_dim), key_heads = static_cast<int>(k.dims[1] / head_dim);
  const Scratch delta(static_cast<int64_t>(rows) * query_heads * 4);
  if (tiled(head_dim, scale, dq, dk, dv, dout, out, q, k, v)) {
    const BackwardArguments a = {halves(q), halves(k), halves(v), halves(dout), f32_data(lse), delta.as<float>(),
                                 writable_halves(dq), writable_halves(dk), writable_halves(dv),
                                 packed_sequences(cu_seqlens), rows, query_heads, key_heads, window_of(window), scale};
    if (head_dim == 64) launch_tiled<64>(a, delta.as<float>(), out, dout);
    else launch_tiled<128>(a, delta.as<float>(), out, dout);
    return;
  }
  GenericArguments a = {};
  a.q = float_pointer(q), a.k = float_pointer(k), a.v = float_pointer(v), a.out = float_pointer(out);
  a.dout = float_pointer(dout), a.dq = float_pointer(dq), a.dk = float_pointer(dk), a.dv = float_pointer(dv);
  a.lse = f32_data(lse), a.delta = delta.as<float>(), a.sequences = packed_sequences(cu_seqlens);
  a.rows = rows, a.query_heads = query_heads, a.key_heads = key_heads, a.d = static_cast<int>(head_dim);
  a.window = window_of(window), a.scale = scale;
  const bool narrow = head_dim <= 128;
  const dim3 queries(generic_blocks(rows, query_heads)), keys(generic_blocks(rows, key_heads));
  launch("attentionBackward delta", narrow ? attention_delta_generic<4> : attention_delta_generic<16>, queries,
         dim3(128), 0, a);
  launch("attentionBackward dq", narrow ? attention_dq_generic<4> : attention_dq_generic<16>, queries,
         dim3(128), 0, a);
  launch("attentionBackward dk, dv", narrow ? attention_dkdv_generic<4> : attention_dkdv_generic<16>, keys,
         dim3(128), 0, a);
}

}  // namespace

void add_attention_backward(Ops& t) { t.attentionBackward = attentionBackward; }

}  // namespace lathe::cuda
