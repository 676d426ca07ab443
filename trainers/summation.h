// In which order a run sums its gradients: rank by rank, or by hosts (dist/two_level.h). "Equal
// bits" always means: of the same ranks and topology.
//
//   const Summation summation = choose_summation(mesh, options.two_level);
//   dist::make_collectives(world, "gradients", {.two_level = summation.two_level()});
//   const std::string change = summation.change_since(manifest);   // when a run resumes
//
// LOCAL but for choose_summation; the same on every rank. THREADS: any.
#pragma once
#include "checkpoint/manifest.h"
#include "configs/recipe.h"
#include "dist/mesh.h"
#include "dist/topology.h"

#include <optional>
#include <string>
#include <vector>

namespace trestle::trainers {

class Summation {
 public:
  /// `wish` is dist.two_level: "auto", "true" or "false"; `hosts` are by rank. Where ranks work in
  /// branches (equally many neighbours each), sums are those of a branch, and all go in two levels
  /// or none. Throws Error(environment) where the wish is "true" and there are no two levels.
  Summation(const std::string& wish, const std::vector<std::string>& hosts, int branches = 1,
            int branch = 0);

  /// For make_collectives over this branch's ranks.
  std::optional<dist::Topology> two_level() const;
  /// "in two levels, 2 hosts x 4 ranks", "in one level (all 4 ranks are on one host)"
  std::string to_text() const;

  checkpoint::TopologyRecord record() const;
  /// What is another order than that of the run that wrote this checkpoint, as a sentence; empty
  /// where it is the same.
  std::string change_since(const checkpoint::Manifest& manifest) const;

 private:
  dist::Topology all_ranks_, branch_;
  std::string why_one_level_;  ///< empty: in two
};

/// COLLECTIVE. On the machines of these ranks, or on `hosts` in their place; an error is agreed.
Summation choose_summation(const dist::Mesh& mesh, const std::string& wish,
                           const std::vector<std::string>& hosts = {});

/// Throws Error(usage) where the recipe demands two levels and no placement of so many ranks (of a
/// branch) has them.
void require_two_levels_possible(const configs::Recipe& recipe, int ranks);

}  // namespace trestle::trainers
