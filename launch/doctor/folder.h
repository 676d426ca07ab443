// The folder that a run will live in, tried out: what its file system is, what it does of what
// checkpoints and leases rely on, whether all ranks see the same, and how fast it writes.
//
//   const std::vector<FolderFacts> ranks = probe_folder(world, "runs/cats");   // by rank
//   judge_renames(ranks) ...
//
// probe_folder() is COLLECTIVE; it makes a folder of its own in the nearest folder that exists, and
// deletes it again. The judges are LOCAL functions of what it found. THREADS: one.
#pragma once
#include "dist/communicator.h"
#include "launch/doctor/finding.h"
#include "launch/doctor/judges.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace trestle::launch::doctor {

/// What one rank found.
struct FolderFacts {
  std::string host;
  std::string tried;          ///< the folder that exists
  std::string problem;        ///< why nothing could be tried; empty: all was
  std::string type, options;  ///< of the file system, as the kernel says
  std::int64_t free_bytes = 0, total_bytes = 0;
  std::int64_t free_inodes = -1;  ///< -1: the file system counts none
  bool is_in_the_way = false;     ///< something that is no folder has the run directory's name
  std::string holder;             ///< of a run directory that is there; empty: none
  bool is_held = false;           ///< and its holder has not left

  bool tests_host = false;  ///< the first rank of its host, which fills the next lines
  bool replaces_files = false, moves_folders = false, swaps_folders = false;
  bool syncs_folders = false, links = false;
  double written_bytes = 0, written_s = 0;

  bool won_link = false, won_creation = false;  ///< that all ranks tried at once
  bool sees_others = false;                     ///< files that they have just written
  bool sees_replaced = false;                   ///< what rank 0 has just renamed over a file

  bool operator==(const FolderFacts&) const = default;
};

std::vector<FolderFacts> probe_folder(const dist::Communicator& world,
                                      const std::filesystem::path& folder);

/// Where runs will lie, and who holds it now.
Finding judge_run_directory(const std::string& folder, const std::vector<FolderFacts>& ranks);
Finding judge_file_system(const std::vector<FolderFacts>& ranks);
Finding judge_renames(const std::vector<FolderFacts>& ranks);
Finding judge_claims(const std::vector<FolderFacts>& ranks);
Finding judge_sharing(const std::vector<FolderFacts>& ranks);
Finding judge_write_rate(const std::vector<FolderFacts>& ranks, const std::optional<Needs>& needs);
Finding judge_space(const std::vector<FolderFacts>& ranks, const std::optional<Needs>& needs);
Finding judge_inodes(const std::vector<FolderFacts>& ranks, const std::optional<Needs>& needs);

}  // namespace trestle::launch::doctor
