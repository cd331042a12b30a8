// Host side of the low-rank branches in training: the group of linears that an op was called with, its copies and its
// thin products.
#pragma once
#include "lora_layout.h"

namespace lathe::cuda {

/// Up to three linears y_i = x·w_iᵀ + scale_i·(xa·A_iᵀ)·b_iᵀ; A stacked, ranks 0 where b_i is null.
struct LoraGroup {
  RankLayout ranks;
  In x, xa, a;  // xa: x, or what dropout left of it
  const Tensor *w[kMostBranches], *b[kMostBranches];
  float scale[kMostBranches];
  int64_t tokens, depth;

  int64_t outputs(int i) const { return w[i]->dims[0]; }
  int64_t outputs() const {
    int64_t sum = 0;
    for (int i = 0; i < ranks.count; i++) sum += outputs(i);
    return sum;
  }
};

/// The arguments of the ops as a group.
LoraGroup lora_group(In x, OptionalIn dropped, In w0, OptionalIn w1, OptionalIn w2, In a, OptionalIn b0, OptionalIn b1,
                     OptionalIn b2, float scale0, float scale1, float scale2);

/// Whether the kernels of bf16 take the call: operands of the large products in bf16, nothing empty.
bool in_halves(const LoraGroup& g);

inline bool is_half(OptionalIn t) { return !t || t->dtype == DType::bf16; }
inline FloatPointer pointer(OptionalIn t) { return t ? FloatPointer{t->data, t->dtype == DType::bf16} : FloatPointer{}; }
inline const uint16_t* halves(In t) { return static_cast<const uint16_t*>(t.data); }
inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
/// Whether the rows of a matrix can be read 16 bytes at a time.
inline bool wide_rows(In t) { return t.dims[1] % 8 == 0 && aligned16(t.data); }

/// Copies to bf16, made in one launch; at most kMostCopies.
class Copies {
 public:
  void add(FloatPointer from, int64_t rows, int64_t columns, int64_t from_pitch, uint16_t* to, int64_t to_rows,
           int64_t to_columns, int64_t to_pitch, float scale = 1.0f, bool transposed = false);
  /// A as the padded rows [pitch, K], or transposed [K, pitch].
  void add_a(const LoraGroup& g, uint16_t* to, bool transposed);
  void run() const;

 private:
  CopyArguments jobs_ = {};
  unsigned blocks_ = 0;
};

/// scale_i·b_i in bf16, padded to [N_i, width_i]; `at` null where there is no branch.
struct ScaledB {
  ScaledB(Copies& copies, const LoraGroup& g);
  uint16_t* at[kMostBranches] = {};

 private:
  static int64_t bytes(const LoraGroup& g);
  Scratch memory_;
};

/// Products of all problems into bf16 rows of to_pitch and, unless null, f32 h [T, R]; `ones`: see lora_rows_join.
/// Blocks, splits and partial sums are filled in here.
void rows_product(RowsArguments& a, const RankLayout& ranks, bool along_k, uint16_t* to, int64_t to_pitch, float* h,
                  int ones);

/// Sums over tokens of all problems, added to their targets (out, rank and scale are the caller's).
void gradient_sums(GradientArguments& a, GradientTargets& targets, const RankLayout& ranks);

/// out = beta·out + bias + thin·rightᵀ for all problems.
void branch_product(BranchArguments& a);

/// to[r, c] = from[r, c] in rows of their pitches.
void copy_columns(float* to, int64_t to_pitch, const float* from, int64_t from_pitch, int64_t rows, int columns);

/// The same ops for any mix of types: products one by one, as multiply() takes them.
struct LoraOutputs {
  const Tensor* y[kMostBranches];
  const Tensor* bias[kMostBranches];
};
struct LoraGradients {
  OptionalOut dx, ddropped;
  bool masked;  // dropout stands between x and the branch: dx goes without dh·A
  const Tensor *da, *db[kMostBranches], *dy[kMostBranches], *h;
  float beta;
};
void lora_forward_plain(const LoraGroup& g, const LoraOutputs& out, Out h);
void lora_backward_plain(const LoraGroup& g, const LoraGradients& d);

}  // namespace lathe::cuda
