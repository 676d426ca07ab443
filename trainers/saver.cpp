#include "trainers/saver.h"

#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "checkpoint/find.h"
#include "checkpoint/retention.h"
#include "checkpoint/save.h"

#include <algorithm>
#include <utility>

namespace trestle::trainers {

Saver::Saver(const dist::Mesh& mesh, SaverSettings settings)
    : mesh_(mesh),
      settings_(std::move(settings)),
      request_{.folder = settings_.folder,
               .recipe_toml = settings_.resolved_recipe,
               .recipe_hash = digest_128(settings_.resolved_recipe),
               .topology = settings_.topology,
               .index = settings_.options.index,
               .holders = &mesh.data()},
      collectives_(dist::make_collectives(mesh.world(), "saving")),
      saver_({.rank = mesh.world().rank(),
              .world = mesh.world().size(),
              .tag = checkpoint::agreed_tag(mesh.world()),
              .staging_bytes = static_cast<std::uint64_t>(settings_.options.staging_bytes),
              .timeout_s = settings_.options.timeout_s,
              .flight = settings_.flight}) {
  const std::int64_t limit = settings_.options.staging_bytes;
  log_debug("checkpoints are written {}; each rank copies {} first",
            settings_.options.async ? "while the training goes on" : "while it waits",
            limit == 0 ? "its state" : fmt::format("at most {} bytes of its state", limit));
}

void Saver::publish_as(std::int64_t epoch, std::function<void()> before_publish,
                       std::function<void()> after_publish) {
  request_.epoch = epoch;
  request_.before_publish = std::move(before_publish);
  after_publish_ = std::move(after_publish);
}

void Saver::found(std::filesystem::path checkpoint, std::int64_t step) {
  newest_ = std::move(checkpoint);
  newest_step_ = step;
}

void Saver::prepare(const checkpoint::Visitor& state) {
  if (settings_.options.async && settings_.options.every > 0)
    saver_.prepare(checkpoint::collect(state), request_);
}

void Saver::save(const checkpoint::Visitor& state, std::int64_t step, SaveKind kind) {
  const dist::PhaseScope saving(settings_.flight, dist::Phase::checkpoint);
  if (saver_.under_way()) {
    const std::int64_t before = saver_.step();
    const double waited_before_s = waited_s();
    wait_for_save();
    const std::string text =
        fmt::format("step {} is to be saved while step {} still was: waited {:.1f} s for that",
                    step, before, waited_s() - waited_before_s);
    if (before != step && kind == SaveKind::periodic && waited_s() - waited_before_s > 1) {
      log_common_warning(text + " (the file system is slow for this checkpoint.every)");
    } else {
      log_info("{}", text);
    }
  }
  conclude(SaveKind::periodic, kind == SaveKind::last ? Failures::are_said : Failures::end_the_run);
  if (newest_step_ == step) return;
  request_.step = step;
  request_.after_publish =
      [theirs = after_publish_, require = request_.before_publish, folder = settings_.folder, step,
       policy = checkpoint::RetentionPolicy{.keep_last = settings_.options.keep_last,
                                            .keep_every = settings_.options.keep_every}] {
        if (require) require();  // who has lost the directory deletes nothing there
        checkpoint::retain(folder, policy, folder / checkpoint::name_of_step(step));
        if (theirs) theirs();
      };
  saver_.begin(checkpoint::collect(state), request_);
  if (kind == SaveKind::periodic && settings_.options.async) return;
  wait_for_save();
  conclude(kind, Failures::end_the_run);
}

void Saver::after_step() { conclude(SaveKind::periodic, Failures::end_the_run); }

void Saver::settle() {
  const dist::PhaseScope saving(settings_.flight, dist::Phase::checkpoint);
  wait_for_save();
  conclude(SaveKind::periodic, Failures::are_said);
}

void Saver::wait_for_save() { checkpoint::settle(saver_, *collectives_); }

void Saver::conclude(SaveKind kind, Failures failures) {
  const auto result = saver_.take_result();
  if (!result) return;
  if (result->sealed) {
    found(result->checkpoint, result->step);
    failures_in_a_row_ = 0;
    longest_save_s_ = std::max(longest_save_s_, result->took_s);
    log_info("saved step {}: {:.1f} MB in {:.2f} s, the training waited {:.0f} ms", result->step,
             1e-6 * double(result->checkpoint_bytes), result->took_s, 1e3 * result->waited_s);
    return;
  }
  ++failures_in_a_row_;
  std::string problem;
  try {
    mesh_.world().agree(result->why_not);
  } catch (const Error& error) {  // agreed: every rank is here
    if (error.code() != ExitCode::checkpoint) throw;
    const std::string kept = newest_.empty() ? "There is no earlier checkpoint."
                                             : fmt::format("{} is intact.", newest_.string());
    problem = fmt::format("step {} is not saved: {} {}", result->step, error.what(), kept);
  }
  TRESTLE_ASSERT(!problem.empty(), "no rank says why step {} is not saved", result->step);
  if (kind == SaveKind::last) throw dist::AgreedError(ExitCode::checkpoint, problem);
  if (failures == Failures::end_the_run && failures_in_a_row_ > 1) {
    throw dist::AgreedError(ExitCode::checkpoint,
                            problem + " The save before it failed, too, so the run ends here.");
  }
  log_common_warning(problem + (failures == Failures::are_said
                                    ? ""
                                    : " The run goes on; if the next save fails, too, it ends."));
}

}  // namespace trestle::trainers
