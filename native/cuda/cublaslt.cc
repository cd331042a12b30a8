// cuBLASLt by dlopen. Types and numbers of its ABI are declared here, so the addon builds and loads without it.
// Algorithms come from the library's heuristic, once per shape, restricted to those that sum in one order; recorded
// graphs therefore use the algorithm of the eager run before them.
#include "cublaslt.h"

#include <dlfcn.h>
#include <unistd.h>

#include <map>
#include <tuple>
#include <vector>

#include "../core/backend.h"
#include "cublaslt_paths.h"

namespace lathe::cuda {
namespace {

// ---- the ABI: cublasLt.h of CUDA 12 and 13 ----
using Status = int;  // 0: success
constexpr Status kAllocationFailed = 3;
using Handle = void*;
using Descriptor = void*;
using Layout = void*;
using Preference = void*;
struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  Status state;
  float waves;
  int reserved[4];
};
constexpr int kCompute32F = 68;
constexpr int kR32F = 0, kR16BF = 14;
constexpr int kTransA = 3, kTransB = 4;
constexpr int32_t kOpN = 0, kOpT = 1;
constexpr int kMaxWorkspace = 1, kReductionMask = 3, kAlignA = 5, kAlignB = 6, kAlignC = 7, kAlignD = 8;
/// Split-K with partial sums in the compute type, added in order; not the in-place scheme, whose order varies.
constexpr uint32_t kOrderedReduction = 2;

constexpr size_t kWorkspaceBytes = size_t{32} << 20;

struct Api {
  Status (*create)(Handle*);
  size_t (*version)();
  Status (*descriptor_create)(Descriptor*, int compute, int scale);
  Status (*descriptor_destroy)(Descriptor);
  Status (*descriptor_set)(Descriptor, int attribute, const void*, size_t);
  Status (*layout_create)(Layout*, int type, uint64_t rows, uint64_t columns, int64_t leading);
  Status (*layout_destroy)(Layout);
  Status (*preference_create)(Preference*);
  Status (*preference_destroy)(Preference);
  Status (*preference_set)(Preference, int attribute, const void*, size_t);
  Status (*heuristic)(Handle, Descriptor, Layout, Layout, Layout, Layout, Preference, int, Heuristic*, int*);
  Status (*matmul)(Handle, Descriptor, const void*, const void*, Layout, const void*, Layout, const void*, const void*,
                   Layout, void*, Layout, const Algorithm*, void*, size_t, cudaStream_t);
};

struct Library {
  LtLibrary found;
  Api api = {};
  Handle handle = nullptr;
};

bool resolve(void* library, Api& api) {
  const auto find = [library](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    return function != nullptr;
  };
  return find(api.create, "cublasLtCreate") && find(api.version, "cublasLtGetVersion") &&
         find(api.descriptor_create, "cublasLtMatmulDescCreate") &&
         find(api.descriptor_destroy, "cublasLtMatmulDescDestroy") &&
         find(api.descriptor_set, "cublasLtMatmulDescSetAttribute") &&
         find(api.layout_create, "cublasLtMatrixLayoutCreate") &&
         find(api.layout_destroy, "cublasLtMatrixLayoutDestroy") &&
         find(api.preference_create, "cublasLtMatmulPreferenceCreate") &&
         find(api.preference_destroy, "cublasLtMatmulPreferenceDestroy") &&
         find(api.preference_set, "cublasLtMatmulPreferenceSetAttribute") &&
         find(api.heuristic, "cublasLtMatmulAlgoGetHeuristic") && find(api.matmul, "cublasLtMatmul");
}

std::string version_text(size_t version) {
  // 130101 is 13.1.1; CUDA 12's numbers have the same form.
  return std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100);
}

Library& library() {
  static Library* instance = [] {
    auto* l = new Library();
    std::string tried;
    for (const std::string& path : cublaslt_paths()) {
      void* opened = dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);
      if (!opened) {
        const char* reason = dlerror();
        if (access(path.c_str(), F_OK) == 0) tried += (tried.empty() ? "" : ", ") + std::string(reason ? reason : path);
        continue;
      }
      Status status = -1;
      if (resolve(opened, l->api)) status = l->api.create(&l->handle);
      if (status == 0) {
        l->found.path = path;
        l->found.version = version_text(l->api.version());
        return l;
      }
      tried += (tried.empty() ? "" : ", ") + path + " (does not start: status " + std::to_string(status) + ")";
      dlclose(opened);
    }
    l->found.why = tried.empty() ? "libcublasLt.so.13 and .12 were not found in CUDA_HOME, on the loader's path or in "
                                   "the nvidia packages of the python3 on PATH"
                                 : tried;
    return l;
  }();
  return *instance;
}

void* workspace() {
  static void* memory = backend_for(Device::cuda).allocate(kWorkspaceBytes);
  return memory;
}

/// The largest power of two up to 256 that divides the address.
uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return address % 256 == 0 ? 256u : static_cast<uint32_t>(address & -address);
}

/// Everything that an algorithm depends on.
using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool, DType, DType, bool, uint32_t, uint32_t,
                       uint32_t>;

struct Plan {
  Descriptor descriptor = nullptr;
  Layout a = nullptr, b = nullptr, c = nullptr;
  Algorithm algorithm = {};
  bool usable = false;
};

int type_of(DType d) { return d == DType::bf16 ? kR16BF : kR32F; }

void demand(Status status, const char* what) {
  if (status == 0) return;
  // A kernel before this call may be at fault: the stream knows, and then the device is lost, not this call refused.
  if (!capturing()) {
    const cudaError_t before = cudaStreamQuery(stream());
    if (before != cudaErrorNotReady) check(before, what);
  }
  cudaGetLastError();
  const ErrorCode code = status == kAllocationFailed ? ErrorCode::out_of_memory : ErrorCode::cuda_error;
  throw Error(code, std::string(what) + ": cuBLAS status " + std::to_string(status));
}

/// Column-major, C is [n, m] = op(B)ᵀ-wise product: X = B's memory, Y = A's. A row-major matrix is its own transpose
/// there, so X needs transposing exactly when B is given transposed, Y exactly when A is.
Plan make_plan(const LtProduct& p) {
  const Api& api = library().api;
  Plan plan;
  demand(api.descriptor_create(&plan.descriptor, kCompute32F, kR32F), "cublasLtMatmulDescCreate");
  const int32_t x = p.trans_b ? kOpT : kOpN, y = p.trans_a ? kOpT : kOpN;
  demand(api.descriptor_set(plan.descriptor, kTransA, &x, sizeof x), "transa");
  demand(api.descriptor_set(plan.descriptor, kTransB, &y, sizeof y), "transb");
  const auto rows = [](int64_t r) { return static_cast<uint64_t>(r); };
  // X: row-major [k, n] (or [n, k] transposed) is column-major [n, k] (or [k, n]) with the pitch as leading size.
  const int64_t x_rows = p.trans_b ? p.k : p.n, x_columns = p.trans_b ? p.n : p.k;
  const int64_t y_rows = p.trans_a ? p.m : p.k, y_columns = p.trans_a ? p.k : p.m;
  demand(api.layout_create(&plan.b, type_of(p.in), rows(x_rows), rows(x_columns), p.pitch_b), "layout of b");
  demand(api.layout_create(&plan.a, type_of(p.in), rows(y_rows), rows(y_columns), p.pitch_a), "layout of a");
  demand(api.layout_create(&plan.c, type_of(p.out), rows(p.n), rows(p.m), p.n), "layout of c");
  Preference preference = nullptr;
  demand(api.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  const uint64_t limit = kWorkspaceBytes;
  const uint32_t align_x = alignment_of(p.b), align_y = alignment_of(p.a), align_c = alignment_of(p.c);
  Status status = api.preference_set(preference, kMaxWorkspace, &limit, sizeof limit);
  status |= api.preference_set(preference, kReductionMask, &kOrderedReduction, sizeof kOrderedReduction);
  status |= api.preference_set(preference, kAlignA, &align_x, sizeof align_x);
  status |= api.preference_set(preference, kAlignB, &align_y, sizeof align_y);
  status |= api.preference_set(preference, kAlignC, &align_c, sizeof align_c);
  status |= api.preference_set(preference, kAlignD, &align_c, sizeof align_c);
  demand(status, "cublasLtMatmulPreferenceSetAttribute");
  Heuristic best = {};
  int found = 0;
  status = api.heuristic(library().handle, plan.descriptor, plan.b, plan.a, plan.c, plan.c, preference, 1, &best, &found);
  api.preference_destroy(preference);
  plan.usable = status == 0 && found > 0 && best.state == 0 && best.workspace <= kWorkspaceBytes;
  plan.algorithm = best.algorithm;
  return plan;
}

const Plan& plan_of(const LtProduct& p) {
  static auto* plans = new std::map<Key, Plan>();
  const Key key = {p.m,  p.n,   p.k,         p.pitch_a,         p.pitch_b,         p.trans_a,         p.trans_b,
                   p.in, p.out, p.beta != 0, alignment_of(p.a), alignment_of(p.b), alignment_of(p.c)};
  const auto found = plans->find(key);
  if (found != plans->end()) return found->second;
  // Lengths vary from batch to batch: an endless run must not keep a plan for each.
  constexpr size_t kMostPlans = 4096;
  if (plans->size() >= kMostPlans) {
    for (auto& [old_key, old] : *plans) {
      library().api.descriptor_destroy(old.descriptor);
      for (Layout layout : {old.a, old.b, old.c}) library().api.layout_destroy(layout);
    }
    plans->clear();
  }
  return plans->emplace(key, make_plan(p)).first->second;
}

}  // namespace

const LtLibrary& lt_library() { return library().found; }

bool lt_multiply(const LtProduct& p) {
  const Plan& plan = plan_of(p);
  if (!plan.usable) return false;
  demand(library().api.matmul(library().handle, plan.descriptor, &p.alpha, p.b, plan.b, p.a, plan.a, &p.beta, p.c,
                              plan.c, p.c, plan.c, &plan.algorithm, workspace(), kWorkspaceBytes, stream()),
         "cublasLtMatmul");
  return true;
}

}  // namespace lathe::cuda
