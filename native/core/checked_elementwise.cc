// Argument checks of the elementwise, reduction, random and optimizer ops; each then runs the device's entry.
#include <cmath>

#include "backend.h"
#include "check.h"
#include "checked.h"
#include "dispatch.h"
#include "host_copy.h"

namespace lathe {
namespace {

/// y float and writable, x float, equal counts, in place allowed.
void expect_pair(Out y, const char* y_name, In x, const char* x_name) {
  expect_dtype(y, y_name, kFloat);
  expect_writable(y, y_name);
  expect_dtype(x, x_name, kFloat);
  expect_count(x, x_name, element_count(y));
  expect_same_or_disjoint(y, y_name, x, x_name);
}

void fill(Out x, double value) {
  expect_dtype(x, "x", kFloat | kI32);
  expect_writable(x, "x");
  if (x.dtype == DType::i32) {
    expect_that(value == std::floor(value) && std::fabs(value) <= 2147483647.0, "value",
                "must be a 32-bit integer for an i32 tensor");
  }
  ops_for(x.device).fill(x, value);
}

/// Between the CPU and a device; from the device it waits.
void copy_between(Out dst, In src) {
  const int64_t bytes = byte_count(dst);
  if (dst.device == Device::cpu) return backend_for(src.device).download(dst.data, src.data, bytes);
  backend_for(dst.device).upload(dst.data, src.data, bytes);
  if (dst.host && dst.dtype == DType::i32) dst.host->note(dst.data, src.data, bytes);
}

void copy(Out dst, In src) {
  expect_writable(dst, "dst");
  expect_that(dst.dtype == src.dtype || dst.dtype == DType::u8 || src.dtype == DType::u8, "src",
              "must have the type of dst (use cast), or one of them must be u8");
  expect_that(byte_count(dst) == byte_count(src), "src", "must have as many bytes as dst");
  if (dst.device != src.device) return copy_between(dst, src);
  expect_disjoint(dst, "dst", src, "src");
  ops_for(dst.device).copy(dst, src);
}

void cast(Out dst, In src) {
  expect_pair(dst, "dst", src, "src");
  ops_for(dst.device).cast(dst, src);
}

void add(Out out, In a, In b) {
  expect_pair(out, "out", a, "a");
  expect_pair(out, "out", b, "b");
  ops_for(out.device).add(out, a, b);
}

void axpy(Out y, float alpha, In x) {
  expect_pair(y, "y", x, "x");
  ops_for(y.device).axpy(y, alpha, x);
}

void scale(Out y, float alpha) {
  expect_dtype(y, "y", kFloat);
  expect_writable(y, "y");
  ops_for(y.device).scale(y, alpha);
}

void addBias(Out y, In b) {
  expect_out(y, "y", kFloat, {kAnySize, kAnySize});
  expect(b, "b", kFloat, {y.dims[1]});
  expect_disjoint(y, "y", b, "b");
  ops_for(y.device).addBias(y, b);
}

void biasBackward(Out db, In dy) {
  expect(dy, "dy", kFloat, {kAnySize, kAnySize});
  expect_out(db, "db", kF32, {dy.dims[1]});
  expect_disjoint(db, "db", dy, "dy");
  ops_for(db.device).biasBackward(db, dy);
}

double sumSquares(In x) {
  expect_dtype(x, "x", kFloat);
  return ops_for(x.device).sumSquares(x);
}

bool hasNonFinite(In x) {
  expect_dtype(x, "x", kFloat);
  return ops_for(x.device).hasNonFinite(x);
}

void dropoutForward(Out y, In x, float p, uint64_t seed, uint64_t stream) {
  expect_pair(y, "y", x, "x");
  expect_that(p >= 0 && p < 1, "p", "must be in [0,1)");
  ops_for(y.device).dropoutForward(y, x, p, seed, stream);
}

void dropoutBackward(Out dx, In dy, float p, uint64_t seed, uint64_t stream) {
  expect_pair(dx, "dx", dy, "dy");
  expect_that(p >= 0 && p < 1, "p", "must be in [0,1)");
  ops_for(dx.device).dropoutBackward(dx, dy, p, seed, stream);
}

void randomUniform(Out x, float lo, float hi, uint64_t seed, uint64_t stream) {
  expect_dtype(x, "x", kFloat);
  expect_writable(x, "x");
  expect_that(hi >= lo, "hi", "must not be below lo");
  ops_for(x.device).randomUniform(x, lo, hi, seed, stream);
}

void randomNormal(Out x, float mean, float std, uint64_t seed, uint64_t stream) {
  expect_dtype(x, "x", kFloat);
  expect_writable(x, "x");
  expect_that(std >= 0, "std", "must not be negative");
  ops_for(x.device).randomNormal(x, mean, std, seed, stream);
}

void adamwStep(Out p, Out m, Out v, In g, double lr, double beta1, double beta2, double eps, double weightDecay,
               int64_t step, float gradScale) {
  const int64_t n = element_count(p);
  expect_dtype(p, "p", kF32);
  expect_writable(p, "p");
  const struct {
    In tensor;
    const char* name;
  } others[] = {{m, "m"}, {v, "v"}, {g, "g"}};
  for (const auto& other : others) {
    expect_dtype(other.tensor, other.name, kF32);
    expect_count(other.tensor, other.name, n);
    expect_disjoint(p, "p", other.tensor, other.name);
  }
  expect_writable(m, "m");
  expect_writable(v, "v");
  expect_disjoint(m, "m", v, "v");
  expect_disjoint(m, "m", g, "g");
  expect_disjoint(v, "v", g, "g");
  expect_that(beta1 >= 0 && beta1 < 1, "beta1", "must be in [0,1)");
  expect_that(beta2 >= 0 && beta2 < 1, "beta2", "must be in [0,1)");
  expect_that(eps >= 0, "eps", "must not be negative");
  expect_that(step >= 1, "step", "must be at least 1");
  ops_for(p.device).adamwStep(p, m, v, g, lr, beta1, beta2, eps, weightDecay, step, gradScale);
}

}  // namespace

void add_checked_elementwise(Ops& t) {
  t.fill = fill;
  t.copy = copy;
  t.cast = cast;
  t.add = add;
  t.axpy = axpy;
  t.scale = scale;
  t.addBias = addBias;
  t.biasBackward = biasBackward;
  t.sumSquares = sumSquares;
  t.hasNonFinite = hasNonFinite;
  t.dropoutForward = dropoutForward;
  t.dropoutBackward = dropoutBackward;
  t.randomUniform = randomUniform;
  t.randomNormal = randomNormal;
  t.adamwStep = adamwStep;
}

}  // namespace lathe
