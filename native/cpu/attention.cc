// Attention forward, for packed sequences and for a paged cache: online softmax over key blocks. Which kernels compute it is
// a matter of the instruction set and of the types of keys and values alone.
#include "attention_narrow.h"
#include "attention_tile_tasks.h"
#include "ops_parts.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kPanelsPerTask = 8;  // lanes that share one packing of the keys

/// Turns scores [keys, 32] into weights e^(s−max), rescaling sum and output to the new maximum.
void online_softmax(float* scores, PanelState& state, float* output, int64_t first_key, int64_t keys,
                    const Lanes& lanes) {
  const AttentionShape& a = lanes.shape;
  const bool partly = first_key + keys - 1 > lanes.position(0) || first_key < a.first_key(lanes.last_position());
  alignas(64) float correction[kPanel];
  bool rescale = false;
  for (int v = 0; v < kVectorsPerPanel; v++) {
    const VF old = vload(state.maximum + v * W);
    const VI position = *reinterpret_cast<const VI*>(state.position + v * W);
    VF best = old;
    for (int64_t j = 0; j < keys; j++) {
      float* at = scores + j * kPanel + v * W;
      VF s = vload(at) * a.scale;
      if (partly) s = vselect(visible(position, first_key + j, a.window), s, vset(-__builtin_inff()));
      vstore(at, s);
      best = vmax(best, s);
    }
    // A lane that has seen no visible key yet keeps −inf: subtract 0 there, its weights are e^−inf = 0.
    const VF shift = vselect(best == vset(-__builtin_inff()), VF{}, best);
    const VF factor = vexp(old - shift);
    VF sum = vload(state.sum + v * W) * factor;
    for (int64_t j = 0; j < keys; j++) {
      float* at = scores + j * kPanel + v * W;
      const VF weight = vexp(vload(at) - shift);
      vstore(at, weight);
      sum += weight;
    }
    vstore(state.maximum + v * W, best);
    vstore(state.sum + v * W, sum);
    vstore(correction + v * W, factor);
  }
  for (int64_t i = 0; i < lanes.count; i++) rescale |= correction[i] != 1.0f;
  if (!rescale) return;
  for (int64_t i = 0; i < lanes.count; i++) {
    for (int64_t c = 0; c < a.padded_d; c += W) {
      float* at = output + i * a.padded_d + c;
      vstore(at, vload(at) * correction[i]);
    }
  }
}

/// Floats of scratch that one worker needs; heads: of a task of few lanes.
int64_t worker_floats(const AttentionShape& a, int64_t heads) {
  const int64_t wide = kPanelsPerTask * kPanel * (a.padded_d + a.d) + kKeyBlock * (2 * a.padded_d + a.d + kPanel) +
                       kPanel * a.padded_d;
  return max(wide, Narrow::floats(a, heads));
}

/// A few lanes of each of the key heads [first_head, end_head): see attention_narrow.h.
void attend_few(const Inputs& in, const Lanes& lanes, int64_t first_head, int64_t end_head, float* scratch) {
  const AttentionShape& a = lanes.shape;
  const int64_t heads = end_head - first_head;
  Narrow narrow(scratch, a, heads);
  for (int64_t h = 0; h < heads; h++) {
    each_lane(lanes, first_head + h, [&](int64_t i, int64_t offset, int64_t, int64_t) {
      load_row(narrow.queries + (h * kNarrowLanes + i) * a.padded_d, in.q.at(offset), 0, a);
    });
  }
  attend_narrow(narrow, in.k.at(first_head * a.d), in.v.at(first_head * a.d), lanes, heads);
  PanelState state = {};
  for (int64_t h = 0; h < heads; h++) {
    for (int64_t i = 0; i < kNarrowLanes; i++) {
      state.maximum[i] = narrow.maximum[h * kNarrowLanes + i];
      state.sum[i] = narrow.sum[h * kNarrowLanes + i];
    }
    write_panel(in, state, narrow.outputs + h * kNarrowLanes * a.padded_d, lanes, first_head + h);
  }
}

/// All lanes [first, first + count) of one sequence and key head; count ≤ 8 panels.
void attend(const Inputs& in, const AttentionShape& a, const Sequence& s, int64_t key_head, int64_t first,
            int64_t count, float* scratch) {
  const int64_t panels = (count + kPanel - 1) / kPanel;
  float* output = scratch;
  float* queries = output + kPanelsPerTask * kPanel * a.padded_d;
  float* keys = queries + kPanelsPerTask * kPanel * a.d;
  float* keys_t = keys + kKeyBlock * a.padded_d;
  float* values = keys_t + kKeyBlock * a.d;
  float* scores = values + kKeyBlock * a.padded_d;
  float* rows = scores + kKeyBlock * kPanel;
  PanelState state[kPanelsPerTask];
  const auto lanes_of = [&](int64_t p) {
    return Lanes{s, a, first + p * kPanel, min(kPanel, count - p * kPanel)};
  };
  for (int64_t p = 0; p < panels; p++) {
    const Lanes lanes = lanes_of(p);
    load_lanes(rows, in.q, lanes, key_head);
    transpose_rows(queries + p * kPanel * a.d, rows, kPanel, kPanel, a);
    lane_positions(state[p].position, lanes);
    for (int64_t i = 0; i < kPanel; i++) {
      state[p].maximum[i] = -__builtin_inff();
      state[p].sum[i] = 0;
    }
  }
  __builtin_memset(output, 0, panels * kPanel * a.padded_d * 4);
  const int64_t end = lanes_of(panels - 1).last_position() + 1;
  for (int64_t b = a.first_key(lanes_of(0).position(0)) / kKeyBlock * kKeyBlock; b < end; b += kKeyBlock) {
    const int64_t block_keys = min(kKeyBlock, end - b);
    load_keys(keys, in.k, s, a, key_head, b, block_keys);
    load_keys(values, in.v, s, a, key_head, b, block_keys);
    transpose_rows(keys_t, keys, block_keys, kKeyBlock, a);
    for (int64_t p = 0; p < panels; p++) {
      const Lanes lanes = lanes_of(p);
      const int64_t visible_keys = min(block_keys, lanes.last_position() + 1 - b);
      if (visible_keys <= 0 || b + block_keys <= a.first_key(lanes.position(0))) continue;
      float* out = output + p * kPanel * a.padded_d;
      score_tile(scores, keys_t, queries + p * kPanel * a.d, visible_keys, a.d);
      online_softmax(scores, state[p], out, b, visible_keys, lanes);
      accumulate_rows<1>(out, scores, values, lanes.count, visible_keys, a.padded_d);
    }
  }
  for (int64_t p = 0; p < panels; p++) {
    write_panel(in, state[p], output + p * kPanel * a.padded_d, lanes_of(p), key_head);
  }
}

/// The same work on tiles, where the instruction set has them and keys and values are of bf16.
#if defined(__AMX_BF16__)
constexpr bool kTiles = true;

int64_t tile_worker_floats(const Inputs& in, const AttentionShape& a, int64_t heads) {
  const TileShape t(a, in);
  return max(TileRoom::bytes(t, 1, kPanelsPerTask), TileRoom::bytes(t, heads, heads)) / 4;
}

void attend_few_on_tiles(const Inputs& in, const Lanes& lanes, int64_t first_head, int64_t end_head, float* scratch) {
  const TileShape t(lanes.shape, in);
  const int64_t heads = end_head - first_head;
  const TileScope tiles;
  PanelState state[kNarrowHeads];
  attend_tiles_few(in, lanes, first_head, end_head, TileRoom(reinterpret_cast<char*>(scratch), t, heads, heads), state);
}

void attend_on_tiles(const Inputs& in, const AttentionShape& a, const Sequence& s, int64_t key_head, int64_t first,
                     int64_t count, float* scratch) {
  const TileShape t(a, in);
  const TileScope tiles;
  PanelState state[kPanelsPerTask];
  const TileRoom room(reinterpret_cast<char*>(scratch), t, 1, kPanelsPerTask);
  attend_tiles(in, a, s, key_head, first, count, room, state);
}
#else
constexpr bool kTiles = false;
int64_t tile_worker_floats(const Inputs&, const AttentionShape&, int64_t) { return 0; }
constexpr auto attend_few_on_tiles = attend_few;
constexpr auto attend_on_tiles = attend;
#endif

/// Splits sequences into tasks of up to eight panels of a key head, or of a few lanes of several, and runs them.
template <class SequenceAt>
void run(const Inputs& in, const AttentionShape& a, int64_t sequences, const SequenceAt& sequence_at) {
  constexpr int64_t lanes_per_task = kPanelsPerTask * kPanel;
  const Scratch starts((sequences + 1) * 8);  // first task of each sequence
  auto* start = reinterpret_cast<int64_t*>(starts.bytes());
  const auto is_narrow = [&](int64_t lanes) { return lanes > 0 && lanes <= kNarrowLanes && in.k.half == in.v.half; };
  const int64_t heads = narrow_heads(a, in.k.half, sequences);
  start[0] = 0;
  for (int64_t s = 0; s < sequences; s++) {
    const int64_t lanes = sequence_at(s).queries * a.group;
    start[s + 1] = start[s] + (is_narrow(lanes) ? (a.key_heads + heads - 1) / heads
                                                : (lanes + lanes_per_task - 1) / lanes_per_task * a.key_heads);
  }
  const bool tiles = kTiles && in.k.half && in.v.half;
  const int64_t floats = round_up(tiles ? tile_worker_floats(in, a, heads) : worker_floats(a, heads), 64);
  const Scratch scratch(floats * 4 * thread_count());
  parallel_tasks(start[sequences], [&](int64_t task, int worker) {
    int64_t low = 0, high = sequences - 1;  // the sequence with start[s] ≤ task < start[s+1]
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (start[middle] <= task) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    const Sequence s = sequence_at(low);
    const int64_t index = task - start[low], lanes = s.queries * a.group;
    float* room = scratch.floats() + worker * floats;
    if (is_narrow(lanes)) {
      (tiles ? attend_few_on_tiles : attend_few)(in, Lanes{s, a, 0, lanes}, index * heads,
                                                 min(a.key_heads, (index + 1) * heads), room);
      return;
    }
    const int64_t first = index / a.key_heads * lanes_per_task;
    (tiles ? attend_on_tiles : attend)(in, a, s, index % a.key_heads, first, min(lanes_per_task, lanes - first), room);
  });
}

void attentionForward(Out out, Out lse, In q, In k, In v, In cu_seqlens, int64_t head_dim, float scale,
                      int64_t window) {
  const AttentionShape shape(q, k, head_dim, scale, window);
  const int32_t* offsets = i32_data(cu_seqlens);
  run({out, q, k, v, f32_data(lse), q.dims[0]}, shape, cu_seqlens.dims[0] - 1, [&](int64_t s) {
    const int64_t length = offsets[s + 1] - offsets[s];
    return Sequence{offsets[s], length, length, nullptr, 0};
  });
}

void pagedAttentionForward(Out out, In q, In k_cache, In v_cache, In block_tables, In cu_seqlens_q, In context_lens,
                           int64_t block_size, int64_t head_dim, float scale, int64_t window) {
  const AttentionShape shape(q, k_cache, head_dim, scale, window);
  const int32_t* offsets = i32_data(cu_seqlens_q);
  run({out, q, k_cache, v_cache, nullptr, q.dims[0]}, shape, cu_seqlens_q.dims[0] - 1, [&](int64_t s) {
    return Sequence{offsets[s], offsets[s + 1] - offsets[s], i32_data(context_lens)[s],
                    i32_data(block_tables) + s * block_tables.dims[1], block_size};
  });
}

}  // namespace

void add_attention(Ops& t) {
  t.attentionForward = attentionForward;
  t.pagedAttentionForward = pagedAttentionForward;
}

}  // namespace lathe::LATHE_ISA
