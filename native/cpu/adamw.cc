// AdamW with decoupled weight decay, in the order of operations of PyTorch's torch.optim.AdamW.
#include "ops_parts.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1, base *= base) {
    if (exponent & 1) result *= base;
  }
  return result;
}

void adamwStep(Out p, Out m, Out v, In g, double lr, double beta1, double beta2, double eps, double weight_decay,
               int64_t step, float grad_scale) {
  const VF b1 = vset(static_cast<float>(beta1)), b2 = vset(static_cast<float>(beta2));
  const VF rest1 = vset(static_cast<float>(1 - beta1)), rest2 = vset(static_cast<float>(1 - beta2));
  const double correction1 = 1 - power(beta1, step), correction2 = 1 - power(beta2, step);
  const VF step_size = vset(static_cast<float>(-lr / correction1));
  const VF correction = vset(static_cast<float>(1 / __builtin_sqrt(correction2)));
  const VF decay = vset(static_cast<float>(1 - lr * weight_decay)), epsilon = vset(static_cast<float>(eps));
  const FloatRef rp(p), rm(m), rv(v), rg(g);
  parallel_ranges(element_count(p), kElementGrain, [&](int64_t begin, int64_t end) {
    each_vector(end - begin, [&](int64_t i, int n) {
      const int64_t at = begin + i;
      const VF grad = load(rg, at, n) * grad_scale;
      const VF first = fma(b1, load(rm, at, n), rest1 * grad);
      const VF second = fma(b2, load(rv, at, n), rest2 * grad * grad);
      const VF denominator = fma(vsqrt(second), correction, epsilon);
      store(rm, at, first, n);
      store(rv, at, second, n);
      store(rp, at, fma(step_size, first / denominator, load(rp, at, n) * decay), n);
    });
  });
}

}  // namespace

void add_adamw(Ops& t) { t.adamwStep = adamwStep; }

}  // namespace lathe::LATHE_ISA
