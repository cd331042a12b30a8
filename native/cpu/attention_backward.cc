// Attention backward: one task per sequence and key head owns dq, dk and dv of its rows, so every sum has one
// order and needs no atomics. Probabilities are computed again from the saved log-sum-exp.
#include "attention_block.h"
#include "ops_parts.h"

namespace lathe::LATHE_ISA {
namespace {

struct Gradients {
  FloatRef dq, dk, dv, dout, out, q, k, v;
  const float* lse;  // [Hq, rows]
  int64_t rows;
};

/// Scratch of one worker. Keys are held for the whole sequence (n keys rounded up to blocks), lanes for one panel.
struct Buffers {
  float *keys, *keys_t, *values_t, *dkeys, *dvalues;                     // [n, padded_d], or [d, 96] per block
  float *queries, *queries_t, *dout, *dout_t, *outputs, *dqueries;       // [32, padded_d] or [d, 32]
  float *weights, *dscores;                                              // [96, 32]

  static int64_t floats(const AttentionShape& a, int64_t n) {
    return n * (3 * a.padded_d + 2 * a.d) + kPanel * (4 * a.padded_d + 2 * a.d) + 2 * kKeyBlock * kPanel;
  }

  Buffers(float* at, const AttentionShape& a, int64_t n) {
    const auto take = [&at](int64_t count) {
      float* p = at;
      at += count;
      return p;
    };
    weights = take(kKeyBlock * kPanel);
    dscores = take(kKeyBlock * kPanel);
    queries = take(kPanel * a.padded_d);
    dout = take(kPanel * a.padded_d);
    outputs = take(kPanel * a.padded_d);
    dqueries = take(kPanel * a.padded_d);
    queries_t = take(kPanel * a.d);
    dout_t = take(kPanel * a.d);
    keys = take(n * a.padded_d);
    dkeys = take(n * a.padded_d);
    dvalues = take(n * a.padded_d);
    keys_t = take(n * a.d);
    values_t = take(n * a.d);
  }
};

/// Per lane of a panel.
struct LaneState {
  alignas(64) float delta[kPanel], lse[kPanel];
  alignas(64) int32_t position[kPanel];
};

/// Loads a panel's q, dout and out; δ = dout·out. A log-sum-exp of +inf makes the weights beyond the last lane 0.
void load_panel(const Gradients& g, const Buffers& b, const Lanes& lanes, int64_t key_head, LaneState& state) {
  const AttentionShape& a = lanes.shape;
  load_lanes(b.queries, g.q, lanes, key_head);
  load_lanes(b.dout, g.dout, lanes, key_head);
  load_lanes(b.outputs, g.out, lanes, key_head);
  transpose_rows(b.queries_t, b.queries, kPanel, kPanel, a);
  transpose_rows(b.dout_t, b.dout, kPanel, kPanel, a);
  lane_positions(state.position, lanes);
  for (int64_t i = 0; i < kPanel; i++) {
    VF sum = {};
    for (int64_t c = i * a.padded_d; c < (i + 1) * a.padded_d; c += W) {
      sum = fma(vload(b.dout + c), vload(b.outputs + c), sum);
    }
    state.delta[i] = vsum(sum);
    state.lse[i] = __builtin_inff();
  }
  each_lane(lanes, key_head, [&](int64_t i, int64_t, int64_t row, int64_t head) {
    state.lse[i] = g.lse[head * g.rows + row];
  });
  __builtin_memset(b.dqueries, 0, kPanel * a.padded_d * 4);
}

// Forward: p = softmax(scale·q·k), out = Σ p·v. With dp = dout·v: ds = p·(dp − δ)·scale.
// weights [keys, 32] holds q·k and becomes p; dscores holds dp and becomes ds; rows up to a whole tile become 0.
void score_gradients(const Buffers& b, const LaneState& state, const Lanes& lanes, int64_t first_key, int64_t keys) {
  const AttentionShape& a = lanes.shape;
  const bool partly = first_key + keys - 1 > lanes.position(0) || first_key < a.first_key(lanes.last_position());
  for (int v = 0; v < kPanel; v += W) {
    const VI position = *reinterpret_cast<const VI*>(state.position + v);
    const VF lse = vload(state.lse + v), delta = vload(state.delta + v);
    for (int64_t j = 0; j < keys; j++) {
      float* weight = b.weights + j * kPanel + v;
      float* dscore = b.dscores + j * kPanel + v;
      VF p = vexp(fma(vload(weight), vset(a.scale), -lse));
      if (partly) p = vselect(visible(position, first_key + j, a.window), p, VF{});
      vstore(weight, p);
      vstore(dscore, p * (vload(dscore) - delta) * a.scale);
    }
    for (int64_t j = keys; j < round_up(keys, kTileRows); j++) {
      vstore(b.weights + j * kPanel + v, VF{});
      vstore(b.dscores + j * kPanel + v, VF{});
    }
  }
}

/// One panel against the block of keys from first_key on.
void block_backward(const Buffers& b, const LaneState& state, const Lanes& lanes, int64_t first_key, int64_t keys) {
  const AttentionShape& a = lanes.shape;
  const int64_t at = first_key * a.padded_d;
  score_tile(b.weights, b.keys_t + first_key * a.d, b.queries_t, keys, a.d);
  score_tile(b.dscores, b.values_t + first_key * a.d, b.dout_t, keys, a.d);
  score_gradients(b, state, lanes, first_key, keys);
  // dv_j += Σ_i p_ij·dout_i, dk_j += Σ_i ds_ij·q_i, dq_i += Σ_j ds_ij·k_j.
  accumulate_rows<kPanel>(b.dvalues + at, b.weights, b.dout, keys, lanes.count, a.padded_d);
  accumulate_rows<kPanel>(b.dkeys + at, b.dscores, b.queries, keys, lanes.count, a.padded_d);
  accumulate_rows<1>(b.dqueries, b.dscores, b.keys + at, lanes.count, keys, a.padded_d);
}

void load_sequence(const Gradients& g, const AttentionShape& a, const Sequence& s, int64_t key_head,
                   const Buffers& b) {
  for (int64_t block = 0; block < s.keys; block += kKeyBlock) {
    const int64_t count = min(kKeyBlock, s.keys - block);
    float* rows = b.keys + block * a.padded_d;
    load_keys(rows, g.v, s, a, key_head, block, count);
    transpose_rows(b.values_t + block * a.d, rows, count, kKeyBlock, a);
    load_keys(rows, g.k, s, a, key_head, block, count);
    transpose_rows(b.keys_t + block * a.d, rows, count, kKeyBlock, a);
  }
  __builtin_memset(b.dkeys, 0, round_up(s.keys, kKeyBlock) * a.padded_d * 4);
  __builtin_memset(b.dvalues, 0, round_up(s.keys, kKeyBlock) * a.padded_d * 4);
}

void write_row(FloatRef to, const float* from, int64_t d) {
  each_vector(d, [&](int64_t c, int n) { store(to, c, vload(from + c), n); });
}

void sequence_backward(const Gradients& g, const AttentionShape& a, const Sequence& s, int64_t key_head,
                       const Buffers& b) {
  const int64_t lane_count = s.queries * a.group;
  load_sequence(g, a, s, key_head, b);
  for (int64_t first = 0; first < lane_count; first += kPanel) {
    const Lanes lanes = {s, a, first, min(kPanel, lane_count - first)};
    LaneState state;
    load_panel(g, b, lanes, key_head, state);
    const int64_t end = lanes.last_position() + 1;
    for (int64_t block = a.first_key(lanes.position(0)) / kKeyBlock * kKeyBlock; block < end; block += kKeyBlock) {
      block_backward(b, state, lanes, block, min(kKeyBlock, end - block));
    }
    each_lane(lanes, key_head, [&](int64_t i, int64_t offset, int64_t, int64_t) {
      write_row(g.dq.at(offset), b.dqueries + i * a.padded_d, a.d);
    });
  }
  for (int64_t j = 0; j < s.keys; j++) {
    const int64_t at = (s.key_row(j) * a.key_heads + key_head) * a.d;
    write_row(g.dk.at(at), b.dkeys + j * a.padded_d, a.d);
    write_row(g.dv.at(at), b.dvalues + j * a.padded_d, a.d);
  }
}

void attentionBackward(Out dq, Out dk, Out dv, In dout, In out, In lse, In q, In k, In v, In cu_seqlens,
                       int64_t head_dim, float scale, int64_t window) {
  const AttentionShape a(q, k, head_dim, scale, window);
  const int32_t* offsets = i32_data(cu_seqlens);
  const int64_t sequences = cu_seqlens.dims[0] - 1;
  int64_t longest = 0;
  for (int64_t s = 0; s < sequences; s++) longest = max(longest, offsets[s + 1] - offsets[s]);
  const int64_t keys = round_up(longest, kKeyBlock);
  const int64_t floats = round_up(Buffers::floats(a, keys), 64);
  const Scratch scratch(floats * 4 * thread_count());
  const Gradients g = {dq, dk, dv, dout, out, q, k, v, f32_data(lse), q.dims[0]};
  parallel_tasks(sequences * a.key_heads, [&](int64_t task, int worker) {
    const int64_t index = task / a.key_heads, length = offsets[index + 1] - offsets[index];
    const Sequence s = {offsets[index], length, length, nullptr, 0};
    sequence_backward(g, a, s, task % a.key_heads, Buffers(scratch.floats() + worker * floats, a, keys));
  });
}

}  // namespace

void add_attention_backward(Ops& t) { t.attentionBackward = attentionBackward; }

}  // namespace lathe::LATHE_ISA
