// How the ranks of a run are arranged: branch x data. Ranks of one branch hold the same parameters
// and share out the samples of a step; ranks at the same place of different branches work on the
// same samples with parameters of their own. Most runs have one branch.
//
//   const dist::Mesh mesh(world, /*branches=*/2);      // of 4 ranks: {0, 1} and {2, 3}
//   auto gradients = dist::make_collectives(mesh.data(), "gradients");
//
// Ranks of a branch are neighbours, so that gradients, which are most of what travels, stay inside
// a node where they can. COLLECTIVE: the constructor, where there are several branches. LIFE: a
// value; copies share the groups. THREADS: as its communicators.
#pragma once
#include "dist/communicator.h"

#include <functional>

namespace trestle::dist {

class Mesh {
 public:
  /// One branch: all ranks are its data axis.
  Mesh(const Communicator& world) : world_(world), data_(world) {}  // NOLINT: a world is a mesh
  /// `branches` divides the number of ranks.
  Mesh(const Communicator& world, int branches);

  int branches() const { return branches_; }
  int branch() const { return branch_; }
  const Communicator& world() const { return world_; }
  /// The ranks of this branch: gradients, norms, hashes, batches.
  const Communicator& data() const { return data_; }
  /// The ranks at this one's place of each branch, by branch.
  const Communicator& across() const { return across_; }

  /// COLLECTIVE. Runs f, which is collective on the data axis. An AgreedError of one branch, which
  /// the others do not know, becomes everybody's.
  void in_each_branch(const std::function<void()>& f) const;

 private:
  int branches_ = 1, branch_ = 0;
  Communicator world_, data_, across_ = Communicator::self();
};

}  // namespace trestle::dist
