// The table of the CUDA backend.
#include "device.h"
#include "parts.h"

namespace lathe::cuda {
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
  add_paged_attention(t);
  add_swiglu(t);
  add_cross_entropy(t);
  add_adamw(t);
  add_linear_group(t);
  add_lora_linear(t);
  add_lora_linear_backward(t);
  add_sample_tokens(t);
  return t;
}

}  // namespace

const Ops& table() {
  static const Ops ops = make_table();
  return ops;
}

const ListOps& list_table() {
  static const ListOps ops = [] {
    ListOps t = {};
    add_reduce_list(t);
    add_adamw_list(t);
    return t;
  }();
  return ops;
}

}  // namespace lathe::cuda
