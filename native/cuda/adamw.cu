// AdamW with decoupled weight decay, in the order of operations of the CPU's adamw.cc; for one tensor, and for a list
// with the clip factor and the refusal decided on the device.
#include "parts.h"
#include "ref.cuh"
#include "table.cuh"

namespace lathe::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 8192;
constexpr double kClipEps = 1e-6;

/// What every element needs, computed once per step in f64 and rounded once.
struct Factors {
  float beta1, beta2, rest1, rest2, step_size, correction, eps, grad_scale, decay;
  int apply;
};

__host__ __device__ inline Factors factors_of(double lr, double beta1, double beta2, double eps, double weight_decay,
                                              int64_t step, float grad_scale) {
  const double correction1 = 1 - power_of(beta1, step), correction2 = 1 - power_of(beta2, step);
  Factors f;
  f.beta1 = static_cast<float>(beta1);
  f.beta2 = static_cast<float>(beta2);
  f.rest1 = static_cast<float>(1 - beta1);
  f.rest2 = static_cast<float>(1 - beta2);
  f.step_size = static_cast<float>(-lr / correction1);
  f.correction = static_cast<float>(1 / sqrt(correction2));
  f.eps = static_cast<float>(eps);
  f.decay = static_cast<float>(1 - lr * weight_decay);
  f.grad_scale = grad_scale;
  f.apply = 1;
  return f;
}

template <int N>
__device__ __forceinline__ void update(const ListEntry& e, const Factors& f, float decay, int64_t i) {
  const Ref p = entry_ref(e, 0), m = entry_ref(e, 1), v = entry_ref(e, 2), g = entry_ref(e, 3), out = entry_ref(e, 4);
  float vp[N], vm[N], vv[N], vg[N];
  load<N>(p, i, vp);
  load<N>(m, i, vm);
  load<N>(v, i, vv);
  load<N>(g, i, vg);
#pragma unroll
  for (int j = 0; j < N; j++) {
    const float grad = vg[j] * f.grad_scale;
    vm[j] = fmaf(f.beta1, vm[j], f.rest1 * grad);
    vv[j] = fmaf(f.beta2, vv[j], __fmul_rn(__fmul_rn(f.rest2, grad), grad));
    const float denominator = fmaf(__fsqrt_rn(vv[j]), f.correction, f.eps);
    vp[j] = fmaf(f.step_size, __fdiv_rn(vm[j], denominator), vp[j] * decay);
  }
  store<N>(m, i, vm);
  store<N>(v, i, vv);
  store<N>(p, i, vp);
  if (e.data[4] != e.data[0]) store<N>(out, i, vp);
}

/// One block per chunk. `factors` lie on the device; entry.decay is 1 − lr·weightDecay of the tensor.
__global__ void adamwListKernel(const ListEntry* entries, int count, const Factors* factors) {
  const Factors f = *factors;
  if (!f.apply) return;
  const ListEntry e = entries[entry_of(entries, count, blockIdx.x)];
  const int64_t begin = (blockIdx.x - e.first_chunk) * kChunk;
  const int64_t end = begin + kChunk < e.elements ? begin + kChunk : e.elements;
  const int64_t wide_end = e.wide ? begin + (end - begin) / 8 * 8 : begin;
  for (int64_t i = begin + threadIdx.x * 8; i < wide_end; i += kThreads * 8) update<8>(e, f, e.decay, i);
  for (int64_t i = wide_end + threadIdx.x; i < end; i += kThreads) update<1>(e, f, e.decay, i);
}

/// Decides the step: norm, refusal, clipping, bias correction. One thread.
__global__ void adamwBegin(OptimizerState* state, Factors* factors, double lr, double beta1, double beta2, double eps,
                           double max_norm) {
  const double norm = sqrt(state->sum_squares);
  state->norm = norm;
  if (!isfinite(norm)) {
    factors->apply = 0;
    return;
  }
  const int64_t step = ++state->steps;
  const double clip = max_norm > 0 ? fmin(1.0, max_norm / (norm + kClipEps)) : 1.0;
  *factors = factors_of(lr, beta1, beta2, eps, 0, step, static_cast<float>(clip));
}

void adamwList(Out state, Outs p, Outs m, Outs v, Ins g, Outs rounded, double lr, double beta1, double beta2,
               double eps, double weight_decay, int64_t decayed, double max_norm) {
  ListTable table(p.count, kChunk);
  for (int64_t i = 0; i < p.count; i++) {
    const float decay = i < decayed ? static_cast<float>(1 - lr * weight_decay) : 1.0f;
    table.add({&p.items[i], &m.items[i], &v.items[i], &g.items[i], &rounded.items[i]}, decay);
  }
  const Scratch factors(sizeof(Factors));
  launch("adamwBegin", adamwBegin, dim3(1), dim3(1), 0, static_cast<OptimizerState*>(state.data),
         factors.as<Factors>(), lr, beta1, beta2, eps, max_norm);
  if (table.chunks() == 0) return;
  launch("adamwList", adamwListKernel, dim3(static_cast<unsigned>(table.chunks())), dim3(kThreads), 0, table.entries(),
         table.count(), factors.as<const Factors>());
}

/// One tensor with everything known on the host.
void adamwStep(Out p, Out m, Out v, In g, double lr, double beta1, double beta2, double eps, double weight_decay,
               int64_t step, float grad_scale) {
  ListTable table(1, kChunk);
  const Factors f = factors_of(lr, beta1, beta2, eps, weight_decay, step, grad_scale);
  table.add({&p, &m, &v, &g, &p}, f.decay);
  if (table.chunks() == 0) return;
  const Scratch factors(sizeof(Factors));
  upload_table(factors.as<void>(), &f, sizeof f);
  launch("adamwList", adamwListKernel, dim3(static_cast<unsigned>(table.chunks())), dim3(kThreads), 0, table.entries(),
         table.count(), factors.as<const Factors>());
}

}  // namespace

void add_adamw(Ops& t) { t.adamwStep = adamwStep; }

void add_adamw_list(ListOps& t) { t.adamwList = adamwList; }

}  // namespace lathe::cuda
