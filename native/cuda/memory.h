// The device's memory pool: chunks from the driver, cut into blocks, best fit, neighbours joined again. It holds no
// CUDA call, so it can be tested anywhere. Blocks are reused at once: all work is on one stream.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "../core/allocator.h"

namespace lathe::cuda {

/// Where chunks come from; allocate returns null when there is none left.
struct RawMemory {
  std::function<void*(int64_t)> allocate;
  std::function<void(void*)> release;
  /// "… free of … on the device", for the out-of-memory sentence.
  std::function<std::string()> situation;
};

class BlockPool {
 public:
  explicit BlockPool(RawMemory raw) : raw_(std::move(raw)) {}

  /// 256-byte aligned. Throws Error(out_of_memory) with the numbers.
  void* allocate(int64_t bytes);
  void release(void* data);
  /// One chunk such that `bytes` in all are at hand.
  void reserve(int64_t bytes);
  /// Limit on the sum of chunks; 0 = none.
  void set_limit(int64_t bytes) { limit_ = bytes; }
  /// Gives chunks without a used block back to the driver.
  void trim();
  MemoryStats stats() const { return {in_use_, peak_, held_ - in_use_, limit_}; }

  /// From here to end_owner() blocks belong to a new owner (a graph being recorded): when released they are handed
  /// out to that owner only, until drop_owner().
  int begin_owner();
  void end_owner() { current_ = 0; }
  void drop_owner(int owner);

 private:
  struct Block {
    char* address;
    int64_t size;
    bool used;
    int owner;
    Block *before, *after;  // neighbours in the chunk
  };
  using Free = std::set<std::pair<int64_t, Block*>, bool (*)(const std::pair<int64_t, Block*>&,
                                                              const std::pair<int64_t, Block*>&)>;

  static bool smaller(const std::pair<int64_t, Block*>& a, const std::pair<int64_t, Block*>& b) {
    return a.first != b.first ? a.first < b.first : a.second->address < b.second->address;
  }

  Block* take_free(int64_t size);
  Block* take_owned(int64_t size);
  bool grow(int64_t size);
  void put_free(Block* block);
  void absorb_after(Block* block);

  RawMemory raw_;
  Free free_{smaller};
  std::unordered_map<void*, Block*> used_;
  std::map<int, std::multimap<int64_t, Block*>> owned_;  // free blocks that belong to an owner
  std::vector<std::pair<Block*, int64_t>> chunks_;       // first block and size
  int64_t in_use_ = 0, peak_ = 0, held_ = 0, limit_ = 0;
  int current_ = 0, next_owner_ = 1;
};

}  // namespace lathe::cuda
