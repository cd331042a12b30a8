// Which devices this build has: see backend.h.
#include "backend.h"

namespace lathe {

#ifndef LATHE_CUDA
Backend* cuda_backend() { return nullptr; }
#endif

Backend& backend_for(Device device) {
  if (device == Device::cpu) throw Error(ErrorCode::internal, "the CPU has no device backend");
  Backend* backend = cuda_backend();
  if (!backend) throw Error(ErrorCode::cuda_not_built, "this build of the addon has no CUDA: run `npm run cuda:build`");
  return *backend;
}

}  // namespace lathe
