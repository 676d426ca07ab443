#include "dist/cuda/nccl_lane.h"

#include "base/log.h"

#include <thread>
#include <utility>

namespace trestle::dist {
namespace {

using namespace std::chrono_literals;

constexpr auto kFarewell = 10s;
constexpr auto kPause = 1ms;
constexpr std::string_view kSetUp = "its set-up", kEnd = "its end";

int made_current(int device) {
  TRESTLE_CUDA(cudaSetDevice(device));
  return device;
}

}  // namespace

NcclLane::NcclLane(int device, std::string who)
    : device_(made_current(device)), who_(std::move(who)) {}

NcclLane::~NcclLane() { abort(); }

void NcclLane::join(const Membership& membership, std::optional<Patience> patience) {
  TRESTLE_ASSERT(state_ == State::alone, "a lane is joined once");
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  patience_ = patience;
  joined_at_ = Clock::now();
  const ncclResult_t code = ncclCommInitRankConfig(&communicator_, membership.size, membership.id,
                                                   membership.rank, &config);
  state_ = State::joining;
  if (code != ncclSuccess && code != ncclInProgress) failed(kSetUp, code);
}

void NcclLane::join_when(Invitation invitation, std::optional<Patience> patience) {
  invitation_ = std::move(invitation);
  patience_ = patience;
}

bool NcclLane::is_ready() {
  check();
  if (state_ == State::ready) return true;
  if (state_ == State::alone) {
    const std::optional<Membership> membership = invitation_();
    if (!membership) return false;
    join(*membership, patience_);
  }
  if (settled(kSetUp)) {
    state_ = State::ready;
    return true;
  }
  if (patience_ && Clock::now() - joined_at_ > *patience_) {
    const auto late = std::make_exception_ptr(
        Error(ExitCode::environment,
              fmt::format("{} could not join the other ranks in NCCL within {} s (NCCL still waits "
                          "for a rank or for the network{}). Name the network with "
                          "NCCL_SOCKET_IFNAME, and start again with NCCL_DEBUG=INFO to see where "
                          "it waits.",
                          who_, patience_->count(), nccl_last_words())));
    break_with(late);
    std::rethrow_exception(late);
  }
  return false;
}

bool NcclLane::enter(std::int64_t place) {
  if (is_taken_ || place != next_) return false;
  is_taken_ = true;
  return true;
}

void NcclLane::leave() {
  is_taken_ = false;
  ++next_;
}

bool NcclLane::settled(std::string_view what) {
  check();
  ncclResult_t state = ncclSuccess;
  const ncclResult_t code = ncclCommGetAsyncError(communicator_, &state);
  if (code != ncclSuccess) failed(what, code);
  if (state == ncclInProgress) return false;
  if (state != ncclSuccess) failed(what, state);
  return true;
}

void NcclLane::failed(std::string_view what, ncclResult_t code) {
  const auto failure = std::make_exception_ptr(
      Error(nccl_exit_code(code),
            fmt::format("{}: NCCL failed in {} ({}). Look for the first error that any rank "
                        "reported; NCCL_DEBUG=WARN makes NCCL say more.",
                        who_, what, nccl_text(code))));
  break_with(failure);
  std::rethrow_exception(failure);
}

void NcclLane::check() const {
  const std::lock_guard lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
}

void NcclLane::break_with(const std::exception_ptr& failure) noexcept {
  {
    // Before the abort: whoever then finds a kernel ended must not take its output for a result.
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = failure;
  }
  abort();
}

void NcclLane::abort() noexcept {
  if (const ncclComm_t communicator = std::exchange(communicator_, nullptr)) {
    ncclCommAbort(communicator);
  }
}

void NcclLane::start_closing() noexcept {
  if (state_ != State::ready) abort();  // nobody came
  if (!communicator_) return;
  try {
    const ncclResult_t code = ncclCommFinalize(communicator_);
    if (code != ncclSuccess && code != ncclInProgress) failed(kEnd, code);
  } catch (const std::exception& error) {
    log_warn("{}", error.what());
  }
}

void NcclLane::finish_closing() noexcept {
  if (!communicator_) return;
  try {
    const auto deadline = Clock::now() + kFarewell;
    while (!settled(kEnd)) {
      if (Clock::now() > deadline) {
        log_warn("{} does not wait longer for NCCL to end its connections.", who_);
        return abort();
      }
      std::this_thread::sleep_for(kPause);
    }
    TRESTLE_NCCL(ncclCommDestroy(std::exchange(communicator_, nullptr)));
  } catch (const std::exception& error) {
    log_warn("{}", error.what());
  }
}

}  // namespace trestle::dist
