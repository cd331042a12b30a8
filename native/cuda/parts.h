// The parts of the CUDA table, one per file of this folder; the counterpart of cpu/ops_parts.h.
#pragma once
#include "../core/list_ops.h"

namespace lathe::cuda {

void add_elementwise(Ops& table);
void add_reduce(Ops& table);
void add_random(Ops& table);
void add_gemm(Ops& table);
void add_embedding(Ops& table);  // with kvWrite, as on the CPU
void add_rms_norm(Ops& table);
void add_rope(Ops& table);
void add_swiglu(Ops& table);
void add_adamw(Ops& table);
void add_attention(Ops& table);           // attentionForward
void add_attention_backward(Ops& table);  // attentionBackward
void add_paged_attention(Ops& table);     // pagedAttentionForward
void add_reduce_list(ListOps& table);       // sumSquaresInto
void add_adamw_list(ListOps& table);
void add_cross_entropy(Ops& table);       // linearCrossEntropy
void add_linear_group(Ops& table);
void add_lora_linear(Ops& table);           // loraLinearForward
void add_lora_linear_backward(Ops& table);  // loraLinearBackward
void add_sample_tokens(Ops& table);

}  // namespace lathe::cuda
