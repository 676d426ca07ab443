#include "dist/straggler.h"

#include "base/log.h"
#include "dist/binding.h"

#include <algorithm>
#include <cstring>

namespace trestle::dist {
namespace {

/// The value below which a part `at` of the others lie.
double quantile(std::vector<double> values, double at) {
  const double place = at * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(place);
  std::ranges::sort(values);
  const double low = values[static_cast<std::size_t>(below)];
  const double high = values[std::min(static_cast<std::size_t>(below) + 1, values.size() - 1)];
  return low + (place - static_cast<double>(below)) * (high - low);
}

}  // namespace

std::vector<SlowRank> slow_ranks(const std::vector<double>& times_s, double threshold) {
  std::vector<SlowRank> slow;
  for (std::size_t rank = 0; times_s.size() > 1 && rank < times_s.size(); ++rank) {
    std::vector<double> others = times_s;
    others.erase(others.begin() + static_cast<std::ptrdiff_t>(rank));
    const double factor = times_s[rank] / quantile(std::move(others), 0.5);
    if (factor > threshold) slow.push_back({static_cast<int>(rank), factor});
  }
  return slow;
}

StragglerWatch::StragglerWatch(const Communicator& world, std::int64_t every)
    : world_(world), every_(world.size() > 1 ? every : 0) {
  if (every_ == 0) return;
  hosts_ = world_.all_gather_bytes(node_name());
  named_.assign(hosts_.size(), false);
}

void StragglerWatch::add(double step_s) {
  if (every_ == 0) return;
  times_s_.push_back(step_s);
  if (static_cast<std::int64_t>(times_s_.size()) < every_) return;
  compare();
  times_s_.clear();
}

void StragglerWatch::compare() {
  // A sum in which every rank fills its own place: one small message.
  std::vector<double> times_s(hosts_.size(), 0.0);
  times_s[static_cast<std::size_t>(world_.rank())] = quantile(times_s_, kQuantile);
  world_.all_reduce(std::span(times_s), ReduceOp::sum);

  std::vector<bool> slow_now(hosts_.size(), false);
  for (const auto& [rank, factor] : slow_ranks(times_s, kThreshold)) {
    const auto r = static_cast<std::size_t>(rank);
    slow_now[r] = true;
    if (named_[r] || !world_.is_root()) continue;
    log_warn(
        "rank {} (host {}) is slow: its own part of a step takes {:.1f} times that of the other "
        "ranks ({:.4g} ms, waiting left out), and they wait for it. Look at its host: other "
        "programs, heat, a slow disk or device.",
        rank, hosts_[r], factor, 1e3 * times_s[r]);
  }
  for (std::size_t r = 0; r < named_.size(); ++r) {
    if (named_[r] && !slow_now[r] && world_.is_root())
      log_info("rank {} (host {}) is as fast as the others again", r, hosts_[r]);
  }
  named_ = slow_now;
}

}  // namespace trestle::dist
