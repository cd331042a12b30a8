// The part of the CUDA runtime that staging.cc and graph.cc call, on host memory with a stream that falls behind: work that
// was asked for runs when the check says so (pump), or when something waits for it. While the stream is recorded, work is
// kept for the graph, and calls that a driver refuses then spoil the recording, unless the thread relaxed it.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

enum cudaError_t {
  cudaSuccess,
  cudaErrorMemoryAllocation,
  cudaErrorNotReady,
  cudaErrorStreamCaptureUnsupported,
  cudaErrorStreamCaptureInvalidated,
  cudaErrorNotSupported,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
constexpr unsigned cudaEventDisableTiming = 2, cudaHostAllocDefault = 0;

namespace driver {

using Work = std::function<void()>;
struct Event {
  bool done = true;
};
struct Graph {
  std::vector<Work> work;
};

struct State {
  std::deque<Work> queue;
  std::vector<Work> recorded;
  bool capturing = false, spoilt = false;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  cudaError_t last = cudaSuccess, next_end = cudaSuccess, next_instantiate = cudaSuccess;
  int events = 0, graphs = 0;
};
inline State& state() {
  static State s;
  return s;
}

/// Runs at most `most` pieces of the work that was asked for.
inline void pump(size_t most = ~size_t{0}) {
  auto& queue = state().queue;
  for (; most > 0 && !queue.empty(); most--) {
    const Work work = queue.front();
    queue.pop_front();
    work();
  }
}

inline cudaError_t told(cudaError_t e) {
  if (e != cudaSuccess) state().last = e;
  return e;
}

inline cudaError_t ask(Work work) {
  if (state().capturing) state().recorded.push_back(std::move(work));
  else state().queue.push_back(std::move(work));
  return cudaSuccess;
}

/// A call that may not be made while the stream is recorded.
inline cudaError_t unsafe() {
  State& s = state();
  if (!s.capturing || s.mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  s.spoilt = true;
  return told(cudaErrorStreamCaptureUnsupported);
}

}  // namespace driver

using cudaStream_t = void*;
using cudaEvent_t = driver::Event*;
using cudaGraph_t = driver::Graph*;
using cudaGraphExec_t = driver::Graph*;

inline cudaError_t cudaGetLastError() {
  const cudaError_t e = driver::state().last;
  driver::state().last = cudaSuccess;
  return e;
}
inline const char* cudaGetErrorString(cudaError_t) { return "error of the stand-in"; }

inline cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  if (const cudaError_t e = driver::unsafe()) return e;
  *data = std::malloc(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return driver::ask([=] { std::memcpy(to, from, bytes); });
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  if (const cudaError_t e = driver::unsafe()) return e;
  driver::pump();
  return cudaSuccess;
}

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new driver::Event();
  driver::state().events++;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->done = false;
  return driver::ask([event] { event->done = true; });
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (const cudaError_t e = driver::unsafe()) return e;
  return event->done ? cudaSuccess : driver::told(cudaErrorNotReady);
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const cudaError_t e = driver::unsafe()) return e;
  while (!event->done) driver::pump(1);
  return cudaSuccess;
}
/// The driver keeps an event that work still names; so does this, for good.
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  driver::state().events--;
  if (event->done) delete event;
  return cudaSuccess;
}

inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, driver::state().mode);
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  driver::state().capturing = true;
  driver::state().spoilt = false;
  driver::state().recorded.clear();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  driver::State& s = driver::state();
  s.capturing = false;
  const cudaError_t refused = s.spoilt ? cudaErrorStreamCaptureInvalidated : s.next_end;
  s.next_end = cudaSuccess;
  if (refused != cudaSuccess) return driver::told(refused);
  *graph = new driver::Graph{s.recorded};
  s.graphs++;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  const cudaError_t refused = driver::state().next_instantiate;
  driver::state().next_instantiate = cudaSuccess;
  if (refused != cudaSuccess) return driver::told(refused);
  *exec = new driver::Graph(*graph);
  driver::state().graphs++;
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  driver::state().graphs--;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return cudaGraphDestroy(exec); }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const driver::Work& work : exec->work) driver::ask(work);
  return cudaSuccess;
}
