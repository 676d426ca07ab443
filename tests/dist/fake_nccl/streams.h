// The streams of the fake CUDA, for its NCCL.
#pragma once
#include "tests/dist/fake_nccl/fake_nccl.h"

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>

namespace trestle::dist::fake {

/// Asked again and again until it says that it is done.
using Task = std::function<bool()>;

class FakeStream {
 public:
  FakeStream();
  void push(Task task);

 private:
  void work(const std::stop_token& stop);

  std::mutex mutex_;
  std::deque<Task> tasks_;
  std::jthread thread_;
};

void push(cudaStream_t stream, Task task);

}  // namespace trestle::dist::fake
