#include "checkpoint/async_saver.h"

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/find.h"
#include "checkpoint/save_step.h"

#include <algorithm>
#include <utility>

namespace trestle::checkpoint {
namespace {

AsyncSaver::Clock::duration ticks(double seconds) {
  return std::chrono::duration_cast<AsyncSaver::Clock::duration>(
      std::chrono::duration<double>(seconds));
}

AsyncSaver::Clock::time_point after(double seconds) {
  return AsyncSaver::Clock::now() + ticks(seconds);
}

}  // namespace

AsyncSaver::AsyncSaver(AsyncSaverOptions options)
    : options_(options), tools_(std::make_shared<ShardTools>(options_.staging_bytes)) {}

AsyncSaver::~AsyncSaver() {
  // Left by an error. What this rank has called written is rank 0's to use, or to delete.
  if (phase_ != Phase::writing || reported_) return;
  shard_->cancel(std::make_exception_ptr(
      Error(ExitCode::checkpoint, "The run ended before the checkpoint was written.")));
  thread_.add([shard = shard_] { shard->discard(); });
}

std::filesystem::path AsyncSaver::temporary_folder(const SaveRequest& request) const {
  // Another name at each call, so that what a killed save left behind is never written into.
  return request.folder / fmt::format(".tmp-step-{:08}-e{}-{:08x}", request.step, request.epoch,
                                      options_.tag + saves_);
}

ShardOwner AsyncSaver::owner(const SaveRequest& request) const {
  const Holder holder = request.holders ? Holder{request.holders->rank(), request.holders->size()}
                                        : Holder{options_.rank, options_.world};
  return {.rank = options_.rank, .world = options_.world, .holder = holder};
}

void AsyncSaver::prepare(StateTree tree, const SaveRequest& request) {
  thread_.add([tools = tools_, tree = std::move(tree), owner = owner(request)] {
    try {
      tools->prepare(tree, owner);
    } catch (const Error& error) {  // the first save tries again, and says so where it fails
      log_debug("no memory is ready for the first checkpoint: {}", error.what());
    }
  });
}

void AsyncSaver::begin(StateTree tree, const SaveRequest& request) {
  TRESTLE_ASSERT(phase_ == Phase::idle, "step {} is being saved, and so is {} to be", result_.step,
                 request.step);
  const auto started = Clock::now();
  deadline_ = after(options_.timeout_s);
  request_ = request;
  temporary_ = temporary_folder(request);
  ++saves_;
  reported_ = has_result_ = false;
  result_ = {};
  result_.step = request.step;
  result_.checkpoint = request.folder / name_of_step(request.step);
  const bool some_unstaged = std::ranges::count(tree.tensors, kUnstaged, &StateEntry::stage) > 0;
  shard_ = std::make_shared<ShardSave>(
      std::move(tree),
      ShardRequest{.folder = temporary_, .step = request.step, .owner = owner(request)}, tools_);
  phase_ = Phase::writing;
  thread_.add([shard = shard_] { shard->run(); });
  at_step(SaveStep::begun, request.step);
  count_wait(started);
  if (some_unstaged) wait(kUnstaged);
}

void AsyncSaver::wait(std::optional<Stage> stage) {
  if (phase_ != Phase::writing || shard_->is_copied(stage)) return;
  const dist::PhaseScope waiting(options_.flight, dist::Phase::checkpoint);
  const auto started = Clock::now();
  if (!shard_->wait_until_copied(stage, deadline_)) shard_->cancel(too_late("written"));
  count_wait(started);
  ++waits_;
}

AsyncSaver::Clock::duration AsyncSaver::grace() const { return ticks(options_.grace_s); }

void AsyncSaver::count_wait(Clock::time_point since) {
  const double waited_s = std::chrono::duration<double>(Clock::now() - since).count();
  result_.waited_s += waited_s;
  waited_s_ += waited_s;
}

std::exception_ptr AsyncSaver::too_late(std::string_view what) const {
  return std::make_exception_ptr(Error(
      ExitCode::checkpoint,
      fmt::format("{} was not {} within {} s (checkpoint.timeout_s). Check the file system, or "
                  "raise it.",
                  result_.checkpoint.string(), what, options_.timeout_s)));
}

SaveFlags AsyncSaver::flags() {
  const bool is_late = Clock::now() > deadline_;
  if (phase_ == Phase::writing) {
    if (is_late) shard_->cancel(too_late("written"));
    switch (shard_->ending().state()) {
      case Ending::State::open:
        return {};
      case Ending::State::failed:
        return {.failed = 1};
      case Ending::State::done:
        if (!std::exchange(reported_, true)) at_step(SaveStep::reported, result_.step);
        return {.written = 1};
    }
  }
  if (phase_ == Phase::sealing && seal_) {
    if (is_late && !seal_->cancel(too_late("sealed")) && Clock::now() > deadline_ + grace())
      seal_->give_up(too_late("renamed"));
    switch (seal_->ending().state()) {
      case Ending::State::open:
        return {};
      case Ending::State::failed:
        return {.failed = 1};
      case Ending::State::done:
        return {.sealed = 1};
    }
  }
  return {};
}

void AsyncSaver::learn(const SaveFlags& of_all) {
  if (phase_ == Phase::idle) return;
  if (of_all.sealed > 0) {
    at_step(SaveStep::sealed, result_.step);
    end(true, nullptr);
  } else if (of_all.failed > 0) {
    const Ending& mine = seal_ ? seal_->ending() : shard_->ending();
    std::exception_ptr why = mine.why();
    if (phase_ == Phase::writing) {
      shard_->cancel(std::make_exception_ptr(
          Error(ExitCode::checkpoint, "Another rank could not write its part.")));
      thread_.add([shard = shard_] { shard->discard(); });
    }  // else the seal deletes the folder, unless it has just renamed it after all
    end(false, std::move(why));
  } else if (phase_ == Phase::writing && of_all.written == options_.world) {
    start_sealing();
  }
}

void AsyncSaver::start_sealing() {
  at_step(SaveStep::agreed, result_.step);
  phase_ = Phase::sealing;
  deadline_ = after(options_.timeout_s);
  if (options_.rank != 0) return;
  SealRequest request{.temporary = temporary_,
                      .checkpoint = result_.checkpoint,
                      .index = request_.index,
                      .header = {},
                      .before_publish = request_.before_publish,
                      .after_publish = request_.after_publish};
  request.header.step = request_.step;
  request.header.world = options_.world;
  request.header.topology = request_.topology;
  request.header.epoch = request_.epoch;
  request.header.recipe_toml = request_.recipe_toml;
  request.header.recipe_hash = request_.recipe_hash;
  seal_ = std::make_shared<Seal>(std::move(request));
  thread_.add([seal = seal_] { seal->run(); });
}

void AsyncSaver::end(bool sealed, std::exception_ptr why_not) {
  result_.sealed = sealed;
  result_.why_not = std::move(why_not);
  result_.copied_bytes = shard_->copied_bytes();
  result_.copying_s = shard_->copying_s();
  result_.took_s = seal_ ? seal_->save_s() : shard_->took_s();
  if (seal_) result_.checkpoint_bytes = seal_->bytes();
  has_result_ = true;
  phase_ = Phase::idle;
  shard_.reset();
  seal_.reset();
}

std::optional<SaveResult> AsyncSaver::take_result() {
  if (!std::exchange(has_result_, false)) return std::nullopt;
  return result_;
}

void AsyncSaver::wait_for_news() const {
  if (phase_ == Phase::writing) shard_->ending().wait_until(deadline_);
  if (phase_ == Phase::sealing && seal_) seal_->ending().wait_until(deadline_ + grace());
}

bool AsyncSaver::wait_until_idle(double at_most_s) const {
  return thread_.wait_until_idle(after(at_most_s));
}

}  // namespace trestle::checkpoint
