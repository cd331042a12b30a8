// attentionForward on CUDA: the tiled kernel where it fits, the generic one otherwise.
#include "attention_forward.h"
#include "attention_generic.h"
#include "attention_launch.h"
#include "parts.h"

namespace lathe::cuda {
namespace {

template <int kD>
void launch_tiled(const ForwardArguments& a) {
  const int slots = slot_count(a.rows, a.sequences.count, ForwardTile<kD>::kQueries);
  launch("attentionForward", attention_forward_kernel<kD>, dim3(static_cast<unsigned>(slots) * a.query_heads),
         dim3(kAttentionThreads), ForwardTile<kD>::kSharedBytes, a);
}

void attentionForward(Out out, Out lse, In q, In k, In v, In cu_seqlens, int64_t head_dim, float scale,
                      int64_t window) {
  const int rows = static_cast<int>(q.dims[0]);
  if (rows == 0) return;
  const int query_heads = static_cast<int>(q.dims[1] / head_dim), key_heads = static_cast<int>(k.dims[1] / head_dim);
  if (tiled(head_dim, scale, q, k, v, out)) {
    const ForwardArguments a = {halves(q), halves(k), halves(v), writable_halves(out), f32_data(lse),
                                packed_sequences(cu_seqlens), rows, query_heads, key_heads, window_of(window),
                                scale * kLog2E, 0};
    if (head_dim == 64) launch_tiled<64>(a);
    else launch_tiled<128>(a);
    return;
  }
  GenericArguments a = {};
  a.q = float_pointer(q), a.k = float_pointer(k), a.v = float_pointer(v), a.out = float_pointer(out);
  a.lse = f32_data(lse), a.sequences = packed_sequences(cu_seqlens);
  a.rows = rows, a.query_heads = query_heads, a.key_heads = key_heads, a.d = static_cast<int>(head_dim);
  a.window = window_of(window), a.scale = scale;
  const bool narrow = head_dim <= 128;
  launch("attentionForward", narrow ? attention_forward_generic<4> : attention_forward_generic<16>,
         dim3(generic_blocks(rows, query_heads)), dim3(128), 0, a);
}

}  // namespace

void add_attention(Ops& t) { t.attentionForward = attentionForward; }

}  // namespace lathe::cuda
