// The CUDA device as the core sees it: see core/backend.h.
#include "../core/backend.h"

#include "device.h"
#include "relaxed_capture.h"

namespace lathe {
namespace cuda {
namespace {

void* raw_allocate(int64_t bytes) {
  const RelaxedCapture relaxed;
  void* data = nullptr;
  const cudaError_t result = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(result, "cudaMalloc");
  return data;
}

/// cudaFree waits for the device; trimming happens between jobs and when memory is out.
void raw_release(void* data) {
  const RelaxedCapture relaxed;
  check(cudaFree(data), "cudaFree");
}

std::string situation() {
  const RelaxedCapture relaxed;
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return std::to_string(free) + " free of " + std::to_string(total);
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

class CudaBackend : public Backend {
 public:
  void open() override { device_state(); }

  DeviceReport report() override {
    const DeviceState& state = device_state();
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    DeviceReport r;
    r.name = state.name;
    const int capability = state.facts.compute_capability;
    r.compute_capability = std::to_string(capability / 10) + "." + std::to_string(capability % 10);
    r.driver = version_text(state.driver);
    r.runtime = version_text(CUDART_VERSION);
    r.blas = blas_report();
    r.multiprocessors = state.facts.multiprocessors;
    r.memory_total = static_cast<int64_t>(total);
    r.memory_free = static_cast<int64_t>(free);
    r.l2_bytes = state.facts.l2_bytes;
    r.shared_bytes_per_block = state.facts.shared_per_block;
    return r;
  }

  const Ops& ops() override { return table(); }
  const ListOps& list_ops() override { return list_table(); }

  void* allocate(int64_t bytes) override {
    device_state();
    std::lock_guard<std::mutex> lock(pool_mutex());
    return pool().allocate(bytes);
  }
  void release(void* data, int64_t) override {
    std::lock_guard<std::mutex> lock(pool_mutex());
    pool().release(data);
  }
  void reserve(int64_t bytes) override {
    std::lock_guard<std::mutex> lock(pool_mutex());
    pool().reserve(bytes);
  }
  void set_limit(int64_t bytes) override {
    std::lock_guard<std::mutex> lock(pool_mutex());
    pool().set_limit(bytes);
  }
  void trim() override {
    std::lock_guard<std::mutex> lock(pool_mutex());
    pool().trim();
  }
  MemoryStats memory() override {
    std::lock_guard<std::mutex> lock(pool_mutex());
    return pool().stats();
  }

  void upload(void* to, const void* from, int64_t bytes) override { stage_upload(to, from, bytes); }
  void download(void* to, const void* from, int64_t bytes) override { stage_download(to, from, bytes); }
  std::unique_ptr<DeferredRead> read_later(const void* from, int64_t bytes) override {
    return stage_read_later(from, bytes);
  }
  void synchronize() override {
    refuse_while_capturing("synchronize");
    check(cudaStreamSynchronize(stream()), "synchronize");
  }

  void begin_capture() override { cuda::begin_capture(); }
  std::unique_ptr<Graph> end_capture() override { return cuda::end_capture(); }
  bool capturing() const override { return cuda::capturing(); }
  void select_blas(const std::string& choice) override { cuda::select_blas(choice); }
};

}  // namespace

BlockPool& pool() {
  static auto* instance = new BlockPool({raw_allocate, raw_release, situation});
  return *instance;
}

std::mutex& pool_mutex() {
  static auto* mutex = new std::mutex();
  return *mutex;
}

Scratch::Scratch(int64_t bytes) : data_(nullptr), bytes_(bytes) {
  std::lock_guard<std::mutex> lock(pool_mutex());
  data_ = pool().allocate(bytes);
}

Scratch::~Scratch() {
  std::lock_guard<std::mutex> lock(pool_mutex());
  pool().release(data_);
}

}  // namespace cuda

Backend* cuda_backend() {
  static auto* backend = new cuda::CudaBackend();
  return backend;
}

}  // namespace lathe
