// In which order a run sums its gradients: rank by rank, or by hosts (dist/two_level.h). "Equal
// bits" always means: of the same ranks and topology.
//
//   const Summation summation(options.two_level, dist::Topology(host_names));
//   dist::make_collectives(world, "gradients", {.two_level = summation.two_level()});
//   const std::string change = summation.change_since(manifest);   // when a run resumes
//
// LOCAL; the same on every rank. THREADS: any.
#pragma once
#include "checkpoint/manifest.h"
#include "configs/recipe.h"
#include "dist/topology.h"

#include <optional>
#include <string>

namespace trestle::trainers {

class Summation {
 public:
  /// `wish` is dist.two_level: "auto", "true" or "false". Throws Error(environment) where it is
  /// "true" and this topology has no two levels.
  Summation(const std::string& wish, dist::Topology topology);

  /// For make_collectives.
  std::optional<dist::Topology> two_level() const;
  /// "in two levels, 2 hosts x 4 ranks", "in one level (all 4 ranks are on one host)"
  std::string to_text() const;

  checkpoint::TopologyRecord record() const;
  /// What is another order than that of the run that wrote this checkpoint, as a sentence; empty
  /// where it is the same.
  std::string change_since(const checkpoint::Manifest& manifest) const;

 private:
  dist::Topology topology_;
  bool two_level_;
  std::string why_one_level_;
};

/// Throws Error(usage) where the recipe demands two levels and no placement of so many ranks has
/// them.
void require_two_levels_possible(const configs::Recipe& recipe, int world);

}  // namespace trestle::trainers
