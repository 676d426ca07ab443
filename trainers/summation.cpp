#include "trainers/summation.h"

#include "base/error.h"
#include "dist/binding.h"
#include "trainers/options.h"

#include <span>

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

dist::Topology topology_of(std::span<const std::string> hosts, int branches, int branch) {
  const std::size_t ranks = hosts.size() / branches;
  const auto own = hosts.subspan(branch * ranks, ranks);
  return dist::Topology({own.begin(), own.end()});
}

}  // namespace

Summation::Summation(const std::string& wish, const std::vector<std::string>& hosts, int branches,
                     int branch)
    : all_ranks_(hosts), branch_(topology_of(hosts, branches, branch)) {
  if (wish == "false") why_one_level_ = "dist.two_level = false";
  for (int b = 0; b < branches && why_one_level_.empty(); ++b)
    why_one_level_ = topology_of(hosts, branches, b).why_one_level();
  TRESTLE_REQUIRE_AS(
      environment, why_one_level_.empty() || wish != "true",
      "dist.two_level = true cannot be done here ({}; {}). Place the ranks so (srun "
      "--ntasks-per-node, mpirun --map-by ppr:N:node), or set dist.two_level = \"auto\".",
      why_one_level_, kNeeds);
}

std::optional<dist::Topology> Summation::two_level() const {
  return why_one_level_.empty() ? std::optional(branch_) : std::nullopt;
}

std::string Summation::to_text() const {
  if (two_level()) return fmt::format("in two levels, {}", branch_.to_text());
  return fmt::format("in one level ({})", why_one_level_);
}

checkpoint::TopologyRecord Summation::record() const {
  return {.host_of_rank = all_ranks_.hosts_of_ranks(), .levels = two_level() ? 2 : 1};
}

std::string Summation::change_since(const checkpoint::Manifest& manifest) const {
  // Without a topology a checkpoint is of a time when there was one level, and in one level it does
  // not matter where the ranks are.
  const bool was_two_level = manifest.topology && manifest.topology->levels == 2;
  const bool same = two_level() ? was_two_level && *manifest.topology == record()
                                : !was_two_level && manifest.world == all_ranks_.ranks();
  if (same) return "";
  const std::string before = order_of(manifest);
  std::string now =
      two_level() ? all_ranks_.to_text() + " in two levels" : in_one_level(all_ranks_.ranks());
  if (now == before) now = "the same with other ranks on each host";
  return fmt::format(
      "gradients are summed in another order from here on ({} before, {} now): results differ from "
      "an uninterrupted run's by rounding (equal bits need the same ranks and topology)",
      before, now);
}

Summation choose_summation(const dist::Mesh& mesh, const std::string& wish,
                           const std::vector<std::string>& hosts) {
  const auto gathered = mesh.world().all_gather_bytes(dist::host_name());
  return mesh.world().agreed([&] {
    return Summation(wish, hosts.empty() ? gathered : hosts, mesh.branches(), mesh.branch());
  });
}

void require_two_levels_possible(const configs::Recipe& recipe, int ranks) {
  if (recipe.section<DistOptions>("dist").two_level != "true") return;
  for (int hosts = 2; hosts <= ranks / 2; ++hosts) {
    if (ranks % hosts == 0) return;
  }
  throw recipe.error_at(
      "dist.two_level",
      fmt::format("dist.two_level = true cannot be done by {} rank{} ({}). Start another number of "
                  "ranks (validate: --world N), or set dist.two_level = \"auto\".",
                  ranks, ranks == 1 ? "" : "s", kNeeds));
}

}  // namespace trestle::trainers
