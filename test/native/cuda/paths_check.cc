// Where cuBLASLt is looked for: the nvidia packages of the python3 on PATH, also behind a link, version 13 first.
#include "../../../native/cuda/cublaslt_paths.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "reference.h"

namespace fs = std::filesystem;
using namespace reference;

namespace {

void touch(const fs::path& file, bool executable = false) {
  fs::create_directories(file.parent_path());
  std::ofstream(file).put('\n');
  if (executable) fs::permissions(file, fs::perms::owner_all);
}

/// The place of the library below `folder` among those looked at; -1: it is not looked for there.
int place(const fs::path& file) {
  const auto paths = lathe::cuda::cublaslt_paths();
  for (size_t i = 0; i < paths.size(); i++) {
    std::error_code none;
    if (fs::equivalent(paths[i], file, none)) return static_cast<int>(i);
  }
  return -1;
}

}  // namespace

int main(int, char** arguments) {
  const fs::path root = arguments[2];  // an empty folder
  const fs::path packages = "lib/python3.12/site-packages/nvidia";
  const fs::path direct = root / "env" / packages / "cu13/lib/libcublasLt.so.13";
  const fs::path older = root / "env" / packages / "cublas/lib/libcublasLt.so.12";
  const fs::path behind = root / "real" / packages / "cu13/lib/libcublasLt.so.13";
  const fs::path home = root / "cuda/lib64/libcublasLt.so.13";
  const fs::path elsewhere = root / "other" / packages / "cu13/lib/libcublasLt.so.13";
  for (const auto& file : {direct, older, behind, home, elsewhere}) touch(file);
  touch(root / "env/bin/python3", true);
  touch(root / "real/bin/python3.12", true);
  touch(root / "other/bin/python3");  // no program
  fs::create_directories(root / "links");
  fs::create_symlink(root / "real/bin/python3.12", root / "links/python3");

  for (const char* name : {"CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV"}) unsetenv(name);
  const auto on_path = [&](const std::string& folders) { setenv("PATH", folders.c_str(), 1); };
  on_path("/nowhere");
  expect("nothing on PATH, nothing looked at", place(direct) < 0 && place(home) < 0);
  on_path(":/nowhere:" + (root / "other/bin").string() + ":" + (root / "env/bin").string() + ":" + (root / "links").string());
  expect("the packages of a python3 on PATH", place(direct) >= 0 && place(older) >= 0);
  expect("behind a link", place(behind) > place(direct));
  expect("version 13 before 12", place(direct) < place(older) && place(behind) < place(older));
  expect("not beside what is no program", place(elsewhere) < 0);
  setenv("VIRTUAL_ENV", (root / "other").c_str(), 1);
  expect("the active environment before those on PATH", place(elsewhere) >= 0 && place(elsewhere) < place(direct));
  setenv("CUDA_HOME", (root / "cuda").c_str(), 1);
  expect("CUDA_HOME before all", place(home) == 0);
  unsetenv("PATH");
  expect("no PATH at all", place(home) == 0 && place(direct) < 0);
  return failures != 0;
}
