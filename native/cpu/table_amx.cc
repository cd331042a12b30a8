// The table of processors with AMX: products and attention on tiles, everything else as with AVX-512.
#include "../core/dispatch.h"
#include "ops_parts.h"

namespace lathe::amx {

const Ops& table() {
  static const Ops ops = [] {
    Ops t = avx512::table();
    add_attention(t);
    add_gemm(t);
    add_cross_entropy(t);
    add_linear_group(t);
    add_lora(t);
    return t;
  }();
  return ops;
}

}  // namespace lathe::amx
