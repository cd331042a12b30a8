// Peer of bench/gemm.ts: y = x·wᵀ with oneDNN's matmul (Debian: libdnnl-dev). Threads as OMP_NUM_THREADS says.
#include "gemm_peer.h"

#include <dnnl.hpp>

namespace {

using dnnl::memory;

std::function<void()> prepare(const Shape& s, Matrix& x, Matrix& w, Matrix& y) {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  static dnnl::stream stream(engine);
  const auto type = s.half() ? memory::data_type::bf16 : memory::data_type::f32;
  const memory::desc rows({s.m, s.k}, type, memory::format_tag::ab), plain({s.k, s.n}, type, memory::format_tag::ba);
  const memory::desc any({s.k, s.n}, type, memory::format_tag::any), out({s.m, s.n}, type, memory::format_tag::ab);
  const dnnl::matmul::desc description(rows, s.weights == "packed" ? any : plain, out);
  const dnnl::matmul::primitive_desc chosen(description, engine);
  memory left(rows, engine, x.data()), right(plain, engine, w.data()), product(out, engine, y.data());
  if (chosen.weights_desc() != plain) {
    memory packed(chosen.weights_desc(), engine);
    dnnl::reorder(right, packed).execute(stream, right, packed);
    stream.wait();
    right = packed;
  }
  const dnnl::matmul matmul(chosen);
  return [=]() {
    matmul.execute(stream, {{DNNL_ARG_SRC, left}, {DNNL_ARG_WEIGHTS, right}, {DNNL_ARG_DST, product}});
    stream.wait();
  };
}

}  // namespace

int main() {
  const dnnl::version_t* v = dnnl::version();
  return serve("oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch),
               prepare);
}
