#include "checkpoint/retention.h"

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/epochs.h"

#include <random>
#include <system_error>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kDeletingPrefix = ".deleting-";

/// Whether it can be gone on from, as far as its manifest and sizes tell.
bool is_usable(const fs::path& checkpoint, const Epochs& epochs) {
  try {
    const Manifest manifest = require_complete(checkpoint);
    return !epochs.superseded(manifest.epoch, manifest.step);
  } catch (const Error& error) {
    log_debug("{} does not count as kept: {}", checkpoint.string(), error.what());
    return false;
  }
}

/// The checkpoints that the policy lets go, oldest first.
std::vector<fs::path> superfluous(const fs::path& folder, const RetentionPolicy& policy,
                                  const fs::path& sealed) {
  const auto sealed_step = step_of(sealed);
  TRESTLE_ASSERT(sealed_step, "{} is no checkpoint's name", sealed.string());
  const Epochs epochs = Epochs::read(folder);
  std::vector<fs::path> going;
  // A run that was taken over has nothing to say about what the other one keeps.
  if (const Manifest manifest = require_complete(sealed);
      epochs.superseded(manifest.epoch, manifest.step))
    return going;
  std::int64_t kept = 0;
  for (const Candidate& candidate : candidates(folder)) {
    if (candidate.step > *sealed_step) continue;
    if (candidate.step == *sealed_step) {
      ++kept;
    } else if (policy.keep_every > 0 && candidate.step % policy.keep_every == 0) {
      // Kept for ever, and one of the newest only while it is.
      if (kept < policy.keep_last && is_usable(candidate.path, epochs)) ++kept;
    } else if (kept < policy.keep_last) {
      // An unusable one stays, too: until enough others are there, it is all that might be saved.
      if (is_usable(candidate.path, epochs)) ++kept;
    } else {
      going.insert(going.begin(), candidate.path);
    }
  }
  return going;
}

void delete_folder(const fs::path& path) {
  std::error_code problem;
  fs::remove_all(path, problem);
  if (problem)
    log_warn("{} could not be deleted ({}). It is tried again at the next start.", path.string(),
             problem.message());
}

}  // namespace

std::vector<fs::path> retain(const fs::path& folder, const RetentionPolicy& policy,
                             const fs::path& sealed) {
  if (policy.keep_last <= 0) return {};
  std::vector<fs::path> gone, renamed;
  try {
    std::random_device random;
    for (const fs::path& path : superfluous(folder, policy, sealed)) {
      const fs::path hidden =
          folder / fmt::format("{}{}-{:08x}", kDeletingPrefix, path.filename().string(), random());
      fs::rename(path, hidden);
      gone.push_back(path);
      renamed.push_back(hidden);
    }
    // The names first: a crash of the machine must not bring one back without its files.
    if (!renamed.empty()) fsync_directory(folder, ExitCode::checkpoint);
  } catch (const std::exception& error) {
    log_warn("old checkpoints could not be deleted: {}. It is tried again at the next start.",
             error.what());
    return gone;
  }
  for (std::size_t i = 0; i < renamed.size(); ++i) {
    delete_folder(renamed[i]);
    log_debug("deleted {} (checkpoint.keep_last = {}, keep_every = {})", gone[i].string(),
              policy.keep_last, policy.keep_every);
  }
  return gone;
}

void finish_deletes(const fs::path& folder) {
  std::error_code missing;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, missing)) {
    if (!entry.path().filename().string().starts_with(kDeletingPrefix)) continue;
    log_debug("deleting {}, which an earlier run had begun to", entry.path().string());
    delete_folder(entry.path());
  }
}

}  // namespace trestle::checkpoint
