// The table of one instruction set.
#include "ops_parts.h"

namespace lathe::LATHE_ISA {
namespace {

Ops make_table() {
  Ops t = {};
  add_elementwise(t);
  add_reduce(t);
  add_random(t);
  add_gemm(t);
  add_embedding(t);
  add_rms_norm(t);
  add_rope(t);
  add_attention(t);
  add_attention_backward(t);
  add_swiglu(t);
  add_cross_entropy(t);
  add_adamw(t);
  add_linear_group(t);
  add_lora(t);
  add_sample_tokens(t);
  return t;
}

}  // namespace

const Ops& table() {
  static const Ops ops = make_table();
  return ops;
}

}  // namespace lathe::LATHE_ISA
