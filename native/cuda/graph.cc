// Recording the stream into a CUDA graph. ThreadLocal mode, so other threads' calls do not spoil it; memory that was
// allocated meanwhile stays reserved for the graph (BlockPool owners).
#include "device.h"
#include "relaxed_capture.h"

namespace lathe::cuda {
namespace {

int& owner() {
  static int current = 0;
  return current;
}

class CudaGraph : public Graph {
 public:
  CudaGraph(cudaGraphExec_t exec, int pool_owner) : exec_(exec), owner_(pool_owner) {}
  ~CudaGraph() override {
    // A launch may still be running: the exec waits for it by itself, the blocks are stream-ordered.
    const RelaxedCapture relaxed;
    cudaGraphExecDestroy(exec_);
    cudaGetLastError();  // nobody is told here, and the next launch must not be blamed
    std::lock_guard<std::mutex> lock(pool_mutex());
    pool().drop_owner(owner_);
  }
  void launch() override {
    refuse_while_capturing("graphLaunch");
    check(cudaGraphLaunch(exec_, stream()), "graphLaunch");
  }

 private:
  cudaGraphExec_t exec_;
  int owner_;
};

}  // namespace

void begin_capture() {
  refuse_while_capturing("captureBegin");
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "captureBegin");
  std::lock_guard<std::mutex> lock(pool_mutex());
  owner() = pool().begin_owner();
  device_state().capturing = true;
}

std::unique_ptr<Graph> end_capture() {
  DeviceState& state = device_state();
  if (!state.capturing) throw Error(ErrorCode::invalid_argument, "no graph is being recorded");
  state.capturing = false;
  const int mine = owner();
  {
    std::lock_guard<std::mutex> lock(pool_mutex());
    pool().end_owner();
  }
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaError_t result = cudaStreamEndCapture(state.stream, &graph);
  if (result == cudaSuccess) result = cudaGraphInstantiate(&exec, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();
  if (result != cudaSuccess) {
    std::lock_guard<std::mutex> lock(pool_mutex());
    pool().drop_owner(mine);
  }
  check(result, "captureEnd");
  return std::make_unique<CudaGraph>(exec, mine);
}

}  // namespace lathe::cuda
