// The one exception type of the native code. It carries a code for JavaScript and names the argument at fault;
// the binding puts the op's name in front. Never thrown inside a pool task.
#pragma once
#include <cstdint>
#include <exception>
#include <string>

namespace lathe {

enum class ErrorCode {
  invalid_argument,
  out_of_memory,
  io,
  internal,
  cuda_not_built,       // this addon has no CUDA part
  cuda_no_driver,       // no NVIDIA driver on this machine
  cuda_driver_too_old,  // older than the CUDA release of this build
  cuda_no_device,       // no device, or none that the kernels were built for
  cuda_no_cublas,       // cuBLASLt was demanded and is not there
  cuda_error,           // one call was refused; the device works on
  cuda_lost,            // ECC, a fault in a kernel, the device gone: only a new process can go on
};

class Error : public std::exception {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
  std::string message_;
};

[[noreturn]] inline void invalid(const char* argument, const std::string& message) {
  throw Error(ErrorCode::invalid_argument, std::string(argument) + ": " + message);
}

/// a·b for sizes; throws instead of wrapping.
inline int64_t checked_mul(int64_t a, int64_t b) {
  int64_t product = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) {
    throw Error(ErrorCode::invalid_argument, "size overflows 64 bits");
  }
  return product;
}

}  // namespace lathe
