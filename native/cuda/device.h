// State of the open device, shared by the host files of this folder; kernels see runtime.h only.
#pragma once
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../core/backend.h"
#include "memory.h"
#include "runtime.h"

namespace lathe::cuda {

struct DeviceState {
  std::string name;
  int driver;
  Facts facts;
  cudaStream_t stream;
  bool capturing;
};

/// Opens the device on first use; throws the reason when there is none.
DeviceState& device_state();

/// The pool of the device and its lock (finalizers release from any thread).
BlockPool& pool();
std::mutex& pool_mutex();

/// Copies through pinned memory; see staging.cc.
void stage_upload(void* to, const void* from, int64_t bytes);
void stage_download(void* to, const void* from, int64_t bytes);
std::unique_ptr<DeferredRead> stage_read_later(const void* from, int64_t bytes);

/// Recording; see graph.cc.
void begin_capture();
std::unique_ptr<Graph> end_capture();

/// Throws when a graph is being recorded: `what` would wait or read host memory at replay.
void refuse_while_capturing(const char* what);

/// "cuBLASLt 13.1 (/path)" or "own kernels: why"; see gemm.cc.
std::string blas_report();
void select_blas(const std::string& choice);

/// The tables of this backend.
const Ops& table();
const ListOps& list_table();

}  // namespace lathe::cuda
