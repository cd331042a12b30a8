// The matrix product as an op: element types, empty sizes, and which of cuBLASLt and the own kernels computes it.
#include "gemm.h"

#include <cstring>

#include "../core/host_copy.h"
#include "cublaslt.h"
#include "device.h"
#include "parts.h"

namespace lathe::cuda {
namespace {

enum class Choice { automatic, cublaslt, own };

Choice& choice() {
  static Choice current = Choice::automatic;
  return current;
}

/// The tensor in another type, in scratch memory; the tensor itself when it has the type already.
class Converted {
 public:
  Converted(In t, DType wanted) : view_(t), memory_(t.dtype == wanted ? 0 : element_count(t) * dtype_bytes(wanted)) {
    if (t.dtype == wanted) return;
    view_.dtype = wanted;
    view_.data = memory_.as<void>();
    view_.host = nullptr;
    table().cast(view_, t);
  }
  In get() const { return view_; }

 private:
  Tensor view_;
  Scratch memory_;
};

/// Both operands of one type.
void multiply_alike(Out c, In a, In b, bool trans_a, bool trans_b, float alpha, float beta) {
  const int64_t k = a.dims[trans_a ? 0 : 1];
  if (uses_cublaslt()) {
    const LtProduct p = {c.dims[0], c.dims[1], k,      a.dims[1], b.dims[1], trans_a, trans_b, a.dtype,
                         c.dtype,   a.data,    b.data, c.data,    alpha,     beta};
    if (lt_multiply(p)) return;
    if (choice() == Choice::cublaslt && c.dtype == a.dtype) {
      throw Error(ErrorCode::cuda_error, "cuBLASLt has no algorithm for this product");
    }
  }
  multiply_own(c, a, b, trans_a, trans_b, alpha, beta);
}

void gemm(Out c, In a, In b, bool trans_a, bool trans_b, float alpha, float beta) {
  multiply(c, a, b, trans_a, trans_b, alpha, beta);
}

/// The plain weight behind the header: the kernels read rows as they are.
void packWeight(Out packed, In w) {
  const PackedHeader header = {kPackedMagic, w.dims[0], w.dims[1], w.dtype};
  char bytes[kPackedHeaderBytes] = {};
  std::memcpy(bytes, &header, sizeof header);
  upload_table(packed.data, bytes, kPackedHeaderBytes);
  if (packed.host) packed.host->note(packed.data, bytes, kPackedHeaderBytes);
  char* to = static_cast<char*>(packed.data) + kPackedHeaderBytes;
  check(cudaMemcpyAsync(to, w.data, static_cast<size_t>(byte_count(w)), cudaMemcpyDeviceToDevice, stream()),
        "packWeight");
}

void gemmPacked(Out c, In a, In packed, float alpha, float beta) {
  const Tensor w = packed_weight(packed);
  multiply(c, a, w, false, true, alpha, beta);
}

}  // namespace

bool uses_cublaslt() { return choice() != Choice::own && !lt_library().path.empty(); }

void multiply_terms(Out c, const Term* terms, int count, bool trans_b, OptionalIn bias, float beta) {
  if (c.dims[0] == 0 || c.dims[1] == 0) return;
  if (!uses_cublaslt()) return multiply_terms_own(c, terms, count, trans_b, bias, beta);
  for (int i = 0; i < count; i++) {
    const Term& t = terms[i];
    const float keep = i == 0 ? beta : 1.0f;
    const LtProduct p = {c.dims[0], c.dims[1], t.depth, t.pitch_a, t.pitch_b, false, trans_b, DType::bf16,
                         c.dtype,   t.a,       t.b,     c.data,    1.0f,      keep};
    if (!lt_multiply(p)) multiply_terms_own(c, &t, 1, trans_b, nullptr, keep);
  }
  if (bias) table().addBias(c, *bias);
}

Tensor packed_weight(In packed) {
  PackedHeader header;
  const char* bytes = packed.host ? packed.host->find(packed.data, kPackedHeaderBytes) : nullptr;
  if (!bytes) throw Error(ErrorCode::internal, "a packed weight without its header");
  std::memcpy(&header, bytes, sizeof header);
  return {static_cast<char*>(packed.data) + kPackedHeaderBytes, {header.n, header.k}, 2, header.dtype, Device::cuda, false};
}

void multiply(Out c, In a, In b, bool trans_a, bool trans_b, float alpha, float beta) {
  if (c.dims[0] == 0 || c.dims[1] == 0) return;
  if (a.dims[trans_a ? 0 : 1] == 0) {
    if (beta == 0) {
      table().fill(c, 0);
    } else {
      table().scale(c, beta);
    }
    return;
  }
  // A bf16 operand decides: its partner's extra digits would be lost among its own.
  const bool half = a.dtype == DType::bf16 || b.dtype == DType::bf16;
  const DType in = half ? DType::bf16 : DType::f32;
  const Converted left(a, in), right(b, in);
  multiply_alike(c, left.get(), right.get(), trans_a, trans_b, alpha, beta);
}

std::string blas_report() {
  if (choice() == Choice::own) return "own kernels (chosen)";
  const LtLibrary& library = lt_library();
  if (library.path.empty()) return "own kernels: " + library.why;
  return "cuBLASLt " + library.version + " (" + library.path + ")";
}

void select_blas(const std::string& name) {
  if (name == "auto") {
    choice() = Choice::automatic;
  } else if (name == "own") {
    choice() = Choice::own;
  } else if (name == "cublaslt") {
    if (lt_library().path.empty()) throw Error(ErrorCode::cuda_no_cublas, "cuBLASLt cannot be used: " + lt_library().why);
    choice() = Choice::cublaslt;
  } else {
    invalid("blas", "'" + name + "' is not one of auto, cublaslt, own");
  }
}

void add_gemm(Ops& t) {
  t.gemm = gemm;
  t.packWeight = packWeight;
  t.gemmPacked = gemmPacked;
}

}  // namespace lathe::cuda
