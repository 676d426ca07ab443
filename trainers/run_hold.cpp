#include "trainers/run_hold.h"

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/epochs.h"
#include "dist/binding.h"
#include "trainers/metrics/restarts.h"

#include <charconv>
#include <set>
#include <utility>

namespace trestle::trainers {

RunHold::RunHold(const dist::Communicator& world, RunDirectory directory, const RunOptions& options,
                 StopToken stop, std::function<void(const std::string&)> overstayed)
    : directory_(std::move(directory)),
      world_(world.size()),
      me_(checkpoint::this_process(world.size())) {
  std::set<std::string> seen;
  for (const std::string& host : world.all_gather_bytes(dist::host_name()))
    if (seen.insert(host).second) hosts_ += (hosts_.empty() ? "" : " ") + host;
  world.agreed([&] {
    if (!world.is_root()) return;
    const auto epochs = checkpoint::Epochs::read(directory_.checkpoints());
    lease_.emplace(directory_.root(), me_,
                   checkpoint::LeaseOptions{.timeout_s = options.lease_timeout_s,
                                            .after_epoch = epochs.last(),
                                            .stop = stop,
                                            .overstayed = std::move(overstayed)});
  });
  const std::string epoch =
      world.broadcast_bytes(lease_ ? std::to_string(lease_->epoch()) : std::string(), 0);
  std::from_chars(epoch.data(), epoch.data() + epoch.size(), epoch_);
}

void RunHold::began(std::int64_t from_step) {
  if (!lease_) return;
  auto epochs = checkpoint::Epochs::read(directory_.checkpoints());
  epochs.record({.epoch = epoch_, .holder = me_.to_text(), .from_step = from_step});
  if (const std::string before = last_end(directory_.restarts()); !before.empty())
    log_info("start {} in {}; the last one: {}", epoch_, directory_.root().string(), before);
  record_start(directory_.restarts(), {.epoch = epoch_,
                                       .from_step = from_step,
                                       .host = me_.host,
                                       .pid = me_.pid,
                                       .job = me_.job,
                                       .requeue = me_.restart,
                                       .world = world_,
                                       .hosts = hosts_});
  began_ = true;
}

void RunHold::ended(ExitCode code, std::int64_t step, const std::string& reason) {
  if (!lease_ || !std::exchange(began_, false) || !lease_->still_mine()) return;
  record_end(directory_.restarts(),
             {.epoch = epoch_, .step = step, .code = code, .reason = reason});
}

void RunHold::check() {
  if (lease_) lease_->check();
}

void RunHold::require() {
  if (!lease_) return;
  bool mine = false;
  try {
    mine = lease_->still_mine();
  } catch (const Error& error) {
    fail(ExitCode::checkpoint, "whether this run still has its directory cannot be found out: {}",
         error.what());
  }
  if (!mine) lease_->require_mine();
}

}  // namespace trestle::trainers
