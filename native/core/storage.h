// Storage: who owns the bytes under tensors. Either a pooled buffer of a device or a read-only file mapping; tensors share it.
// Knows nothing of JavaScript.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "host_copy.h"

namespace lathe {

class RecordedMemory;

class Storage {
 public:
  /// Uninitialised pooled memory of the device. Throws Error(out_of_memory).
  static std::shared_ptr<Storage> allocate(int64_t bytes, Device device = Device::cpu);
  /// Maps a regular file read-only. Throws Error(io) naming the path. A file that another process shortens while
  /// it is mapped faults on access, as with every mmap: model files must be replaced by rename, not rewritten.
  static std::shared_ptr<Storage> map_file(const std::string& path);

  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  bool mapped() const { return mapped_; }
  Device device() const { return device_; }
  /// Made while a graph was recorded: the graph keeps the block itself, and reuses it inside once it is released.
  bool made_in_recording() const { return made_in_recording_; }
  /// Null on the CPU, whose memory the host reads as it is.
  HostCopy* host() { return device_ == Device::cpu ? nullptr : &host_; }

 private:
  Storage(void* data, int64_t bytes, bool mapped, Device device, bool made_in_recording = false)
      : data_(data), bytes_(bytes), mapped_(mapped), device_(device), made_in_recording_(made_in_recording) {
    host_.base = static_cast<const char*>(data);
  }

  void* data_;
  int64_t bytes_;
  bool mapped_;
  Device device_;
  bool made_in_recording_;
  std::shared_ptr<RecordedMemory> recorded_;  // on the CPU: whose block this is
  HostCopy host_;
};

}  // namespace lathe
