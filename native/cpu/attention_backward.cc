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

/// Scratch of one worker.
struct Buffers {
  float *keys, *keys_t, *values_t, *dkeys, *dvalues;     // [96, padded_d], [d, 96], [d, 96], [96, padded_d] twice
  float *queries, *queries_t, *dout, *dout_t, *outputs;  // [32, padded_d] or [d, 32]
  float *weights, *dscores;                              // [96, 32]
  float *delta, *lse;                                    // per lane of the sequence
  float* dqueries;                                       // [lanes, padded_d]

  static int64_t floats(const AttentionShape& a, int64_t lanes) {
    return kKeyBlock * (3 * a.padded_d + 2 * a.d + 2 * kPanel) + kPanel * (3 * a.padded_d + 2 * a.d) +
           lanes * (a.padded_d + 2);
  }

  Buffers(float* at, const AttentionShape& a, int64_t lanes) {
    const auto take = [&at](int64_t n) {
      float* p = at;
      at += n;
      return p;
    };
    keys = take(kKeyBlock * a.padded_d);
    dkeys = take(kKeyBlock * a.padded_d);
    dvalues = take(kKeyBlock * a.padded_d);
    weights = take(kKeyBlock * kPanel);
    dscores = take(kKeyBlock * kPanel);
    keys_t = take(kKeyBlock * a.d);
    values_t = take(kKeyBlock * a.d);
    queries = take(kPanel * a.padded_d);
    dout = take(kPanel * a.padded_d);
    outputs = take(kPanel * a.padded_d);
    queries_t = take(kPanel * a.d);
    dout_t = take(kPanel * a.d);
    dqueries = take(lanes * a.padded_d);
    delta = take(lanes);
    lse = take(lanes);
  }
};

/// δ = dout·out and the saved log-sum-exp, per lane; +inf beyond the last lane makes its weights 0.
void prepare_lanes(const Gradients& g, const Buffers& b, const Lanes& lanes, int64_t key_head) {
  const AttentionShape& a = lanes.shape;
  load_lanes(b.dout, g.dout, lanes, key_head);
  load_lanes(b.outputs, g.out, lanes, key_head);
  for (int64_t i = 0; i < kPanel; i++) {
    VF sum = {};
    for (int64_t c = 0; c < a.padded_d; c += W) {
      sum = fma(vload(b.dout + i * a.padded_d + c), vload(b.outputs + i * a.padded_d + c), sum);
    }
    b.delta[lanes.first + i] = vsum(sum);
    b.lse[lanes.first + i] = i < lanes.count ? g.lse[lanes.head(i, key_head) * g.rows + lanes.row(i)]
                                             : __builtin_inff();
  }
}

// Forward: p = softmax(scale·q·k), out = Σ p·v. With dp = dout·v: ds = p·(dp − δ)·scale.
// weights [keys, 32] holds q·k and becomes p; dscores holds dp and becomes ds; rows up to a whole tile become 0.
void score_gradients(const Buffers& b, const Lanes& lanes, int64_t first_key, int64_t keys) {
  const AttentionShape& a = lanes.shape;
  alignas(64) int32_t positions[kPanel];
  lane_positions(positions, lanes);
  const bool partly = first_key + keys - 1 > lanes.position(0) || first_key < a.first_key(lanes.last_position());
  for (int v = 0; v < kVectorsPerPanel; v++) {
    const VI position = *reinterpret_cast<const VI*>(positions + v * W);
    const VF lse = vload(b.lse + lanes.first + v * W), delta = vload(b.delta + lanes.first + v * W);
    for (int64_t j = 0; j < keys; j++) {
      float* weight = b.weights + j * kPanel + v * W;
      float* dscore = b.dscores + j * kPanel + v * W;
      VF p = vexp(fma(vload(weight), vset(a.scale), -lse));
      if (partly) p = vselect(visible(position, first_key + j, a.window), p, VF{});
      vstore(weight, p);
      vstore(dscore, p * (vload(dscore) - delta) * a.scale);
    }
    for (int64_t j = keys; j < round_up(keys, kTileRows); j++) {
      vstore(b.weights + j * kPanel + v * W, VF{});
      vstore(b.dscores + j * kPanel + v * W, VF{});
    }
  }
}

void write_row(FloatRef to, const float* from, int64_t d) {
  each_vector(d, [&](int64_t c, int n) { store(to, c, vload(from + c), n); });
}

void panel_backward(const Gradients& g, const Buffers& b, const Lanes& lanes, int64_t key_head, int64_t first_key,
                    int64_t keys) {
  const AttentionShape& a = lanes.shape;
  load_lanes(b.queries, g.q, lanes, key_head);
  load_lanes(b.dout, g.dout, lanes, key_head);
  transpose_rows(b.queries_t, b.queries, kPanel, kPanel, a);
  transpose_rows(b.dout_t, b.dout, kPanel, kPanel, a);
  score_tile(b.weights, b.keys_t, b.queries_t, keys, a.d);
  score_tile(b.dscores, b.values_t, b.dout_t, keys, a.d);
  score_gradients(b, lanes, first_key, keys);
  // dv_j += Σ_i p_ij·dout_i, dk_j += Σ_i ds_ij·q_i, dq_i += Σ_j ds_ij·k_j.
  accumulate_rows<kPanel>(b.dvalues, b.weights, b.dout, keys, lanes.count, a.padded_d);
  accumulate_rows<kPanel>(b.dkeys, b.dscores, b.queries, keys, lanes.count, a.padded_d);
  accumulate_rows<1>(b.dqueries + lanes.first * a.padded_d, b.dscores, b.keys, lanes.count, keys, a.padded_d);
}

void sequence_backward(const Gradients& g, const AttentionShape& a, const Sequence& s, int64_t key_head,
                       const Buffers& b) {
  const int64_t lane_count = s.queries * a.group;
  const auto lanes_at = [&](int64_t first) { return Lanes{s, a, first, min(kPanel, lane_count - first)}; };
  for (int64_t i = 0; i < lane_count * a.padded_d; i++) b.dqueries[i] = 0;
  for (int64_t first = 0; first < lane_count; first += kPanel) prepare_lanes(g, b, lanes_at(first), key_head);
  for (int64_t block = 0; block < s.keys; block += kKeyBlock) {
    const int64_t block_keys = min(kKeyBlock, s.keys - block);
    load_keys(b.keys, g.v, s, a, key_head, block, block_keys);
    transpose_rows(b.values_t, b.keys, block_keys, kKeyBlock, a);
    load_keys(b.keys, g.k, s, a, key_head, block, block_keys);
    transpose_rows(b.keys_t, b.keys, block_keys, kKeyBlock, a);
    for (int64_t i = 0; i < kKeyBlock * a.padded_d; i++) b.dkeys[i] = b.dvalues[i] = 0;
    for (int64_t first = block * a.group / kPanel * kPanel; first < lane_count; first += kPanel) {
      const Lanes lanes = lanes_at(first);
      const int64_t visible_keys = min(block_keys, lanes.last_position() + 1 - block);
      if (visible_keys <= 0) continue;
      if (block + block_keys <= a.first_key(lanes.position(0))) break;  // the window has passed this block
      panel_backward(g, b, lanes, key_head, block, visible_keys);
    }
    for (int64_t j = 0; j < block_keys; j++) {
      const int64_t at = (s.key_row(block + j) * a.key_heads + key_head) * a.d;
      write_row(g.dk.at(at), b.dkeys + j * a.padded_d, a.d);
      write_row(g.dv.at(at), b.dvalues + j * a.padded_d, a.d);
    }
  }
  const Lanes all = {s, a, 0, lane_count};
  for (int64_t i = 0; i < lane_count; i++) {
    write_row(g.dq.at((all.row(i) * a.query_heads + all.head(i, key_head)) * a.d), b.dqueries + i * a.padded_d, a.d);
  }
}

void attentionBackward(Out dq, Out dk, Out dv, In dout, In out, In lse, In q, In k, In v, In cu_seqlens,
                       int64_t head_dim, float scale, int64_t window) {
  const AttentionShape a(q, k, head_dim, scale, window);
  const int32_t* offsets = i32_data(cu_seqlens);
  const int64_t sequences = cu_seqlens.dims[0] - 1;
  int64_t longest = 0;
  for (int64_t s = 0; s < sequences; s++) longest = max(longest, offsets[s + 1] - offsets[s]);
  const int64_t lanes = round_up(longest * a.group, kPanel);
  const int64_t floats = round_up(Buffers::floats(a, lanes), 64);
  const Scratch scratch(floats * 4 * thread_count());
  const Gradients g = {dq, dk, dv, dout, out, q, k, v, f32_data(lse), q.dims[0]};
  parallel_tasks(sequences * a.key_heads, [&](int64_t task, int worker) {
    const int64_t index = task / a.key_heads, length = offsets[index + 1] - offsets[index];
    const Sequence s = {offsets[index], length, length, nullptr, 0};
    sequence_backward(g, a, s, task % a.key_heads, Buffers(scratch.floats() + worker * floats, a, lanes));
  });
}

}  // namespace

void add_attention_backward(Ops& t) { t.attentionBackward = attentionBackward; }

}  // namespace lathe::LATHE_ISA
