// A list of tensors as kernels see it: one entry each, cut into chunks of equal size, one block per chunk.
#pragma once
#include <initializer_list>
#include <vector>

#include "ref.cuh"
#include "runtime.h"

namespace lathe::cuda {

constexpr int kListTensors = 5;  // tensors side by side in one entry

struct ListEntry {
  void* data[kListTensors];
  int64_t elements;
  int64_t first_chunk;  // number of its first block in the launch
  int16_t half[kListTensors];
  int16_t wide;  // all of them can be read eight at a time
  float decay;   // for the optimizer
};

__device__ __forceinline__ Ref entry_ref(const ListEntry& e, int i) {
  Ref r;
  r.data = static_cast<char*>(e.data[i]);
  r.half = e.half[i];
  return r;
}

/// Index of the entry that block `chunk` works on: the last whose first chunk is not beyond it.
__device__ __forceinline__ int entry_of(const ListEntry* entries, int count, int64_t chunk) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (entries[middle].first_chunk <= chunk) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

/// Builds the entries on the host and uploads them on first use; tensors without elements are left out.
class ListTable {
 public:
  ListTable(int64_t most, int64_t chunk_elements)
      : chunk_(chunk_elements), memory_((most > 0 ? most : 1) * static_cast<int64_t>(sizeof(ListEntry))) {}

  void add(std::initializer_list<const Tensor*> tensors, float decay = 0) {
    ListEntry e = {};
    e.elements = element_count(**tensors.begin());
    if (e.elements == 0) return;
    e.first_chunk = chunks_;
    e.decay = decay;
    e.wide = 1;
    int i = 0;
    for (const Tensor* t : tensors) {
      e.data[i] = t->data;
      e.half[i++] = t->dtype == DType::bf16;
      if (reinterpret_cast<uintptr_t>(t->data) % 16 != 0) e.wide = 0;
    }
    chunks_ += ceil_div(e.elements, chunk_);
    host_.push_back(e);
  }

  int64_t chunks() const { return chunks_; }
  int count() const { return static_cast<int>(host_.size()); }
  const ListEntry* entries() {
    if (!sent_) upload_table(memory_.as<void>(), host_.data(), static_cast<int64_t>(host_.size() * sizeof(ListEntry)));
    sent_ = true;
    return memory_.as<const ListEntry>();
  }

 private:
  int64_t chunk_, chunks_ = 0;
  bool sent_ = false;
  std::vector<ListEntry> host_;
  Scratch memory_;
};

}  // namespace lathe::cuda
