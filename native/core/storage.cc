// Owners of tensor memory: see storage.h.
#include "storage.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "allocator.h"
#include "backend.h"
#include "error.h"
#include "recording.h"

namespace lathe {

std::shared_ptr<Storage> Storage::allocate(int64_t bytes, Device device) {
  if (device == Device::cpu) {
    std::shared_ptr<RecordedMemory> recorded = recorded_memory();
    void* block = recorded ? recorded->take(bytes) : pool_allocate(bytes);
    std::shared_ptr<Storage> made(new Storage(block, bytes, false, device, recorded != nullptr));
    made->recorded_ = std::move(recorded);
    return made;
  }
  Backend& backend = backend_for(device);
  void* data = backend.allocate(bytes);  // opens the device where that has not been done
  return std::shared_ptr<Storage>(new Storage(data, bytes, false, device, backend.capturing()));
}

std::shared_ptr<Storage> Storage::map_file(const std::string& path) {
  const auto fail = [&path](const std::string& why) {
    return Error(ErrorCode::io, "path: cannot map '" + path + "': " + why);
  };
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw fail(std::strerror(errno));
  struct stat info = {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    throw fail("not a regular file");
  }
  void* data = nullptr;
  if (info.st_size > 0) {
    data = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      const int reason = errno;
      close(fd);
      throw fail(std::strerror(reason));
    }
  }
  close(fd);
  return std::shared_ptr<Storage>(new Storage(data, info.st_size, true, Device::cpu));
}

Storage::~Storage() {
  if (device_ != Device::cpu) {
    backend_for(device_).release(data_, bytes_);
  } else if (recorded_) {
    recorded_->give_back(data_);
  } else if (!mapped_) {
    pool_release(data_, bytes_);
  } else if (data_) {
    munmap(data_, static_cast<size_t>(bytes_));
  }
}

}  // namespace lathe
