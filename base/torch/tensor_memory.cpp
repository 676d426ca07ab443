#include "base/torch/tensor_memory.h"

#include "base/error.h"

#include <c10/core/Allocator.h>

#include <atomic>
#include <mutex>
#include <utility>

namespace trestle {

struct TensorMemory::Account {
  std::atomic<std::int64_t> live{0}, peak{0};

  void add(std::int64_t bytes) {
    const std::int64_t now = live += bytes;
    std::int64_t most = peak;
    while (now > most && !peak.compare_exchange_weak(most, now)) {
    }
  }
};

namespace {

using Account = TensorMemory::Account;

/// Where a thread's allocations are booked; without an account of its own, the process's.
std::shared_ptr<Account>& account_of_thread(c10::DeviceType device) {
  thread_local std::shared_ptr<Account> cpu, meta;
  return device == c10::kCPU ? cpu : meta;
}

struct Block {
  c10::DataPtr data;
  std::int64_t bytes;
  std::shared_ptr<Account> account;
};

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  block->account->live -= block->bytes;
  delete block;
}

/// Stands before torch's own allocator while anybody counts.
class CountingAllocator : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::DeviceType device) : device_(device) {}

  c10::DataPtr allocate(std::size_t size) override {
    std::shared_ptr<Account> account = account_of_thread(device_);
    if (!account) account = std::atomic_load(&of_process_);
    if (!account) return from_->allocate(size);
    const auto bytes = static_cast<std::int64_t>(size);
    auto* block = new Block{from_->allocate(size), bytes, account};
    account->add(bytes);
    return {block->data.get(), block, release, block->data.device()};
  }
  void copy_data(void* to, const void* data, std::size_t count) const override {
    default_copy_data(to, data, count);
  }

  void begin(std::shared_ptr<Account> of_process) {
    const std::lock_guard lock(mutex_);
    if (of_process) {
      TRESTLE_ASSERT(!std::atomic_load(&of_process_), "two count the memory of the process");
      std::atomic_store(&of_process_, std::move(of_process));
    }
    if (counters_++ > 0) return;
    from_ = c10::GetAllocator(device_);
    c10::SetAllocator(device_, this);
  }
  void end(bool is_of_process) {
    const std::lock_guard lock(mutex_);
    if (is_of_process) std::atomic_store(&of_process_, std::shared_ptr<Account>());
    if (--counters_ == 0) c10::SetAllocator(device_, from_);
  }

 private:
  const c10::DeviceType device_;
  std::mutex mutex_;
  int counters_ = 0;
  c10::Allocator* from_ = nullptr;
  std::shared_ptr<Account> of_process_;
};

CountingAllocator& counting(c10::DeviceType device) {
  static CountingAllocator cpu(c10::kCPU), meta(c10::kMeta);
  TRESTLE_ASSERT(device == c10::kCPU || device == c10::kMeta, "tensors on {} are not counted",
                 c10::DeviceTypeName(device));
  return device == c10::kCPU ? cpu : meta;
}

}  // namespace

TensorMemory::TensorMemory(c10::DeviceType device, Of of)
    : device_(device), of_(of), account_(std::make_shared<Account>()) {
  if (of_ == Of::this_thread) {
    TRESTLE_ASSERT(!account_of_thread(device_), "two count the memory of one thread");
    account_of_thread(device_) = account_;
  }
  counting(device_).begin(of_ == Of::process ? account_ : nullptr);
}

TensorMemory::~TensorMemory() {
  counting(device_).end(of_ == Of::process);
  if (of_ == Of::this_thread) account_of_thread(device_).reset();
}

std::int64_t TensorMemory::live_bytes() const { return account_->live; }
std::int64_t TensorMemory::peak_bytes() const { return account_->peak; }

}  // namespace trestle
