// cuBLASLt found at run time: the few functions used, and where it was found. The only file pair that knows its ABI.
#pragma once
#include <string>

#include "../core/dtype.h"
#include "runtime.h"

namespace lathe::cuda {

/// One product as cuBLASLt sees it; row-major operands are described as their transposes.
struct LtProduct {
  int64_t m, n, k;           // of C [m, n], row-major
  int64_t pitch_a, pitch_b;  // elements from row to row of the operands' memory
  bool trans_a, trans_b;
  DType in, out;
  const void *a, *b;
  void* c;
  float alpha, beta;
};

/// Where the library was found and its version; `path` empty: not found, `why` says where it was looked for.
struct LtLibrary {
  std::string path, version, why;
};

/// Looks for the library once, at the places of cublaslt_paths.h.
const LtLibrary& lt_library();

/// C = alpha·op(A)·op(B) + beta·C on the stream. False when the library has no algorithm for these types and sizes.
bool lt_multiply(const LtProduct& p);

}  // namespace lathe::cuda
