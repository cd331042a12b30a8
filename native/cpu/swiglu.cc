// SwiGLU, forward and backward.
#include "ops_parts.h"
#include "parallel.h"
#include "vector_math.h"

namespace lathe::LATHE_ISA {
namespace {

void swigluForward(Out y, In gate, In up) {
  const FloatRef ry(y), rg(gate), ru(up);
  parallel_ranges(element_count(y), kFineGrain, [&](int64_t begin, int64_t end) {
    each_vector(end - begin, [&](int64_t i, int n) {
      const VF g = load(rg, begin + i, n);
      store(ry, begin + i, g * vsigmoid(g) * load(ru, begin + i, n), n);
    });
  });
}

// Forward: y = g·σ(g)·u, so du = dy·g·σ(g) and dg = dy·u·σ(g)·(1 + g·(1−σ(g))).
void swigluBackward(Out dgate, Out dup, In dy, In gate, In up) {
  const FloatRef rdg(dgate), rdu(dup), rdy(dy), rg(gate), ru(up);
  parallel_ranges(element_count(dy), kElementGrain, [&](int64_t begin, int64_t end) {
    each_vector(end - begin, [&](int64_t i, int n) {
      const int64_t at = begin + i;
      const VF g = load(rg, at, n), u = load(ru, at, n), d = load(rdy, at, n);
      const VF s = vsigmoid(g);
      store(rdu, at, d * g * s, n);
      store(rdg, at, d * u * s * fma(g, vset(1.0f) - s, vset(1.0f)), n);
    });
  });
}

}  // namespace

void add_swiglu(Ops& t) {
  t.swigluForward = swigluForward;
  t.swigluBackward = swigluBackward;
}

}  // namespace lathe::LATHE_ISA
