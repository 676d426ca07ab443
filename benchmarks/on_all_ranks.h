// What the measuring programs of several ranks share: MPI's life, and errors that end all of them.
//
//   benchmarks::run(app, argc, argv, [&] {
//     benchmarks::on_all_ranks([&](const dist::Communicator& world) { ... });
//   });
//
// COLLECTIVE. THREADS: the main one.
#pragma once
#include "base/error.h"
#include "dist/communicator.h"
#include "dist/launch_check.h"
#include "dist/mpi_runtime.h"

#include <functional>
#include <iostream>

namespace trestle::benchmarks {

/// As launch/commands/command.cpp does: what all know of is thrown (without words but on rank 0);
/// what they do not know ends them.
inline void on_all_ranks(const std::function<void(const dist::Communicator& world)>& body) {
  dist::MpiRuntime runtime(nullptr, nullptr);
  dist::check_world(runtime.size());
  try {
    body(dist::Communicator::world());
  } catch (const dist::AgreedError& error) {
    throw Error(error.code(), runtime.rank() == 0 ? error.what() : "");
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    runtime.abort(error.code());
  }
}

}  // namespace trestle::benchmarks
