// A task and its engine on one rank, for tests that look into a run's state.
#pragma once
#include "dist/collectives.h"
#include "trainers/trainer.h"

#include <memory>

namespace trestle::testing {

struct LoneAssembly {
  explicit LoneAssembly(const configs::Recipe& recipe)
      : collectives(dist::make_collectives(dist::Communicator::self())),
        assembly(recipe, *collectives) {}

  std::unique_ptr<dist::Collectives> collectives;
  trainers::Assembly assembly;
};

}  // namespace trestle::testing
