// The device's memory pool: chunks from the driver, cut into blocks, best fit, neighbours joined again. It holds no
// CUDA call, so it can be tested anywhere. Blocks are reused at once: all work is on one stream.
#pragma once
#include <cstdint>
#include <functional>
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

  /// From here to end_recording() blocks are the recordings': a graph will use them again, so when released they are
  /// handed out to recordings only, this one and later ones (graphs run one after the other, and nothing inside one
  /// outlives its run). They count as in use until drop_recording() has been called for every begin_recording().
  void begin_recording();
  void end_recording() { recording_ = false; }
  void drop_recording();

 private:
  struct Block {
    char* address;
    int64_t size;
    bool used;
    bool recorded;  // kept for recordings
    Block *before, *after;  // neighbours in the chunk
  };
  using Free = std::set<std::pair<int64_t, Block*>, bool (*)(const std::pair<int64_t, Block*>&,
                                                              const std::pair<int64_t, Block*>&)>;

  static bool smaller(const std::pair<int64_t, Block*>& a, const std::pair<int64_t, Block*>& b) {
    return a.first != b.first ? a.first < b.first : a.second->address < b.second->address;
  }

  /// The best fitting free block of the list, cut to size; null when there is none.
  Block* take(Free& list, int64_t size);
  bool grow(int64_t size);
  void put_free(Block* block);
  void absorb_after(Block* block);

  RawMemory raw_;
  Free& list_of(const Block* block) { return block->recorded ? recorded_ : free_; }

  Free free_{smaller}, recorded_{smaller};  // recorded_: free for recordings alone
  std::unordered_map<void*, Block*> used_;
  std::vector<std::pair<Block*, int64_t>> chunks_;       // first block and size
  int64_t in_use_ = 0, peak_ = 0, held_ = 0, limit_ = 0;
  int recordings_ = 0;  // begun and not dropped
  bool recording_ = false;
};

}  // namespace lathe::cuda
