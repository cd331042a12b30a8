// Host↔device copies through pinned memory. Uploads go through a ring, so that the host may run ahead of the device;
// only a full ring waits. Deferred reads each hold a pinned buffer until they are taken.
#include <algorithm>
#include <cstring>
#include <map>

#include "device.h"
#include "relaxed_capture.h"

namespace lathe::cuda {
namespace {

constexpr int64_t kRingBytes = int64_t{64} << 20;
constexpr int64_t kPieceBytes = int64_t{16} << 20;
constexpr int64_t kAlign = 256;
constexpr size_t kMostInFlight = 64;  // copies, before ended ones are looked for

cudaEvent_t new_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  return event;
}

void* pinned(int64_t bytes) {
  void* data = nullptr;
  check(cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocDefault), "cudaHostAlloc");
  return data;
}

struct Piece {
  int64_t begin, end;
  cudaEvent_t done;
};

struct Ring {
  char* data = static_cast<char*>(pinned(kRingBytes));
  int64_t head = 0;
  std::deque<Piece> in_flight;
  std::vector<cudaEvent_t> events;

  /// Waits until no copy in flight reads [begin, end), then returns its address.
  char* claim(int64_t bytes, int64_t* begin) {
    retire();
    if (head + bytes > kRingBytes) head = 0;
    *begin = head;
    const auto overlaps = [&](const Piece& p) { return p.begin < head + bytes && head < p.end; };
    // Copies end in order: waiting for the last one that overlaps frees all before it.
    while (std::any_of(in_flight.begin(), in_flight.end(), overlaps)) {
      check(cudaEventSynchronize(in_flight.front().done), "cudaEventSynchronize");
      pop();
    }
    head += (bytes + kAlign - 1) / kAlign * kAlign;
    return data + *begin;
  }

  /// Copies that have ended, without waiting: a ring of small uploads would hold a hundred thousand events.
  void retire() {
    while (in_flight.size() > kMostInFlight) {
      const cudaError_t state = cudaEventQuery(in_flight.front().done);
      if (state == cudaErrorNotReady) {
        cudaGetLastError();
        return;
      }
      check(state, "upload");
      pop();
    }
  }

  void pop() {
    events.push_back(in_flight.front().done);
    in_flight.pop_front();
  }

  void sent(int64_t begin, int64_t end) {
    if (events.empty()) events.push_back(new_event());
    in_flight.push_back({begin, end, events.back()});
    events.pop_back();
    check(cudaEventRecord(in_flight.back().done, stream()), "cudaEventRecord");
  }
};

Ring& ring() {
  static auto* instance = new Ring();
  return *instance;
}

/// Pinned buffers of deferred reads, by size class; reads come in the same few sizes.
struct PinnedBuffers {
  std::mutex mutex;
  std::multimap<int64_t, void*> free;

  static int64_t size_of(int64_t bytes) {
    int64_t size = 4096;
    while (size < bytes) size *= 2;
    return size;
  }
  void* take(int64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    const auto found = free.find(size_of(bytes));
    if (found == free.end()) return pinned(size_of(bytes));
    void* data = found->second;
    free.erase(found);
    return data;
  }
  void give(void* data, int64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    free.insert({size_of(bytes), data});
  }
};

PinnedBuffers& buffers() {
  static auto* instance = new PinnedBuffers();
  return *instance;
}

class PinnedRead : public DeferredRead {
 public:
  PinnedRead(const void* from, int64_t bytes) : bytes_(bytes), data_(buffers().take(bytes)), done_(new_event()) {
    check(cudaMemcpyAsync(data_, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream()), "readLater");
    check(cudaEventRecord(done_, stream()), "cudaEventRecord");
  }
  /// A read that was never taken may still be on its way: its buffer is given up with it.
  ~PinnedRead() override {
    const RelaxedCapture relaxed;
    if (cudaEventQuery(done_) == cudaSuccess) buffers().give(data_, bytes_);
    cudaEventDestroy(done_);
    cudaGetLastError();  // "not ready" is no fault of the next kernel
  }
  int64_t bytes() const override { return bytes_; }
  bool ready() override {
    refuse_while_capturing("deferredReady");
    const cudaError_t state = cudaEventQuery(done_);
    if (state == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    check(state, "readLater");
    return true;
  }
  void take(void* to) override {
    refuse_while_capturing("deferredTake");
    check(cudaEventSynchronize(done_), "readLater");
    std::memcpy(to, data_, static_cast<size_t>(bytes_));
  }

 private:
  int64_t bytes_;
  void* data_;
  cudaEvent_t done_;
};

}  // namespace

void refuse_while_capturing(const char* what) {
  if (capturing()) throw Error(ErrorCode::cuda_error, std::string(what) + " while a graph is recorded");
}

void stage_upload(void* to, const void* from, int64_t bytes) {
  refuse_while_capturing("an upload");
  for (int64_t at = 0; at < bytes; at += kPieceBytes) {
    const int64_t n = std::min(kPieceBytes, bytes - at);
    int64_t begin = 0;
    char* stage = ring().claim(n, &begin);
    std::memcpy(stage, static_cast<const char*>(from) + at, static_cast<size_t>(n));
    check(cudaMemcpyAsync(static_cast<char*>(to) + at, stage, static_cast<size_t>(n), cudaMemcpyHostToDevice, stream()),
          "upload");
    ring().sent(begin, begin + n);
  }
}

void upload_table(void* to, const void* from, int64_t bytes) { stage_upload(to, from, bytes); }

void stage_download(void* to, const void* from, int64_t bytes) {
  refuse_while_capturing("a read");
  for (int64_t at = 0; at < bytes; at += kPieceBytes) {
    const int64_t n = std::min(kPieceBytes, bytes - at);
    int64_t begin = 0;
    char* stage = ring().claim(n, &begin);
    check(cudaMemcpyAsync(stage, static_cast<const char*>(from) + at, static_cast<size_t>(n), cudaMemcpyDeviceToHost,
                          stream()),
          "download");
    check(cudaStreamSynchronize(stream()), "download");
    std::memcpy(static_cast<char*>(to) + at, stage, static_cast<size_t>(n));
  }
}

std::unique_ptr<DeferredRead> stage_read_later(const void* from, int64_t bytes) {
  refuse_while_capturing("readLater");
  return std::make_unique<PinnedRead>(from, bytes);
}

}  // namespace lathe::cuda
