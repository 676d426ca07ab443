// Reads every sample of a data set once, to find the bad ones before a run does.
//
// LOCAL. THREADS: runs `threads` of its own; `progress` is called on the caller's.
#pragma once
#include "data/bad_samples.h"
#include "data/dataset.h"

#include <cstdint>
#include <functional>

namespace trestle::data {

struct ScanReport {
  std::int64_t bad = 0;
  BadReasons first;  ///< the `keep` bad ones with the smallest ids
};

/// `progress` gets the number of samples read, ten times a second. An error that is no BadSample is
/// thrown.
ScanReport scan(const Dataset& dataset, int threads, std::int64_t keep,
                const std::function<void(std::int64_t done)>& progress);

}  // namespace trestle::data
