// The matrix product for other files of this folder, as the op of core/ops.h but without its checks.
#pragma once
#include "../core/ops.h"

namespace lathe::cuda {

/// C = alpha·op(A)·op(B) + beta·C. cuBLASLt where it is there, the kernels of gemm_own.cu otherwise. Where one
/// operand is bf16 and the other f32, the f32 one is rounded to bf16 first.
void multiply(Out c, In a, In b, bool trans_a, bool trans_b, float alpha, float beta);

/// The weight [N,K] behind the header of packWeight's result.
Tensor packed_weight(In packed);

/// multiply() by the own kernels, whatever is there; both operands of one type.
void multiply_own(Out c, In a, In b, bool trans_a, bool trans_b, float alpha, float beta);

}  // namespace lathe::cuda
