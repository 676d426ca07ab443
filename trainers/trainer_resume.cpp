// Where a run goes on from: the newest whole checkpoint of the run directory, or another run's that
// --resume names, if it is of this recipe.
//
// Two runs never mix in one directory: a start that would not go on from the newest checkpoint
// there is refused, since a later start would. begun_from.json remembers a beginning elsewhere, so
// that the same command, given again, goes on instead of beginning once more.
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/find.h"
#include "checkpoint/load.h"
#include "checkpoint/retention.h"
#include "configs/differences.h"
#include "trainers/trainer.h"

#include <nlohmann/json.hpp>

#include <filesystem>

namespace trestle::trainers {
namespace {

namespace fs = std::filesystem;

/// The other checkpoint or run directory at which the run in this directory began; empty: none.
fs::path read_begun_from(const RunDirectory& directory) {
  if (!fs::exists(directory.begun_from())) return {};
  constexpr std::uint64_t kLimitBytes = 1 << 20;
  const auto stored = nlohmann::json::parse(
      read_text_file(directory.begun_from(), kLimitBytes, ExitCode::environment), nullptr,
      /*allow_exceptions=*/false);
  TRESTLE_REQUIRE_AS(environment,
                     stored.is_object() && stored.contains("path") && stored["path"].is_string(),
                     "{} does not name a \"path\" (it was edited or cut). Remove it, and say with "
                     "--resume where the run begins.",
                     directory.begun_from().string());
  return stored["path"].get<std::string>();
}

void write_begun_from(const RunDirectory& directory, const fs::path& path,
                      const fs::path& checkpoint, std::int64_t step) {
  const nlohmann::ordered_json object = {
      {"path", path.string()}, {"checkpoint", checkpoint.string()}, {"step", step}};
  write_file_atomic(directory.begun_from(), object.dump(2) + "\n", ExitCode::environment);
}

}  // namespace

/// Whose checkpoints the run goes on from. Travels from rank 0 as text.
struct Trainer::Beginning {
  enum class From : char {
    own = 'o',         ///< the run directory's newest; step 0 where it has none
    own_newest = 'n',  ///< the same, but this one or none
    run = 'r',         ///< the newest of another run
    checkpoint = 'c',  ///< another run's
  };
  From from = From::own;
  fs::path path = {};  ///< what --resume named, absolute

  std::string to_text() const { return static_cast<char>(from) + path.string(); }
  static Beginning of_text(const std::string& text) {
    return {static_cast<From>(text.at(0)), text.substr(1)};
  }
};

Trainer::Beginning Trainer::choose_beginning() const {
  using From = Beginning::From;
  const fs::path folder = directory_.checkpoints();
  const auto own = checkpoint::candidates(folder);
  const auto begins_at = [](const fs::path& path) -> Beginning {
    const bool is_checkpoint = !checkpoint::folder_of_checkpoints(path);
    return {is_checkpoint ? From::checkpoint : From::run, path};
  };
  const auto refuse = [&](std::string_view asked) {
    fail(ExitCode::usage,
         "{} holds checkpoints up to step {} ({}, and a later start would go on from those). "
         "Choose another --run-dir, move them away, or go on with --resume auto.",
         directory_.root().string(), own.front().step, asked);
  };
  if (settings_.resume.kind == Resume::Kind::never) {
    if (!own.empty()) refuse("--resume never starts at step 0");
    checkpoint::forget_set_aside(folder);
    fs::remove(directory_.begun_from());
    return {};
  }
  const fs::path begun_from = read_begun_from(directory_);
  if (settings_.resume.kind == Resume::Kind::automatic) {
    if (own.empty() && checkpoint::set_aside_in(folder).empty() && !begun_from.empty())
      return begins_at(begun_from);
    return {};
  }
  const fs::path asked = fs::weakly_canonical(fs::absolute(settings_.resume.path));
  if (asked == fs::weakly_canonical(directory_.root()) || asked == fs::weakly_canonical(folder))
    return {};
  if (own.empty()) {
    const Beginning beginning = begins_at(asked);
    checkpoint::forget_set_aside(folder);
    return beginning;
  }
  if (asked == fs::weakly_canonical(own.front().path)) return {From::own_newest, own.front().path};
  if (asked != begun_from)
    refuse(fmt::format("--resume {} is not the newest of them", settings_.resume.path.string()));
  log_info("the run in {} began at {} already, and goes on from its own newest checkpoint",
           directory_.root().string(), asked.string());
  return {};
}

std::string Trainer::load_state(const fs::path& checkpoint) {
  const checkpoint::Manifest manifest = checkpoint::read_manifest(checkpoint);
  require_same_recipe(manifest.recipe_toml, checkpoint.string(), ExitCode::checkpoint);
  TrainingState state = assembly_.state();
  const checkpoint::LoadReport report = checkpoint::load(checkpoint, manifest, state.visitor());
  log_debug("{} of {} bytes read in {:.2f} s ({:.2f} GB/s)", report.bytes_read, checkpoint.string(),
            report.seconds, double(report.bytes_read) / 1e9 / std::max(report.seconds, 1e-9));
  if (paranoid_) {
    checkpoint::load(checkpoint, manifest, paranoid_->visitor(mesh_.branch()),
                     {.unnamed = checkpoint::Unnamed::ignore});
  }
  return summation_.change_since(manifest);
}

void Trainer::resume() {
  using From = Beginning::From;
  const std::string chosen = world_.agreed([&] {
    if (!world_.is_root()) return std::string();
    checkpoint::finish_deletes(directory_.checkpoints());
    return choose_beginning().to_text();
  });
  const Beginning beginning = Beginning::of_text(world_.broadcast_bytes(chosen, 0));
  const bool falls_back = beginning.from == From::own || beginning.from == From::run;
  const bool is_here = beginning.from == From::own || beginning.from == From::own_newest;
  std::optional<fs::path> found;
  std::string another_order;
  const auto attempt = [&](const fs::path& checkpoint) { another_order = load_state(checkpoint); };
  if (falls_back) {
    const fs::path folder = world_.agreed([&] {
      return is_here ? directory_.checkpoints()
                     : *checkpoint::folder_of_checkpoints(beginning.path);
    });
    const checkpoint::FallbackOptions options{
        .damaged = is_here ? checkpoint::Damaged::set_aside : checkpoint::Damaged::leave,
        .way_out = is_here ? "begin anew with --resume never" : "name another with --resume"};
    found = checkpoint::load_newest(world_, folder, options, attempt);
  } else {
    world_.agreed([&] { attempt(beginning.path); });
    found = beginning.path;
  }
  if (!found || !is_here) {
    world_.agreed([&] {
      if (!fs::exists(directory_.resolved_recipe())) return;
      require_same_recipe(directory_.read_resolved_recipe(), directory_.root().string(),
                          ExitCode::usage);
    });
  }
  if (!found) return;
  const std::int64_t step = assembly_.counters.step;
  world_.agreed([&] {
    if (world_.is_root() && !is_here) write_begun_from(directory_, beginning.path, *found, step);
  });
  assembly_.engine.publish();
  if (is_here) saver_.found(*found, step);
  log_info("resumed from {} at step {}", found->string(), step);
  if (!another_order.empty()) log_common_warning(another_order);
}

void Trainer::require_same_recipe(const std::string& resolved_before, const std::string& holder,
                                  ExitCode code) const {
  std::vector<std::string> lines;
  for (const auto& d : configs::differences(resolved_before, resolved_, schema_)) {
    if (d.may_change) continue;
    const auto said = [](const std::string& value) { return value.empty() ? "unknown" : value; };
    lines.push_back(fmt::format("{}: {} there, {} now", d.name, said(d.before), said(d.now)));
  }
  if (lines.empty()) return;
  if (settings_.changed_recipe == ChangedRecipe::accept) {
    log_common_warning(fmt::format("{} was made with another recipe, as accepted:\n  {}", holder,
                                   fmt::join(lines, "\n  ")));
    return;
  }
  fail(code,
       "{} was made with another recipe ({} differences decide the result). Use its recipe, choose "
       "another --run-dir, or go on with --accept-changes:\n  {}",
       holder, lines.size(), fmt::join(lines, "\n  "));
}

}  // namespace trestle::trainers
