#include "dist/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace trestle::dist {
namespace {

std::string counted(int count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace

Topology::Topology(const std::vector<std::string>& host_names) {
  std::map<std::string, int> numbers;
  for (const std::string& name : host_names) {
    const int host = numbers.try_emplace(name, hosts()).first->second;
    if (host == hosts()) ranks_of_host_.emplace_back();
    places_.push_back({host, static_cast<int>(ranks_of_host_[host].size())});
    ranks_of_host_[host].push_back(ranks() - 1);
  }
}

int Topology::ranks_per_host() const {
  const std::size_t first = ranks_of_host_.front().size();
  const bool even = std::ranges::all_of(
      ranks_of_host_, [&](const std::vector<int>& ranks) { return ranks.size() == first; });
  return even ? static_cast<int>(first) : 0;
}

std::vector<int> Topology::hosts_of_ranks() const {
  std::vector<int> hosts;
  for (const Place& place : places_) hosts.push_back(place.host);
  return hosts;
}

std::string Topology::why_one_level() const {
  if (ranks() == 1) return "there is one rank";
  if (hosts() == 1) return fmt::format("all {} ranks are on one host", ranks());
  if (ranks_per_host() == 0)
    return fmt::format("{} do not hold equally many ranks", counted(hosts(), "host"));
  if (ranks_per_host() == 1) return "every host holds one rank";
  return "";
}

std::string Topology::to_text() const {
  if (const int each = ranks_per_host()) {
    return fmt::format("{} x {}", counted(hosts(), "host"), counted(each, "rank"));
  }
  constexpr int kMostListed = 8;
  if (hosts() > kMostListed) {
    const auto sizes = std::ranges::minmax(ranks_of_host_, {}, &std::vector<int>::size);
    return fmt::format("{} hosts of {} to {} ranks", hosts(), sizes.min.size(), sizes.max.size());
  }
  std::string text = "hosts of ";
  for (int host = 0; host < hosts(); ++host) {
    if (host > 0) text += host + 1 == hosts() ? " and " : ", ";
    text += fmt::format("{}", ranks_of_host_[host].size());
  }
  return text + " ranks";
}

}  // namespace trestle::dist
