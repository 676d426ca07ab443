#include "dist/mesh.h"

namespace trestle::dist {

Mesh::Mesh(const Communicator& world, int branches)
    : branches_(branches), world_(world), data_(world) {
  TRESTLE_ASSERT(branches >= 1 && world.size() % branches == 0, "{} ranks in {} branches",
                 world.size(), branches);
  if (branches == 1) return;
  const int ranks = world.size() / branches;
  branch_ = world.rank() / ranks;
  data_ = world.split(branch_, world.rank(), "branch");
  across_ = world.split(world.rank() % ranks, world.rank(), "branches");
}

void Mesh::in_each_branch(const std::function<void()>& f) const {
  std::exception_ptr failure;
  try {
    f();
  } catch (const AgreedError&) {
    if (branches_ == 1) throw;
    failure = std::current_exception();
  }
  if (branches_ > 1) world_.agree(failure);
}

}  // namespace trestle::dist
