// pagedAttentionForward on CUDA. The host relies on nothing but the totals: sequences with one new token go through the
// decode kernel (a block row per sequence), those with more through the tiled one, and each kernel passes over what is
// not its own. As many rows as sequences: all of it is decoding, row by row (for any number of new tokens, only slowly).
#include "attention_decode.h"
#include "attention_forward.h"
#include "attention_generic.h"
#include "attention_launch.h"
#include "../core/host_copy.h"
#include "parts.h"

namespace lathe::cuda {
namespace {

/// Whether any sequence has exactly one new token; true where the host cannot say.
bool may_decode(In cu_seqlens_q) {
  const int64_t count = cu_seqlens_q.dims[0];
  const char* copy = cu_seqlens_q.host && !capturing() ? cu_seqlens_q.host->find(cu_seqlens_q.data, count * 4) : nullptr;
  if (!copy) return true;
  const auto* offsets = reinterpret_cast<const int32_t*>(copy);
  for (int64_t s = 0; s + 1 < count; s++) {
    if (offsets[s + 1] - offsets[s] == 1) return true;
  }
  return false;
}

template <int kD>
void launch_tiled(const ForwardArguments& a) {
  const int slots = slot_count(a.rows, a.sequences.count, ForwardTile<kD>::kQueries);
  launch("pagedAttentionForward", attention_forward_kernel<kD>, dim3(static_cast<unsigned>(slots) * a.query_heads),
         dim3(kAttentionThreads), ForwardTile<kD>::kSharedBytes, a);
}

template <int kD>
void launch_decode(DecodeArguments a, int64_t most_keys) {
  const int splits = most_splits(static_cast<int>(ceil_div(most_keys, kDecodeKeys)));
  const unsigned depth = a.by_sequence ? a.sequences.count : a.rows;
  const int64_t entries = static_cast<int64_t>(depth) * a.query_heads;
  const Scratch partial(splits > 1 ? entries * splits * (kD + 2) * 4 : 4);
  a.partial = partial.as<float>();
  const unsigned heads = a.key_heads * div_up(a.query_heads / a.key_heads, 16);
  launch("pagedAttentionForward decode", attention_decode_kernel<kD>, dim3(splits, heads, depth),
         dim3(kAttentionThreads), DecodeTile<kD>::kSharedBytes, a);
}

void pagedAttentionForward(Out out, In q, In k_cache, In v_cache, In block_tables, In cu_seqlens_q, In context_lens,
                           int64_t block_size, int64_t head_dim, float scale, int64_t window) {
  const int rows = static_cast<int>(q.dims[0]);
  if (rows == 0) return;
  const int query_heads = static_cast<int>(q.dims[1] / head_dim);
  const int key_heads = static_cast<int>(k_cache.dims[1] / head_dim);
  const SequenceSet sequences = {i32_data(cu_seqlens_q), static_cast<int>(context_lens.dims[0]), i32_data(block_tables),
                                 i32_data(context_lens), static_cast<int>(block_tables.dims[1]),
                                 static_cast<int>(block_size)};
  if (!tiled(head_dim, scale, q, k_cache, v_cache, out)) {
    GenericArguments a = {};
    a.q = float_pointer(q), a.k = float_pointer(k_cache), a.v = float_pointer(v_cache), a.out = float_pointer(out);
    a.sequences = sequences, a.rows = rows, a.query_heads = query_heads, a.key_heads = key_heads;
    a.d = static_cast<int>(head_dim), a.window = window_of(window), a.scale = scale;
    const bool narrow = head_dim <= 128;
    launch("pagedAttentionForward", narrow ? attention_forward_generic<4> : attention_forward_generic<16>,
           dim3(generic_blocks(rows, query_heads)), dim3(128), 0, a);
    return;
  }
  const bool only_decode = rows <= sequences.count;
  const int64_t depth = only_decode ? rows : sequences.count;
  const int64_t tickets = depth * key_heads * div_up(query_heads / key_heads, 16);
  const bool decode = tickets <= kTickets && depth <= 65535;
  if (decode && (only_decode || may_decode(cu_seqlens_q))) {
    const DecodeArguments a = {halves(q), halves(k_cache), halves(v_cache), writable_halves(out), sequences, rows,
                               query_heads, key_heads, window_of(window), scale * kLog2E,
                               !only_decode, nullptr};
    const int64_t most_keys = static_cast<int64_t>(sequences.max_blocks) * block_size;
    if (head_dim == 64) launch_decode<64>(a, most_keys);
    else launch_decode<128>(a, most_keys);
    if (only_decode) return;
  }
  const ForwardArguments a = {halves(q), halves(k_cache), halves(v_cache), writable_halves(out), nullptr, sequences,
                              rows, query_heads, key_heads, window_of(window), scale * kLog2E, decode ? 2 : 0};
  if (head_dim == 64) launch_tiled<64>(a);
  else launch_tiled<128>(a);
}

}  // namespace

void add_paged_attention(Ops& t) { t.pagedAttentionForward = pagedAttentionForward; }

}  // namespace lathe::cuda
