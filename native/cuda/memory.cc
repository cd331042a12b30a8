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

BlockPool::Block* BlockPool::take_free(int64_t size) {
  Block probe = {nullptr, size, false, 0, nullptr, nullptr};
  const auto found = free_.lower_bound({size, &probe});
  if (found == free_.end()) return nullptr;
  Block* block = found->second;
  free_.erase(found);
  if (block->size > size) {
    auto* rest = new Block{block->address + size, block->size - size, false, 0, block, block->after};
    if (rest->after) rest->after->before = rest;
    block->after = rest;
    block->size = size;
    free_.insert({rest->size, rest});
  }
  return block;
}

/// A block that the recording has given back, unless it is far too large.
BlockPool::Block* BlockPool::take_owned(int64_t size) {
  auto& mine = owned_[current_];
  const auto found = mine.lower_bound(size);
  if (found == mine.end() || found->first > 2 * size) return nullptr;
  Block* block = found->second;
  mine.erase(found);
  return block;
}

bool BlockPool::grow(int64_t size) {
  const int64_t exact = round_up(size, kChunkAlign);
  for (const int64_t bytes : {std::max(exact, kChunkMin), exact}) {
    if (limit_ > 0 && held_ + bytes > limit_) continue;
    void* data = raw_.allocate(bytes);
    if (!data) continue;
    auto* block = new Block{static_cast<char*>(data), bytes, false, 0, nullptr, nullptr};
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
  Block* block = current_ ? take_owned(size) : nullptr;
  if (!block) block = take_free(size);
  if (!block && grow(size)) block = take_free(size);
  if (!block) {
    trim();
    if (grow(size)) block = take_free(size);
  }
  if (!block) {
    throw Error(ErrorCode::out_of_memory,
                "cannot allocate " + std::to_string(size) + " bytes on the device: " + std::to_string(in_use_) +
                    " in use, " + std::to_string(held_ - in_use_) + " pooled, " + raw_.situation() +
                    (limit_ > 0 ? ", limit " + std::to_string(limit_) : ""));
  }
  block->used = true;
  block->owner = current_;
  used_[block->address] = block;
  in_use_ += block->size;
  peak_ = std::max(peak_, in_use_);
  return block->address;
}

void BlockPool::release(void* data) {
  const auto found = used_.find(data);
  if (found == used_.end()) return;
  Block* block = found->second;
  used_.erase(found);
  block->used = false;
  in_use_ -= block->size;
  if (block->owner) {
    owned_[block->owner].insert({block->size, block});
  } else {
    put_free(block);
  }
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
  const auto joins = [](const Block* b) { return b && !b->used && !b->owner; };
  if (joins(block->after)) {
    free_.erase({block->after->size, block->after});
    absorb_after(block);
  }
  if (joins(block->before)) {
    block = block->before;
    free_.erase({block->size, block});
    absorb_after(block);
  }
  free_.insert({block->size, block});
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
    if (!first->used && !first->owner && !first->after) {
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

int BlockPool::begin_owner() { return current_ = next_owner_++; }

void BlockPool::drop_owner(int owner) {
  for (auto& [data, block] : used_) {
    if (block->owner == owner) block->owner = 0;
  }
  const auto mine = owned_.find(owner);
  if (mine == owned_.end()) return;
  // One by one: a block counts as free for its neighbours only once it is in the list.
  for (auto& [size, block] : mine->second) {
    block->owner = 0;
    put_free(block);
  }
  owned_.erase(mine);
}

}  // namespace lathe::cuda
