#include "trainers/summation.h"

#include "base/error.h"
#include "trainers/options.h"

#include <algorithm>
#include <utility>

namespace trestle::trainers {
namespace {

constexpr std::string_view kNeeds =
    "two levels need two or more hosts that hold equally many ranks, at least two";

std::string in_one_level(int ranks) {
  return fmt::format("{} rank{} in one level", ranks, ranks == 1 ? "" : "s");
}

/// The order in which a checkpoint's run summed.
std::string order_of(const checkpoint::Manifest& manifest) {
  if (!manifest.topology || manifest.topology->levels == 1) return in_one_level(manifest.world);
  std::vector<std::string> names;
  for (const int host : manifest.topology->host_of_rank) names.push_back(std::to_string(host));
  return dist::Topology(names).to_text() + " in two levels";
}

}  // namespace

Summation::Summation(const std::string& wish, dist::Topology topology)
    : topology_(std::move(topology)),
      why_one_level_(wish == "false" ? "dist.two_level = false" : topology_.why_one_level()) {
  two_level_ = why_one_level_.empty();
  TRESTLE_REQUIRE_AS(
      environment, two_level_ || wish != "true",
      "dist.two_level = true cannot be done here ({}; {}). Place the ranks so (srun "
      "--ntasks-per-node, mpirun --map-by ppr:N:node), or set dist.two_level = \"auto\".",
      why_one_level_, kNeeds);
}

std::optional<dist::Topology> Summation::two_level() const {
  return two_level_ ? std::optional(topology_) : std::nullopt;
}

std::string Summation::to_text() const {
  if (two_level_) return fmt::format("in two levels, {}", topology_.to_text());
  return fmt::format("in one level ({})", why_one_level_);
}

checkpoint::TopologyRecord Summation::record() const {
  return {.host_of_rank = topology_.hosts_of_ranks(), .levels = two_level_ ? 2 : 1};
}

std::string Summation::change_since(const checkpoint::Manifest& manifest) const {
  const bool was_two_level = manifest.topology && manifest.topology->levels == 2;
  const bool same = two_level_ ? was_two_level && *manifest.topology == record()
                               : !was_two_level && manifest.world == topology_.ranks();
  if (same) return "";
  const std::string before = order_of(manifest);
  std::string now =
      two_level_ ? topology_.to_text() + " in two levels" : in_one_level(topology_.ranks());
  if (now == before) now = "the same with other ranks on each host";
  return fmt::format(
      "gradients are summed in another order from here on ({} before, {} now): the run goes on to "
      "rounding, and equals an uninterrupted one bit by bit only with the same ranks and topology",
      before, now);
}

void require_two_levels_possible(const configs::Recipe& recipe, int world) {
  if (recipe.section<DistOptions>("dist").two_level != "true") return;
  for (int hosts = 2; hosts <= world / 2; ++hosts) {
    if (world % hosts == 0) return;
  }
  throw recipe.error_at(
      "dist.two_level",
      fmt::format("dist.two_level = true cannot be done by {} rank{} ({}). Start another number of "
                  "ranks, or set dist.two_level = \"auto\".",
                  world, world == 1 ? "" : "s", kNeeds));
}

}  // namespace trestle::trainers
