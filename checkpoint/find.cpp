#include "checkpoint/find.h"

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/epochs.h"
#include "checkpoint/shard_reader.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <fcntl.h>
#include <system_error>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kDamagedMark = ".damaged";

/// Paths of everything in the folder; none if it does not exist.
std::vector<fs::path> entries(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code problem;
  fs::directory_iterator entry(folder, problem);
  while (!problem && entry != fs::directory_iterator()) {
    found.push_back(entry->path());
    entry.increment(problem);
  }
  // To take a folder that cannot be listed for an empty one would start a run from nothing.
  if (problem && problem != std::errc::no_such_file_or_directory)
    fail(ExitCode::checkpoint, "{} could not be listed ({}). Check the path and its rights.",
         folder.string(), problem.message());
  return found;
}

/// 0 or errno's value; EEXIST where the new name is taken.
int rename_unless_taken(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL) return errno;
  // A file system that cannot say "do not replace".
  std::error_code problem;
  if (fs::exists(to, problem)) return EEXIST;
  return ::rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
}

/// Renames to that name or, where it is taken, to it with ".2", ".3", ...; returns the name that
/// the folder has now. A failure is warned of.
fs::path rename_to_free_name(const fs::path& from, const fs::path& to) {
  fs::path name = to;
  int problem = rename_unless_taken(from, name);
  for (int number = 2; problem == EEXIST && number < 1000; ++number) {
    name = to;
    name += fmt::format(".{}", number);
    problem = rename_unless_taken(from, name);
  }
  if (problem != 0) {
    log_warn("{} could not be renamed to {} ({}); it stays where it is", from.string(),
             name.filename().string(), std::generic_category().message(problem));
    return from;
  }
  try {
    fsync_directory(from.parent_path(), ExitCode::checkpoint);
  } catch (const Error& error) {  // after a crash the old name may be back
    log_warn("{}", error.what());
  }
  return name;
}

}  // namespace

std::string name_of_step(std::int64_t step) { return fmt::format("step-{:08}", step); }

std::optional<std::int64_t> step_of(const fs::path& folder) {
  constexpr std::string_view kPrefix = "step-";
  const std::string name = folder.filename().string();
  std::int64_t step = 0;
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc() || stop != end || step < 0) return std::nullopt;
  return step;
}

std::vector<Candidate> candidates(const fs::path& folder) {
  std::vector<Candidate> found;
  for (const fs::path& path : entries(folder))
    if (const auto step = step_of(path)) found.push_back({*step, path});
  // Two names of one step ("step-5", "step-00000005") have an order, too.
  std::ranges::sort(found, [](const Candidate& a, const Candidate& b) {
    return a.step != b.step ? a.step > b.step : a.path < b.path;
  });
  return found;
}

Manifest require_complete(const fs::path& checkpoint) {
  Manifest manifest = read_manifest(checkpoint);
  const auto step = step_of(checkpoint);
  if (step && manifest.step != *step) {
    const std::string what =
        fmt::format("it is of step {}, and the folder's name is of step {}", manifest.step, *step);
    throw DamageError(
        fmt::format("{} is not the manifest of its folder ({}). Use another checkpoint.",
                    (checkpoint / kManifestName).string(), what),
        {std::string(kManifestName), 0, 0, what});
  }
  // What holds no tensors (index.h5) is for people, and nothing is lost with it.
  std::vector<bool> holds_tensors(manifest.files.size(), false);
  for (const auto& [name, tensor] : manifest.tensors)
    for (const PieceRecord& piece : tensor.pieces) holds_tensors[piece.file] = true;
  for (std::size_t i = 0; i < manifest.files.size(); ++i)
    if (holds_tensors[i]) open_file(checkpoint, manifest.files[i]);
  return manifest;
}

std::optional<fs::path> newest(const fs::path& folder) {
  const Epochs epochs = Epochs::read(folder);
  for (const Candidate& candidate : candidates(folder)) {
    try {
      const Manifest manifest = require_complete(candidate.path);
      if (!epochs.superseded(manifest.epoch, manifest.step)) return candidate.path;
      log_warn("{} is skipped: it was saved after the run had another holder",
               candidate.path.string());
    } catch (const DamageError& error) {
      log_warn("{} is skipped: {}", candidate.path.string(), error.what());
    }
  }
  return std::nullopt;
}

std::vector<fs::path> set_aside_in(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const fs::path& path : entries(folder)) {
    const std::string name = path.filename().string();
    const std::size_t mark = name.find(kDamagedMark);
    if (mark != std::string::npos && step_of(name.substr(0, mark))) found.push_back(path);
  }
  std::ranges::sort(found);
  return found;
}

fs::path set_aside(const fs::path& checkpoint) {
  fs::path aside = checkpoint;
  aside += kDamagedMark;
  return rename_to_free_name(checkpoint, aside);
}

void forget_set_aside(const fs::path& folder) {
  for (const fs::path& path : set_aside_in(folder))
    rename_to_free_name(path, folder / ("before-restart-" + path.filename().string()));
}

}  // namespace trestle::checkpoint
