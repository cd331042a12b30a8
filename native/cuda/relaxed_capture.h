// What may be asked of the driver while this thread records the stream. Knows no graph.
#pragma once
#include <cuda_runtime.h>

namespace lathe::cuda {

/// cudaMalloc, cudaFree and queries are not part of what a recording records, but spoil it unless this thread says that
/// it knows. Says nothing itself when that fails: the call inside then does.
class RelaxedCapture {
 public:
  RelaxedCapture() { exchange(); }
  ~RelaxedCapture() { exchange(); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  void exchange() {
    if (cudaThreadExchangeStreamCaptureMode(&mode_) != cudaSuccess) cudaGetLastError();
  }
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace lathe::cuda
