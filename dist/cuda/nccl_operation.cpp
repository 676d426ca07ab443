#include "dist/cuda/nccl_operation.h"

#include "dist/wait_time.h"

#include <utility>

namespace trestle::dist {
namespace {

using namespace std::chrono_literals;

// Short waits are met at once, long ones leave the core to others.
constexpr auto kEagerPolling = 200us;
constexpr auto kPause = 50us;

}  // namespace

NcclOperation::NcclOperation(std::shared_ptr<NcclLane> lane, NcclReport report, std::string what,
                             std::shared_ptr<const void> keep, std::vector<NcclStep> steps,
                             cudaStream_t issued_on)
    : lane_(std::move(lane)),
      report_(std::move(report)),
      what_(std::move(what)),
      keep_(std::move(keep)),
      steps_(std::move(steps)) {
  may_begin_.record(issued_on);
  place_ = lane_->count();  // last: nothing may fail once others stand behind it
}

Operation::Step NcclOperation::advance() {
  lane_->check();
  try {
    TRESTLE_CUDA(cudaSetDevice(lane_->device()));
    switch (state_) {
      case State::queued:
        if (!lane_->is_ready() || !lane_->enter(place_)) return Step::waiting;
        may_begin_.block(lane_->stream());
        report_.channel->transport().observed().started(report_.receipt);
        state_ = State::launching;
        return launch();
      case State::launching:
        return lane_->settled(what_) ? launch() : Step::waiting;
      case State::running:
        lane_->settled(what_);  // first: what an abort elsewhere has ended is no result
        if (!done_.is_complete()) return Step::waiting;
        keep_.reset();
        report_.channel->transport().observed().finished(report_.receipt);
        return Step::finished;
    }
  } catch (...) {
    // Also what is not NCCL's failure (no memory, say): the other ranks' halves have begun.
    lane_->break_with(std::current_exception());
    throw;
  }
  return Step::waiting;
}

Operation::Step NcclOperation::launch() {
  while (next_step_ < steps_.size()) {
    const ncclResult_t code = steps_[next_step_++](lane_->communicator(), lane_->stream());
    if (code == ncclInProgress) return Step::moved;
    if (code != ncclSuccess) lane_->failed(what_, code);
  }
  done_.record(lane_->stream());
  lane_->leave();
  state_ = State::running;
  set_launch(Launch::done);
  return Step::moved;
}

void NcclOperation::withdraw() noexcept {
  if (state_ != State::running) set_launch(Launch::failed);
}

void NcclOperation::set_launch(Launch launch) noexcept {
  {
    const std::lock_guard lock(mutex_);
    launch_ = launch;
  }
  launched_.notify_all();
}

NcclOperation::Launch NcclOperation::launch_so_far() {
  const std::lock_guard lock(mutex_);
  return launch_;
}

void NcclOperation::wait_until_launched() {
  {
    std::unique_lock lock(mutex_);
    launched_.wait(lock, [&] { return launch_ != Launch::pending; });
  }
  if (launch_so_far() == Launch::failed) wait();  // throws the failure
  lane_->check();
}

void NcclOperation::block(cudaStream_t stream) {
  const WaitTimer timer;
  wait_until_launched();
  done_.block(stream);
}

void NcclOperation::wait_on_host() {
  const WaitTimer timer;
  wait_until_launched();
  const auto begin = std::chrono::steady_clock::now();
  while (!done_.is_complete()) {
    lane_->check();
    if (std::chrono::steady_clock::now() - begin < kEagerPolling) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kPause);
    }
  }
  lane_->check();
}

bool NcclOperation::is_complete() {
  switch (launch_so_far()) {
    case Launch::pending:
      return false;
    case Launch::failed:
      wait();
      return true;
    case Launch::done:
      lane_->check();
      if (!done_.is_complete()) return false;
      lane_->check();  // an abort ends kernels too
      return true;
  }
  return false;
}

}  // namespace trestle::dist
