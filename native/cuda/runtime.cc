// Opening the device, and what CUDA's error codes mean: see runtime.h.
#include "runtime.h"

#include <dlfcn.h>

#include "device.h"

namespace lathe::cuda {
namespace {

constexpr int kOldestCapability = 80;

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// Faults after which every later call fails too.
bool is_lost(cudaError_t e) {
  switch (e) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorContextIsDestroyed:
    case cudaErrorDevicesUnavailable:
    case cudaErrorMpsClientTerminated:
#if CUDART_VERSION >= 13000
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
#endif
    case cudaErrorUnknown: return true;
    default: return false;
  }
}

/// Throws the reason why no device can be opened; `result` is what counting them said.
[[noreturn]] void unavailable(cudaError_t result, int driver) {
  const std::string built = version_text(CUDART_VERSION);
  if (result == cudaErrorInsufficientDriver) {
    throw Error(ErrorCode::cuda_driver_too_old,
                "the NVIDIA driver supports CUDA " + version_text(driver) + ", this build needs " + built +
                    " (driver R580 or later)");
  }
  if (result == cudaErrorNoDevice || result == cudaSuccess) {
    throw Error(ErrorCode::cuda_no_device, "the NVIDIA driver sees no device (is CUDA_VISIBLE_DEVICES empty?)");
  }
  throw Error(ErrorCode::cuda_no_device, std::string("the driver refused: ") + cudaGetErrorString(result));
}

DeviceState make_state() {
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (!library) {
    throw Error(ErrorCode::cuda_no_driver, "no NVIDIA driver is installed (libcuda.so.1 was not found)");
  }
  DeviceState state = {};
  int devices = 0;
  cudaDriverGetVersion(&state.driver);
  const cudaError_t counted = cudaGetDeviceCount(&devices);
  if (counted != cudaSuccess || devices == 0) {
    cudaGetLastError();
    unavailable(counted, state.driver);
  }
  cudaDeviceProp properties = {};
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  state.name = properties.name;
  state.facts = {properties.multiProcessorCount, properties.major * 10 + properties.minor,
                 static_cast<int64_t>(properties.sharedMemPerBlockOptin), properties.l2CacheSize};
  if (state.facts.compute_capability < kOldestCapability) {
    throw Error(ErrorCode::cuda_no_device, state.name + " has compute capability " +
                                               std::to_string(properties.major) + "." +
                                               std::to_string(properties.minor) + ", 8.0 or later is needed");
  }
  check(cudaSetDevice(0), "cudaSetDevice");
  check(cudaStreamCreateWithFlags(&state.stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return state;
}

}  // namespace

DeviceState& device_state() {
  // Leaked on purpose, like the CPU's pool: finalizers may run while static objects are destroyed. A device that
  // could not be opened is tried again at the next call.
  static DeviceState* state = new DeviceState(make_state());
  return *state;
}

const Facts& facts() { return device_state().facts; }

cudaStream_t stream() { return device_state().stream; }

bool capturing() { return device_state().capturing; }

void check(cudaError_t result, const char* what) {
  if (result == cudaSuccess) return;
  const std::string message = std::string(what) + ": " + cudaGetErrorString(result) + " (" + cudaGetErrorName(result) + ")";
  cudaGetLastError();  // an error that is not sticky must not show up at the next launch
  if (result == cudaErrorMemoryAllocation) throw Error(ErrorCode::out_of_memory, message);
  throw Error(is_lost(result) ? ErrorCode::cuda_lost : ErrorCode::cuda_error, message);
}

}  // namespace lathe::cuda
