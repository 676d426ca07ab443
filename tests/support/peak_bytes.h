// How many bytes of tensors a piece of code holds at most: counts through torch's CPU allocator.
//
//   const testing::PeakBytes counter;
//   run();
//   EXPECT_LT(counter.peak(), 1 << 20);
//
// THREADS: counts all threads of the process; one counter at a time.
#pragma once
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace trestle::testing {

class PeakBytes {
 public:
  PeakBytes() : torchs_(c10::GetCPUAllocator()) {
    static Counting counting;
    counting.from = torchs_;
    before_ = live_;
    peak_ = before_;
    c10::SetCPUAllocator(&counting);
  }
  ~PeakBytes() { c10::SetCPUAllocator(torchs_); }
  PeakBytes(const PeakBytes&) = delete;
  PeakBytes& operator=(const PeakBytes&) = delete;

  /// Most bytes alive at once, beyond those that an earlier counter saw and that still are.
  std::int64_t peak() const { return peak_ - before_; }

 private:
  struct Block {
    c10::DataPtr data;
    std::int64_t bytes;
  };

  struct Counting : c10::Allocator {
    c10::DataPtr allocate(std::size_t n) override {
      const auto bytes = static_cast<std::int64_t>(n);
      const std::int64_t now = live_ += bytes;
      std::int64_t most = peak_;
      while (now > most && !peak_.compare_exchange_weak(most, now)) {
      }
      auto* block = new Block{from->allocate(n), bytes};
      return {block->data.get(), block, release, block->data.device()};
    }
    void copy_data(void* to, const void* from_data, std::size_t count) const override {
      default_copy_data(to, from_data, count);
    }
    c10::Allocator* from = nullptr;
  };

  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    live_ -= block->bytes;
    delete block;
  }

  static inline std::atomic<std::int64_t> live_{0}, peak_{0};
  c10::Allocator* torchs_;
  std::int64_t before_ = 0;
};

}  // namespace trestle::testing
