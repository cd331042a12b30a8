// The host's copy of the first bytes of a device storage: see HostCopy in tensor.h. Knows nothing of CUDA.
#pragma once
#include <cstring>
#include <vector>

#include "tensor.h"

namespace lathe {

/// Index tensors and headers are small; larger storages keep only this much.
constexpr int64_t kHostCopyBytesMax = int64_t{16} << 20;

struct HostCopy {
  const char* base = nullptr;  // device address of byte 0
  std::vector<char> bytes;     // what the host wrote, from byte 0
  bool current = false;        // false once a kernel may have written to the storage

  /// The host writes `length` bytes at device address `to`.
  void note(const void* to, const void* from, int64_t length) {
    const int64_t offset = static_cast<const char*>(to) - base, end = offset + length;
    const bool starts = offset == 0, joins = current && offset <= static_cast<int64_t>(bytes.size());
    if (end > kHostCopyBytesMax || !(starts || joins)) {
      current = false;
      return;
    }
    if (!current) bytes.clear();
    if (end > static_cast<int64_t>(bytes.size())) bytes.resize(static_cast<size_t>(end));
    std::memcpy(bytes.data() + offset, from, static_cast<size_t>(length));
    current = true;
  }

  /// The host's bytes behind device address `at`, or null when they are not known.
  const char* find(const void* at, int64_t length) const {
    const int64_t offset = static_cast<const char*>(at) - base;
    if (!current || offset < 0 || offset + length > static_cast<int64_t>(bytes.size())) return nullptr;
    return bytes.data() + offset;
  }
};

/// A kernel is about to write to this tensor: the host no longer knows its storage.
inline void forget_host_copy(const Tensor& t) {
  if (t.host) t.host->current = false;
}

}  // namespace lathe
