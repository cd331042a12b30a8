// Where libcublasLt may lie: see cublaslt_paths.h.
#include "cublaslt_paths.h"

#include <glob.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

namespace lathe::cuda {
namespace {

/// Where Python packages may lie: the active environment, that of every python3 on PATH, the usual places.
std::vector<std::string> python_prefixes() {
  std::vector<std::string> prefixes;
  const auto add = [&prefixes](const std::string& prefix) {
    if (!prefix.empty() && std::find(prefixes.begin(), prefixes.end(), prefix) == prefixes.end()) prefixes.push_back(prefix);
  };
  const char* virtual_env = std::getenv("VIRTUAL_ENV");
  if (virtual_env) add(virtual_env);
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string python = folder + "/python3";
    if (folder.empty() || access(python.c_str(), X_OK) != 0) continue;
    add(folder + "/..");
    // A link elsewhere: its target's folder is <prefix>/bin too.
    if (char* real = realpath(python.c_str(), nullptr)) {
      const std::string target = real;
      std::free(real);
      add(target.substr(0, target.rfind('/')) + "/..");
    }
  }
  for (const char* usual : {"/usr/local", "/usr", "/opt/conda"}) add(usual);
  return prefixes;
}

}  // namespace

std::vector<std::string> cublaslt_paths() {
  std::vector<std::string> paths;
  const std::vector<std::string> prefixes = python_prefixes();
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
      const char* home = std::getenv(variable);
      if (!home || !*home) continue;
      for (const char* folder : {"/lib64/", "/lib/", "/targets/x86_64-linux/lib/"}) paths.push_back(home + (folder + std::string(name)));
    }
    paths.push_back(name);  // the loader's own search
    for (const char* folder : {"/usr/local/cuda/lib64/", "/usr/lib/x86_64-linux-gnu/"}) paths.push_back(folder + std::string(name));
    for (const std::string& prefix : prefixes) {
      for (const char* packages : {"/lib/python3*/site-packages/", "/lib/python3*/dist-packages/", "/lib/python3/dist-packages/"}) {
        const std::string pattern = prefix + packages + "nvidia/*/lib/" + name;
        glob_t matches = {};
        if (glob(pattern.c_str(), 0, nullptr, &matches) == 0) {
          for (size_t i = 0; i < matches.gl_pathc; i++) paths.push_back(matches.gl_pathv[i]);
        }
        globfree(&matches);
      }
    }
  }
  return paths;
}

}  // namespace lathe::cuda
