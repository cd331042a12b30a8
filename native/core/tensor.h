// Tensor: a view on memory (dtype, dims, pointer, device). It owns nothing; storage.h owns.
// Included by the per-ISA kernel files: plain data and internal-linkage functions only.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace lathe {

/// Where the data lies. Every op runs on the device of its tensors.
enum class Device : uint8_t { cpu = 0, cuda = 1 };

/// What the host knows of device memory: the first bytes of a storage, as long as only the host has written them.
/// Index tensors are checked on it, so that no check waits for the device.
struct HostCopy;

static constexpr int kMaxRank = 4;

/// Row-major, dense. `rank` is 1–4; a dimension may be 0 (then there is no element).
struct Tensor {
  void* data;
  int64_t dims[kMaxRank];
  int32_t rank;
  DType dtype;
  Device device;
  bool writable;
  HostCopy* host = nullptr;  // owned by the storage; null on the CPU
};

/// Several tensors as one argument.
struct TensorList {
  const Tensor* items;
  int64_t count;
};

static inline int64_t element_count(const Tensor& t) {
  int64_t n = 1;
  for (int i = 0; i < t.rank; i++) n *= t.dims[i];
  return n;
}

static inline int64_t byte_count(const Tensor& t) { return element_count(t) * dtype_bytes(t.dtype); }

static inline const int32_t* i32_data(const Tensor& t) { return static_cast<const int32_t*>(t.data); }
static inline float* f32_data(const Tensor& t) { return static_cast<float*>(t.data); }

}  // namespace lathe
