// A channel that also notes how large the values are that it sums: the rounding of a sum is
// relative to its terms, which may cancel, and not to what is left of them.
//
//   ContributionSizes noting(collectives);
//   noting.all_reduce(gradient, dist::ReduceOp::sum, "blocks.0.bias").wait();
//   const auto sizes = noting.sizes();        // sizes.at("blocks.0.bias")
//
// COLLECTIVE, THREADS: as dist::Collectives.
#pragma once
#include "dist/collectives.h"

#include <map>
#include <string>

namespace trestle::trainers {

class ContributionSizes : public dist::Collectives {
 public:
  /// Passes everything on to `inner`, which outlives it.
  explicit ContributionSizes(dist::Collectives& inner)
      : Collectives(inner.communicator()), inner_(inner) {}

  dist::Work all_reduce(at::Tensor& flat, dist::ReduceOp op, std::string_view name) override;
  dist::Work reduce_scatter(const at::Tensor& in, at::Tensor& out, dist::ReduceOp op,
                            std::string_view name) override {
    return inner_.reduce_scatter(in, out, op, name);
  }
  dist::Work all_gather(const at::Tensor& in, at::Tensor& out, std::string_view name) override {
    return inner_.all_gather(in, out, name);
  }
  dist::Work broadcast(at::Tensor& tensor, int root, std::string_view name) override {
    return inner_.broadcast(tensor, root, name);
  }
  dist::Work send(const at::Tensor& tensor, int to, std::string_view name) override {
    return inner_.send(tensor, to, name);
  }
  dist::Work recv(at::Tensor& tensor, int from, std::string_view name) override {
    return inner_.recv(tensor, from, name);
  }

  /// COLLECTIVE. Of each name that was all-reduced: the sum over ranks of the largest absolute
  /// value that each brought.
  std::map<std::string, double, std::less<>> sizes() const;

 private:
  dist::Collectives& inner_;
  std::map<std::string, double, std::less<>> own_;
};

}  // namespace trestle::trainers
