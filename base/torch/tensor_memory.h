// How many bytes of tensors a piece of code holds at most: counts through torch's allocator of one
// kind of device. On the meta device tensors have sizes and no memory, so a model that fits nowhere
// can be walked through to see what it would need.
//
//   const TensorMemory memory(at::kMeta);
//   loss(batch_on_meta).backward();
//   memory.peak_bytes();
//
// LOCAL. THREADS: counts what all threads of the process allocate while it lives, or only the one
// that made it (wherever that is freed), so that simulated ranks can be told apart.
#pragma once
#include <c10/core/DeviceType.h>

#include <cstdint>
#include <memory>

namespace trestle {

class TensorMemory {
 public:
  enum class Of { process, this_thread };

  /// Of a kind of device one of the process at a time, or one a thread.
  explicit TensorMemory(c10::DeviceType device, Of of = Of::process);
  ~TensorMemory();
  TensorMemory(const TensorMemory&) = delete;
  TensorMemory& operator=(const TensorMemory&) = delete;

  /// Of what was allocated since this was made: alive now, and most at once.
  std::int64_t live_bytes() const;
  std::int64_t peak_bytes() const;

  struct Account;

 private:
  c10::DeviceType device_;
  Of of_;
  std::shared_ptr<Account> account_;
};

}  // namespace trestle
