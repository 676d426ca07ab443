#include "checkpoint/seal.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/code_version.h"
#include "checkpoint/index_file.h"
#include "checkpoint/save_step.h"
#include "checkpoint/shard_part.h"
#include "formats/hdf5.h"

#include <torch/version.h>

#include <algorithm>
#include <cstdio>
#include <fcntl.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;

/// Gives the finished folder its name. Returns where that which had it before is now; empty: there
/// was nothing.
fs::path rename_folder(const fs::path& temporary, const fs::path& checkpoint) {
  if (!fs::exists(checkpoint)) {
    fs::rename(temporary, checkpoint);
    return {};
  }
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, checkpoint.c_str(), RENAME_EXCHANGE) == 0)
    return temporary;
  // A file system that cannot exchange two names.
  fs::path aside = checkpoint;
  aside += ".replaced";
  fs::remove_all(aside);
  fs::rename(checkpoint, aside);
  try {
    fs::rename(temporary, checkpoint);
  } catch (...) {
    fs::rename(aside, checkpoint);
    throw;
  }
  return aside;
}

}  // namespace

Seal::Seal(SealRequest request) : request_(std::move(request)) {}

void Seal::run() noexcept {
  const std::int64_t step = request_.header.step;
  try {
    const auto started = Ending::Clock::now();
    const double shards_s = write_manifest();
    publish();
    save_s_ = shards_s + seconds_since(started);
    ending_.done();
  } catch (const fs::filesystem_error& error) {
    ending_.failed(std::make_exception_ptr(
        Error(ExitCode::checkpoint,
              fmt::format("{} could not be written ({}). Check its folder's rights and space.",
                          request_.checkpoint.string(), error.what()))));
  } catch (...) {
    ending_.failed(std::current_exception());
  }
  std::error_code ignored;
  if (ending_.state() == Ending::State::failed) {
    // After the rename the temporary name may be that of an older checkpoint.
    if (!renamed_) fs::remove_all(request_.temporary, ignored);
    return;
  }
  try {
    if (request_.after_publish) request_.after_publish();
  } catch (const std::exception& error) {
    log_warn("{} The checkpoint itself is complete: {}", error.what(),
             request_.checkpoint.string());
  }
  at_step(SaveStep::pruned, step);
}

double Seal::write_manifest() {
  const std::int64_t step = request_.header.step;
  std::vector<Manifest> of_ranks;
  double slowest_s = 0;
  for (int rank = 0; rank < request_.header.world; ++rank) {
    ShardPart part = read_part(request_.temporary, rank);
    slowest_s = std::max(slowest_s, part.took_s);
    of_ranks.push_back(std::move(part.manifest));
  }
  Manifest manifest = merge(std::move(of_ranks));
  manifest.step = step;
  manifest.recipe_toml = request_.header.recipe_toml;
  manifest.recipe_hash = request_.header.recipe_hash;
  manifest.topology = request_.header.topology;
  manifest.epoch = request_.header.epoch;
  manifest.versions = {{"trestle", TRESTLE_VERSION},
                       {"code", std::string(code_version())},
                       {"torch", TORCH_VERSION},
                       {"hdf5", formats::hdf5_version()}};
  require_whole(manifest, request_.checkpoint.string());
  if (request_.index) write_index(request_.temporary, manifest);
  std::uint64_t bytes = 0;
  for (const FileRecord& file : manifest.files) bytes += file.bytes;
  at_step(SaveStep::parts_read, step);

  const std::string text = to_text(manifest);
  write_file_durable(request_.temporary / kManifestName, text, ExitCode::checkpoint);
  bytes_ = bytes + text.size();
  at_step(SaveStep::manifest_written, step);
  for (int rank = 0; rank < request_.header.world; ++rank)
    fs::remove(request_.temporary / part_name(rank));
  at_step(SaveStep::parts_removed, step);
  fsync_directory(request_.temporary, ExitCode::checkpoint);
  at_step(SaveStep::folder_synced, step);
  return slowest_s;
}

void Seal::publish() {
  const std::int64_t step = request_.header.step;
  const fs::path& checkpoint = request_.checkpoint;
  if (request_.before_publish) request_.before_publish();
  at_step(SaveStep::renaming, step);
  if (!begin_to_rename()) std::rethrow_exception(ending_.why());
  const fs::path before = rename_folder(request_.temporary, checkpoint);
  renamed_ = true;
  at_step(SaveStep::renamed, step);
  fsync_directory(checkpoint.parent_path(), ExitCode::checkpoint);
  at_step(SaveStep::rename_synced, step);
  std::error_code ignored;
  if (!before.empty()) fs::remove_all(before, ignored);
  try {
    write_file_atomic(checkpoint.parent_path() / "latest", checkpoint.filename().string() + "\n",
                      ExitCode::checkpoint);
  } catch (const Error& error) {
    log_warn("{} The checkpoint itself is complete: {}", error.what(), checkpoint.string());
  }
  at_step(SaveStep::latest_written, step);
}

bool Seal::begin_to_rename() {
  const std::lock_guard lock(mutex_);
  renaming_ = ending_.is_open();
  return renaming_;
}

bool Seal::cancel(const std::exception_ptr& why) {
  const std::lock_guard lock(mutex_);
  if (!renaming_) ending_.failed(why);
  return !renaming_;
}

}  // namespace trestle::checkpoint
