// Recording the stream into a CUDA graph. ThreadLocal mode, so other threads' calls do not spoil it; memory that was
// allocated meanwhile stays reserved for graphs (BlockPool recordings).
#include "device.h"
#include "relaxed_capture.h"

namespace lathe::cuda {
namespace {

void drop_recording() {
  std::lock_guard<std::mutex> lock(pool_mutex());
  pool().drop_recording();
}

class CudaGraph : public Graph {
 public:
  explicit CudaGraph(cudaGraphExec_t exec) : exec_(exec) {}
  ~CudaGraph() override {
    // A launch may still be running: the exec waits for it by itself, the blocks are stream-ordered.
    const RelaxedCapture relaxed;
    cudaGraphExecDestroy(exec_);
    cudaGetLastError();  // nobody is told here, and the next launch must not be blamed
    drop_recording();
  }
  void launch() override {
    refuse_while_capturing("graphLaunch");
    check(cudaGraphLaunch(exec_, stream()), "graphLaunch");
  }

 private:
  cudaGraphExec_t exec_;
};

}  // namespace

void begin_capture() {
  refuse_while_capturing("captureBegin");
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "captureBegin");
  std::lock_guard<std::mutex> lock(pool_mutex());
  pool().begin_recording();
  device_state().capturing = true;
}

std::unique_ptr<Graph> end_capture() {
  DeviceState& state = device_state();
  if (!state.capturing) throw Error(ErrorCode::invalid_argument, "no graph is being recorded");
  state.capturing = false;
  {
    std::lock_guard<std::mutex> lock(pool_mutex());
    pool().end_recording();
  }
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaError_t result = cudaStreamEndCapture(state.stream, &graph);
  if (result == cudaSuccess) result = cudaGraphInstantiate(&exec, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();
  if (result != cudaSuccess) drop_recording();
  check(result, "captureEnd");
  return std::make_unique<CudaGraph>(exec);
}

}  // namespace lathe::cuda
