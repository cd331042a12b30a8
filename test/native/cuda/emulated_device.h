// What runtime.cc and staging.cc give the op files of native/cuda, on host memory, and tensors that own theirs. Included by
// the one file of a check program that has main().
#pragma once
#include "../../../native/cuda/device.h"
#include "reference.h"

namespace lathe::cuda {
const Facts& facts() {
  static const Facts f = {3, 90, 232448, 1 << 20};
  return f;
}
cudaStream_t stream() { return nullptr; }
bool capturing() { return false; }
void check(cudaError_t result, const char*) {
  if (result != cudaSuccess) std::abort();
}
Scratch::Scratch(int64_t bytes) : data_(std::malloc(static_cast<size_t>(bytes) + 256)), bytes_(bytes) {
  std::memset(data_, 0xFF, static_cast<size_t>(bytes) + 256);
}
Scratch::~Scratch() { std::free(data_); }
void upload_table(void* to, const void* from, int64_t bytes) { std::memcpy(to, from, static_cast<size_t>(bytes)); }
void stage_download(void* to, const void* from, int64_t bytes) { std::memcpy(to, from, static_cast<size_t>(bytes)); }
}  // namespace lathe::cuda

namespace reference {

using lathe::DType;
using lathe::Tensor;

/// A tensor with memory of its own; `shift` elements behind an aligned address.
struct Held {
  std::vector<char> memory;
  Tensor t = {};

  Held(DType type, std::initializer_list<int64_t> dims, int shift = 0) {
    t.rank = 0, t.dtype = type, t.writable = true;
    for (int64_t d : dims) t.dims[t.rank++] = d;
    memory.assign(static_cast<size_t>(byte_count(t) + 64 + shift * 4), 0);
    const auto at = (reinterpret_cast<uintptr_t>(memory.data()) + 31) / 32 * 32;
    t.data = reinterpret_cast<char*>(at) + shift * dtype_bytes(type);
  }
  Held(const Held& other) : memory(other.memory), t(other.t) {
    const auto offset = static_cast<char*>(other.t.data) - other.memory.data();
    std::vector<char> fresh(memory.size() + 32);
    const auto wanted = reinterpret_cast<uintptr_t>(other.t.data) % 32;
    auto at = reinterpret_cast<uintptr_t>(fresh.data());
    at += (wanted + 32 - at % 32) % 32;
    std::memcpy(reinterpret_cast<void*>(at), other.memory.data() + offset, static_cast<size_t>(byte_count(t)));
    memory.swap(fresh);
    t.data = reinterpret_cast<void*>(at);
  }

  void set(int64_t i, double x) {
    if (t.dtype == DType::bf16) static_cast<uint16_t*>(t.data)[i] = narrow(x);
    else if (t.dtype == DType::f32) static_cast<float*>(t.data)[i] = static_cast<float>(x);
    else static_cast<int32_t*>(t.data)[i] = static_cast<int32_t>(x);
  }
  Doubles values() const {
    Doubles v(static_cast<size_t>(element_count(t)));
    for (size_t i = 0; i < v.size(); i++) {
      v[i] = t.dtype == DType::bf16 ? widen(static_cast<const uint16_t*>(t.data)[i])
             : t.dtype == DType::f32 ? static_cast<const float*>(t.data)[i] : static_cast<const int32_t*>(t.data)[i];
    }
    return v;
  }
};

Held numbers(DType type, std::initializer_list<int64_t> dims, int shift = 0, bool positive = false) {
  Held h(type, dims, shift);
  for (int64_t i = 0; i < element_count(h.t); i++) h.set(i, positive ? 0.1 + uniform() : normal());
  return h;
}

}  // namespace reference
