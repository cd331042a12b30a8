// Best-fit blocks over chunks: see memory.h. The same sequence of calls gives the same addresses.
#include "memory.h"

#include <algorithm>

#include "../core/error.h"

namespace lathe::cuda {
namespace {

constexpr int64_t kAlign = 256;
constexpr int64_t kChunkAlign = int64_t{2} << 20;
constexpr int64_t kChunkMin = int64_t{64} << 20;

int64_t round_up(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

}  // namespace

BlockPool::Block* BlockPool::take(Free& list, int64_t size) {
  Block probe = {nullptr, size, false, false, nullptr, nullptr};
  const auto found = list.lower_bound({size, &probe});
  if (found == list.end()) return nullptr;
  Block* block = found->second;
  list.erase(found);
  if (block->size > size) {
    auto* rest = new Block{block->address + size, block->size - size, false, block->recorded, block, block->after};
    if (rest->after) rest->after->before = rest;
    block->after = rest;
    block->size = size;
    list.insert({rest->size, rest});
  }
  return block;
}

bool BlockPool::grow(int64_t size) {
  const int64_t exact = round_up(size, kChunkAlign);
  for (const int64_t bytes : {std::max(exact, kChunkMin), exact}) {
    if (limit_ > 0 && held_ + bytes > limit_) continue;
    void* data = raw_.allocate(bytes);
    if (!data) continue;
    auto* block = new Block{static_cast<char*>(data), bytes, false, false, nullptr, nullptr};
    chunks_.push_back({block, bytes});
    held_ += bytes;
    free_.insert({bytes, block});
    return true;
  }
  return false;
}

void* BlockPool::allocate(int64_t bytes) {
  if (bytes < 0 || bytes > (int64_t{1} << 46)) throw Error(ErrorCode::out_of_memory, "size out of range");
  const int64_t size = round_up(std::max<int64_t>(bytes, 1), kAlign);
  Block* block = recording_ ? take(recorded_, size) : nullptr;
  if (!block) block = take(free_, size);
  if (!block && grow(size)) block = take(free_, size);
  if (!block) {
    trim();
    if (grow(size)) block = take(free_, size);
  }
  if (!block) {
    throw Error(ErrorCode::out_of_memory,
                "cannot allocate " + std::to_string(size) + " bytes on the device: " + std::to_string(in_use_) +
                    " in use, " + std::to_string(held_ - in_use_) + " pooled, " + raw_.situation() +
                    (limit_ > 0 ? ", limit " + std::to_string(limit_) : ""));
  }
  block->used = true;
  used_[block->address] = block;
  if (!block->recorded) in_use_ += block->size;
  block->recorded = recording_;
  peak_ = std::max(peak_, in_use_);
  return block->address;
}

void BlockPool::release(void* data) {
  const auto found = used_.find(data);
  if (found == used_.end()) return;
  Block* block = found->second;
  used_.erase(found);
  block->used = false;
  if (!block->recorded) in_use_ -= block->size;
  put_free(block);
}

/// `block` takes over the block behind it; neither is in a list.
void BlockPool::absorb_after(Block* block) {
  Block* next = block->after;
  block->size += next->size;
  block->after = next->after;
  if (block->after) block->after->before = block;
  delete next;
}

void BlockPool::put_free(Block* block) {
  Free& list = list_of(block);
  const auto joins = [block](const Block* b) { return b && !b->used && b->recorded == block->recorded; };
  if (joins(block->after)) {
    list.erase({block->after->size, block->after});
    absorb_after(block);
  }
  if (joins(block->before)) {
    block = block->before;
    list.erase({block->size, block});
    absorb_after(block);
  }
  list.insert({block->size, block});
}

void BlockPool::reserve(int64_t bytes) {
  if (bytes > held_) {
    if (!grow(bytes - held_)) {
      throw Error(ErrorCode::out_of_memory, "cannot reserve " + std::to_string(bytes) + " bytes on the device: " +
                                                std::to_string(held_) + " held, " + raw_.situation());
    }
  }
}

void BlockPool::trim() {
  for (size_t i = 0; i < chunks_.size();) {
    Block* first = chunks_[i].first;
    if (!first->used && !first->recorded && !first->after) {
      free_.erase({first->size, first});
      raw_.release(first->address);
      held_ -= chunks_[i].second;
      delete first;
      chunks_.erase(chunks_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      i++;
    }
  }
}

void BlockPool::begin_recording() {
  recordings_++;
  recording_ = true;
}

void BlockPool::drop_recording() {
  if (--recordings_ > 0) return;
  for (auto& [data, block] : used_) block->recorded = false;
  // One by one: a block counts as free for its neighbours only once it is in the list.
  while (!recorded_.empty()) {
    Block* block = recorded_.begin()->second;
    recorded_.erase(recorded_.begin());
    block->recorded = false;
    in_use_ -= block->size;
    put_free(block);
  }
}

}  // namespace lathe::cuda
