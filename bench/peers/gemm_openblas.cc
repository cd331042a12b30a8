// Peer of bench/gemm.ts: y = x·wᵀ in f32 with OpenBLAS (Debian: libopenblas-dev). Threads as OPENBLAS_NUM_THREADS says.
#include "gemm_peer.h"

#include <cblas.h>

namespace {

std::function<void()> prepare(const Shape& s, Matrix& x, Matrix& w, Matrix& y) {
  if (s.half() || s.weights != "plain") fail("OpenBLAS multiplies plain f32 here, not " + s.dtype + " " + s.weights);
  return [=, &x, &w, &y]() {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, s.m, s.n, s.k, 1.0f, x.floats.data(), s.k, w.floats.data(),
                s.k, 0.0f, y.floats.data(), s.n);
  };
}

}  // namespace

int main() { return serve(openblas_get_config(), prepare); }
