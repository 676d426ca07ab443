// Which checkpoints a folder holds, and which of them is the newest that is complete. The names,
// the manifests and the folder's epochs.json (epochs.h) decide; `latest` is for people.
//
//   for (const Candidate& c : candidates(run / "checkpoints")) ...      // newest first
//   if (auto found = newest(run / "checkpoints")) ...
//
// What reads here changes nothing, but for set_aside(). LOCAL. THREADS: any.
#pragma once
#include "checkpoint/damage.h"
#include "checkpoint/manifest.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace trestle::checkpoint {

/// "step-00000100".
std::string name_of_step(std::int64_t step);
/// The step of a folder named "step-00000100"; nothing for other names ("step-00000100.damaged").
std::optional<std::int64_t> step_of(const std::filesystem::path& folder);

struct Candidate {
  std::int64_t step = 0;
  std::filesystem::path path;
};

/// Everything in the folder that has a checkpoint's name, the highest step first. A folder that
/// does not exist holds none; one that cannot be listed is an error of ExitCode::checkpoint.
std::vector<Candidate> candidates(const std::filesystem::path& folder);

/// The manifest of a checkpoint whose manifest is whole and whose files, as far as they hold
/// tensors, have the right sizes; their bytes are not read. Throws DamageError.
Manifest require_complete(const std::filesystem::path& checkpoint);

/// The complete checkpoint of the highest step. Damaged ones are skipped with a warning that says
/// what is wrong, those that epochs.json calls superseded with one that says so; what is no damage
/// is thrown.
std::optional<std::filesystem::path> newest(const std::filesystem::path& folder);

/// Folders of damaged checkpoints that set_aside() named.
std::vector<std::filesystem::path> set_aside_in(const std::filesystem::path& folder);

/// Renames step-N to step-N.damaged (or .damaged.2, ...) and returns that name; the old one where
/// it could not be renamed, which is warned of. For the holder of the run directory.
std::filesystem::path set_aside(const std::filesystem::path& checkpoint);

/// Renames those that are set aside once more, so that they stand for nothing any more when a run
/// begins anew: to before-restart-step-N.damaged. For the holder of the run directory.
void forget_set_aside(const std::filesystem::path& folder);

}  // namespace trestle::checkpoint
