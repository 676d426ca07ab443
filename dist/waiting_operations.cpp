#include "dist/waiting_operations.h"

#include <algorithm>
#include <map>

namespace trestle::dist {

std::vector<Waited> waited_operations(std::span<const RankView> ranks) {
  std::map<OperationKey, Waited> found;
  for (int rank = 0; rank < static_cast<int>(ranks.size()); ++rank) {
    for (const OperationState& operation :
         ranks[static_cast<std::size_t>(rank)].activity.operations) {
      if (operation.finished) continue;
      OperationKey key = key_of(operation);
      // Between two ranks only the other one can be late; the pair stands for the group.
      if (operation.peer >= 0) std::get<1>(key) = {rank, operation.peer};
      Waited& waited = found[key];
      waited.waiting.push_back(rank);
      if (waited.operation && waited.since_s >= operation.age_s) continue;
      waited.operation = &operation;
      waited.since_s = operation.age_s;
    }
  }
  // How far each rank has come on each channel: who is beyond an operation did arrive at it.
  const auto arrived = [&](int rank, const OperationState& at) {
    return std::ranges::any_of(ranks[static_cast<std::size_t>(rank)].activity.operations,
                               [&](const OperationState& o) {
                                 return o.channel == at.channel && o.members == at.members &&
                                        o.peer < 0 && o.sequence >= at.sequence;
                               });
  };
  std::vector<Waited> all;
  for (auto& entry : found) {
    Waited& waited = entry.second;
    const OperationState& operation = *waited.operation;
    if (operation.peer >= 0) {
      waited.absent = {operation.peer};
    } else {
      const auto note = [&](int rank) {
        if (!arrived(rank, operation)) waited.absent.push_back(rank);
      };
      for (const int member : operation.members) note(member);
      for (int rank = 0; operation.members.empty() && rank < static_cast<int>(ranks.size()); ++rank)
        note(rank);
    }
    all.push_back(std::move(waited));
  }
  std::ranges::stable_sort(all, std::ranges::greater{}, &Waited::since_s);
  return all;
}

}  // namespace trestle::dist
