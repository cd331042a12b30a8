// Where the ranks of up to three linears that share an input lie: in the op's tensors (A, h) one after the other; in the
// copies that the kernels of lora_thin.h and lora_copies.h work on, each linear's at a multiple of 16, zeros between, so
// that every piece can be read 16 bytes at a time whatever the ranks are. And what those kernels are called with.
#pragma once
#include "ref.cuh"

namespace lathe::cuda {

constexpr int kMostBranches = 3;
constexpr int kRankUnit = 16;

struct RankLayout {
  int count;                    // linears
  int rank[kMostBranches];      // 0: no branch
  int first[kMostBranches];     // stacked: of the linear's ranks among `total`
  int at[kMostBranches];        // padded: the same among `pitch`
  int total, pitch;

  __host__ __device__ int width(int i) const { return div_up(rank[i], kRankUnit) * kRankUnit; }

  /// The stacked index of a padded column, −1 for a zero between.
  __device__ __forceinline__ int stacked(int column) const {
    int index = -1;
#pragma unroll
    for (int i = 0; i < kMostBranches; i++) {
      const int r = column - at[i];
      if (i < count && r >= 0 && r < rank[i]) index = first[i] + r;
    }
    return index;
  }
};

// ---- arguments of the kernels ----

constexpr int kMostCopies = 18, kCopyThreads = 256;

/// to[r, c] = scale·from[r, c], 0 beyond rows and columns of `from`; transposed: to[c, r].
struct CopyJob {
  FloatPointer from;
  uint16_t* to;
  int64_t rows, columns, from_pitch;  // of from
  int64_t to_rows, to_columns, to_pitch;
  float scale;
  unsigned first_block, blocks;  // of grid.x
  bool wide, transposed;         // wide: bf16, scale 1, whole groups of 16 bytes on both sides
};

struct CopyArguments {
  CopyJob jobs[kMostCopies];
  int count;
};

constexpr int kThinTile = 64, kThinDepth = 64, kThinStages = 4, kThinThreads = 128;

struct RowsProblem {
  const uint16_t* left;   // [tokens, depth]
  const uint16_t* right;  // [columns, depth], or with k outermost [depth, columns]
  uint16_t* copy;         // where rows of left are copied to on the way, or null
  int64_t copy_pitch, depth, split_depth;
  int columns, at;  // of right; where they begin in a row of the result
  int first_block;  // of grid.y
  bool wide;        // left's rows can be copied 16 bytes at a time; right's always can
};

struct RowsArguments {
  RowsProblem problems[kMostBranches];
  int count;
  int64_t tokens, pitch;
  float* partial;  // [splits, tokens, pitch]
};

struct GradientProblem {
  const uint16_t* wide;  // [tokens, width]: dy or x
  const uint16_t* thin;  // [tokens, columns] in rows of thin_pitch: h or dh
  float* partial;        // [splits, width, columns], or with thin_first [splits, columns, width]
  int64_t width, thin_pitch;
  int columns;
  int first_block;  // of grid.x
  bool aligned;     // rows of `wide` can be copied 16 bytes at a time; those of `thin` always can
  bool thin_first;
};

struct GradientArguments {
  GradientProblem problems[kMostBranches];
  int count;
  int64_t tokens, split_tokens;
};

/// out += scale·Σ of the splits of lora_gradient_kernel, in their order.
struct GradientTarget {
  FloatPointer out;  // dB [width, rank], or with thin_first dA [total ranks, width]
  const float* partial;
  int64_t width;
  int columns, rank;
  float scale;
  bool thin_first;
};

struct GradientTargets {
  GradientTarget targets[kMostBranches];
};

struct BranchProblem {
  Ref out;               // [tokens, columns]
  FloatPointer bias;     // [columns], data null: none
  const uint16_t* right;  // [columns, depth]
  int64_t columns;
  int depth, at;    // a multiple of 16, may be 0; where the branch's ranks begin in a row of `thin`
  int first_block;  // of grid.y
  bool wide;        // eight neighbours of out can be stored at once
};

struct BranchArguments {
  BranchProblem problems[kMostBranches];
  int count;
  const uint16_t* thin;  // [tokens, thin_pitch]
  int64_t tokens, thin_pitch;
  float beta;
};

constexpr int kBranchColumns = 256, kBranchTokens = 64, kBranchThreads = 128;

/// The problem of a launch that a block belongs to; `first_block` of the problems rises.
template <class Problem>
__device__ __forceinline__ Problem problem_of(const Problem (&problems)[kMostBranches], int count, int block) {
  Problem p = problems[0];
#pragma unroll
  for (int i = 1; i < kMostBranches; i++) {
    if (i < count && block >= problems[i].first_block) p = problems[i];
  }
  return p;
}

}  // namespace lathe::cuda
