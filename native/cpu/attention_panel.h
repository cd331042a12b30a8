// What every way of computing attention forward ends with: a panel's state, and its output on the way to the tensors.
#pragma once
#include "attention_block.h"

namespace lathe::LATHE_ISA {

/// Tensors of a call.
struct Inputs {
  FloatRef out, q, k, v;
  float* lse;  // [Hq, rows] or null
  int64_t rows;
};

/// Softmax state and output of one panel.
struct PanelState {
  alignas(64) float maximum[kPanel], sum[kPanel];
  alignas(64) int32_t position[kPanel];
};

/// output: rows of padded_d floats, one for each lane; divided by the lanes' sums.
static inline void write_panel(const Inputs& in, const PanelState& state, const float* output, const Lanes& lanes,
                 int64_t key_head) {
  const AttentionShape& a = lanes.shape;
  alignas(64) float inverse[kPanel], lse[kPanel];
  for (int v = 0; v < kPanel; v += W) {
    const VF sum = vload(state.sum + v);
    vstore(inverse + v, vset(1.0f) / sum);
    vstore(lse + v, vload(state.maximum + v) + vlog(sum));
  }
  each_lane(lanes, key_head, [&](int64_t i, int64_t offset, int64_t row, int64_t head) {
    const FloatRef to = in.out.at(offset);
    const float* from = output + i * a.padded_d;
    each_vector(a.d, [&](int64_t c, int n) { store(to, c, vload(from + c) * inverse[i], n); });
    if (in.lse) in.lse[head * in.rows + row] = lse[i];
  });
}

}  // namespace lathe::LATHE_ISA
