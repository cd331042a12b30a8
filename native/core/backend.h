// What a device other than the CPU provides besides its ops: memory, transfers, deferred reads and graphs.
// One implementation per device (native/cuda/backend.cc); the core and the binding know only this.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "allocator.h"
#include "error.h"
#include "list_ops.h"

namespace lathe {

/// Facts of an opened device, for logs and reports.
struct DeviceReport {
  std::string name, compute_capability, driver, runtime, blas;
  int multiprocessors = 0;
  int64_t memory_total = 0, memory_free = 0, l2_bytes = 0, shared_bytes_per_block = 0;
};

/// A copy from the device that has been asked for and arrives later.
class DeferredRead {
 public:
  virtual ~DeferredRead() = default;
  virtual int64_t bytes() const = 0;
  /// Whether take() would not wait.
  virtual bool ready() = 0;
  /// Waits for the copy and hands it out.
  virtual void take(void* to) = 0;
};

/// Recorded work that can be run again. Memory allocated while it was recorded stays its own.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  /// Opens the device on first use; throws an Error of a cuda_ code that says why it cannot be opened.
  virtual void open() = 0;
  virtual DeviceReport report() = 0;
  virtual const Ops& ops() = 0;
  virtual const ListOps& list_ops() = 0;

  /// Stream-ordered memory: released blocks may be handed out again at once. Throws Error(out_of_memory).
  virtual void* allocate(int64_t bytes) = 0;
  virtual void release(void* data, int64_t bytes) = 0;
  /// Makes sure that `bytes` of tensors fit without asking the driver again.
  virtual void reserve(int64_t bytes) = 0;
  virtual void set_limit(int64_t bytes) = 0;
  virtual void trim() = 0;
  virtual MemoryStats memory() = 0;

  /// The host's bytes may be reused when upload returns; it does not wait for the device while staging has room.
  virtual void upload(void* to, const void* from, int64_t bytes) = 0;
  /// Waits for all earlier work.
  virtual void download(void* to, const void* from, int64_t bytes) = 0;
  virtual std::unique_ptr<DeferredRead> read_later(const void* from, int64_t bytes) = 0;
  virtual void synchronize() = 0;

  /// Between begin_capture and end_capture ops are recorded instead of run; nothing may be read or written then.
  virtual void begin_capture() = 0;
  virtual std::unique_ptr<Graph> end_capture() = 0;
  virtual bool capturing() const = 0;

  /// auto, cublaslt (Error(cuda_no_cublas) when it is missing) or own.
  virtual void select_blas(const std::string& choice) = 0;
};

/// The backend of a device; throws Error(cuda_not_built) for CUDA in a build without it. Not for the CPU.
Backend& backend_for(Device device);

/// The CUDA backend, or null in a build without it. Defined in cuda/backend.cc where that is compiled.
Backend* cuda_backend();

}  // namespace lathe
