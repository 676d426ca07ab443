// All checks of `trestle doctor`, in their order.
//
//   const std::vector<Finding> findings = examine(world, {.run_directory = "runs/cats"});
//
// COLLECTIVE. Rank 0 has the findings; the others' list is empty. It takes a few seconds, writes at
// most 256 MB a host to the run directory's file system, and leaves nothing there. THREADS: one.
#pragma once
#include "configs/recipe.h"
#include "dist/communicator.h"
#include "launch/doctor/finding.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace trestle::launch::doctor {

struct Examination {
  std::filesystem::path run_directory;                   ///< need not be there yet
  std::optional<configs::Recipe> recipe = std::nullopt;  ///< what is to be run
  std::string refusal = {};                              ///< why the launcher and MPI did not meet
};

struct Report {
  std::vector<Finding> findings;
  std::vector<std::string> hosts;
};

Report examine(const dist::Communicator& world, const Examination& what);

}  // namespace trestle::launch::doctor
