// The places where cuBLASLt is looked for. Reads the environment and folders; knows nothing of CUDA.
#pragma once
#include <string>
#include <vector>

namespace lathe::cuda {

/// Paths and bare names for dlopen, best first: version 13 before 12; CUDA_HOME and CUDA_PATH, the loader's own search,
/// the toolkit's folder, then Python's nvidia packages.
std::vector<std::string> cublaslt_paths();

}  // namespace lathe::cuda
