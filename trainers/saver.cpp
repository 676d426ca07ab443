#include "trainers/saver.h"

#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"

#include <utility>

namespace trestle::trainers {

Saver::Saver(const dist::Mesh& mesh, std::filesystem::path folder, std::string resolved_recipe,
             checkpoint::TopologyRecord topology)
    : mesh_(mesh),
      folder_(std::move(folder)),
      recipe_toml_(std::move(resolved_recipe)),
      recipe_hash_(digest_128(recipe_toml_)),
      topology_(std::move(topology)) {}

void Saver::fence(std::int64_t epoch, std::function<void()> before_publish) {
  epoch_ = epoch;
  before_publish_ = std::move(before_publish);
}

void Saver::found(std::filesystem::path checkpoint, std::int64_t step) {
  newest_ = std::move(checkpoint);
  newest_step_ = step;
}

void Saver::save(const checkpoint::Visitor& state, std::int64_t step, SaveKind kind) {
  if (newest_step_ == step) return;
  try {
    found(checkpoint::save(mesh_.world(), checkpoint::collect(state),
                           {.folder = folder_,
                            .step = step,
                            .recipe_toml = recipe_toml_,
                            .recipe_hash = recipe_hash_,
                            .topology = topology_,
                            .epoch = epoch_,
                            .before_publish = before_publish_,
                            .holders = &mesh_.data()}),
          step);
    failures_in_a_row_ = 0;
  } catch (const Error& error) {  // agreed: every rank is here
    if (error.code() != ExitCode::checkpoint) throw;
    ++failures_in_a_row_;
    const std::string kept = newest_.empty() ? "There is no earlier checkpoint."
                                             : fmt::format("{} is intact.", newest_.string());
    const std::string problem =
        fmt::format("step {} is not saved: {} {}", step, error.what(), kept);
    if (kind == SaveKind::last) throw dist::AgreedError(ExitCode::checkpoint, problem);
    if (failures_in_a_row_ > 1) {
      throw dist::AgreedError(ExitCode::checkpoint,
                              problem + " The save before it failed, too, so the run ends here.");
    }
    log_common_warning(problem + " The run goes on; if the next save fails, too, it ends.");
  }
}

}  // namespace trestle::trainers
