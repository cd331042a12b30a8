// The matrix product for other files of this folder, as the op of core/ops.h but without its checks.
#pragma once
#include "../core/ops.h"

namespace lathe::cuda {

/// C = alpha·op(A)·op(B) + beta·C. cuBLASLt where it is there, the kernels of gemm_own.cu otherwise. Where one
/// operand is bf16 and the other f32, the f32 one is rounded to bf16 first.
void multiply(Out c, In a, In b, bool trans_a, bool trans_b, float alpha, float beta);

/// The weight [N,K] behind the header of packWeight's result.
Tensor packed_weight(In packed);

/// One product of a sum of products of bf16 matrices: a [M, depth], b [depth, N] or, transposed, [N, depth]; pitches are
/// elements from row to row.
struct Term {
  const void *a, *b;
  int64_t depth, pitch_a, pitch_b;
};

/// C = Σ a·op(b) + bias + beta·C over 1 to 4 terms, depths above 0. The own kernel sums all terms in f32 before C is
/// rounded; cuBLASLt takes them one by one in their order and rounds C to its type after each.
void multiply_terms(Out c, const Term* terms, int count, bool trans_b, OptionalIn bias, float beta);

/// Whether products go to cuBLASLt: whoever can choose between more terms and fewer, longer ones counts bytes then.
bool uses_cublaslt();

/// multiply_terms() by the own kernel.
void multiply_terms_own(Out c, const Term* terms, int count, bool trans_b, OptionalIn bias, float beta);

/// multiply() by the own kernels, whatever is there; both operands of one type.
void multiply_own(Out c, In a, In b, bool trans_a, bool trans_b, float alpha, float beta);

}  // namespace lathe::cuda
