// Ops over lists of tensors, for the optimizer: nothing here makes the host wait for a device, so a training step can
// be asked for as a whole and its norm read one step later. The CPU runs its single ops one after the other.
#pragma once
#include "ops.h"

namespace lathe {

using Ins = const TensorList&;
using Outs = const TensorList&;

/// What an optimizer keeps where its tensors are. norm and steps are read back; sum_squares is written by
/// sumSquaresInto (whose `sum` may be the first 8 bytes of this).
struct OptimizerState {
  double sum_squares;  // of the unclipped gradients
  double norm;         // √sum_squares
  int64_t steps;       // updates applied so far; one that was refused does not count
};

struct ListOps {
  /// sum = Σ over xs, in their order, of sumSquares(x): one f64, so NaN or ±inf when an element is not finite (squares
  /// of f32 do not overflow f64). sum u8 [8 or more], xs float.
  void (*sumSquaresInto)(Out sum, Ins xs);
  /// adamwStep over all tensors with the state's norm: when it is not finite nothing is written but norm; else
  /// steps += 1, gradScale = maxNorm > 0 ? min(1, maxNorm/(norm + 1e-6)) : 1, and rounded[i] = p[i] in its own type
  /// where rounded[i] is another tensor. Only the first `decayed` tensors get weightDecay. state u8 [24]; p, m, v, g
  /// f32, rounded float, as many of each, with equal element counts.
  void (*adamwList)(Out state, Outs p, Outs m, Outs v, Ins g, Outs rounded, double lr, double beta1, double beta2,
                    double eps, double weightDecay, int64_t decayed, double maxNorm);
};

/// beta^exponent by squaring, as every backend computes the bias corrections.
#ifdef __CUDACC__
__host__ __device__
#endif
inline double power_of(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1, base *= base) {
    if (exponent & 1) result *= base;
  }
  return result;
}

/// The table whose entries check their arguments and then run on the device of `sum` or `state`.
const ListOps& checked_list_ops();

}  // namespace lathe
