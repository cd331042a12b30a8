// Products with packed weights: which kernel takes which; and weights rounded to int8.
#include "packed_weight.h"

#include "gemm_finish.h"
#include "gemm_int8.h"
#include "gemm_thin.h"
#include "gemm_tiles.h"
#include "int8_rows.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

/// A panel from row `first` on. numbers: room for a row.
void pack_panel_int8(char* to, float* scales, In w, int64_t first, int16_t* numbers) {
  const int64_t n = w.dims[0], k = w.dims[1], depth = round_up(k, kInt8Fill);
  for (int64_t i = 0; i < kPanelWidth; i++) {
    const bool real = first + i < n;
    scales[i] = round_row(numbers, FloatRef(w).at(real ? (first + i) * k : 0), real ? k : 0, depth, kLargestWeight);
    char* lane = to + i * 4;
    for (int64_t x = 0; x < depth; x += 4, lane += kPanelWidth * 4) {
      for (int64_t q = 0; q < 4; q++) lane[q] = static_cast<char>(numbers[x + q]);
    }
  }
}

}  // namespace

PackedWeight::PackedWeight(In packed) {
  const auto* header = static_cast<const PackedHeader*>(packed.data);
  n = header->n;
  k = header->k;
  dtype = header->dtype;
  const char* body = static_cast<const char*>(packed.data) + kPackedHeaderBytes;
  scales = int8() ? reinterpret_cast<const float*>(body) : nullptr;
  panels = int8() ? body + panel_count() * kPanelWidth * 4 : body;
}

void pack_int8(Out packed, In w) {
  __builtin_memset(packed.data, 0, kPackedHeaderBytes);
  *static_cast<PackedHeader*>(packed.data) = {kPackedMagic, w.dims[0], w.dims[1], DType::u8};
  const PackedWeight view(packed);
  const int64_t row_bytes = round_up(w.dims[1], kInt8Fill) * 2;
  const Scratch room(thread_count() * row_bytes);
  parallel_tasks(view.panel_count(), [&](int64_t p, int worker) {
    pack_panel_int8(const_cast<char*>(view.panels) + p * view.panel_bytes(),
                    const_cast<float*>(view.scales) + p * kPanelWidth, w, p * kPanelWidth,
                    reinterpret_cast<int16_t*>(room.bytes() + worker * row_bytes));
  });
}

bool multiply_by_blocks(const Operand& a, const PackedWeight* weights, int count, int64_t m, const Finish& finish) {
  int int8 = 0, bf16 = 0;
  for (int i = 0; i < count; i++) {
    int8 += weights[i].int8();
    bf16 += weights[i].dtype == DType::bf16;
  }
  if (int8 == count) {
    int8_products(a, weights, count, m, finish);
    return true;
  }
  if (!kHasTiles || bf16 < count) return false;
  (is_thin(a, m) ? thin_products : tile_products)(a, weights, count, m, finish);
  return true;
}

void multiply_packed_weight(const Product& c, const Operand& a, const PackedWeight& w, int64_t m) {
  const auto write = [](void* to, int, const SumsBlock& block, float* sums) {
    write_tile(*static_cast<const Product*>(to), sums, block.row, block.rows, block.first, block.columns);
  };
  Product product = c;
  if (multiply_by_blocks(a, &w, 1, m, {write, &product})) return;
  multiply_packed(c, a, w.panels, w.dtype == DType::bf16, m, w.n, w.k);
}

}  // namespace lathe::LATHE_ISA
