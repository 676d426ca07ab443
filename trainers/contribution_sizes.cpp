#include "trainers/contribution_sizes.h"

#include <ATen/ATen.h>

#include <vector>

namespace trestle::trainers {

dist::Work ContributionSizes::all_reduce(at::Tensor& flat, dist::ReduceOp op,
                                         std::string_view name) {
  own_[std::string(name)] = flat.numel() == 0 ? 0 : flat.abs().max().item<double>();
  return inner_.all_reduce(flat, op, name);
}

std::map<std::string, double, std::less<>> ContributionSizes::sizes() const {
  std::vector<double> values;
  for (const auto& [name, size] : own_) values.push_back(size);
  communicator().all_reduce(values, dist::ReduceOp::sum);
  std::map<std::string, double, std::less<>> summed;
  std::size_t next = 0;
  for (const auto& [name, size] : own_) summed[name] = values[next++];
  return summed;
}

}  // namespace trestle::trainers
