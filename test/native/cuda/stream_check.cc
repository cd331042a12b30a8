// staging.cc and graph.cc as written, with memory.cc, on a stream that falls behind (cuda_runtime.h beside this file): what the host
// wrote arrives although it overwrites its bytes at once, reads see the moment they were asked for, recordings run when
// they are launched, and a recording that the driver refuses leaves nothing behind.
#include "../../../native/cuda/device.h"
#include "reference.h"

namespace lathe::cuda {

DeviceState& device_state() {
  static DeviceState state = {};
  return state;
}
cudaStream_t stream() { return nullptr; }
bool capturing() { return device_state().capturing; }
void check(cudaError_t result, const char* what) {
  if (result == cudaSuccess) return;
  cudaGetLastError();
  throw Error(ErrorCode::cuda_error, what);
}
BlockPool& pool() {
  static BlockPool instance({[](int64_t bytes) { return std::malloc(static_cast<size_t>(bytes)); },
                             [](void* data) { std::free(data); }, [] { return std::string("a stand-in"); }});
  return instance;
}
std::mutex& pool_mutex() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace lathe::cuda

using namespace lathe::cuda;
using namespace reference;

namespace {

std::vector<char> random_bytes(size_t count) {
  std::vector<char> bytes(count);
  for (char& b : bytes) b = static_cast<char>(integer(0, 255));
  return bytes;
}

bool refused(const std::function<void()>& call) {
  try {
    call();
  } catch (const lathe::Error& e) {
    return e.code() == lathe::ErrorCode::cuda_error;
  }
  return false;
}

void uploads() {
  std::vector<char> device(int64_t{24} << 20), expected = device;
  size_t most = 0;  // pieces of work under way
  for (int i = 0; i < 4000; i++) {
    const bool large = i % 400 == 399;
    const auto size = static_cast<size_t>(large ? integer(5 << 20, 20 << 20) : integer(1, 3000));
    const auto at = static_cast<size_t>(integer(0, static_cast<int>(device.size() - size)));
    std::vector<char> bytes = large ? std::vector<char>(size, static_cast<char>(i)) : random_bytes(size);
    std::copy(bytes.begin(), bytes.end(), expected.begin() + static_cast<std::ptrdiff_t>(at));
    stage_upload(device.data() + at, bytes.data(), static_cast<int64_t>(size));
    std::fill(bytes.begin(), bytes.end(), char{0x55});
    most = std::max(most, driver::state().queue.size());
    if (uniform() < 0.5) driver::pump(static_cast<size_t>(integer(0, 12)));
  }
  std::vector<char> read(device.size());
  stage_download(read.data(), device.data(), static_cast<int64_t>(device.size()));
  expect("uploads arrive as they were, in their order", read == expected);
  expect("events are made for copies under way alone", driver::state().events <= 66 + static_cast<int>(most));
  expect("no error is left for the next launch", cudaGetLastError() == cudaSuccess);
}

/// More than the ring holds, and nothing moves unless it is waited for.
void full_ring() {
  constexpr size_t kSize = size_t{15} << 20, kCount = 9;
  std::vector<char> device(kSize * kCount), bytes(kSize);
  for (size_t i = 0; i < kCount; i++) {
    std::fill(bytes.begin(), bytes.end(), static_cast<char>(i + 1));
    stage_upload(device.data() + i * kSize, bytes.data(), static_cast<int64_t>(kSize));
  }
  driver::pump();
  bool right = true;
  for (size_t i = 0; i < device.size(); i++) right &= device[i] == static_cast<char>(i / kSize + 1);
  expect("a full ring waits before it is written again", right);
}

void deferred_reads() {
  std::vector<char> device(5000), first = random_bytes(5000), second = random_bytes(5000), read(5000);
  stage_upload(device.data(), first.data(), 5000);
  auto later = stage_read_later(device.data(), 5000);
  stage_upload(device.data(), second.data(), 5000);
  const bool early = later->ready();
  driver::pump();
  expect("a read arrives when the stream gets there", !early && later->ready());
  later->take(read.data());
  expect("it holds what was there when it was asked for", read == first && later->bytes() == 5000);
  later.reset();
  auto dropped = stage_read_later(device.data(), 5000);
  dropped.reset();
  expect("one that is dropped on its way leaves no error", cudaGetLastError() == cudaSuccess);
  auto other = stage_read_later(device.data(), 5000);
  driver::pump();
  other->take(read.data());
  expect("and the next one has its own bytes", read == second);
}

void recordings() {
  std::vector<char> from = random_bytes(64), to(64);
  const auto op = [&] { cudaMemcpyAsync(to.data(), from.data(), 64, cudaMemcpyDeviceToDevice, stream()); };
  auto left = stage_read_later(from.data(), 64);
  begin_capture();
  void* inside = pool().allocate(1 << 20);
  op();
  expect("the host neither writes nor reads while a graph is recorded",
         refused([&] { stage_upload(to.data(), from.data(), 8); }) &&
             refused([&] { stage_download(to.data(), from.data(), 8); }) &&
             refused([&] { stage_read_later(from.data(), 8); }) && refused([&] { left->ready(); }) &&
             refused([] { begin_capture(); }));
  left.reset();  // as a finalizer does
  pool().release(inside);
  auto graph = end_capture();
  driver::pump();
  expect("a recording does not run", to != from && pool().stats().in_use >= 1 << 20);
  for (int i = 0; i < 3; i++) {
    for (char& b : from) b++;
    graph->launch();
    const bool before = to == from;
    driver::pump();
    expect("a graph runs on what memory holds then", !before && to == from);
  }
  graph.reset();
  expect("a graph that is freed leaves nothing", driver::state().graphs == 0 && pool().stats().in_use == 0);
}

void refusals() {
  const auto record = [] {
    begin_capture();
    pool().release(pool().allocate(1 << 16));
  };
  expect("no recording is ended that was not begun", [] {
    try {
      end_capture();
    } catch (const lathe::Error& e) {
      return e.code() == lathe::ErrorCode::invalid_argument;
    }
    return false;
  }());
  record();
  driver::state().next_end = cudaErrorNotSupported;
  expect("a recording that the driver refuses is an error", refused([] { end_capture(); }));
  record();
  driver::state().next_instantiate = cudaErrorMemoryAllocation;
  expect("so is one that it cannot make a graph of", refused([] { end_capture(); }));
  record();
  cudaStreamSynchronize(stream());
  cudaGetLastError();
  expect("and one that a call has spoilt", refused([] { end_capture(); }));
  expect("none of them keeps memory, a graph, the recording or an error",
         pool().stats().in_use == 0 && driver::state().graphs == 0 && !capturing() && cudaGetLastError() == cudaSuccess);
  record();
  end_capture()->launch();
  expect("the next one works", driver::state().graphs == 0 && pool().stats().in_use == 0);
}

}  // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  random_state = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  uploads();
  full_ring();
  deferred_reads();
  recordings();
  refusals();
  return failures != 0;
}
