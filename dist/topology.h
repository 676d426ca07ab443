// Which rank is on which host.
//
//   const dist::Topology topology(world.all_gather_bytes(dist::host_name()));
//   if (topology.why_one_level().empty()) ...       // reductions may go by hosts: dist/two_level.h
//
// LOCAL, a plain value: every rank makes the same one, from names that all have gathered. THREADS:
// any.
#pragma once
#include <string>
#include <vector>

namespace trestle::dist {

class Topology {
 public:
  /// The host's name by rank. Hosts are numbered in the order of their lowest ranks, and so are the
  /// ranks of a host.
  explicit Topology(const std::vector<std::string>& host_names);

  int ranks() const { return static_cast<int>(places_.size()); }
  int hosts() const { return static_cast<int>(ranks_of_host_.size()); }
  int host_of(int rank) const { return places_.at(rank).host; }
  /// The rank's number among those of its host.
  int local_of(int rank) const { return places_.at(rank).local; }
  int rank_at(int host, int local) const { return ranks_of_host_.at(host).at(local); }
  /// Of every host, where all have as many; 0 otherwise.
  int ranks_per_host() const;
  /// By rank.
  std::vector<int> hosts_of_ranks() const;

  /// Why two levels cannot be ("all 4 ranks are on one host"); empty where they can.
  std::string why_one_level() const;
  /// "2 hosts x 4 ranks", "hosts of 3, 2 and 2 ranks".
  std::string to_text() const;

 private:
  struct Place {
    int host, local;
  };
  std::vector<Place> places_;
  std::vector<std::vector<int>> ranks_of_host_;
};

}  // namespace trestle::dist
