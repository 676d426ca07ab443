#include "data/dataset.h"

namespace trestle::data {

Batch load_good(const Dataset& dataset, std::vector<SampleId> ids) {
  while (!ids.empty()) {
    try {
      return dataset.load(ids);
    } catch (const BadSample& sample) {
      const auto erased = std::erase(ids, sample.id());
      TRESTLE_ASSERT(erased > 0, "sample {} was not asked for", sample.id());
    }
  }
  return {};
}

}  // namespace trestle::data
