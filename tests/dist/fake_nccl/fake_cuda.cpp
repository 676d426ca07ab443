// Streams and events.
#include "tests/dist/fake_nccl/streams.h"

#include <chrono>
#include <thread>

namespace trestle::dist::fake {
namespace {

thread_local int current_device = -1;

FakeStream& real(cudaStream_t stream) { return *reinterpret_cast<FakeStream*>(stream); }

struct FakeEvent {
  std::mutex mutex;
  std::shared_ptr<std::atomic<bool>> is_done = std::make_shared<std::atomic<bool>>(true);

  std::shared_ptr<std::atomic<bool>> get() {
    const std::lock_guard lock(mutex);
    return is_done;
  }
};

FakeEvent& real(cudaEvent_t event) { return *reinterpret_cast<FakeEvent*>(event); }

}  // namespace

FakeStream::FakeStream() : thread_([this](const std::stop_token& stop) { work(stop); }) {}

void FakeStream::push(Task task) {
  const std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
}

void FakeStream::work(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    Task* task = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (!tasks_.empty()) task = &tasks_.front();
    }
    if (!task || !(*task)()) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      continue;
    }
    const std::lock_guard lock(mutex_);
    tasks_.pop_front();
  }
}

void push(cudaStream_t stream, Task task) { real(stream).push(std::move(task)); }

void on(cudaStream_t stream, std::function<void()> f, int delay_ms) {
  push(stream, [f = std::move(f), delay_ms] {
    std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
    f();
    return true;
  });
}

}  // namespace trestle::dist::fake

using namespace trestle::dist::fake;

cudaError_t cudaSetDevice(int device) {
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t) { return "an error of the fake CUDA"; }

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  if (current_device < 0 || flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
  *stream = reinterpret_cast<cudaStream_t>(new FakeStream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete &real(stream);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  if (current_device < 0) return cudaErrorInvalidValue;
  *event = reinterpret_cast<cudaEvent_t>(new FakeEvent);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete &real(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const auto is_done = std::make_shared<std::atomic<bool>>(false);
  {
    const std::lock_guard lock(real(event).mutex);
    real(event).is_done = is_done;
  }
  push(stream, [is_done] {
    *is_done = true;
    return true;
  });
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  push(stream, [is_done = real(event).get()] { return is_done->load(); });
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return *real(event).get() ? cudaSuccess : cudaErrorNotReady;
}
