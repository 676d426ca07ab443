#include "launch/commands/units.h"
#include "launch/doctor/folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace trestle::launch::doctor {
namespace {

constexpr double kSlowBytesPerSecond = 50e6;
constexpr double kLongSaveSeconds = 60;

bool has_option(const std::string& options, const std::string& option) {
  return ("," + options + ",").find("," + option + ",") != std::string::npos;
}

/// The first rank whose attempts failed.
const FolderFacts* failed(const std::vector<FolderFacts>& ranks) {
  const auto found =
      std::ranges::find_if(ranks, [](const FolderFacts& facts) { return !facts.problem.empty(); });
  return found == ranks.end() ? nullptr : &*found;
}

/// True where nothing can be judged; the reason stands in one finding only, that of sharing.
bool was_not_tried(const std::vector<FolderFacts>& ranks, Finding& finding) {
  if (!failed(ranks)) return false;
  finding.value = "not tried";
  return true;
}

std::vector<const FolderFacts*> testers(const std::vector<FolderFacts>& ranks) {
  std::vector<const FolderFacts*> found;
  for (const FolderFacts& facts : ranks)
    if (facts.tests_host) found.push_back(&facts);
  return found;
}

std::string times(double ratio) { return fmt::format("{:.1f} times", ratio); }

}  // namespace

Finding judge_run_directory(const std::string& folder, const std::vector<FolderFacts>& ranks) {
  Finding finding{.what = "run_directory"};
  const FolderFacts& root = ranks.front();
  finding.value = folder;
  if (!root.holder.empty())
    finding.value +=
        fmt::format(": {} by {}", root.is_held ? "held" : "free, last held", root.holder);
  if (root.is_in_the_way)
    finding.complain(Health::fail, "It is there and no folder. Choose another --run-dir.");
  if (root.is_held) {
    finding.complain(Health::warn,
                     "A run that may be alive holds it; another start there is refused, or waits "
                     "for run.lease_timeout_s if that run shows no heartbeat. Choose another "
                     "--run-dir, or wait for its end.");
  }
  return finding;
}

Finding judge_file_system(const std::vector<FolderFacts>& ranks) {
  Finding finding{.what = "file_system"};
  const FolderFacts& root = ranks.front();
  finding.value = fmt::format("{} at {}", root.type.empty() ? "unknown" : root.type, root.tried);
  if (has_option(root.options, "ro")) {
    finding.complain(Health::fail, "It is mounted read-only. Choose another --run-dir.");
  }
  if (root.type == "tmpfs" || root.type == "ramfs") {
    finding.complain(Health::warn,
                     "It lies in memory: runs are gone with the machine, and take memory from "
                     "training. Choose a folder on a disk.");
  }
  if (root.type == "overlay") {
    finding.complain(Health::warn,
                     "It is a container's own layer, which goes with the container. Mount a folder "
                     "of the host into it and choose a --run-dir there.");
  }
  if (root.type.starts_with("nfs") && has_option(root.options, "soft")) {
    finding.complain(Health::warn,
                     "NFS is mounted \"soft\": when its server is slow, writes fail where they "
                     "would wait, and saves with them. Ask for \"hard\".");
  }
  return finding;
}

Finding judge_renames(const std::vector<FolderFacts>& ranks) {
  Finding finding{.what = "renames"};
  if (was_not_tried(ranks, finding)) return finding;
  finding.value = "files replaced, folders moved and swapped at once, folders synced";
  for (const FolderFacts* facts : testers(ranks)) {
    if (!facts->replaces_files || !facts->moves_folders) {
      finding.value = "no atomic rename";
      finding.complain(Health::fail,
                       fmt::format("On {} a rename does not put a finished file or folder in its "
                                   "place at once, so a crash could leave half a checkpoint under "
                                   "a whole one's name. Choose another file system.",
                                   facts->host));
      return finding;
    }
    if (!facts->syncs_folders) {
      finding.value = "folders are not synced";
      finding.complain(
          Health::warn,
          fmt::format("On {} folders cannot be synced: after a power failure the newest "
                      "checkpoint may be gone (the one before it is not). Choose "
                      "another file system where that matters.",
                      facts->host));
      return finding;
    }
    if (!facts->swaps_folders)
      finding.value = "files replaced, folders moved at once (not swapped), folders synced";
  }
  return finding;
}

Finding judge_claims(const std::vector<FolderFacts>& ranks) {
  Finding finding{.what = "claims"};
  if (was_not_tried(ranks, finding)) return finding;
  const auto linkers = std::ranges::count_if(ranks, &FolderFacts::won_link);
  const auto creators = std::ranges::count_if(ranks, &FolderFacts::won_creation);
  const auto tests = testers(ranks);
  const bool links = std::ranges::all_of(tests, [](const auto* facts) { return facts->links; });
  finding.value = fmt::format(
      "of {} rank{} that {} the same file at once, {} linked it and {} made it", ranks.size(),
      ranks.size() == 1 ? "" : "s", ranks.size() == 1 ? "claims" : "claim", linkers, creators);
  const bool by_link = links && linkers == 1, by_creation = !links && creators == 1;
  if (!by_link && !by_creation) {
    finding.complain(Health::fail,
                     "Not exactly one rank succeeds, so two runs could take the same directory. "
                     "Choose another file system.");
  } else if (!links) {
    finding.complain(Health::warn,
                     "There are no hard links; run directories are claimed by creating files "
                     "instead, which old NFS servers do not do safely. Do not start two runs in "
                     "one directory at the same instant.");
  }
  return finding;
}

Finding judge_sharing(const std::vector<FolderFacts>& ranks) {
  Finding finding{.what = "sharing"};
  const auto hosts = testers(ranks).size();
  if (const FolderFacts* bad = failed(ranks)) {
    finding.value = "does not work";
    finding.complain(Health::fail,
                     fmt::format("{}: {} All ranks must be able to write to the run directory, and "
                                 "see the same there: choose a --run-dir on a file system that the "
                                 "hosts share.",
                                 bad->host, bad->problem));
    return finding;
  }
  finding.value = hosts == 1 ? "one host" : fmt::format("{} hosts see the same files", hosts);
  for (const FolderFacts& facts : ranks) {
    if (facts.sees_others && facts.sees_replaced) continue;
    finding.value = "late";
    finding.complain(Health::fail,
                     fmt::format("{} does not see {} (files are read from a cache that is too old, "
                                 "and a run may resume from less than it has). Mount it without "
                                 "nocto, or with actimeo=1.",
                                 facts.host,
                                 facts.sees_others ? "that a file was replaced"
                                                   : "what other ranks have written"));
    break;
  }
  return finding;
}

Finding judge_write_rate(const std::vector<FolderFacts>& ranks, const std::optional<Needs>& needs) {
  Finding finding{.what = "write_rate"};
  if (was_not_tried(ranks, finding)) return finding;
  double rate = 0, slowest = 0, bytes = 0;
  for (const FolderFacts* facts : testers(ranks)) {
    if (facts->written_s <= 0) continue;
    const double one = facts->written_bytes / facts->written_s;
    slowest = slowest > 0 ? std::min(slowest, one) : one;
    rate += one;
    bytes += facts->written_bytes;
  }
  if (rate <= 0) {
    finding.value = "not measured";
    finding.complain(Health::warn, "There is too little room to measure how fast it writes.");
    return finding;
  }
  const auto text = [](double value) { return bytes_text(static_cast<std::int64_t>(value)); };
  finding.value =
      fmt::format("{}/s with fsync ({} by one rank of each host)", text(rate), text(bytes));
  if (needs && needs->checkpoint_bytes > 0) {
    const double save_s = double(needs->checkpoint_bytes) / rate;
    finding.value += fmt::format("; a checkpoint of {} takes about {}",
                                 bytes_text(needs->checkpoint_bytes), time_text(save_s));
    if (save_s > kLongSaveSeconds) {
      finding.complain(Health::warn,
                       "A save takes long, and a stop or a preemption waits for one. Choose a "
                       "faster file system, or give the job enough notice (docs/slurm.md).");
    }
  } else if (slowest < kSlowBytesPerSecond) {
    finding.complain(Health::warn,
                     "That is slow for checkpoints, unless they are small. Choose a faster file "
                     "system, or find out who else is writing.");
  }
  return finding;
}

Finding judge_space(const std::vector<FolderFacts>& ranks, const std::optional<Needs>& needs) {
  Finding finding{.what = "space"};
  const FolderFacts& root = ranks.front();
  finding.value =
      fmt::format("{} free of {}", bytes_text(root.free_bytes), bytes_text(root.total_bytes));
  constexpr std::int64_t kLittle = std::int64_t{1} << 30;
  if (!needs) {
    if (root.free_bytes < kLittle)
      finding.complain(Health::warn,
                       "That is little for a run. Choose another --run-dir, or make "
                       "room. (--recipe tells how much a run needs.)");
    return finding;
  }
  // One more while it is written.
  const std::int64_t wanted = needs->checkpoint_bytes * (needs->checkpoints + 1);
  finding.value +=
      fmt::format("; {} checkpoint{} and one being written take {}", needs->checkpoints,
                  needs->checkpoints == 1 ? "" : "s", bytes_text(wanted));
  if (root.free_bytes < 2 * needs->checkpoint_bytes) {
    finding.complain(Health::fail,
                     "Not even two checkpoints fit, and a new one is written before an old one "
                     "goes. Choose another --run-dir, or make room.");
  } else if (root.free_bytes < wanted) {
    finding.complain(Health::warn,
                     fmt::format("The run will need {} of what is free. Save less often "
                                 "(checkpoint.every), keep fewer, or make room.",
                                 times(double(wanted) / double(root.free_bytes))));
  }
  return finding;
}

Finding judge_inodes(const std::vector<FolderFacts>& ranks, const std::optional<Needs>& needs) {
  Finding finding{.what = "inodes"};
  const FolderFacts& root = ranks.front();
  finding.value = root.free_inodes < 0 ? "not counted by this file system"
                                       : fmt::format("{} free", root.free_inodes);
  const auto world = static_cast<std::int64_t>(ranks.size());
  // A checkpoint: the folder, the manifest, an index, a shard a rank. A run: logs and the rest.
  const std::int64_t checkpoints = needs ? needs->checkpoints + 1 : 2;
  const std::int64_t wanted =
      checkpoints * (world + 3) + 2 * world + 32 + (needs ? needs->pictures : 0);
  finding.value += fmt::format("; a run on {} rank{} takes {}{}", world, world == 1 ? "" : "s",
                               needs ? "" : "at least ", wanted);
  if (root.free_inodes >= 0 && root.free_inodes < wanted) {
    finding.complain(Health::fail,
                     "There are too few inodes for the run's files. Delete files, raise the quota, "
                     "or choose another --run-dir.");
  }
  return finding;
}

}  // namespace trestle::launch::doctor
