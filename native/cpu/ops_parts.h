// The parts of one instruction set's table, one per file of this folder.
#pragma once
#include "../core/ops.h"

namespace lathe::LATHE_ISA {

void add_elementwise(Ops& table);
void add_reduce(Ops& table);
void add_random(Ops& table);
void add_gemm(Ops& table);
void add_embedding(Ops& table);
void add_rms_norm(Ops& table);
void add_rope(Ops& table);
void add_attention(Ops& table);
void add_attention_backward(Ops& table);
void add_swiglu(Ops& table);
void add_cross_entropy(Ops& table);
void add_adamw(Ops& table);
void add_linear_group(Ops& table);
void add_lora(Ops& table);
void add_sample_tokens(Ops& table);

}  // namespace lathe::LATHE_ISA
