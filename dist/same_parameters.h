// Whether all ranks hold the same parameters: names, shapes, dtypes and every bit of the values.
//
//   require_same_parameters(world, leaves, "at the start", ExitCode::environment);
//
// COLLECTIVE: a digest of a few bytes a rank; the lists are exchanged only where they differ.
// THREADS: one.
#pragma once
#include "dist/communicator.h"
#include "dist/flat_group.h"

#include <span>
#include <string_view>

namespace trestle::dist {

/// Throws AgreedError(code) on every rank: the rank that differs from most (of equally many, from
/// the lowest), the first parameter in which it does, and how.
void require_same_parameters(const Communicator& world, std::span<const NamedLeaf> leaves,
                             std::string_view when, ExitCode code);

}  // namespace trestle::dist
