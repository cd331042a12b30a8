// Tasks of attention on AMX tiles: many lanes of one key head, or a few lanes of several key heads, as decoding has them.
#pragma once
#include "attention_tiles.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)

constexpr int64_t kDecodeKeysAhead = 8;  // rows of keys asked for ahead, into L2

/// Buffers of one worker: operands of `heads` key heads at a time, and `panels` panels.
struct TileRoom {
  const TileShape& t;
  char *queries, *keys, *values, *weights;
  float *outputs, *scores, *rows;  // rows: a panel's

  static int64_t bytes(const TileShape& t, int64_t heads, int64_t panels) {
    return panels * (t.query_bytes() + t.output_bytes()) + heads * t.key_bytes() + t.value_bytes() + t.weight_bytes() +
           (kKeyBlock + t.rows) * kPanel * 4;
  }
  TileRoom(char* at, const TileShape& shape, int64_t heads, int64_t panels) : t(shape) {
    const auto take = [&at](int64_t count) {
      char* p = at;
      at += count;
      return p;
    };
    queries = take(panels * t.query_bytes());
    outputs = reinterpret_cast<float*>(take(panels * t.output_bytes()));
    keys = take(heads * t.key_bytes());
    values = take(t.value_bytes());
    weights = take(t.weight_bytes());
    scores = reinterpret_cast<float*>(take(kKeyBlock * kPanel * 4));
    rows = reinterpret_cast<float*>(take(kPanel * t.rows * 4));
  }
  char* queries_of(int64_t panel) const { return queries + panel * t.query_bytes(); }
  float* output_of(int64_t panel) const { return outputs + panel * t.output_bytes() / 4; }
};

/// All lanes [first, first + count) of one sequence and key head, at most `panels` panels.
static inline void attend_tiles(const Inputs& in, const AttentionShape& a, const Sequence& s, int64_t key_head,
                                int64_t first, int64_t count, const TileRoom& room, PanelState* state) {
  const TileShape& t = room.t;
  const int64_t panels = (count + kPanel - 1) / kPanel;
  const auto lanes_of = [&](int64_t p) {
    return Lanes{s, a, first + p * kPanel, min(kPanel, count - p * kPanel)};
  };
  for (int64_t p = 0; p < panels; p++) {
    start_panel(room.output_of(p), state[p], room.queries_of(p), room.rows, in.q, lanes_of(p), key_head, t);
  }
  const int64_t end = lanes_of(panels - 1).last_position() + 1;
  for (int64_t b = a.first_key(lanes_of(0).position(0)) / kKeyBlock * kKeyBlock; b < end; b += kKeyBlock) {
    const int64_t block_keys = min(kKeyBlock, end - b);
    int64_t row_at[kKeyBlock];
    for (int64_t j = 0; j < block_keys; j++) {
      row_at[j] = (s.key_row(b + j) * a.key_heads + key_head) * a.d;
      __builtin_prefetch(in.k.at(row_at[j] + kRowsAhead * a.key_heads * a.d).data);
      pack_key(room.keys, in.k.at(row_at[j]), j, t, a.d);
    }
    pack_values(room.values, in.v, row_at, block_keys, a, t);
    for (int64_t p = 0; p < panels; p++) {
      const Lanes lanes = lanes_of(p);
      const int64_t visible_keys = min(block_keys, lanes.last_position() + 1 - b);
      if (visible_keys <= 0 || b + block_keys <= a.first_key(lanes.position(0))) continue;
      (lanes.count <= kSide ? tile_panel<true> : tile_panel<false>)(room.output_of(p), state[p], room.scores,
                                                                    room.weights, room.queries_of(p), room.keys,
                                                                    room.values, b, visible_keys, lanes, t);
    }
  }
  for (int64_t p = 0; p < panels; p++) {
    end_panel(in, state[p], room.output_of(p), room.rows, lanes_of(p), key_head, t);
  }
}

/// The lanes (at most kNarrowLanes) of each of the key heads [first_head, end_head): keys are packed for all heads in turn,
/// as their rows lie in memory, and the values come meanwhile.
static inline void attend_tiles_few(const Inputs& in, const Lanes& lanes, int64_t first_head, int64_t end_head,
                                    const TileRoom& room, PanelState* state) {
  const AttentionShape& a = lanes.shape;
  const TileShape& t = room.t;
  const int64_t heads = end_head - first_head, row_elements = a.key_heads * a.d;
  for (int64_t h = 0; h < heads; h++) {
    start_panel(room.output_of(h), state[h], room.queries_of(h), room.rows, in.q, lanes, first_head + h, t);
  }
  const FloatRef keys = in.k.at(first_head * a.d), values = in.v.at(first_head * a.d);
  const int64_t piece = heads * a.d * 2, end = lanes.last_position() + 1;
  for (int64_t b = a.first_key(lanes.position(0)) / kKeyBlock * kKeyBlock; b < end; b += kKeyBlock) {
    const int64_t count = min(kKeyBlock, end - b);
    int64_t row_at[kKeyBlock + kDecodeKeysAhead];
    for (int64_t j = 0; j < count + kDecodeKeysAhead; j++) {
      row_at[j] = lanes.s.key_row(min(b + j, end - 1)) * row_elements;
    }
    for (int64_t j = 0; j < count; j++) {
      const char *next = keys.at(row_at[j + kDecodeKeysAhead]).data, *value = values.at(row_at[j]).data;
      for (int64_t line = 0; line < piece; line += 64) {
        __builtin_prefetch(next + line, 0, 2);
        __builtin_prefetch(value + line, 0, 2);
      }
      for (int64_t h = 0; h < heads; h++) {
        pack_key(room.keys + h * t.key_bytes(), keys.at(row_at[j] + h * a.d), j, t, a.d);
      }
    }
    for (int64_t h = 0; h < heads; h++) {
      pack_values(room.values, values.at(h * a.d), row_at, count, a, t);
      tile_panel<true>(room.output_of(h), state[h], room.scores, room.weights, room.queries_of(h),
                       room.keys + h * t.key_bytes(), room.values, b, count, lanes, t);
    }
  }
  for (int64_t h = 0; h < heads; h++) {
    end_panel(in, state[h], room.output_of(h), room.rows, lanes, first_head + h, t);
  }
}

#endif

}  // namespace lathe::LATHE_ISA
